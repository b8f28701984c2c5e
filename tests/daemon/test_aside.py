"""Writes that do not come back at once: the loop goes on, and nobody else writes to that knob meanwhile."""

from __future__ import annotations

import itertools
import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.knobs.cgroup_host import Host
from tuned_spec.daemon.hands import Hands
from tuned_spec.engine.events import Applied, Apply, ApplyFailed, Event, Revert, Reverted
from tuned_spec.errors import KnobRefused
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import RowStatus, Write

RECLAIM, HIGH, WEIGHT = "cgroup.memory.reclaim@a", "cgroup.memory.high@a", "cgroup.cpu.weight@b"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "root")
    host.cgroup("a")
    host.cgroup("b", {"cpu.idle": "0\n"})
    return host


@pytest.fixture
def hands(host: Host, tmp_path: Path) -> Iterator[Hands]:
    ticks = itertools.count()
    hands = Hands(host.catalogue, host.access, Journal(tmp_path / "run", "boot"), lambda: float(next(ticks)))
    yield hands
    hands.ledger.restore()
    hands.close()


class Clogged:
    """A FIFO in the place of a knob, full to the brim: a write to it waits until somebody reads."""

    def __init__(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            while True:
                os.write(self.fd, b"x" * 4096)
        except BlockingIOError:
            pass

    def drain(self) -> bytes:
        return os.read(self.fd, 1 << 20)


@pytest.fixture
def clogged(host: Host) -> Iterator[Clogged]:
    clogged = Clogged(host.place / "a/memory.reclaim")
    yield clogged
    os.close(clogged.fd)


def come_back(hands: Hands) -> tuple[Event, ...]:
    """What the loop does when the descriptor wakes it."""
    ready, _, _ = select.select([hands.aside], [], [], 30)
    assert ready, "the write has not come back"
    return hands.come_back()


def test_the_loop_goes_on_while_a_write_waits(hands: Hands, clogged: Clogged) -> None:
    assert hands.apply(Apply("t1", "slow", (Write(RECLAIM, 65536),))) == ()
    assert hands.journal.rows[RECLAIM].status == RowStatus.IN_DOUBT
    assert hands.come_back() == ()
    (applied,) = hands.apply(Apply("t2", "quick", (Write(WEIGHT, 200),)))
    assert isinstance(applied, Applied)
    clogged.drain()
    (returned,) = come_back(hands)
    assert isinstance(returned, Applied)
    assert returned.trial == "t1"
    assert clogged.drain() == b"65536\n"
    assert hands.journal.rows[RECLAIM].status == RowStatus.OPEN


def test_what_has_gone_costs_no_descriptor(hands: Hands, host: Host) -> None:
    def watched() -> set[str]:
        links = {os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()}
        return {link for link in links if link.startswith(str(host.place))}

    if hands.watch.fileno() is None:
        pytest.skip(f"fanotify: {hands.watch.why}")
    hands.watch_over([HIGH, WEIGHT])
    assert len(watched()) == 2
    shutil.rmtree(host.place / "a")
    hands.watch_over([WEIGHT])
    assert len(watched()) == 1


def test_till_then_nobody_else_writes_to_that_knob(hands: Hands, clogged: Clogged) -> None:
    hands.apply(Apply("t1", "slow", (Write(RECLAIM, 65536),)))
    (refused,) = hands.apply(Apply("t1", "slow", (Write(RECLAIM, 4096),)))
    assert isinstance(refused, ApplyFailed)
    assert "has not come back" in refused.what
    (reverted,) = hands.revert(Revert("t1", (RECLAIM,), (), "slow", "its lease has ended"))
    assert isinstance(reverted, Reverted)
    assert [(o.knob, o.status) for o in reverted.outcomes] == [(RECLAIM, "failed")]
    assert "in doubt" in reverted.outcomes[0].why
    clogged.drain()
    come_back(hands)
    assert clogged.drain() == b"65536\n", "the one write, and no other"
    (reverted,) = hands.revert(Revert("t1", (RECLAIM,), (), "slow", "its lease has ended"))
    assert isinstance(reverted, Reverted)
    assert [o.status for o in reverted.outcomes] == ["unchanged"]


@pytest.mark.parametrize("stop", [True, False])
def test_what_waits_behind_it_is_not_written_once_its_trial_is_over(
    hands: Hands, host: Host, clogged: Clogged, stop: bool
) -> None:
    file = host.place / "a/memory.high"
    before = file.read_text()
    hands.apply(Apply("t1", "slow", (Write(RECLAIM, 65536),)))
    hands.apply(Apply("t2", "behind", (Write(HIGH, 8 << 20),)))
    if stop:
        hands.withdraw()
    else:
        hands.revert(Revert("t2", (HIGH,), (), "behind", "its lease has ended"))
    clogged.drain()
    came: list[Event] = []
    while len(came) < 2:
        came += come_back(hands)
    assert isinstance(came[1], ApplyFailed) and "over before its turn" in came[1].what
    assert file.read_text() == before
    assert hands.journal.rows[HIGH].status == RowStatus.RESTORED
    assert hands.ledger.reversible(HIGH) is None


def test_a_write_that_failed_is_in_doubt_no_more(hands: Hands, host: Host) -> None:
    path = host.place / "a/memory.high"
    change = hands.ledger.begin("t1", "slow", (Write(HIGH, 8 << 20),), aside=True)
    path.rename(host.place / "aside")
    hands.ledger.carry_out(change)
    with pytest.raises(KnobRefused, match="No such file"):
        hands.ledger.finish(change)
    (host.place / "aside").rename(path)
    assert hands.journal.rows[HIGH].status == RowStatus.OPEN
    assert [o.status for o in hands.ledger.restore()] == ["unchanged"]


def test_who_dies_in_doubt_is_repaired_by_comparing(host: Host, tmp_path: Path) -> None:
    file = host.place / "a/memory.high"
    file.write_text("16777216")  # as long as the new one: a file of ours does not end where the write does
    for died_before_the_write in (True, False):
        journal = Journal(tmp_path / "run", "boot")
        ledger = Ledger(host.catalogue, host.access, journal, float)
        change = ledger.begin("t", "r", (Write(HIGH, 32 << 20),), aside=True)
        if not died_before_the_write:
            ledger.carry_out(change)
            assert file.read_text() == str(32 << 20)
        journal.close()
        journal = Journal(tmp_path / "run", "boot")
        assert journal.rows[HIGH].status == RowStatus.IN_DOUBT
        (outcome,) = Ledger(host.catalogue, host.access, journal, float).restore()
        assert outcome.status == ("unchanged" if died_before_the_write else "restored")
        assert file.read_text() == "16777216"
        journal.close()
