"""Priors on a real disk: kept, read again, and never a crash whatever the file has become."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuned_spec.ledger.history import History, read
from tuned_spec.ledger.priors import Loaded, load, save
from tuned_spec.model import Expect, Value, Way, Write
from tuned_spec.model import Record as Line
from tuned_spec.paths import PRIORS
from tuned_spec.speculate import foresight
from tuned_spec.speculate.foresight import Foresight, Setting
from tuned_spec.speculate.prior import Fate, Lesson, Priors, learn
from tuned_spec.speculate.selection import Record, judged
from tuned_spec.speculate.signature import FEATURES, Signature

WALL = 1_700_000_000.0
UNDER = Signature(dict.fromkeys(FEATURES, 0.5), dict.fromkeys(FEATURES, 0.1), 8)


def some(trials: int = 1) -> tuple[Priors, Record, Foresight]:
    priors, record, seen = Priors(), Record(), Foresight()
    values: tuple[Value, ...] = (5, "madvise", (4096, 87380, 6291456))
    writes = tuple(Write(f"knob{n}", value) for n, value in enumerate(values))
    for n in range(trials):
        expect = Expect("app.p95_ms", Way.DOWN)
        lesson = Lesson(f"t{n}", Fate.CONFIRMED, UNDER, writes, "rule", expect, gain=0.4)
        priors = learn(priors, lesson, WALL, "2 CPUs, Linux 6.18")
        record = judged(record, "rule", True, 0.4, UNDER, WALL)
        place = Setting(("", "rule"), {"$knob0": "knob0"})
        seen = foresight.learn(seen, place, ("knob knob=$knob0", "memory"), ended=True)
        seen = foresight.thought(foresight.ran(seen, "memory", 1.0), 4.0)
    return priors, record, seen


def test_round_trip(tmp_path: Path) -> None:
    assert load(tmp_path, WALL) == Loaded()
    for trials in (1, 3):
        assert save(tmp_path / "state", *some(trials)) == ""
        assert load(tmp_path / "state", WALL) == Loaded(*some(trials))
    assert [p.name for p in (tmp_path / "state").iterdir()] == [PRIORS]


def test_the_historys_thread_writes_them_in_order(tmp_path: Path) -> None:
    history = History(tmp_path)
    for trials in (1, 2):
        history.record(Line("confirmed", 1.0), WALL, "boot")
        history.do(partial(save, tmp_path, *some(trials)))
    history.do(lambda: f"a fault in {threading.current_thread().name}")
    assert history.close(30) and history.fault == "a fault in history"
    assert load(tmp_path, WALL) == Loaded(*some(2))
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_none_is_said_and_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / PRIORS
    for number in range(2):  # a second one on the same second does not replace the first
        path.write_bytes(content)
        loaded = load(tmp_path, WALL)
        assert (loaded.priors, loaded.record) == (Priors(), Record())
        assert str(path) in loaded.said[0] and f"{PRIORS}.bad-20231114-221320" in loaded.said[0]
        assert not path.exists() and len(list(tmp_path.glob("*.bad-*"))) == number + 1
    assert save(tmp_path, *some()) == "" and load(tmp_path, WALL) == Loaded(*some())


@pytest.mark.parametrize(
    ("pragma", "said"), [("application_id", "another program"), ("user_version", "schema 7")]
)
def test_another_programs_or_versions_file_is_left_whole_beside(
    tmp_path: Path, pragma: str, said: str
) -> None:
    save(tmp_path, *some())
    with closing(sqlite3.connect(tmp_path / PRIORS)) as db:
        db.execute(f"PRAGMA {pragma}=7")
    whole = (tmp_path / PRIORS).read_bytes()
    loaded = load(tmp_path, WALL)
    assert said in loaded.said[0] and loaded.priors == Priors()
    (aside,) = tmp_path.iterdir()
    assert aside.read_bytes() == whole


def test_a_row_that_cannot_be_read_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    save(tmp_path, *some())
    with closing(sqlite3.connect(tmp_path / PRIORS)) as db, db:
        db.execute("INSERT INTO row VALUES ('workload', 'odd', ?)", (b'{"id": 3}',))
        db.execute("INSERT INTO row VALUES ('rule', 'torn', ?)", (b'{"proposed": 1, "outc',))
        db.execute("INSERT INTO row VALUES ('rule', 'none', NULL)")
    loaded = load(tmp_path, WALL)
    assert (loaded.priors, loaded.record, loaded.foresight) == some()
    assert [words for words in ("odd", "torn", "none") if any(words in line for line in loaded.said)] == [
        "odd",
        "torn",
        "none",
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=64))
@example(at=4062, what=b"\x80")  # in the name of a table
def test_damage_anywhere_is_no_crash(tmp_path_factory: pytest.TempPathFactory, at: int, what: bytes) -> None:
    place = tmp_path_factory.mktemp("damage")
    save(place, *some(3))
    data = bytearray((place / PRIORS).read_bytes())
    at %= len(data)
    data[at : at + len(what)] = what
    (place / PRIORS).write_bytes(data)
    load(place, WALL)
    assert save(place, *some()) == "" and load(place, WALL) == Loaded(*some())


def test_a_file_of_before_there_was_foresight(tmp_path: Path) -> None:
    save(tmp_path, *some())
    with closing(sqlite3.connect(tmp_path / PRIORS)) as db, db:
        db.execute("DELETE FROM row WHERE kind = 'foresight'")
    priors, record, _ = some()
    assert load(tmp_path, WALL) == Loaded(priors, record)


def test_a_disk_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = save(tmp_path / "file", *some())
    assert "cannot keep priors" in said and str(tmp_path / "file") in said


def test_a_save_that_was_killed_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, *some(1))
    (tmp_path / f"{PRIORS}.new").write_bytes(b"half of a file")
    assert load(tmp_path, WALL) == Loaded(*some(1))
    assert save(tmp_path, *some(2)) == "" and load(tmp_path, WALL) == Loaded(*some(2))
