from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tuned_spec.sense import host


def test_facts() -> None:
    facts = host.facts()
    assert facts.cpus == os.cpu_count()
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert facts.memory_bytes == total
    assert facts.processes > 0


def test_running_finds_a_process_by_its_script(tmp_path: Path) -> None:
    script = tmp_path / "tuned-spec-test-script"
    script.write_text("import sys; print('up', flush=True); sys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        assert host.running({script.name}) == {process.pid: script.name}
        assert host.running({"no-such-program"}) == {}
        process.communicate()


def test_what_the_daemon_imports_is_the_standard_library_and_msgspec() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from tuned_spec.sense import gauges, sensor, triggers\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*(new - sys.stdlib_module_names))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {
        "msgspec",
        "tuned_spec",
        "typing_extensions",
    }  # msgspec takes the last
