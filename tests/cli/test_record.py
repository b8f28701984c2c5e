from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuned_spec.cli import main
from tuned_spec.cli.record import chosen
from tuned_spec.errors import UsageError
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.trace import Trace


def test_the_real_host_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl.gz"
    args = ["--for", "600ms", "--interval", "200ms", "--metrics", "cpu.*,disk.util@*", "--note", "idle"]
    assert main(["record", *args, "--json", str(path)]) == 0
    said = json.loads(capsys.readouterr().out)
    trace = Trace(path)
    seen = list(trace)
    assert said["observations"] == len(seen) == 3
    page = (
        (Path(__file__).parents[2] / "docs/json.md").read_text().partition("## record")[2].partition("## ")[0]
    )
    assert all(f"`{key}`" in page for key in said)
    assert trace.header.kernel == os.uname().release and trace.header.note == "idle"
    assert "cpu.busy" in trace.header.metrics and "mem.dirty_bytes" not in trace.header.metrics
    assert "cpu.ctxt_per_s" in seen[0].values  # rates from the first line on
    assert set(said["absent"]) & set(trace.header.metrics) == set()
    assert os.uname().nodename not in path.name + json.dumps([o.values for o in seen]) + trace.header.note


def test_an_interrupt_ends_it_well(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    program = (
        "import os, signal, sys, threading; from tuned_spec.cli import main\n"
        "def stop():\n"
        "    while not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read().count('\\n') > 2): pass\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=stop, daemon=True).start()\n"
        "args = ['--for', '60s', '--interval', '100ms', '--metrics', 'cpu.busy']\n"
        "sys.exit(main(['record', *args, sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(Trace(path))) >= 2


def test_which_metrics() -> None:
    assert chosen(["*"]) == {name for name, metric in METRICS.items() if metric.alone}
    assert chosen(["disk.*_ms@*"]) == {f"disk.{what}_ms@*" for what in ("read", "write", "flush")}
    assert chosen(["cgroup.psi.cpu.*@**", "cpu.busy"]) == {
        *("cgroup.psi.cpu.some@**", "cgroup.psi.cpu.full@**", "cpu.busy")
    }
    with pytest.raises(UsageError, match=r"no metric of such a name; docs/metrics\.md"):
        chosen(["cpu.bussy"])
    with pytest.raises(UsageError, match=r"app\.ms: programs report it to the daemon, and a trace is only"):
        chosen(["app.ms"])
    with pytest.raises(UsageError, match=r"say which, `cgroup\.cpu\.usage@` and `system"):
        chosen(["cgroup.cpu.usage"])


@pytest.mark.parametrize(
    "args", [["--for", "soon"], ["--for", "1s", "--interval", "2s"], ["--interval", "1ms"], ["--for", "30d"]]
)
def test_times_that_make_no_sense(
    tmp_path: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", *args, str(tmp_path / "t")]) == 2
    assert "tuned-spec record: --" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_nobody_may_record(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    program = (  # once before, as the one who may read our files: so that all is imported
        "import os, sys; from tuned_spec.cli import main\n"
        "words = ['record', '--for', '200ms', '--interval', '200ms', '/dev/null']\n"
        "main(words)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(words))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 observation of") == 2
