"""Flipped bytes and cut-off files: a knob ends at its original, or is left and named. Never another value."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ledger.conftest import BY, PATHS, Opened, shown
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write
from workloads.trouble import (
    BACKGROUND_BYTES,
    CATALOGUE,
    DEFRAG,
    DIRTY_BYTES,
    DIRTY_RATIO,
    READ_AHEAD,
    SWAPPINESS,
    TCP_RMEM,
)

pytestmark = pytest.mark.kernel

CHANGE = (
    Write(SWAPPINESS, 31),
    Write(DIRTY_BYTES, 64 << 20),
    Write(BACKGROUND_BYTES, 32 << 20),
    Write(TCP_RMEM, (4096, 131072, 1 << 24)),
    Write(DEFRAG, "never"),
    Write(READ_AHEAD, 64),
)
Damage = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def flipped_where_it_counts(rng: random.Random, data: bytes) -> bytes:
    """As `flipped`, in bytes that are not zero: headers, cells and texts rather than free space."""
    at = rng.choice([i for i, byte in enumerate(data) if byte])
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def emptied(rng: random.Random, data: bytes) -> bytes:
    """A block of zeros, as a lost page leaves it."""
    at = rng.randrange(len(data))
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]


KINDS: tuple[Damage, ...] = (flipped, flipped_where_it_counts, flipped_where_it_counts, cut, emptied)


@pytest.mark.parametrize(
    ("name", "times"), [("undo.db", 200), ("undo.db-wal", 100), ("undo.index", 60), ("undo.db, settled", 200)]
)
def test_never_a_wrong_value(
    opened: Opened, host: dict[str, str], tmp_path: Path, name: str, times: int
) -> None:
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(CATALOGUE, BY, journal, time.monotonic)
    # An earlier life of the same knobs, with other originals, which a stale journal would fall back to.
    for knob in (READ_AHEAD, SWAPPINESS):
        ledger.apply("t0", "r", (Write(knob, 20),))
        ledger.apply("t0", "r", (Write(knob, 64),))
        ledger.hold("t0")
    with_stale = tmp_path / "pristine"
    ledger.restore()
    ledger.apply("t1", "r", CHANGE)
    if name.endswith("settled"):
        journal.close()
        name = "undo.db"
    with_stale.mkdir()
    for path in tmp_path.glob("undo.*"):
        shutil.copy(path, with_stale)
    ours = {knob: shown(knob) for knob in CATALOGUE}
    rng = random.Random(times)
    for n in range(times):
        damaged = tmp_path / f"damaged{n}"
        shutil.copytree(with_stale, damaged)
        (damaged / "undo.db-shm").unlink(missing_ok=True)  # or SQLite trusts its view of the old log
        kind = KINDS[n % len(KINDS)]
        (damaged / name).write_bytes(kind(rng, (damaged / name).read_bytes()))
        report = repair.repair(os.fspath(damaged))
        said = " ".join(report.damage) + " ".join(f"{o.knob} {o.status}" for o in report.outcomes)
        for knob, text in host.items():
            now = shown(knob)
            assert now == text or (now == ours[knob] and knob in said), (n, kind.__name__, knob, now, report)
        if any(shown(knob) != text for knob, text in host.items()):
            assert report.code != 0, (n, kind.__name__, report)
        for knob in (SWAPPINESS, DIRTY_BYTES, BACKGROUND_BYTES, TCP_RMEM, DEFRAG, READ_AHEAD):
            PATHS[knob].write_text(ours[knob])
        assert {knob: shown(knob) for knob in CATALOGUE} == ours
        shutil.rmtree(damaged)
    assert repair.repair(os.fspath(with_stale)).code == 0
    ledger.restore()


def test_an_older_state_of_the_journal_is_not_believed(
    opened: Opened, host: dict[str, str], tmp_path: Path
) -> None:
    """The write-ahead log cut off: SQLite falls back, without an error, to when the original was another."""
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(CATALOGUE, BY, journal, time.monotonic)
    ledger.apply("t1", "r", (Write(SWAPPINESS, 31),))
    past = {path.name: path.read_bytes() for path in tmp_path.glob("undo.db*")}
    ledger.restore()
    PATHS[SWAPPINESS].write_text("50")
    try:
        ledger.apply("t2", "r", (Write(SWAPPINESS, 31),))  # ours again, but the original is 50
        journal.close()
        for file, data in past.items():
            (tmp_path / file).write_bytes(data)
        report = repair.repair(os.fspath(tmp_path))
        assert report.code == repair.EXIT_DAMAGED
        assert f"{SWAPPINESS}: is older" in report.damage[0] and "'50'" in report.damage[0]
        assert shown(SWAPPINESS) == "31"
    finally:
        PATHS[SWAPPINESS].write_text(host[SWAPPINESS])


def test_a_lost_database_is_named_knob_by_knob(opened: Opened, tmp_path: Path) -> None:
    ledger = opened()
    ledger.apply("t1", "r", (Write(DIRTY_BYTES, 64 << 20),))
    for path in tmp_path.glob("undo.db*"):
        path.unlink()
    report = repair.repair(os.fspath(tmp_path))
    assert report.code == repair.EXIT_DAMAGED
    assert {line.partition(":")[0] for line in report.damage[1:]} == {DIRTY_BYTES, DIRTY_RATIO}
