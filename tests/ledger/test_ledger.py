"""Apply, toggle, hold, restore, audit on real knobs; whatever is refused or foreign, nothing is lost."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.conftest import BY, Opened, outside, shown
from tuned_spec.errors import JournalError, KnobAbsent, KnobRefused
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Coupling, CouplingKind, Knob, KnobType, Write
from workloads.trouble import (
    BACKGROUND_BYTES,
    BACKGROUND_RATIO,
    CATALOGUE,
    DEFRAG,
    DIRTY_BYTES,
    DIRTY_RATIO,
    NR_REQUESTS,
    READ_AHEAD,
    SCHEDULER,
    SWAPPINESS,
    TCP_RMEM,
)

pytestmark = pytest.mark.kernel


def statuses(ledger: Ledger) -> dict[str, str]:
    return {row.knob: row.status for row in ledger.rows()}


def test_apply_writes_reads_back_and_restores(ledger: Ledger, host: dict[str, str]) -> None:
    applied = ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    assert applied.before == (Write(SWAPPINESS, int(host[SWAPPINESS])),)
    assert applied.after == (Write(SWAPPINESS, 31),)
    assert (applied.rounded, shown(SWAPPINESS), ledger.value(SWAPPINESS)) == ((), "31", 31)
    assert ledger.original(SWAPPINESS) == int(host[SWAPPINESS])
    (outcome,) = ledger.restore()
    assert (outcome.found, outcome.original, outcome.status) == ("31", host[SWAPPINESS], "restored")
    assert ledger.original(SWAPPINESS) is None
    assert ledger.restore() == ()


def test_the_kernels_rounding_is_ours(ledger: Ledger) -> None:
    applied = ledger.apply("t1", "r", (Write(READ_AHEAD, 131),))
    assert (applied.after, applied.rounded) == ((Write(READ_AHEAD, 128),), (READ_AHEAD,))
    assert ledger.audit() == ()


@pytest.mark.parametrize(
    "change",
    [
        (Write(DIRTY_BYTES, 64 << 20), Write(BACKGROUND_BYTES, 100_000_001)),
        (Write(TCP_RMEM, (4096, 131072, 1 << 24)),),
        (Write(DEFRAG, "never"),),
        (Write(NR_REQUESTS, 60), Write(SCHEDULER, "mq-deadline")),
    ],
)
def test_arms_toggle_and_all_goes_back(
    ledger: Ledger, host: dict[str, str], change: tuple[Write, ...]
) -> None:
    first = ledger.apply("t1", "r", change)
    ours = {knob: shown(knob) for knob in CATALOGUE}
    assert first.after == change, "in the order that was asked for, in which it is judged"
    ledger.apply("t1", "r", first.before)
    assert {knob: shown(knob) for knob in CATALOGUE} == host
    ledger.apply("t1", "r", first.after)
    assert {knob: shown(knob) for knob in CATALOGUE} == ours
    ledger.restore()
    assert {knob: shown(knob) for knob in CATALOGUE} == host


def test_a_zeroing_partner_is_in_the_before_image_and_goes_back_by_its_writing(
    ledger: Ledger, host: dict[str, str]
) -> None:
    assert host[DIRTY_BYTES] == "0", "this test wants the kernel's default, a ratio"
    applied = ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20),))
    assert shown(DIRTY_RATIO) == "0"
    assert applied.before == (Write(DIRTY_RATIO, int(host[DIRTY_RATIO])),)  # 0 bytes would be EINVAL
    assert {o.knob: o.status for o in ledger.restore()} == {DIRTY_BYTES: "restored", DIRTY_RATIO: "restored"}


def test_zero_on_a_coupled_knob_means_the_partners_original(ledger: Ledger, host: dict[str, str]) -> None:
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20),))
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 0),))
    assert shown(DIRTY_RATIO) == host[DIRTY_RATIO]


def test_zero_beside_its_partners_value_is_no_write(ledger: Ledger, host: dict[str, str]) -> None:
    applied = ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20), Write(DIRTY_RATIO, 0)))
    assert applied.after == (Write(DIRTY_BYTES, 64 << 20),)
    with pytest.raises(KnobRefused, match=f"set {BACKGROUND_RATIO} instead") as refused:
        ledger.apply("t2", "r", (Write(BACKGROUND_BYTES, 0),))
    assert refused.value.code == errno.EINVAL


def test_a_knob_that_the_catalogue_lost_still_goes_back(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    opened().apply("t1", "r", (Write(SWAPPINESS, 31),))
    journal = Journal(tmp_path, repair.boot_id())
    upgraded = Ledger({}, BY, journal, lambda: 0.0)
    assert upgraded.original(SWAPPINESS) == host[SWAPPINESS]
    assert [o.status for o in upgraded.restore()] == ["restored"]
    journal.close()


def test_restoring_one_knob_takes_its_partner_along_and_no_other(ledger: Ledger) -> None:
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20),))
    ledger.apply("t2", "r", (Write(SWAPPINESS, 31),))
    assert {o.knob for o in ledger.restore([DIRTY_BYTES])} == {DIRTY_BYTES, DIRTY_RATIO}
    assert shown(SWAPPINESS) == "31"


def test_an_original_that_was_bytes_goes_back_to_bytes(opened: Opened, host: dict[str, str]) -> None:
    outside(DIRTY_BYTES, str(96 << 20))
    try:
        ledger = opened()
        ledger.apply("t1", "r", (Write(DIRTY_RATIO, 30),))
        assert shown(DIRTY_BYTES) == "0"
        ledger.restore()
        assert (shown(DIRTY_BYTES), shown(DIRTY_RATIO)) == (str(96 << 20), "0")
    finally:
        outside(DIRTY_RATIO, host[DIRTY_RATIO])


# ------------------------------------------------------------------------------- refusals


def test_a_refused_write_takes_the_whole_call_back(ledger: Ledger, host: dict[str, str]) -> None:
    with pytest.raises(KnobRefused) as refused:
        ledger.apply(
            "t1", "r", (Write(BACKGROUND_RATIO, 7), Write(DIRTY_BYTES, 64 << 20), Write(SWAPPINESS, 999))
        )
    assert (refused.value.knob, refused.value.code) == (SWAPPINESS, errno.EINVAL)
    assert {knob: shown(knob) for knob in CATALOGUE} == host
    assert set(statuses(ledger).values()) == {"restored"}


def test_a_refused_toggle_goes_back_to_before_the_call_not_to_the_original(ledger: Ledger) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    ledger.hold("t1")
    with pytest.raises(KnobRefused):
        ledger.apply("t2", "r", (Write(SWAPPINESS, 32), Write(TCP_RMEM, (4096, 131072, -1))))
    assert shown(SWAPPINESS) == "31"
    row = next(row for row in ledger.rows() if row.knob == SWAPPINESS)
    assert (row.status, row.trial, row.ours, row.pending) == ("held", "t1", "31", "")


def test_a_second_trial_on_an_open_knob_is_refused(ledger: Ledger) -> None:
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20),))
    with pytest.raises(KnobRefused, match="trial t1 has it"):
        ledger.apply("t2", "r", (Write(DIRTY_RATIO, 30),))
    ledger.hold("t1")
    ledger.apply("t2", "r", (Write(DIRTY_RATIO, 30),))
    assert ledger.original(DIRTY_BYTES) == 0


def test_no_way_back_no_way_in(host: dict[str, str], tmp_path: Path) -> None:
    def knob(id: str, target: str, one_way: str = "", coupled: tuple[Coupling, ...] = ()) -> Knob:
        return Knob(
            id=id,
            adapter="sysctl",
            target=target,
            type=KnobType.INT,
            unit="",
            summary="",
            source="",
            coupled=coupled,
            irreversible_when=one_way,
        )

    partner = (Coupling("gone", CouplingKind.ZEROES),)
    entries = {
        k.id: k
        for k in (
            knob("gone", "vm/no_such_knob"),
            knob("read_only", "kernel/ngroups_max"),
            knob("one_way", "vm/swappiness", one_way="it cannot be cleared"),
            knob("alone", "vm/swappiness", coupled=partner),
        )
    }
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(entries, BY, journal, lambda: 0.0)
    codes = {id: getattr(ledger.reversible(id), "code", None) for id in [*entries, "unheard_of"]}
    assert codes == {
        "gone": "absent",
        "read_only": "read_only",
        "one_way": "irreversible",
        "alone": "irreversible",
        "unheard_of": "absent",
    }
    for id in entries:
        with pytest.raises(KnobAbsent if id == "gone" else KnobRefused):
            ledger.apply("t1", "r", (Write(id, 1),))
    assert ledger.rows() == ()
    journal.close()


def test_two_zeroing_knobs_that_are_both_zero_are_irreversible(opened: Opened, host: dict[str, str]) -> None:
    outside(BACKGROUND_RATIO, "0")
    try:
        refusal = opened().reversible(BACKGROUND_BYTES)
        assert refusal is not None and refusal.code == "irreversible"
    finally:
        outside(BACKGROUND_RATIO, host[BACKGROUND_RATIO])


# -------------------------------------------------------------------------------- foreign


def test_an_outside_write_is_theirs_and_stays(ledger: Ledger, host: dict[str, str]) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31), Write(READ_AHEAD, 64)))
    outside(SWAPPINESS, "77")
    try:
        (foreign,) = ledger.audit()
        assert (foreign.knob, foreign.ours, foreign.found) == (SWAPPINESS, 31, 77)
        assert ledger.audit() == ()  # said once
        with pytest.raises(KnobRefused, match="resume"):
            ledger.apply("t1", "r", (Write(SWAPPINESS, 32),))
        outcomes = {o.knob: o.status for o in ledger.restore()}
        assert outcomes == {SWAPPINESS: "foreign", READ_AHEAD: "restored"}
        assert shown(SWAPPINESS) == "77"
        ledger.release(SWAPPINESS)
        applied = ledger.apply("t2", "r", (Write(SWAPPINESS, 31),))
        assert applied.before == (Write(SWAPPINESS, 77),)
        ledger.restore()
        assert shown(SWAPPINESS) == "77"
    finally:
        outside(SWAPPINESS, host[SWAPPINESS])


def test_an_outside_write_is_seen_by_apply_and_by_restore(ledger: Ledger, host: dict[str, str]) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    outside(SWAPPINESS, "77")
    with pytest.raises(KnobRefused, match="somebody else set it to 77"):
        ledger.apply("t1", "r", (Write(SWAPPINESS, 32),))
    assert (shown(SWAPPINESS), statuses(ledger)[SWAPPINESS]) == ("77", "foreign")
    outside(SWAPPINESS, host[SWAPPINESS])


def test_a_foreign_partner_leaves_the_coupled_set_and_says_so(ledger: Ledger, host: dict[str, str]) -> None:
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20), Write(BACKGROUND_BYTES, 32 << 20)))
    outside(DIRTY_BYTES, str(80 << 20))
    try:
        outcomes = {o.knob: o for o in ledger.restore()}
        assert outcomes[DIRTY_BYTES].status == outcomes[DIRTY_RATIO].status == "foreign"
        assert DIRTY_BYTES in outcomes[DIRTY_RATIO].why
        assert outcomes[BACKGROUND_BYTES].status == "restored"
        assert (shown(DIRTY_BYTES), shown(DIRTY_RATIO)) == (str(80 << 20), "0")
    finally:
        outside(DIRTY_RATIO, host[DIRTY_RATIO])


def test_a_same_value_write_is_no_claim(ledger: Ledger) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    outside(SWAPPINESS, "31")
    assert ledger.audit() == ()
    assert [o.status for o in ledger.restore()] == ["restored"]


def test_the_original_written_by_another_is_theirs_but_back_for_a_repair(
    ledger: Ledger, host: dict[str, str]
) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    outside(SWAPPINESS, host[SWAPPINESS])
    rows = [row for row in ledger.rows() if row.status == "open"]
    assert [o.status for o in repair.restore(rows, rows[0].boot_id)] == ["unchanged"]
    with pytest.raises(KnobRefused, match="somebody else"):
        ledger.apply("t1", "r", (Write(SWAPPINESS, 32),))
    assert shown(SWAPPINESS) == host[SWAPPINESS]
    assert [o.status for o in ledger.restore()] == ["foreign"]


# ------------------------------------------------------------------------------- the journal


def test_confirmed_rows_are_adopted_by_the_next_ledger(opened: Opened, host: dict[str, str]) -> None:
    first = opened()
    first.apply("t1", "r", (Write(SWAPPINESS, 31),))
    first.hold("t1", on_stop="keep")
    second = opened()
    (row,) = second.rows()
    assert (row.status, row.on_stop, second.original(SWAPPINESS)) == ("held", "keep", int(host[SWAPPINESS]))
    second.apply("t2", "r", (Write(SWAPPINESS, 47),))  # old to new directly
    assert second.original(SWAPPINESS) == int(host[SWAPPINESS])


def test_a_removed_journal_stops_new_writes_but_not_the_way_back(
    ledger: Ledger, host: dict[str, str], tmp_path: Path
) -> None:
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    for name in os.listdir(tmp_path):  # noqa: PTH208
        if (tmp_path / name).is_file():
            (tmp_path / name).unlink()
    with pytest.raises(JournalError, match=r"undo\.db"):
        ledger.apply("t1", "r", (Write(SWAPPINESS, 32),))
    with pytest.raises(JournalError):
        ledger.apply("t2", "r", (Write(READ_AHEAD, 64),))
    assert (shown(SWAPPINESS), shown(READ_AHEAD)) == ("31", host[READ_AHEAD])
    assert [o.status for o in ledger.restore([SWAPPINESS])] == ["restored"]


def test_another_boots_rows_are_void(opened: Opened, host: dict[str, str], tmp_path: Path) -> None:
    opened().apply("t1", "r", (Write(SWAPPINESS, 31),))
    later = Journal(tmp_path, "another boot")
    assert [row.status for row in later.rows.values()] == ["void"]
    assert Ledger(CATALOGUE, BY, later, lambda: 0.0).restore() == ()
    assert shown(SWAPPINESS) == "31"
    later.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group of our own: a directory of knobs that can vanish."""
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    if os.geteuid() or not roots or not roots[0].startswith("/sys/"):
        pytest.skip("makes a control group below /sys: needs root and cgroup2 there")
    group = Path(roots[0]) / f"tuned-spec-test-{os.getpid()}"
    group.mkdir()
    yield group
    if group.exists():
        group.rmdir()


@pytest.mark.kernel
def test_a_knob_that_vanishes_while_it_is_changed_is_void_and_the_others_go_back(
    cgroup: Path, host: dict[str, str], tmp_path: Path
) -> None:
    file = cgroup / "cgroup.max.depth"
    gone = Knob(
        id="cgroup.depth",
        adapter="sysfs",
        target=str(file.relative_to("/sys")),
        type=KnobType.CHOICE,
        unit="levels",
        summary="for tests",
        source="Documentation/admin-guide/cgroup-v2.rst",
        choices=("max", "5"),
    )
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger({**CATALOGUE, gone.id: gone}, BY, journal, time.monotonic)
    try:
        ledger.apply("t", "r", (Write(gone.id, "5"), Write(SWAPPINESS, 33)))
        assert file.read_text() == "5\n"
        cgroup.rmdir()
        assert not ledger.audit(), "a knob that is gone was not written by anybody"
        outcomes = {o.knob: o for o in ledger.restore()}
        assert outcomes[gone.id].status == "void" and "gone" in outcomes[gone.id].why
        assert shown(SWAPPINESS) == host[SWAPPINESS]
        cgroup.mkdir()  # back under its name, with another inode behind it
        ledger.restore()
        assert file.read_text() == "max\n"
    finally:
        ledger.restore()
        journal.close()
