"""The actor's loop with an Outlook: its answer is sent, the latest question counts, failures are silence."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tuned_spec.actor.flow import Consult, Reply
from tuned_spec.actor.serve import Actor, Speculator
from tuned_spec.model import (
    Cancel,
    Case,
    Consulted,
    Expect,
    Outlook,
    Probe,
    ProbeAnswer,
    Suggestion,
    Verdict,
    Way,
    Write,
)


def outlook(id: str = "o1") -> Outlook:
    return Outlook(id, {}, {}, {}, (), (Expect("app.x", Way.DOWN),))


def nobody(case: Case) -> Generator[Any, Any, Verdict]:
    raise AssertionError(f"{case.id}: no case was sent")
    yield


def said(asked: Outlook) -> Suggestion:
    return Suggestion(asked.id, (Write("vm.page-cluster", 1),), "app.x", "because")


def curious(asked: Outlook) -> Generator[Any, Any, Suggestion]:
    """Asks a model, which there is none of, then the daemon; reports, and answers."""
    reply: Reply = yield Consult("", (), {})
    assert reply.error == "no model is configured"
    yield Consulted(asked.id, "none", "", "", (), "nobody was asked")
    found: ProbeAnswer = yield Probe(asked.id, 1, "changes")
    assert found.answer == "none"
    return said(asked)


def broken(asked: Outlook) -> Generator[Any, Any, Suggestion]:
    raise RuntimeError("no idea")
    yield


def test_its_effects_are_carried_and_its_answer_is_sent() -> None:
    actor = Actor(nobody, speculator=Speculator(curious))
    report, probe = actor.take(outlook())
    assert isinstance(report, Consulted) and probe == Probe("o1", 1, "changes")
    assert actor.take(ProbeAnswer("o1", 1, "none")) == [said(outlook())]
    assert actor.take(ProbeAnswer("o1", 1, "none")) == [], "it has answered"


def test_a_new_question_ends_the_old_one() -> None:
    actor = Actor(nobody, speculator=Speculator(curious))
    actor.take(outlook("o1"))
    actor.take(outlook("o2"))
    assert actor.take(ProbeAnswer("o1", 1, "none")) == []
    assert actor.take(ProbeAnswer("o2", 1, "none")) == [said(outlook("o2"))]


def test_it_can_be_called_off() -> None:
    actor = Actor(nobody, speculator=Speculator(curious))
    actor.take(outlook())
    assert actor.take(Cancel("o1", "paused")) == []
    assert actor.take(ProbeAnswer("o1", 1, "none")) == []


def test_without_a_speculator_or_with_a_broken_one_it_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert Actor(nobody).take(outlook()) == []
    assert Actor(nobody, speculator=Speculator(broken)).take(outlook()) == []
    assert "no idea" in capsys.readouterr().err
