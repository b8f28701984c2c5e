"""repair.py as a program: the daemon alive, hung, dead; the disk full or read-only; another namespace."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ledger.conftest import Opened, shown
from tuned_spec.errors import AlreadyRunning, JournalError
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal, leave_repair, take_lock
from tuned_spec.model import Write
from workloads.trouble import DIRTY_BYTES, DIRTY_RATIO, READ_AHEAD, SWAPPINESS, TCP_RMEM

PYTHON = "/usr/bin/python3"
ROOT = Path(repair.__file__).parents[2]
_COPY = tempfile.TemporaryDirectory()  # what the daemon leaves, with no package around it
leave_repair(Path(_COPY.name))
SOURCE = Path(_COPY.name) / "repair.py"
CHANGE = (Write(SWAPPINESS, 31), Write(DIRTY_BYTES, 64 << 20))


def run(directory: Path, *args: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, PYTHON, "-I", "-S", str(SOURCE), "--runtime-dir", str(directory), *args]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


# ------------------------------------------------------------------------- without a kernel


@pytest.mark.parametrize("file", sorted(SOURCE.parent.rglob("*.py")), ids=lambda path: path.name)
def test_it_is_python_3_9_and_the_standard_library(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        node.module or "reach"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    # `reach` is beside it; inside the package, and only there, it has a longer name
    ours = {"reach", "tuned_spec.knobs"} if file.name == "repair.py" else set()
    assert {name.partition(".")[0] for name in imported - ours} <= sys.stdlib_module_names


def test_nothing_was_ever_managed(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        done = run(directory)
        assert (done.returncode, "nothing was ever managed" in done.stdout) == (0, True)


def test_an_empty_journal_has_nothing_to_restore(tmp_path: Path) -> None:
    Journal(tmp_path, "a boot").close()
    done = run(tmp_path)
    assert (done.returncode, "nothing to restore" in done.stdout) == (0, True)


def test_a_directory_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    Journal(tmp_path, "a boot").close()
    tmp_path.chmod(0o777)
    done = run(tmp_path)
    assert (done.returncode, "cannot be trusted" in done.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another group: needs root")
def test_nor_is_one_that_another_group_can_write(tmp_path: Path) -> None:
    Journal(tmp_path, "a boot").close()
    os.chown(tmp_path, -1, 65534)
    tmp_path.chmod(0o775)
    done = run(tmp_path)
    assert (done.returncode, "cannot be trusted" in done.stderr) == (1, True)


def test_nothing_that_others_put_beside_it_is_run(tmp_path: Path) -> None:
    Journal(tmp_path, "a boot").close()
    tmp_path.chmod(0o1777)  # as /tmp is: the file is ours, what is beside it may be anyone's
    (tmp_path / "reach/__init__.py").write_text("print('planted')")
    command = [PYTHON, "-I", "-S", str(tmp_path / "repair.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be trusted" in done.stderr and "Traceback" not in done.stderr


def test_what_lies_beside_it_is_no_module_of_pythons(tmp_path: Path) -> None:
    Journal(tmp_path, "a boot").close()
    (tmp_path / "argparse.py").write_text("print('planted')")
    command = [PYTHON, "-I", "-S", str(tmp_path / "repair.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    assert (done.returncode, "planted" in done.stdout) == (0, False)


def test_a_second_daemon_is_told_who_is_first(tmp_path: Path) -> None:
    lock = take_lock(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} "):
        take_lock(tmp_path)
    os.close(lock)
    os.close(take_lock(tmp_path))


def test_a_damaged_journal_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "undo.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(JournalError, match=r"undo\.db: file is not a database.*repair\.py"):
        Journal(tmp_path, "a boot")
    done = run(tmp_path)
    assert (done.returncode, "undo.db: file is not a database" in done.stderr) == (4, True)


# ------------------------------------------------------------------------------ dead daemon


@pytest.mark.kernel
def test_dead_daemon_table_json_and_again(opened: Opened, host: dict[str, str], tmp_path: Path) -> None:
    opened().apply("t1", "r", CHANGE)
    done = run(tmp_path, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["v"], answer["how"], answer["damage"], answer["exit"]) == (
        0,
        1,
        "repair",
        [],
        0,
    )
    assert {o["knob"]: (o["found"], o["original"], o["status"]) for o in answer["outcomes"]} == {
        SWAPPINESS: ("31", host[SWAPPINESS], "restored"),
        DIRTY_BYTES: (str(64 << 20), "0", "restored"),
        DIRTY_RATIO: ("0", host[DIRTY_RATIO], "restored"),
    }
    assert shown(DIRTY_RATIO) == host[DIRTY_RATIO]
    again = run(tmp_path)
    assert (again.returncode, "nothing to restore" in again.stdout) == (0, True)


@pytest.mark.kernel
def test_one_knob_and_a_stranger(opened: Opened, tmp_path: Path) -> None:
    opened().apply("t1", "r", CHANGE)
    done = run(tmp_path, DIRTY_RATIO, "kernel.unheard_of")
    assert done.returncode == 0
    assert DIRTY_BYTES in done.stdout and SWAPPINESS not in done.stdout
    assert "kernel.unheard_of: not managed" in done.stderr
    assert shown(SWAPPINESS) == "31"


@pytest.mark.kernel
def test_stop_leaves_what_is_to_be_kept(opened: Opened, host: dict[str, str], tmp_path: Path) -> None:
    ledger = opened()
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    ledger.apply("t2", "r", (Write(READ_AHEAD, 64),))
    ledger.hold("t1", on_stop="keep")
    ledger.hold("t2")
    assert run(tmp_path, "--stop").returncode == 0
    assert (shown(SWAPPINESS), shown(READ_AHEAD)) == ("31", host[READ_AHEAD])
    assert run(tmp_path).returncode == 0
    assert shown(SWAPPINESS) == host[SWAPPINESS]


@pytest.mark.kernel
def test_the_copy_in_the_runtime_directory_needs_nothing_else(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    opened().apply("t1", "r", CHANGE)
    command = [PYTHON, "-I", "-S", str(tmp_path / "repair.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={}, cwd="/")
    assert (done.returncode, shown(SWAPPINESS)) == (0, host[SWAPPINESS])


@pytest.mark.kernel
def test_two_repairs_at_once(opened: Opened, host: dict[str, str], tmp_path: Path) -> None:
    opened().apply("t1", "r", CHANGE)
    command = [PYTHON, "-I", "-S", str(SOURCE), "--runtime-dir", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("nothing to restore" in text for text in said) == [False, True]
    assert shown(SWAPPINESS) == host[SWAPPINESS]


@pytest.mark.kernel
def test_without_root_it_says_sudo_and_touches_nothing(opened: Opened, tmp_path: Path) -> None:
    opened().apply("t1", "r", CHANGE)
    nobody = shutil.which("setpriv")
    if nobody is None:
        pytest.skip("needs setpriv")
    with as_anyone_may_read(tmp_path) as (directory, program):
        command = [
            nobody,
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            PYTHON,
            "-I",
            "-S",
            str(program),
        ]
        done = subprocess.run([*command, "--runtime-dir", str(directory)], capture_output=True, text=True)
    assert (done.returncode, "sudo" in done.stderr) == (1, True), done
    assert shown(SWAPPINESS) == "31"


@contextmanager
def as_anyone_may_read(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Copies outside of pytest's private directory."""
    place = Path(f"/run/tuned-spec-test-{os.getpid()}")
    shutil.copytree(directory, place)
    place.chmod(0o755)
    try:
        yield place, place / "repair.py"
    finally:
        shutil.rmtree(place)


@pytest.mark.kernel
def test_another_network_namespace_is_not_touched(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    ledger = opened()
    ledger.apply("t1", "r", (Write(TCP_RMEM, (4096, 131072, 1 << 24)),))
    done = run(tmp_path, before=("unshare", "--net"))
    assert (done.returncode, "nsenter --net=/proc/" in done.stdout) == (1, True)
    assert shown(TCP_RMEM) == f"4096 131072 {1 << 24}"
    assert run(tmp_path).returncode == 0
    assert shown(TCP_RMEM) == host[TCP_RMEM]


@pytest.mark.kernel
def test_a_namespace_that_is_gone_voids_the_undo(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    ledger = opened()
    ledger.apply("t1", "r", (Write(TCP_RMEM, (4096, 131072, 1 << 24)),))
    (row,) = ledger.rows()
    (outcome,) = repair.restore([row._replace(identity="netns:[1]")], repair.boot_id())
    assert (outcome.status, shown(TCP_RMEM)) == ("void", f"4096 131072 {1 << 24}")


# ----------------------------------------------------------------------- alive, hung, mistaken

HOLDER = """
import os, socket, sys, time
sys.path.insert(0, {root!r})
from tuned_spec.ledger import repair
fd = repair.take_lock({directory!r})
if {pid}:
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"{pid} daemon", 0)
s = socket.socket(socket.AF_UNIX)
s.bind({directory!r} + "/control.sock")
s.listen()
print("ready", flush=True)
time.sleep(120)
"""


@contextmanager
def hung_daemon(directory: Path, pid: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, listens and never answers; its lock file may name another."""
    code = HOLDER.format(root=str(ROOT), directory=str(directory), pid=pid)
    process = subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.kernel
def test_a_hung_daemon_is_killed_after_its_silence(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    opened().apply("t1", "r", CHANGE)
    with hung_daemon(tmp_path) as daemon:
        start = time.monotonic()
        done = run(tmp_path, "--json")
        assert time.monotonic() - start >= repair.SILENCE_S
        assert (done.returncode, daemon.wait()) == (0, -9)
        assert f"killed daemon {daemon.pid}" in json.loads(done.stdout)["how"]
    assert shown(SWAPPINESS) == host[SWAPPINESS]


@pytest.mark.kernel
def test_a_pid_that_does_not_hold_the_lock_is_never_killed(opened: Opened, tmp_path: Path) -> None:
    opened().apply("t1", "r", CHANGE)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        with hung_daemon(tmp_path, bystander.pid) as daemon:
            with pytest.raises(repair.Unusable, match="end that process"):
                repair.repair(os.fspath(tmp_path), patience_s=0.5)
            assert (bystander.poll(), daemon.poll()) == (None, None)
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.kernel
def test_a_living_daemon_restores_by_itself(opened: Opened, host: dict[str, str], tmp_path: Path) -> None:
    ledger = opened()
    ledger.apply("t1", "r", CHANGE)
    lock = take_lock(tmp_path)
    asked: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "control.sock"))
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer, peer.makefile("rwb") as lines:
                asked.append(json.loads(lines.readline()))
                outcomes = [repair.Outcome(SWAPPINESS, "31", "60", "restored")._asdict()]
                lines.write(json.dumps({"v": 1, "ok": True, "outcomes": outcomes}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = run(tmp_path, SWAPPINESS)
        thread.join()
    os.close(lock)
    assert asked == [{"v": 1, "do": "restore", "knobs": [SWAPPINESS]}]
    assert (done.returncode, "restored" in done.stdout) == (0, True)
    assert shown(SWAPPINESS) == "31"  # it was the daemon's to do


# ----------------------------------------------------------------------------- the sick disk

SICK = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from workloads.trouble import CATALOGUE, READ_AHEAD, SWAPPINESS
from tuned_spec.errors import JournalError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write
directory = Path({directory!r})
ledger = Ledger(CATALOGUE, adapters(), Journal(directory, repair.boot_id()), time.monotonic)
ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
if {how!r} == "full":
    with open(directory / "ballast", "wb", buffering=0) as f:
        try:
            while f.write(bytes(512)): pass
        except OSError: pass
else:
    os.kill(os.getpid(), 9)
refused = 0
for n in range(300):
    try:
        ledger.apply("t1", "r", (Write(SWAPPINESS, 20 + n % 20),))
    except JournalError as e:
        refused += 1
        assert "undo.db" in str(e), e
try:
    ledger.apply("t2", "r", (Write(READ_AHEAD, 64),))
except JournalError:
    refused += 1
now = ledger.value(SWAPPINESS)
print("refused" if refused > 1 else "never refused", now, flush=True)
if {dies}:
    os.kill(os.getpid(), 9)
print({{o.knob: o.status for o in ledger.restore()}})
"""


@pytest.mark.kernel
@pytest.mark.parametrize("dies", [False, True])
def test_a_full_disk(host: dict[str, str], tmp_path: Path, dies: bool) -> None:
    """No new writes, the way back works: in the living process, and from a dead one's journal."""
    done = on_a_small_disk(tmp_path, "full", dies, "")
    assert "refused" in done.stdout and "never refused" not in done.stdout, done
    assert (done.returncode, shown(SWAPPINESS)) == (0, host[SWAPPINESS]), done


@pytest.mark.kernel
def test_a_disk_that_became_read_only(host: dict[str, str], tmp_path: Path) -> None:
    """A dead daemon's journal is read from a copy; a new daemon says that it cannot start."""
    start = f"{sys.executable} {tmp_path / 'sick.py'};"
    done = on_a_small_disk(tmp_path, "read-only", True, f"mount -o remount,ro /mnt; {start}")
    assert "JournalError: /mnt/undo.db" in done.stderr, done
    assert (done.returncode, shown(SWAPPINESS)) == (0, host[SWAPPINESS]), done


def on_a_small_disk(tmp_path: Path, how: str, dies: bool, then: str) -> subprocess.CompletedProcess[str]:
    """A ledger with its journal in 200 kB, in a mount namespace of its own; then a repair from outside."""
    program = tmp_path / "sick.py"
    program.write_text(SICK.format(root=str(ROOT), how=how, dies=dies, directory="/mnt"))
    script = f"mount -t tmpfs -o size=400k,mode=755 none /mnt || exit 77; {sys.executable} {program}; {then}"
    script += f"{PYTHON} -I -S {SOURCE} --runtime-dir /mnt"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("cannot mount in a namespace of its own here")
    return done
