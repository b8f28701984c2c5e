"""The journal by itself, and the rules of comparing: no kernel, no root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuned_spec.errors import JournalError
from tuned_spec.knobs import reach
from tuned_spec.ledger import journal as journal_module
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.repair import Row


def row(knob: str, **more: str) -> Row:
    texts = {"original": "60", "ours": "60", "pending": "31", "status": "open", "trial": "t1", **more}
    fixed = {"adapter": "sysctl", "type": "int", "path": f"/proc/sys/{knob}", "identity": "", "group": knob}
    rest = {"rule": "r", "on_stop": "back", "boot_id": ""}
    return Row(id=0, seq=0, knob=knob, rank=0, since=0.0, **rest, **fixed, **texts)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "this boot")


def loaded(journal: Journal) -> dict[str, Row]:
    kept = repair.load(os.fspath(journal.directory))
    assert kept.damage == [] and kept.db is not None
    kept.db.close()
    return {row.knob: row for row in kept.rows}


@pytest.mark.parametrize(
    ("kind", "text", "form"),
    [
        ("int", "60\n", "60"),
        ("ints", "4096\t131072\t33554432\n", "4096 131072 33554432"),
        ("choice", "always [madvise] never\n", "madvise"),
        ("choice", "bbr\n", "bbr"),
        ("choice", "odd [text", "text"),
        ("bool", "Y\n", "1"),
        ("bool", "false", "0"),
        ("words", "reno  bbr\n", "reno bbr"),
    ],
)
def test_what_the_kernel_shows_has_one_form(kind: str, text: str, form: str) -> None:
    assert repair.shown(kind, text) == form


@pytest.mark.parametrize(
    ("pending", "status", "found", "verdict"),
    [
        ("", "open", "60", "unchanged"),
        ("", "open", "31", "ours"),
        ("", "open", "32", "foreign"),
        ("", "open", "", "foreign"),
        ("32\n0", "held", "0", "ours"),
        ("32\n0", "open", "2", "foreign"),
        (repair.ANY, "open", "anything", "ours"),
        ("", "foreign", "31", "foreign"),
        ("", "foreign", "60", "foreign"),
    ],
)
def test_compare(pending: str, status: str, found: str, verdict: str) -> None:
    assert repair.compare(row("k", ours="31", pending=pending, status=status), found) == verdict


def test_a_receipt_is_given_for_what_is_on_record(journal: Journal) -> None:
    (receipt,) = journal.intend([journal.take(row("a")), journal.take(row("b"))], [("b", "31")])
    assert (receipt.row, receipt.knob, receipt.target, receipt.text) == (2, "b", "/proc/sys/b", "31")
    assert loaded(journal) == journal.rows
    assert {r.boot_id for r in journal.rows.values()} == {"this boot"}
    journal.close()


def test_the_runtime_directory_holds_the_repair(journal: Journal) -> None:
    assert (journal.directory / "repair.py").read_text() == Path(repair.__file__).read_text()
    assert {p.name: p.read_text() for p in (journal.directory / "reach").glob("*.py")} == {
        p.name: p.read_text() for p in Path(reach.__file__).parent.glob("*.py")
    }
    journal.close()


def test_what_the_disk_missed_is_written_with_the_next_that_succeeds(journal: Journal) -> None:
    (a,) = [journal.take(row("a"))]
    journal.intend([a], [])
    index = journal.directory / repair.INDEX
    index.unlink()
    index.mkdir()  # the index cannot be written now
    with pytest.raises(JournalError, match="no knob is written"):
        journal.intend([journal.take(row("b"))], [("b", "31")])
    assert journal.rows["b"].status == "restored"
    journal.mark([a._replace(status="foreign")])
    assert journal.rows["a"].status == "foreign"
    index.rmdir()
    journal.settle([journal.rows["a"]._replace(ours="7")])
    assert loaded(journal) == journal.rows
    journal.close()


def test_the_index_does_not_grow_without_end(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "INDEX_LIMIT", 1000)
    a = journal.take(row("a"))
    for n in range(100):
        journal.settle([a._replace(original=str(n))])
    assert (journal.directory / repair.INDEX).stat().st_size <= 1000
    assert loaded(journal)["a"].original == "99"
    journal.close()


def test_an_index_line_cut_short_was_never_acted_on(journal: Journal) -> None:
    journal.intend([journal.take(row("a"))], [])
    with (journal.directory / repair.INDEX).open("a") as f:
        f.write("123456\t9\tope")
    assert set(loaded(journal)) == {"a"}
    journal.close()
    again = Journal(journal.directory, "this boot")
    again.intend([again.take(row("b"))], [])
    assert set(loaded(again)) == {"a", "b"}
    again.close()
