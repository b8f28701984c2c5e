"""What may be answered, shape by shape: a verdict, probes, or words that say why it cannot be used."""

from __future__ import annotations

import json

import pytest

from tests.actor.cases import KNOB, allowed, case
from tests.actor.reviews import terms_of
from tuned_spec.actor.reply import Terms, Unusable, read
from tuned_spec.model import (
    Allowed,
    Knob,
    KnobType,
    Value,
    Verdict,
    VerdictKind,
    Write,
)

ONE = case(allowed=allowed(100, 10_000))


def knob(name: str, kind: KnobType = KnobType.INT, **more: object) -> Knob:
    return Knob(name, "sysctl", name, kind, "", "a knob", "tests", **more)  # type: ignore[arg-type]


def of(knobs: dict[Knob, tuple[Value, Value]], **more: object) -> Terms:
    """A case of these knobs: what each was, what it is now."""
    one = case(
        knobs=tuple(knobs),
        before=tuple(Write(k.id, was) for k, (was, _) in knobs.items()),
        after=tuple(Write(k.id, now) for k, (_, now) in knobs.items()),
        allowed=tuple(Allowed(k.id, k.low, k.high, k.choices) for k in knobs),
    )
    return terms_of(one, **more)


def said(verdict: str = "confirm", value: object = None, **more: object) -> dict[str, object]:
    one: dict[str, object] = {"verdict": verdict}
    if value is not None:
        one["value"] = value
    return {"knobs": {KNOB.id: one}, "reason": "it helps", "confidence": 0.8, **more}


def verdict(text: str, terms: Terms | None = None) -> Verdict:
    found = read(text, terms or terms_of(ONE))
    assert isinstance(found, Verdict), found
    return found


def why(text: str, terms: Terms | None = None) -> str:
    found = read(text, terms or terms_of(ONE))
    assert isinstance(found, Unusable), found
    return found.why


@pytest.mark.parametrize(
    ("answer", "kind", "writes"),
    [
        (said("confirm"), VerdictKind.CONFIRM, ()),
        (said("reject"), VerdictKind.REJECT, ()),
        (said("overwrite", 500), VerdictKind.OVERWRITE, (Write(KNOB.id, 500),)),
        (said("overwrite", 2000), VerdictKind.CONFIRM, ()),  # the value that is there already
        (said("overwrite", 3000), VerdictKind.REJECT, ()),  # and the one that was
        (said("confirm", probes=None, strategy=None), VerdictKind.CONFIRM, ()),
        (said("confirm", probes=[], strategy=[]), VerdictKind.CONFIRM, ()),
    ],
)
def test_the_three_verdicts(answer: dict[str, object], kind: VerdictKind, writes: tuple[Write, ...]) -> None:
    found = verdict(json.dumps(answer))
    assert (found.case, found.kind, found.writes, found.by) == ("t1", kind, writes, "model")
    assert (found.reason, found.confidence) == ("it helps", 0.8)


@pytest.mark.parametrize(
    "around", ["{}", "\n {} \n", "```json\n{}\n```", "```\n{}\n```\n", " ```json\n  {}\n ```"]
)
def test_blanks_and_one_fence_are_forgiven(around: str) -> None:
    assert verdict(around.replace("{}", json.dumps(said()))).kind is VerdictKind.CONFIRM


GOOD = json.dumps(said())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not one JSON object"),
        ("I confirm.", "not one JSON object"),
        (f"Sure! {GOOD}", "not one JSON object"),
        (f"{GOOD} Hope that helps.", "not one JSON object"),
        (f"{GOOD}{GOOD}", "trailing characters"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", ""),
        (f"[{GOOD}]", "not one JSON object"),
        (GOOD[:-1], "not one JSON object"),
        ("{}", "neither knobs nor probes"),
        (json.dumps(said(command="rm")), "unknown field"),
        (json.dumps(said(probes=["memory"])), "asks and judges at once"),
        (json.dumps(said("approve")), "Invalid enum value"),
        (json.dumps(said("overwrite")), "needs a value"),
        (json.dumps(said("confirm", 9)), "takes no value"),
        (json.dumps(said("overwrite", 99)), "takes 100 to 10000"),
        (json.dumps(said("overwrite", 10_001)), "takes 100 to 10000"),
        (json.dumps(said("overwrite", 10**30)), "takes 100 to 10000"),
        (json.dumps(said("overwrite", "500")), "takes a whole number"),
        (json.dumps(said("overwrite", [500])), "takes a whole number"),
        (json.dumps(said("overwrite", 500.5)), "Expected"),
        (json.dumps(said("overwrite", True)), "Expected"),
        (json.dumps(said("overwrite", {"a": 1})), "Expected"),
        (json.dumps(said(reason="")), "no reason"),
        (json.dumps(said(reason="  ")), "no reason"),
        (json.dumps(said(reason=None)), "no reason"),
        (json.dumps(said(confidence=None)), "confidence"),
        (json.dumps(said(confidence=1.01)), "confidence"),
        (json.dumps(said(confidence=-0.1)), "confidence"),
        (GOOD.replace("0.8", "NaN"), "invalid"),
        (GOOD.replace("0.8", "Infinity"), "invalid"),
        (GOOD.replace("0.8", "1e999"), "out of range"),
        (GOOD.replace("0.8", "9" * 5000), "out of range"),
        (GOOD.replace("it helps", "\\ud800"), ""),
        (GOOD.replace("it helps", "\ud800"), ""),
        (GOOD.replace('"verdict"', '"verdict": "reject", "verdict"'), "there twice"),
        (GOOD.replace('"reason"', '"reason": "x", "reason"'), "there twice"),
        ('{"knobs":' * 8000 + "}" * 8000, "characters"),
        ('{"knobs":{"a":{"value":' + "[" * 3000 + "]" * 3000 + "}}}", ""),
        (GOOD.replace("it helps", "x" * 20_000), "characters"),
        (GOOD.replace(KNOB.id, "vm.swappiness"), "not in this change"),
        (GOOD.replace(KNOB.id, "../../etc/passwd"), "not in this change"),
        (json.dumps({**said(), "knobs": {}}), "missing"),
    ],
)
def test_what_cannot_be_used_is_said_in_words(text: str, what: str) -> None:
    found = why(text)
    assert what in found
    assert found and "\n" not in found and len(found) <= 400
