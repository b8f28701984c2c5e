"""The whole daemon, as its users meet it: real process, real kernel, real samples, real signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes a real knob: needs root"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as one:
        yield one


def value() -> int:
    return int(FILE.read_text())


def change(machine: Host) -> int:
    """Make the daemon's rule fire; returns the knob's value before. From then on arms may alternate."""
    before = value()
    machine.send(50.0)
    until(lambda: "applied" in machine.kinds(), f"nothing was applied:\n{machine.said()}")
    assert machine.entry("applied").data["after"] == [{"knob": KNOB, "value": before // 2}]
    return before


def until_changed(before: int) -> None:
    """A trial draws its arms at random: wait for one that is not the original."""
    until(lambda: value() != before, "arm B never came", 60.0)


def actor_alive(machine: Host) -> bool:
    status = machine.status().get("status")
    return bool(status and status["actor"]["alive"])


def test_acts_on_a_sample_and_puts_everything_back_when_stopped(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    assert machine.entry("proposed").data["seen"] == {"app.p95_ms": 50.0}
    assert machine.stop() == 0
    assert value() == before
    assert "stop" in machine.kinds()


def test_killed_by_nine_then_restored(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    until_changed(before)
    machine.kill()
    assert value() == before // 2, "nobody is left to put it back"
    done = machine.command("restore")
    assert KNOB in done.stdout and value() == before
    again = machine.command("restore")
    assert again.returncode == 0 and value() == before


def test_a_daemon_started_after_a_crash_puts_back_what_was_left(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    machine.kill()
    count = machine.kinds().count("start")
    machine.process = None
    machine.start()
    until(lambda: machine.kinds().count("start") > count, "it did not start again")
    assert value() == before
    assert "died" in str(machine.entry("reverted").data["why"])


def test_restore_asks_a_living_daemon_and_leaves_it_paused(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    machine.command("restore")
    assert value() == before
    assert machine.status()["status"]["paused"]
    assert machine.process is not None and machine.process.poll() is None


def test_restore_kills_a_hung_daemon_first(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    assert machine.process is not None
    machine.process.send_signal(signal.SIGSTOP)
    done = machine.command("restore")
    assert value() == before, done.stdout + done.stderr
    assert machine.process.wait(10) == -signal.SIGKILL


def test_an_admins_value_stays_and_is_reported(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    theirs = before + 7
    subprocess.run([sys.executable, "-c", f"open('{FILE}', 'w').write('{theirs}')"], check=True)
    until(lambda: "foreign" in machine.kinds(), "the foreign write was not noticed")
    entry = machine.entry("foreign")
    assert entry.data["ours"] in (before, before // 2) and entry.data["found"] == theirs
    assert "python" in str(entry.data["writer"]) or "gone" in str(entry.data["writer"])
    machine.stop()
    assert value() == theirs


def test_a_dead_actor_costs_the_change_not_the_loop(tmp_path: Path) -> None:
    with host(tmp_path, settle="100ms", lease="4s") as machine:
        machine.start()
        until(lambda: actor_alive(machine), "no actor")
        pid = machine.status()["status"]["actor"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        before = change(machine)
        os.kill(pid, signal.SIGKILL)
        until(lambda: "reverted" in machine.kinds(), "the lease did not end it")
        assert value() == before
        until(lambda: machine.status()["status"]["actor"]["pid"] not in (None, pid), "no new actor")


def test_a_stopped_actor_is_silence(tmp_path: Path) -> None:
    with host(tmp_path, settle="100ms", lease="4s") as machine:
        machine.start()
        until(lambda: actor_alive(machine), "no actor")
        pid = machine.status()["status"]["actor"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        before = change(machine)
        until(lambda: "reverted" in machine.kinds(), "the lease did not end it")
        assert value() == before


def test_the_actor_has_no_privileges(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    pid = machine.status()["status"]["actor"]["pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert set(status["Uid"].split()) == {"65534"} and set(status["Gid"].split()) == {"65534"}
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"


def test_two_daemons_at_once(machine: Host) -> None:
    machine.start()
    second = machine.command("run", "--policy", str(machine.policy), "--for", "5s", check=False)
    assert second.returncode == 5
    assert str(machine.process.pid if machine.process else "") in second.stderr


def test_observe_writes_nothing(machine: Host) -> None:
    machine.start("--mode", "observe")
    before = value()
    machine.send(50.0)
    until(lambda: "would" in machine.kinds(), "it said nothing")
    assert value() == before
    assert "applied" not in machine.kinds()


def test_garbage_on_the_metric_socket_is_counted_and_harmless(machine: Host) -> None:
    machine.start()
    before = value()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(machine.runtime / "metrics.sock"))
        for junk in (b"", b"\xff\x00", b"p95_ms:nan|g", b"p95_ms:1e999|g", b"x" * 9000, b"other:99|g"):
            sock.send(junk)
    until(lambda: sum(machine.status()["status"]["rejected_samples"].values()) >= 4, "not counted")
    assert value() == before


def test_a_sample_of_another_user_drives_nothing(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = value()
    program = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
        "s.connect(sys.argv[1]); os.setuid(65534); s.send(b'p95_ms:50|g')"
    )
    subprocess.run([sys.executable, "-c", program, str(machine.runtime / "metrics.sock")], check=True)
    until(lambda: machine.status()["status"]["rejected_samples"], "not counted")
    assert value() == before and "proposed" not in machine.kinds()


def test_stop_with_nothing_changed_changes_nothing(machine: Host) -> None:
    before = value()
    machine.start()
    assert machine.stop() == 0
    assert value() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "run"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=755", "none", str(place)])
    if mounted.returncode:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_runtime_directory_stops_new_changes_not_reverts(tmp_path: Path, small_disk: Path) -> None:
    with host(tmp_path) as machine:
        machine.start()
        until(lambda: actor_alive(machine), "no actor")
        before = change(machine)
        with pytest.raises(OSError, match="No space left"), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(b"x" * 1024)
                filler.flush()
        done = machine.command("restore", check=False)
        assert value() == before, done.stdout + done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
        machine.stop()
        assert value() == before


def test_what_somebody_else_has_stays_theirs_over_a_restart(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    theirs = before + 2
    FILE.write_text(str(theirs))
    until(lambda: "foreign" in machine.kinds(), "the foreign write was not noticed")
    machine.stop()
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    (foreign,) = machine.status()["status"]["foreign"]
    assert (foreign["knob"], foreign["found"]) == (KNOB, str(theirs))
    machine.send(50.0)
    until(lambda: machine.status()["status"]["refusals"].get("foreign", 0) > 0, "it was not refused")
    assert value() == theirs
    machine.stop()
    FILE.write_text(str(before))  # given back
    count = machine.kinds().count("proposed")
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    machine.send(50.0)
    until(lambda: machine.kinds().count("proposed") > count, "it is managed again")
    machine.stop()
    assert value() == before


def test_a_terminal_that_closes_stops_it(machine: Host) -> None:
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    before = change(machine)
    assert machine.kill(signal.SIGHUP) == 0
    assert value() == before
