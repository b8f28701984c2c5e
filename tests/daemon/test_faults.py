"""Faults of the real thing below and around a daemon that has a knob changed: the knob goes back.

The actor here says hello and then nothing, so that the change stands until the lease or the fault ends it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.host import FILE, Host, host, until
from tests.daemon.stranger import ACTOR, SILENT

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes a real knob: needs root"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    tmp_path.chmod(0o755)
    with host(tmp_path, settle="100ms", lease="30s") as one:
        yield one


def value() -> int:
    return int(FILE.read_text())


def change(machine: Host, **how: object) -> int:
    """A daemon that holds the knob changed; returns the knob's value before."""
    before = value()
    if machine.process is None:
        machine.start_with(sys.executable, "-c", ACTOR + SILENT, **how)  # type: ignore[arg-type]
    until(lambda: "actor" in machine.kinds(), f"no actor:\n{machine.said()}")
    machine.send(50.0)
    until(lambda: value() == before // 2, f"nothing was applied:\n{machine.said()}")
    return before


def ended(machine: Host) -> int:
    assert machine.process is not None
    return machine.process.wait(30)


def alive(machine: Host) -> bool:
    return machine.process is not None and machine.process.poll() is None


def test_an_exception_in_the_loop_restores_on_the_way_out(machine: Host) -> None:
    before = change(machine)
    (machine.place / "break-epoll").touch()
    assert ended(machine) == 1
    assert value() == before
    assert "Invalid argument" in machine.said()


@pytest.mark.parametrize("lost", ["run/undo.db", "run"])
def test_a_journal_that_is_gone_ends_the_daemon_with_everything_back(machine: Host, lost: str) -> None:
    before = change(machine)
    path = machine.place / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ended(machine) == 4
    assert value() == before
    assert "removed or replaced" in machine.said()


def test_the_history_gone_costs_the_history(machine: Host) -> None:
    before = change(machine)
    shutil.rmtree(machine.state)
    machine.command("restore")
    assert value() == before and alive(machine)
    assert machine.stop() == 0


def test_nobody_reads_what_is_logged_and_the_lease_still_ends(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with host(tmp_path, settle="100ms", lease="4s") as machine:
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 4096)
            os.set_blocking(writer, True)
            before = change(machine, stderr=writer)
            until(lambda: value() == before, "a full pipe on stderr holds the loop", 10.0)
            assert machine.stop() == 0
        finally:
            os.close(reader)
            os.close(writer)


def test_the_reader_of_the_log_gone_is_no_reason_to_end(machine: Host) -> None:
    reader, writer = os.pipe()
    before = value()
    machine.start_with(sys.executable, "-c", ACTOR + SILENT, stderr=writer)
    os.close(reader)
    os.close(writer)
    change(machine)
    machine.command("restore")
    assert value() == before and alive(machine)
    assert machine.stop() == 0


def test_a_full_disk_behind_the_log(machine: Host) -> None:
    with Path("/dev/full").open("wb") as full:
        before = change(machine, stderr=full.fileno())
    assert machine.stop() == 0
    assert value() == before


def test_an_actor_that_cannot_be_started(machine: Host) -> None:
    machine.start_with("/nonexistent/actor")
    until(lambda: "actor" in machine.kinds(), "it was not said")
    assert "cannot be started" in str(machine.entry("actor").data["what"])
    assert machine.status()["status"]["actor"]["alive"] is False
    assert machine.stop() == 0


def test_no_descriptor_left(machine: Host) -> None:
    before = change(machine)
    assert machine.process is not None
    pid = machine.process.pid
    numbers = [int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(numbers) + 3, max(numbers) + 3))
    with ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect(str(machine.runtime / "control.sock"))
        busy = cpu_s(pid)
        time.sleep(1.0)
        assert cpu_s(pid) - busy < 0.5, "it spins"
        assert machine.stop() == 0
    assert value() == before


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_standard_streams_closed(machine: Host) -> None:
    before = value()
    program = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-m", "tuned_spec", "run"]
    (machine.place / "log").touch()
    machine.process = subprocess.Popen([*program, "--policy", str(machine.policy), *machine.where()])
    until(lambda: "start" in machine.kinds(), "it did not start")
    assert all(Path(f"/proc/{machine.process.pid}/fd/{n}").exists() for n in (0, 1, 2))
    names = [str(Path(f"/proc/{machine.process.pid}/fd/{n}").readlink()) for n in (0, 1, 2)]
    assert names == ["/dev/null"] * 3
    assert machine.stop() == 0
    assert value() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_over_and_over(machine: Host, number: int) -> None:
    before = change(machine)
    assert machine.process is not None
    for other in (signal.SIGHUP, signal.SIGPIPE, *[number] * 20):
        machine.process.send_signal(other)
    assert ended(machine) == 0
    assert value() == before


def test_leftovers_go_back_although_the_policy_is_broken(machine: Host) -> None:
    before = change(machine)
    machine.kill()
    assert value() == before // 2
    machine.policy.write_text("version: 1\nrules: nonsense\n")
    done = machine.command("run", "--policy", str(machine.policy), check=False)
    assert done.returncode == 3, done.stderr
    assert value() == before


def test_the_package_gone_while_it_runs(machine: Host) -> None:
    checkout = Path(__file__).resolve().parents[2]
    copy = machine.place / "copy"
    for name in ("tuned_spec", "tests"):
        shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = change(machine, cwd=copy)
    shutil.rmtree(copy)
    assert machine.stop() == 0, machine.said()
    assert value() == before


def test_a_runtime_directory_that_others_can_write_is_refused(machine: Host) -> None:
    victim = machine.place / "victim"
    victim.write_text("precious")
    machine.runtime.mkdir()
    (machine.runtime / "lock").symlink_to(victim)
    machine.runtime.chmod(0o777)
    done = machine.command("run", "--policy", str(machine.policy), "--for", "1s", check=False)
    assert done.returncode == 2 and "written by others" in done.stderr
    assert victim.read_text() == "precious"


# ------------------------------------------------------------------------ the control socket


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":1,"do":"\xff"}',
        b'{"\xff":1}',
        b'{"v":1,"do":"status","x":' + b"[" * 60_000,
        b"[" * 60_000,
        b'{"v":1' + b"0" * 4200 + b',"do":"status"}',
        b'{"v":2,"do":"status"}',
        b'{"v":1,"do":"restore","knobs":[1]}',
        b'{"v":1,"do":"restore","knobs":["../../etc/passwd"]}',
        b'{"v":1,"do":"\\u001b[2J"}',
        b"",
        b"\0" * 1000,
    ],
)
def test_nonsense_is_answered_and_survived(machine: Host, line: bytes) -> None:
    machine.start_with(sys.executable, "-c", ACTOR + SILENT)
    assert b'"ok":false' in machine.ask(line, uid=65534)
    assert b'"ok":false' in machine.ask(line)
    assert b'"ok":true' in machine.ask(b'{"v":1,"do":"status"}')


def test_a_stranger_may_change_nothing(machine: Host) -> None:
    before = change(machine)
    for do in ("restore", "pause", "resume"):
        assert b"only root" in machine.ask(b'{"v":1,"do":"%s"}' % do.encode(), uid=65534)
    assert value() == before // 2
    assert machine.status()["status"]["paused"] is False


def test_a_name_that_no_system_call_takes_ends_no_daemon(machine: Host) -> None:
    machine.start_with(sys.executable, "-c", ACTOR + SILENT)
    for do in ("status", "plan", "restore"):
        for uid in (65534, 0):
            machine.ask(b'{"v":1,"do":"%s","knobs":["nic.txqueuelen@\\u0000"]}' % do.encode(), uid=uid)
    assert machine.status()["status"]["paused"] is False


def test_strangers_cannot_keep_the_owner_out(machine: Host) -> None:
    before = change(machine)
    program = (
        "import os, socket, sys, time; os.chdir(sys.argv[1]); os.setuid(65534); all = []\n"
        "for n in range(400):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('control.sock'); s.send(b'{'); all.append(s)\n"
        "print('full', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(machine.runtime)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()
        done = machine.command("restore")
        crowd.kill()
    assert value() == before, done.stdout
    assert alive(machine), "the daemon was taken for hung, and killed"


def test_a_flood_of_metrics_does_not_hold_up_a_lease(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with host(tmp_path, settle="100ms", lease="4s") as machine:
        before = change(machine)
        program = (
            "import socket, sys, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
            "s.connect(sys.argv[1]); end = time.monotonic() + 8\n"
            "while time.monotonic() < end: s.send(b'p95_ms:1|g\\n' * 30)\n"
        )
        words = [sys.executable, "-c", program, str(machine.runtime / "metrics.sock")]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as flood:
            until(lambda: value() == before, "the flood holds up the lease", 7.0)
            assert flood.poll() is None, "the flood was over first"
            assert machine.status()["status"]["paused"] is False
            flood.kill()
        assert machine.stop() == 0


def test_an_admin_who_writes_the_original_back_is_left_alone(machine: Host) -> None:
    before = change(machine)
    FILE.write_text(str(before))
    until(lambda: "foreign" in machine.kinds(), "it was not noticed")
    time.sleep(1.5)  # the rule still wants the change
    assert value() == before
    machine.send(1.0)  # below its clearing level
    machine.command("resume", "vm.page-cluster")
    machine.send(50.0)
    until(lambda: value() == before // 2, "it was not taken up again when told to")
    assert machine.stop() == 0
    assert value() == before
