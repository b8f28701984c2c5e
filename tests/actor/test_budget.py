"""What was spent: counted once, kept over restarts and crashes, and bounding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuned_spec.actor import budget as budgets
from tuned_spec.actor.budget import COMPACT_BYTES, Purse, Record, Spent
from tuned_spec.actor.config import Budget

HOUR, DAY = 3600.0, 86400.0


@dataclass
class Time:
    """Two clocks by value, and the boot that one of them counts from."""

    boottime: float = 1000.0
    wall: float = 1.7e9
    boot: str = "boot-1"

    def passes(self, seconds: float) -> None:
        self.boottime += seconds
        self.wall += seconds

    def reboots(self, down_s: float = 0.0) -> None:
        self.boottime, self.boot = 10.0, self.boot + "+"
        self.wall += down_s


def purse(bounds: Budget, time: Time, record: Record | None = None) -> Purse:
    return Purse(bounds, record, lambda: time.boottime, lambda: time.wall, time.boot)


@contextmanager
def kept(place: Path, bounds: Budget, time: Time, said: list[str] | None = None) -> Iterator[Purse]:
    """As one actor process has it, from its start to its end."""
    record = Record(place, "spent", (said if said is not None else []).append)
    try:
        yield purse(bounds, time, record)
    finally:
        record.close()


def test_tokens_of_an_hour_are_free_again_after_it() -> None:
    time = Time()
    ours = purse(Budget(tokens_an_hour=100), time)
    ours.reserve(60, 0.0)
    time.passes(600)
    ours.reserve(30, 0.0)
    with pytest.raises(Spent, match="tokens_an_hour is spent: 90 of 100; free again in 50 min"):
        ours.reserve(20, 0.0)
    time.passes(3000)
    ours.reserve(20, 0.0)
    assert ours.spent(HOUR) == (50, 0.0)


@pytest.mark.parametrize(
    ("bounds", "named", "after"),
    [
        (Budget(tokens_an_hour=10), "tokens_an_hour", HOUR),
        (Budget(tokens_a_day=10), "tokens_a_day", DAY),
        (Budget(money_an_hour=0.1), "money_an_hour", HOUR),
        (Budget(money_a_day=0.1), "money_a_day", DAY),
    ],
)
def test_each_bound_holds_for_its_window(bounds: Budget, named: str, after: float) -> None:
    time = Time()
    ours = purse(bounds, time)
    ours.reserve(10, 0.1)
    with pytest.raises(Spent, match=f"budget.{named} is spent"):
        ours.reserve(1, 0.01)
    time.passes(after - 1)
    with pytest.raises(Spent):
        ours.reserve(1, 0.01)
    time.passes(1)
    ours.reserve(10, 0.1)


def test_one_call_that_is_more_than_all_says_so() -> None:
    with pytest.raises(Spent, match="more than all of 10; raise it"):
        purse(Budget(tokens_a_day=10), Time()).reserve(11, 0.0)


def test_nothing_may_be_spent_of_nothing() -> None:
    with pytest.raises(Spent):
        purse(Budget(tokens_a_day=0), Time()).reserve(1, 0.0)


def test_an_estimate_is_corrected() -> None:
    ours = purse(Budget(tokens_a_day=100), Time())
    name = ours.reserve(90, 0.9)
    with pytest.raises(Spent):
        ours.reserve(20, 0.0)
    ours.settle(name, 5, 0.05)
    ours.reserve(90, 0.0)
    assert ours.spent(DAY) == (95, 0.05)


def test_those_who_ask_together_do_not_overspend_together() -> None:
    ours = purse(Budget(tokens_a_day=100), Time())
    granted: list[str] = []

    def ask() -> None:
        for _ in range(20):
            try:
                granted.append(ours.reserve(7, 0.0))
            except Spent:
                pass

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(granted) == len(set(granted)) == 100 // 7


# ------------------------------------------------------------------------ over restarts


def test_it_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    time, bounds = Time(), Budget(tokens_a_day=100)
    with kept(tmp_path, bounds, time) as ours:
        ours.settle(ours.reserve(90, 0.0), 30, 0.0)
        ours.reserve(50, 0.0)  # abandoned: never settled
    time.passes(60)
    with kept(tmp_path, bounds, time) as ours:
        assert ours.spent(DAY) == (80, 0.0)
        with pytest.raises(Spent):
            ours.reserve(21, 0.0)
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600, 0o600]


def test_a_process_that_is_killed_in_a_call_has_paid_for_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path;"
        "from tuned_spec.actor.budget import Purse, Record; from tuned_spec.actor.config import Budget;"
        "ours = Purse(Budget(tokens_a_day=100), Record(Path(sys.argv[1]), 'spent', print), boot='b');"
        "ours.reserve(40, 0.0); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
        assert done.returncode == -signal.SIGKILL
    with kept(tmp_path, Budget(tokens_a_day=100), Time()) as ours, pytest.raises(Spent):
        ours.reserve(40, 0.0)


def test_two_processes_cannot_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "LOCK_S", 0.05)
    with kept(tmp_path, Budget(tokens_a_day=1), Time()), pytest.raises(BlockingIOError):
        Record(tmp_path, "spent", print)
    with kept(tmp_path, Budget(tokens_a_day=1), Time()):
        pass


@pytest.mark.parametrize("step", [-30 * DAY, -HOUR, HOUR, 30 * DAY])
def test_a_step_of_the_clock_resets_nothing(tmp_path: Path, step: float) -> None:
    time, bounds = Time(), Budget(tokens_a_day=100)
    with kept(tmp_path, bounds, time) as ours:
        ours.reserve(90, 0.0)
        time.wall += step
        with pytest.raises(Spent):
            ours.reserve(20, 0.0)
    with kept(tmp_path, bounds, time) as ours:
        with pytest.raises(Spent):
            ours.reserve(20, 0.0)
        time.passes(DAY)
        ours.reserve(20, 0.0)


@pytest.mark.parametrize(
    ("down_s", "free"), [(0.0, False), (HOUR, False), (DAY + 1, True), (-30 * DAY, False)]
)
def test_a_reboot_ages_it_by_the_wall_clock(tmp_path: Path, down_s: float, free: bool) -> None:
    """One that is behind counts all as just spent."""
    time, bounds = Time(), Budget(tokens_a_day=100)
    with kept(tmp_path, bounds, time) as ours:
        ours.reserve(90, 0.0)
    time.reboots(down_s)
    with kept(tmp_path, bounds, time) as ours:
        assert ours.spent(DAY) == ((0, 0.0) if free else (90, 0.0))
        time.passes(DAY)
        ours.reserve(90, 0.0)


# ------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"{}",
        b"\xff\x00",
        b"[" * 5000,
        b'{"id":"x","boot":"b","t":1,"wall":1,"tokens":-50,"money":0}',
    ],
    ids=["rubbish", "empty", "binary", "deep", "negative"],
)
def test_damaged_lines_are_named_and_the_others_count(tmp_path: Path, line: bytes) -> None:
    time, bounds, said = Time(), Budget(tokens_a_day=100), list[str]()
    with kept(tmp_path, bounds, time) as ours:
        ours.reserve(30, 0.0)
    with (tmp_path / "spent.0").open("ab") as file:
        file.write(line)  # torn: without its end
    with kept(tmp_path, bounds, time, said) as ours:
        assert ours.spent(DAY)[0] == 30
        ours.reserve(40, 0.0)
    (complaint,) = said
    assert complaint.startswith(f"{tmp_path}/spent.0:2: damaged")
    with kept(tmp_path, bounds, time) as ours:
        assert ours.spent(DAY)[0] == 70


def test_a_file_of_nothing_but_damage_is_not_a_flood_of_complaints(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "spent.0").write_bytes(b"no\n" * 3_000_000)
    with kept(tmp_path, Budget(tokens_a_day=100), Time(), said) as ours:
        ours.reserve(50, 0.0)
    assert len(said) == 6


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd"), Path.mkdir])
def test_what_is_no_file_is_no_record(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "spent.0")
    with pytest.raises(OSError):
        Record(tmp_path, "spent", print)


def test_what_cannot_be_put_on_record_is_not_spent() -> None:
    """/dev/full is a disk without room."""
    record = Record.__new__(Record)
    record._fds, record._now, record._size = [os.open("/dev/full", os.O_RDWR)], 0, 0
    record._paths, record._complain = (Path("/dev/full"), Path("/dev/full")), print
    try:
        with pytest.raises(Spent, match="No space left on device"):
            record_only(record).reserve(1, 0.0)
    finally:
        record.close()


def record_only(record: Record) -> Purse:
    record.read = list  # type: ignore[method-assign]
    return purse(Budget(tokens_a_day=10), Time(), record)


# --------------------------------------------------------------------------- compaction


def test_it_does_not_grow_and_loses_nothing(tmp_path: Path) -> None:
    time, bounds = Time(), Budget(tokens_a_day=10**9)
    with kept(tmp_path, bounds, time) as ours:
        for _ in range(4000):
            ours.settle(ours.reserve(9, 0.0), 1, 0.0)
            time.passes(200)
        spent = ours.spent(DAY)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.5 * COMPACT_BYTES
    with kept(tmp_path, bounds, time) as ours:
        assert ours.spent(DAY) == spent == (431, 0.0)


def test_a_kill_between_the_copy_and_the_emptying_counts_nothing_twice(tmp_path: Path) -> None:
    time, bounds = Time(), Budget(tokens_a_day=100)
    with kept(tmp_path, bounds, time) as ours:
        ours.settle(ours.reserve(40, 0.0), 30, 0.0)
    (tmp_path / "spent.1").write_bytes((tmp_path / "spent.0").read_bytes())
    with kept(tmp_path, bounds, time) as ours:
        assert ours.spent(DAY) == (30, 0.0)
