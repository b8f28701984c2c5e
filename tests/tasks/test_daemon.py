"""A real daemon with a rule for tasks: who comes later is found through the lookout, and all goes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.host import Host, until
from tests.daemon.stranger import ACTOR, SILENT
from tests.tasks.crowd import Crowd, crowd
from tuned_spec.daemon import lookout_link
from tuned_spec.daemon.lookout_link import LookoutLink
from tuned_spec.lookout.messages import Tasks

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="task.nice: needs root"),
]

KNOB = "task.nice@exe=ts-crowd"


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Crowd]:
    with crowd(tmp_path) as started:
        yield started


@pytest.fixture
def machine(tmp_path: Path, some: Crowd) -> Iterator[Host]:
    """A daemon whose judge says nothing: what is written stays until the lease ends or the daemon does."""
    one = Host(tmp_path)
    one.policy.write_text(one.policy.read_text().replace("vm.page-cluster: multiply 0.5", f"{KNOB}: set 5"))
    try:
        one.start_with(sys.executable, "-c", ACTOR + SILENT)
        yield one
    finally:
        if one.process and one.process.poll() is None:
            one.stop()


def nices(some: Crowd) -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, tid) for tid in some.tids}


def watch(machine: Host) -> str:
    return str((machine.status().get("status") or {}).get("task_watch"))


def change(machine: Host, some: Crowd) -> None:
    until(lambda: "actor" in machine.kinds(), f"no actor:\n{machine.said()}")
    until(
        lambda: watch(machine) == "netlink", f"the lookout is not heard: {watch(machine)}\n{machine.said()}"
    )
    machine.send(50.0)
    until(lambda: nices(some) == {5}, f"nothing was applied:\n{machine.said()}")


def test_a_program_that_starts_later_is_changed_and_all_goes_back(
    machine: Host, some: Crowd, tmp_path: Path
) -> None:
    change(machine, some)
    with crowd(tmp_path, threads=1) as late:
        until(lambda: nices(late) == {5}, f"who came later was not found:\n{machine.said()}")
        child = late.say("fork", "/bin/cat")
        assert machine.stop() == 0
        assert (nices(some), nices(late), os.getpriority(os.PRIO_PROCESS, child)) == ({0}, {0}, 0)
    assert machine.entry("stop").data["outcomes"]


def test_killed_by_nine_then_restored(machine: Host, some: Crowd) -> None:
    change(machine, some)
    child = some.say("fork", "/bin/cat")
    machine.kill()
    assert nices(some) == {5}, "nobody is left to put it back"
    done = machine.command("restore")
    assert KNOB in done.stdout
    assert (nices(some), os.getpriority(os.PRIO_PROCESS, child)) == ({0}, 0)


def test_restore_by_name_and_a_foreign_thread(machine: Host, some: Crowd) -> None:
    change(machine, some)
    os.setpriority(os.PRIO_PROCESS, some.tids[1], 9)
    until(lambda: "foreign" in machine.kinds(), "the foreign write was not noticed")
    (knob,) = machine.entry("foreign").knobs
    assert knob.startswith(f"task.nice@{some.tids[1]}.")
    assert machine.status()["status"]["open"], "the trial goes on with the others"
    machine.command("restore", KNOB)
    assert [os.getpriority(os.PRIO_PROCESS, tid) for tid in some.tids] == [0, 9, 0, 0]


def test_the_lookout_that_dies_is_started_anew(machine: Host, some: Crowd, tmp_path: Path) -> None:
    change(machine, some)
    assert machine.process
    children = Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/children").read_text().split()
    (lookout,) = [
        int(pid) for pid in children if b"tuned_spec.lookout" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert "Uid:\t65534\t65534\t65534\t65534" in Path(f"/proc/{lookout}/status").read_text()
    os.kill(lookout, 9)
    with crowd(tmp_path, threads=1) as late:
        until(lambda: nices(late) == {5}, f"who came later was not found:\n{machine.said()}")
    until(lambda: watch(machine) == "netlink", f"no new lookout: {watch(machine)}")


def test_without_a_rule_for_tasks_there_is_no_lookout(tmp_path: Path) -> None:
    one = Host(tmp_path)
    try:
        one.start()
        until(lambda: watch(one) == "not needed", f"task_watch is {watch(one)}")
        assert one.process
        maps = Path(f"/proc/{one.process.pid}/maps").read_text()
        assert "pyroute2" not in maps
    finally:
        one.stop()


def test_a_rule_for_a_program_that_starts_later_is_idle_no_more(tmp_path: Path) -> None:
    one = Host(tmp_path)
    one.policy.write_text(
        one.policy.read_text().replace("vm.page-cluster: multiply 0.5", "task.nice@exe=ts-later: set 5")
    )

    def idle() -> list[str]:
        return [rule["rule"] for rule in (one.status().get("status") or {}).get("inert", ())]

    try:
        one.start()
        until(lambda: idle() == ["guess"], f"what cannot work is not said: {one.status()}")
        with crowd(tmp_path, name="ts-later"):
            until(lambda: idle() == [], "it still is said to be idle", 40.0)
    finally:
        one.stop()


# ------------------------------------------------------------------------- the link by itself


def test_who_may_not_hear_is_not_asked_again() -> None:
    link = LookoutLink(("tasks",), ("unshare", "--net", *lookout_link.PROGRAM))
    link.start(0.0)
    told, trouble = heard(link)
    assert (told, trouble) == ([], "it hears nothing")
    link.give_up(5.0)
    assert link.start_at is None
    assert link.scan_at < 5.0, "a look for oneself is due"
    assert link.why == link.deaf["tasks"] != ""
    link.scanned(5.0)
    assert link.scan_at == 5.0 + lookout_link.SCAN_S


def test_its_first_words_ask_for_one_look() -> None:
    link = LookoutLink(("tasks",))
    link.start(1.0)
    try:
        assert (heard(link), link.why, link.scan_at) == (([], ""), "", 1.0)
        link.scanned(2.0)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
            told: list[Tasks] = []
            while not any(program.pid in tasks.exec for tasks in told):
                more, trouble = heard(link)
                assert trouble == ""
                told += more
        assert link.scan_at == 2.0 + lookout_link.HEARING_SCAN_S
    finally:
        link.give_up(3.0)
    assert (link.why, link.scan_at) == ("the lookout does not run", 3.0)


def test_a_program_that_says_nonsense_is_given_up() -> None:
    program = "import socket, sys; socket.socket(fileno=int(sys.argv[-1])).send(b'nonsense')"
    link = LookoutLink((), (sys.executable, "-c", program))
    link.start(0.0)
    told, trouble = heard(link)
    assert told == []
    assert "cannot be read" in trouble
    link.give_up(0.0)


def heard(link: LookoutLink) -> tuple[list[Tasks], str]:
    assert link.sock
    link.sock.settimeout(20)
    first = link.sock.recv(1, socket.MSG_PEEK)
    assert first is not None
    link.sock.setblocking(False)
    return link.receive(1.0)
