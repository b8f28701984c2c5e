"""Selectors of tasks through the ledger and repair.py, on tasks of our own, on the real kernel."""

from __future__ import annotations

import json
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tasks.crowd import Crowd, crowd
from tuned_spec.errors import KnobAbsent, KnobRefused
from tuned_spec.knobs import tasks
from tuned_spec.knobs.adapters import Adapter, Kind, adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.knobs.reach import task
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Outcome, Write

pytestmark = pytest.mark.kernel

NICE, SLICE, OOM = "task.nice@exe=ts-crowd", "task.slice_us@exe=ts-crowd", "task.oom_score_adj@exe=ts-crowd"
CHILD = "/bin/cat"  # what a task of ours executes to be none of those that the selector means
PYTHON = "/usr/bin/python3"
BY = adapters()


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Crowd]:
    if os.geteuid() != 0:
        pytest.skip("task.*: needs root")
    with crowd(tmp_path) as started:
        yield started


Opened = Callable[..., Ledger]


@pytest.fixture
def opened(tmp_path: Path, some: Crowd) -> Iterator[Opened]:
    journals: list[Journal] = []

    def one(checkpoint: repair.Checkpoint = repair.nothing) -> Ledger:
        journals.append(Journal(tmp_path / "run", repair.boot_id()))
        return Ledger(Catalogue(load(), BY), BY, journals[-1], clock, checkpoint)

    yield one
    for journal in journals:
        journal.close()


@pytest.fixture
def ledger(opened: Opened) -> Ledger:
    return opened()


def nice(tid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, tid)


def renice(tid: int, value: int) -> None:
    os.setpriority(os.PRIO_PROCESS, tid, value)


def nices(some: Crowd) -> list[int]:
    return [nice(tid) for tid in some.tids]


def shown(some: Crowd, attribute: str) -> set[str]:
    return {task.read(f"task:{tid}/{attribute}") for tid in some.tids}


def wait_for_end(some: Crowd) -> None:
    fd = os.pidfd_open(some.pid)
    some.end()
    select.select([fd], [], [])
    os.close(fd)


def repaired(directory: Path) -> dict[str, Outcome]:
    """By the copy in the runtime directory and the system's Python alone."""
    command = [PYTHON, "-I", "-S", str(directory / "repair.py"), "--runtime-dir", str(directory), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {o["knob"]: Outcome(**o) for o in json.loads(done.stdout)["outcomes"]}


# ------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("nice", 5),
        ("policy", "batch"),
        ("slice_us", 20_000),
        ("ioprio", "be/7"),
        ("cpus", "0"),
        ("oom_score_adj", 10),
        ("timer_slack_ns", 70_000),
        ("autogroup", 4),
    ],
)
def test_every_entry_goes_out_and_comes_back(
    ledger: Ledger, some: Crowd, entry: str, value: int | str
) -> None:
    knob = f"task.{entry}@exe=ts-crowd"
    if refusal := ledger.reversible(knob):
        pytest.skip(f"{knob}: {refusal.what}")
    before, host = ledger.value(knob), shown(some, entry)
    applied = ledger.apply("t1", "r", (Write(knob, value),))
    assert (applied.before, applied.after) == ((Write(knob, before),), (Write(knob, value),))
    assert (applied.rounded, shown(some, entry)) == ((), {str(value)})
    assert ledger.original(knob) == before
    assert ledger.audit() == ()
    (outcome,) = ledger.restore([knob])
    assert (outcome.knob, outcome.found, outcome.status) == (knob, str(value), "restored")
    assert shown(some, entry) == host
    assert ledger.original(knob) is None
    assert ledger.restore() == ()


def test_a_selector_shows_what_most_of_its_tasks_have_and_the_lowest_of_equals(
    ledger: Ledger, some: Crowd
) -> None:
    for tid, value in zip(some.tids, (7, 3, 3, 9), strict=True):
        renice(tid, value)
    assert ledger.value(NICE) == 3
    renice(some.tids[1], 9)
    assert ledger.value(NICE) == 9
    renice(some.tids[1], 10)
    assert ledger.value(NICE) == 3  # 7, 10, 3, 9


def test_each_task_gets_its_own_original_back_in_arm_a_and_at_the_end(ledger: Ledger, some: Crowd) -> None:
    renice(some.tids[2], 3)
    first = ledger.apply("t1", "r", (Write(NICE, 8),))
    assert (nices(some), first.before) == ([8, 8, 8, 8], (Write(NICE, 0),))
    a = ledger.apply("t1", "r", first.before)
    assert (nices(some), a.before, a.after) == ([0, 0, 3, 0], (Write(NICE, 8),), (Write(NICE, 0),))
    ledger.apply("t1", "r", first.after)
    assert nices(some) == [8, 8, 8, 8]
    ledger.restore()
    assert nices(some) == [0, 0, 3, 0]


def test_a_slice_that_was_default_is_default_again(ledger: Ledger, some: Crowd) -> None:
    if refusal := ledger.reversible(SLICE):
        pytest.skip(f"{SLICE}: {refusal.what}")
    task.write(f"task:{some.tids[1]}/slice_us", "3000")
    ledger.apply("t1", "r", (Write(SLICE, 20_000),))
    (outcome,) = ledger.restore()
    assert (outcome.status, outcome.original) == ("restored", "0")
    assert [task.read(f"task:{tid}/slice_us") for tid in some.tids] == ["0", "3000", "0", "0"]


def test_a_real_time_task_keeps_its_policy_and_is_no_member_for_it(ledger: Ledger, some: Crowd) -> None:
    os.sched_setscheduler(some.tids[1], os.SCHED_FIFO, os.sched_param(1))
    ledger.apply("t1", "r", (Write("task.policy@exe=ts-crowd", "batch"),))
    assert [task.read(f"task:{tid}/policy") for tid in some.tids] == ["batch", "fifo/1", "batch", "batch"]
    ledger.restore()
    assert [task.read(f"task:{tid}/policy") for tid in some.tids] == ["other", "fifo/1", "other", "other"]


def test_two_selectors_in_one_change(ledger: Ledger, some: Crowd) -> None:
    change = (Write(NICE, 5), Write(OOM, 7))
    applied = ledger.apply("t1", "r", change)
    assert applied.after == change
    assert {o.knob: o.status for o in ledger.restore()} == {NICE: "restored", OOM: "restored"}
    assert (nices(some), shown(some, "oom_score_adj")) == ([0, 0, 0, 0], {"0"})


def test_a_refused_write_leaves_every_task_as_it_was(ledger: Ledger, some: Crowd) -> None:
    task.write(f"task:{some.pid}/oom_score_adj", "5")
    with crowd(Path(f"/proc/{some.pid}/exe").readlink().parent, threads=2) as other:
        try:
            task.write(f"task:{other.pid}/oom_score_adj", "-5")
            pytest.skip("task.oom_score_adj: CAP_SYS_RESOURCE is here, lowering is not refused")
        except PermissionError:
            pass
        with pytest.raises(KnobRefused, match="EACCES"):
            ledger.apply("t1", "r", (Write(NICE, 4), Write(OOM, -5)))
        assert nices(some) == [0, 0, 0, 0]
        assert {task.read(f"task:{c.pid}/oom_score_adj") for c in (some, other)} == {"0", "5"}
    assert ledger.original(OOM) is None


def test_what_was_raised_without_the_capability_can_be_lowered_again(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(OOM, 900),))
    (outcome,) = ledger.restore()
    assert (outcome.status, task.read(f"task:{some.pid}/oom_score_adj")) == ("restored", "0")


def test_nothing_matches(ledger: Ledger) -> None:
    refusal = ledger.reversible("task.nice@exe=ts-nobody")
    assert refusal
    assert (refusal.code, "no task matches exe=ts-nobody now" in refusal.what) == ("absent", True)
    with pytest.raises(KnobAbsent, match="no task matches"):
        ledger.apply("t1", "r", (Write("task.nice@exe=ts-nobody", 3),))
    assert ledger.rows() == ()


def test_a_task_that_ends_while_it_is_looked_at_says_nothing_of_the_others(some: Crowd) -> None:
    entry = Catalogue(load(), BY)[f"task.nice@exe={some.exe}"]
    gone = tasks.member(entry, task.stat(some.pid)._replace(tid=2**22 + 1))  # above any pid_max
    kind = Kind(tasks.address, members=lambda *of: (*tasks.members(*of), gone))
    assert Adapter(Path("/"), kind, {}).probe(entry).writable


def test_what_is_no_selector_says_so(ledger: Ledger) -> None:
    refusal = ledger.reversible("task.nice@ts-crowd")
    assert refusal
    assert "is not exe=GLOB" in refusal.what


WITHOUT = """
import sys, time
from pathlib import Path
from tests.tasks.test_ledger import BY, NICE, OOM, clock
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
ledger = Ledger(Catalogue(load(), BY), BY, Journal(Path(sys.argv[1]), repair.boot_id()), clock)
refusal = ledger.reversible(NICE)
print(refusal.code, refusal.what, ledger.reversible(OOM))
"""


def test_without_the_capability_to_put_it_back_nothing_is_written(some: Crowd, tmp_path: Path) -> None:
    command = ["setpriv", "--bounding-set", "-sys_nice", sys.executable, "-c", WITHOUT, str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.startswith("read_only ")
    assert "EPERM" in done.stdout
    assert done.stdout.endswith(" None\n")


# ------------------------------------------------------------------- threads and children


def test_what_is_forked_after_the_write_goes_back_too(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    child, thread = some.say("fork", CHILD), some.say("thread")
    assert (nice(child), nice(thread)) == (6, 6)
    (outcome,) = ledger.restore()
    assert (outcome.status, outcome.why) == ("restored", "6 tasks")
    assert (nices(some), nice(child), nice(thread)) == ([0, 0, 0, 0], 0, 0)


def test_an_heir_gets_what_its_elder_had(ledger: Ledger, some: Crowd) -> None:
    renice(some.pid, 2)
    ledger.apply("t1", "r", (Write(NICE, 6),))
    child = some.say("fork", CHILD)
    ledger.restore()
    assert (nice(some.pid), nice(child)) == (2, 2)


def test_heirs_follow_the_arms_with_rows_of_their_own(ledger: Ledger, some: Crowd) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    child, thread = some.say("fork", CHILD), some.say("thread")
    ledger.apply("t1", "r", first.before)
    assert (nice(child), nice(thread)) == (0, 0)
    assert len(ledger.rows()) == 6
    ledger.apply("t1", "r", first.after)
    assert (nice(child), nice(thread)) == (6, 6)
    ledger.restore()
    assert (nice(child), nice(thread)) == (0, 0)


def test_who_had_the_value_before_or_has_another_is_let_alone(ledger: Ledger, some: Crowd) -> None:
    before = some.say("fork", CHILD)
    renice(before, 6)
    ticks = task.stat(before).start
    while int(clock() * task.TICKS) <= ticks:  # the kernel's start times have no finer grain
        pass
    ledger.apply("t1", "r", (Write(NICE, 6),))
    other = some.say("fork", CHILD)
    renice(other, 9)
    ledger.restore()
    assert (nice(before), nice(other)) == (6, 9)


def test_threads_born_while_others_are_written(opened: Opened, some: Crowd) -> None:
    born: list[int] = []

    def busy(point: str) -> None:
        if point == "apply:after_write" and len(born) < 2:
            born.append(some.say("thread"))

    ledger = opened(busy)
    ledger.apply("t1", "r", (Write(NICE, 6),))
    assert [nice(tid) for tid in born] == [6, 6]
    ledger.restore()
    assert [nice(tid) for tid in born] == [0, 0]


def test_an_orphan_that_the_selector_means_goes_back_too(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    orphan = some.say("orphan")
    assert (nice(orphan), task.stat(orphan).parent != some.pid) == (6, True)
    ledger.restore()
    assert nice(orphan) == 0


def test_who_joins_with_an_inherited_value_has_its_elders_original(ledger: Ledger, some: Crowd) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    child, orphan = some.say("fork"), some.say("orphan")
    ledger.join([child, orphan])
    assert {row.original for row in ledger.rows()} == {"0"}
    assert len(ledger.rows()) == 6
    ledger.apply("t1", "r", first.before)
    assert (nice(child), nice(orphan)) == (0, 0)


@pytest.fixture
def cgroup(some: Crowd) -> Iterator[str]:
    """A cgroup of the test's own with the crowd in it."""
    places = [
        Path(p) for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(p, "cgroup.procs").exists()
    ]
    if not places:
        pytest.skip("task.*@cgroup=...: no cgroup v2 here")
    name = f"ts-tasks-{os.getpid()}"
    ours, below = places[0] / name, places[0] / name / "below"
    below.mkdir(parents=True)
    try:
        (below / "cgroup.procs").write_text(str(some.pid))
        yield name
        some.end()
    finally:
        while (below / "cgroup.procs").read_text():
            time.sleep(0.01)
        below.rmdir()
        ours.rmdir()


def test_by_cgroup_and_below_with_what_was_orphaned_in_it(ledger: Ledger, some: Crowd, cgroup: str) -> None:
    knob = f"task.nice@cgroup=/{cgroup}"
    ledger.apply("t1", "r", (Write(knob, 6),))
    assert set(nices(some)) == {6}
    orphan = some.say("orphan", CHILD)
    (outcome,) = ledger.restore()
    assert (outcome.knob, outcome.why) == (knob, "5 tasks")
    assert (set(nices(some)), nice(orphan)) == ({0}, 0)


def test_by_name_and_cgroup(ledger: Ledger, some: Crowd, cgroup: str) -> None:
    child = some.say("fork", CHILD)
    ledger.apply("t1", "r", (Write(f"{NICE},cgroup={cgroup}", 6),))
    assert (set(nices(some)), nice(child)) == ({6}, 0)
    with pytest.raises(KnobAbsent):
        ledger.apply("t2", "r", (Write(f"{NICE},cgroup={cgroup}-not", 6),))
    ledger.restore()


# ------------------------------------------------------------------ comings and goings


def test_a_task_that_came_later_gets_the_value_when_it_joins(
    ledger: Ledger, some: Crowd, tmp_path: Path
) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    with crowd(tmp_path, threads=2) as late:
        renice(late.tids[1], 1)
        ledger.join([some.pid])
        assert nices(late) == [0, 1]
        ledger.join([late.pid])
        assert nices(late) == [6, 6]
        ledger.apply("t1", "r", first.before)
        assert nices(late) == [0, 1]
        ledger.apply("t1", "r", first.after)
        ledger.hold("t1", "keep")
        with crowd(tmp_path, threads=2) as latest:
            ledger.join()
            assert nices(latest) == [6, 6]
            assert {(row.status, row.on_stop) for row in ledger.rows()} == {("held", "keep")}
            ledger.restore()
            assert nices(some) + nices(late) + nices(latest) == [0, 0, 0, 0, 0, 1, 0, 0]


def test_in_arm_a_nobody_joins(ledger: Ledger, some: Crowd, tmp_path: Path) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    ledger.apply("t1", "r", first.before)
    with crowd(tmp_path, threads=2) as late:
        ledger.join()
        assert nices(late) == [0, 0]


def test_a_held_value_waits_for_a_service_that_starts_again(
    ledger: Ledger, some: Crowd, tmp_path: Path
) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    ledger.hold("t1")
    wait_for_end(some)
    assert ledger.audit() == ()
    assert {row.status for row in ledger.rows()} == {"void"}
    with crowd(tmp_path, threads=2) as again:
        ledger.join([again.pid])
        assert nices(again) == [6, 6]
        assert {row.status for row in ledger.rows()} == {"held"}  # the rows of what has ended are gone
        assert ledger.original(NICE) == 0
        ledger.restore()
        assert nices(again) == [0, 0]


def test_when_all_have_ended_the_change_is_void(ledger: Ledger, some: Crowd) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    wait_for_end(some)
    with pytest.raises(KnobAbsent):
        ledger.apply("t1", "r", first.before)
    (outcome,) = ledger.restore([NICE])
    assert (outcome.knob, outcome.status) == (NICE, "void")
    assert ledger.original(NICE) is None


def test_a_number_that_is_another_tasks_now_is_left_alone(
    opened: Opened, some: Crowd, tmp_path: Path
) -> None:
    ledger = opened()
    ledger.apply("t1", "r", (Write(NICE, 6),))
    (row,) = [row for row in ledger.rows() if row.path == f"task:{some.tids[1]}/nice"]
    ledger._journal.settle([row._replace(identity=f"start:1@{some.tids[1]}")])
    (outcome,) = ledger.restore()
    assert (outcome.status, "1 void" in outcome.why) == ("restored", True)
    assert nices(some) == [0, 6, 0, 0]


def test_rows_of_the_dead_do_not_pile_up(ledger: Ledger, some: Crowd, tmp_path: Path) -> None:
    for n in range(5):
        ledger.apply(f"t{n}", "r", (Write(NICE, 6),))
        ledger.restore()
    assert len(ledger.rows()) == 4
    assert len(ledger._members) == 4
    with sqlite3.connect(tmp_path / "run" / "undo.db") as db:
        assert db.execute("SELECT count(*) FROM undo").fetchone() == (4,)
    assert repair.load(os.fspath(tmp_path / "run")).damage == []


# -------------------------------------------------------------------------- somebody else


def test_a_foreign_write_to_one_task_yields_that_task_alone(ledger: Ledger, some: Crowd) -> None:
    first = ledger.apply("t1", "r", (Write(NICE, 6),))
    renice(some.tids[1], 12)
    (foreign,) = ledger.audit()
    assert foreign.knob.startswith(f"task.nice@{some.tids[1]}.")
    assert (foreign.ours, foreign.found) == (6, 12)
    assert ledger.audit() == ()
    ledger.apply("t1", "r", first.before)
    assert nices(some) == [0, 12, 0, 0]
    ledger.apply("t1", "r", first.after)
    (outcome,) = ledger.restore()
    assert (outcome.status, outcome.why.partition(";")[0]) == ("restored", "3 restored, 1 foreign")
    assert nices(some) == [0, 12, 0, 0]


def test_once_every_task_is_somebody_elses_so_is_the_selector(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    for tid in some.tids:
        renice(tid, 12)
    *members, selector = ledger.audit()
    assert len(members) == 4
    assert (selector.knob, selector.ours, selector.found) == (NICE, 6, 12)
    (outcome,) = ledger.restore([NICE])
    assert outcome.status == "foreign"
    assert nices(some) == [12, 12, 12, 12]
    ledger.release(NICE)
    applied = ledger.apply("t2", "r", (Write(NICE, 3),))
    assert applied.before == (Write(NICE, 12),)
    ledger.restore()
    assert nices(some) == [12, 12, 12, 12]


def test_a_task_of_another_open_trial_refuses_the_change(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    with pytest.raises(KnobRefused, match="trial t1 has it"):
        ledger.apply("t2", "r", (Write("task.nice@exe=ts-c*", 9),))
    assert nices(some) == [6, 6, 6, 6]
    ledger.restore()


def test_a_held_task_goes_over_to_another_selector_with_its_own_original(ledger: Ledger, some: Crowd) -> None:
    ledger.apply("t1", "r", (Write(NICE, 6),))
    ledger.hold("t1")
    other = "task.nice@exe=ts-c*"
    applied = ledger.apply("t2", "r", (Write(other, 9),))
    assert (applied.before, nices(some)) == ((Write(other, 6),), [9, 9, 9, 9])
    (outcome,) = ledger.restore([other])
    assert (outcome.status, nices(some)) == ("restored", [0, 0, 0, 0])


def test_tasks_that_end_under_the_change_take_the_whole_change_back(opened: Opened, some: Crowd) -> None:
    def end(point: str) -> None:
        if point == "apply:after_intent":
            wait_for_end(some)

    with crowd(Path(f"/proc/{some.pid}/exe").readlink().parent, threads=2, name="ts-other") as other:
        change = (Write("task.nice@exe=ts-other", 4), Write(NICE, 6))
        with pytest.raises(KnobAbsent, match="all its tasks have ended"):
            opened(end).apply("t1", "r", change)
        assert nices(other) == [0, 0]


# -------------------------------------------------------------------------------- repair.py


@pytest.mark.parametrize("point", ["apply:after_intent", "apply:after_write", "apply:settled"])
def test_a_killed_daemon_is_repaired_with_all_that_was_forked(
    opened: Opened, some: Crowd, tmp_path: Path, point: str
) -> None:
    """The ledger stops dead at this point of arm C; repair.py alone must put everything back."""

    class Killed(BaseException):
        pass

    dying = False

    def die(here: str) -> None:
        if dying and here == point:
            raise Killed

    renice(some.tids[3], 2)
    ledger = opened(die)
    ledger.apply("t1", "r", (Write(NICE, 6),))
    before = some.say("fork", CHILD)
    dying = True
    with pytest.raises(Killed):
        ledger.apply("t1", "r", (Write(NICE, 8),))
    child, thread = some.say("fork", CHILD), some.say("thread")
    outcomes = repaired(tmp_path / "run")
    assert (list(outcomes), outcomes[NICE].status) == ([NICE], "restored")
    assert (nices(some), nice(before), nice(child), nice(thread)) == ([0, 0, 0, 2], 0, 0, 0)


def test_a_name_full_of_brackets_is_repaired_too(opened: Opened, some: Crowd, tmp_path: Path) -> None:
    some.say("name", "x) R 0 (\x1b[2J")
    opened().apply("t1", "r", (Write(NICE, 6),))
    child = some.say("fork", CHILD)
    repaired(tmp_path / "run")
    assert (nices(some), nice(child)) == ([0, 0, 0, 0], 0)


def test_an_older_versions_journal_is_read_and_renewed(opened: Opened, some: Crowd, tmp_path: Path) -> None:
    opened().apply("t1", "r", (Write(NICE, 6),))
    path = tmp_path / "run" / "undo.db"
    with sqlite3.connect(path) as db:
        rows = [repair.Row(*row[:-1])[:-1] for row in db.execute("SELECT * FROM undo")]
        columns = ", ".join(f'"{name}"' for name in repair.Row._fields[:-1])
        db.execute("DROP TABLE undo")
        db.execute(f"CREATE TABLE undo ({columns}, checksum, PRIMARY KEY (id)) WITHOUT ROWID")
        marks = ", ".join("?" * (len(repair.Row._fields)))
        db.executemany(f"INSERT INTO undo VALUES ({marks})", [(*row, repair.checksum(row)) for row in rows])
    db.close()
    ledger = opened()
    assert len(ledger.rows()) == 4
    assert repair.load(os.fspath(path.parent)).damage == []
    (outcome,) = ledger.restore()
    assert (outcome.status, nices(some)) == ("restored", [0, 0, 0, 0])
