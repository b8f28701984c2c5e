"""What may be answered, shape by shape: a verdict, probes, or words that say why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.actor.cases import KNOB, allowed, case
from tests.actor.reviews import terms_of
from tuned_spec.actor import reply
from tuned_spec.actor.reply import Ask, Terms, Unusable, read, schema
from tuned_spec.model import (
    UNLIMITED,
    Allowed,
    Knob,
    KnobType,
    Narrow,
    Prefer,
    RestRule,
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


# ------------------------------------------------------------------------- knobs of each shape

PAGES = knob("vm.pages", low=4096, high=1 << 20, quantum=4096)
POWER = knob("block.power", low=1, high=64, power_of_two=True)
TRIPLE = knob("net.triple", KnobType.INTS, low=1, high=1000, fields=("min", "default", "max"))
FREE = knob("net.free", KnobType.INTS, low=1, high=1000, fields=("a", "b"))
WORD = knob("mm.word", KnobType.CHOICE, choices=("always", "madvise", "never"))
NO_WORDS = knob("mm.unknown", KnobType.CHOICE)
FLAG = knob("net.flag", KnobType.BOOL)
CPUS = knob("irq.cpus", KnobType.CPUS)
OPEN_END = knob("vm.open", low=0)
ROOF = knob("cg.roof", low=0, high=UNLIMITED, max_word="max")
SIGNED = knob("task.nice", low=-20, high=19)


@pytest.mark.parametrize(
    ("one", "was", "now", "wish", "what"),
    [
        (PAGES, 8192, 16384, 4096, ""),
        (PAGES, 8192, 16384, 4097, "multiples of 4096"),
        (POWER, 16, 32, 64, ""),
        (POWER, 16, 32, 48, "powers of two"),
        (POWER, 16, 32, 128, "takes 1 to 64"),
        (TRIPLE, (1, 2, 3), (1, 2, 6), [1, 2, 9], ""),
        (TRIPLE, (1, 2, 3), (1, 2, 6), [1, 2], "list of 3"),
        (TRIPLE, (1, 2, 3), (1, 2, 6), [3, 2, 1], "do not fall"),
        (TRIPLE, (1, 2, 3), (1, 2, 6), [1, 2, 1001], "takes 1 to 1000"),
        (TRIPLE, (1, 2, 3), (1, 2, 6), 9, "list of 3"),
        (FREE, (9, 2), (9, 3), [8, 1], ""),
        (WORD, "always", "madvise", "never", ""),
        (WORD, "always", "madvise", "often", "takes one of"),
        (WORD, "always", "madvise", 3, "takes one of"),
        (NO_WORDS, "a", "b", "c", "no other value"),
        (FLAG, 0, 1, 2, "takes 0 to 1"),
        (FLAG, 0, 1, "1", "whole number"),
        (CPUS, "0-1", "0-3", "0-7", "no other value"),
        (OPEN_END, 5, 6, 7, "no other value"),
        (ROOF, 5, 6, "max", ""),
        (ROOF, 5, 6, "min", "whole number"),
        (SIGNED, 0, 5, -5, ""),
        (SIGNED, 0, 5, -21, "takes -20 to 19"),
    ],
)
def test_values_of_each_shape(one: Knob, was: Value, now: Value, wish: object, what: str) -> None:
    terms = of({one: (was, now)})
    text = json.dumps(
        {"knobs": {one.id: {"verdict": "overwrite", "value": wish}}, "reason": "so", "confidence": 1}
    )
    if what:
        assert what in why(text, terms)
    else:
        value = UNLIMITED if wish == "max" else tuple(wish) if isinstance(wish, list) else wish
        assert verdict(text, terms).writes == (Write(one.id, value),)  # type: ignore[arg-type]


BOTH: dict[Knob, tuple[Value, Value]] = {PAGES: (8192, 16384), WORD: ("always", "madvise")}


def knobwise(**said: Mapping[str, object]) -> str:
    knobs = {{"pages": PAGES.id, "word": WORD.id}[name]: one for name, one in said.items()}
    return json.dumps({"knobs": knobs, "reason": "so", "confidence": 0.5})


def test_knob_by_knob_verdicts_come_to_one() -> None:
    terms = of(BOTH)
    yes, no = {"verdict": "confirm"}, {"verdict": "reject"}
    assert verdict(knobwise(pages=yes, word=yes), terms).kind is VerdictKind.CONFIRM
    assert verdict(knobwise(pages=no, word=no), terms).kind is VerdictKind.REJECT
    half = verdict(knobwise(word=no, pages=yes), terms)
    assert half.kind is VerdictKind.OVERWRITE
    assert half.writes == (Write(PAGES.id, 16384), Write(WORD.id, "always")), "in the order of the change"
    assert "missing" in why(knobwise(word=no), terms)


def test_where_only_yes_or_no_is_left_nothing_else_is_taken() -> None:
    terms = of(BOTH, may_overwrite=False)
    yes, no = {"verdict": "confirm"}, {"verdict": "reject"}
    assert "only confirm or reject" in why(
        knobwise(pages={"verdict": "overwrite", "value": 4096}, word=yes), terms
    )
    assert "only confirm or reject" in why(knobwise(pages=yes, word=no), terms)


def test_confirm_means_the_best_value_that_the_trial_found() -> None:
    terms = terms_of(ONE, kept=(Write(KNOB.id, 1000),))
    assert verdict(json.dumps(said("confirm", 1000)), terms).kind is VerdictKind.CONFIRM
    assert verdict(json.dumps(said("overwrite", 1000)), terms).kind is VerdictKind.CONFIRM
    assert verdict(json.dumps(said("overwrite", 2000)), terms).writes == (Write(KNOB.id, 2000),)


# ------------------------------------------------------------------------- probes and advice


@pytest.mark.parametrize(
    ("probes", "left", "what"),
    [
        (["memory"], 6, ""),
        (["knob vm.swappiness", "top_processes io", "unit nginx.service", "metric_history cpu.busy"], 6, ""),
        (["memory"], 0, "0 may be asked"),
        (["memory"] * 5, 6, "4 may be asked"),
        (["memory", "disks"], 1, "1 may be asked"),
        (["shell id"], 6, "is no probe"),
        (["memory now"], 6, "a probe is written 'memory'"),
        (["knob"], 6, "a probe is written 'knob KNOB'"),
        (["knob /etc/passwd"], 6, "not the name of a knob"),
        (["cgroup ../../x"], 6, "not the name of a cgroup"),
        (["unit x.service; id"], 6, "a probe is written"),
        (["top_processes gpu"], 6, "not the name of a resource"),
        (["x" * 5000], 6, "is no probe"),
        ([""], 6, "is no probe"),
    ],
)
def test_probes_are_named_in_words_and_checked(probes: list[str], left: int, what: str) -> None:
    found = read(json.dumps({"probes": probes}), terms_of(ONE, probes=left))
    if what:
        assert isinstance(found, Unusable) and what in found.why
    else:
        assert isinstance(found, Ask) and [one.name for one in found.questions] == [
            p.split()[0] for p in probes
        ]


@pytest.mark.parametrize(
    ("advice", "what"),
    [
        ({"type": "narrow", "knob": KNOB.id, "low": 200, "high": 900, "for_s": 60}, ""),
        ({"type": "rest_rule", "rule": "slow", "for_s": 86400, "reason": "x"}, ""),
        ({"type": "prefer", "knob": KNOB.id, "for_s": 1}, ""),
        ({"type": "prefer", "knob": KNOB.id, "for_s": 86401}, "up to 86400"),
        ({"type": "prefer", "knob": KNOB.id, "for_s": 0}, "up to 86400"),
        ({"type": "prefer", "knob": KNOB.id, "for_s": -1}, "up to 86400"),
        ({"type": "prefer", "knob": "vm.other", "for_s": 60}, "not in this change"),
        ({"type": "rest_rule", "rule": "another", "for_s": 60}, "this change only"),
        ({"type": "narrow", "knob": KNOB.id, "low": 900, "high": 200, "for_s": 60}, "lies within"),
        ({"type": "narrow", "knob": KNOB.id, "low": 99, "high": 200, "for_s": 60}, "lies within"),
        ({"type": "narrow", "knob": KNOB.id, "low": 200, "high": 10_001, "for_s": 60}, "lies within"),
        ({"type": "exec", "knob": KNOB.id, "for_s": 60}, "Invalid value"),
        ({"type": "prefer", "knob": KNOB.id, "for_s": 60, "run": "id"}, "unknown field"),
        ("prefer it", "Expected"),
    ],
)
def test_advice_is_bounded_and_about_this_change(advice: object, what: str) -> None:
    text = json.dumps(said(strategy=[advice]))
    if what:
        assert what in why(text)
    else:
        assert len(verdict(text).strategy) == 1
    assert "at most 4" in why(
        json.dumps(said(strategy=[{"type": "prefer", "knob": KNOB.id, "for_s": 1}] * 5))
    )


def test_advice_comes_back_as_the_models_nouns() -> None:
    items = [
        {"type": "narrow", "knob": KNOB.id, "low": 200, "high": 900, "for_s": 60},
        {"type": "rest_rule", "rule": "slow", "for_s": 60},
        {"type": "prefer", "knob": KNOB.id, "for_s": 60, "reason": "a\u202eb\u0007"},
    ]
    assert verdict(json.dumps(said(strategy=items))).strategy == (
        Narrow(KNOB.id, 200, 900, 60.0),
        RestRule("slow", 60.0),
        Prefer(KNOB.id, 60.0, "ab"),
    )


def test_a_reason_is_one_bounded_line_without_tricks() -> None:
    reason = verdict(json.dumps(said(reason="good\n\x1b[31mred\u202e\u200b " + "x" * 2000))).reason
    assert reason.startswith("good red") and len(reason) <= reply.MOST_REASON and reason.isprintable()


# ------------------------------------------------------------------------------------ schema


@pytest.mark.parametrize(
    "one", [PAGES, POWER, TRIPLE, FREE, WORD, NO_WORDS, FLAG, CPUS, OPEN_END, ROOF, SIGNED]
)
def test_the_schema_says_what_may_be_said(one: Knob) -> None:
    """What it lets through is understood; what is not understood it does not let through."""
    shapes: dict[KnobType, Value] = {KnobType.CHOICE: "always", KnobType.CPUS: "0", KnobType.INTS: (1, 2, 3)}
    was = shapes.get(one.type, 1)
    if isinstance(was, tuple):
        was = was[: len(one.fields)]
    terms = of({one: (was, was)})
    shape = schema(terms)
    jsonschema.Draft202012Validator.check_schema(shape)
    validator = jsonschema.Draft202012Validator(shape)
    empty = {"reason": None, "confidence": None, "strategy": None, "probes": None, "knobs": None}
    for wish in (
        0,
        1,
        2,
        7,
        48,
        64,
        4096,
        4097,
        2000,
        -3,
        "never",
        "often",
        "0-7",
        [1, 2, 3],
        [1, 2],
        [5, 5],
        [0],
    ):
        knobs = {one.id: {"verdict": "overwrite", "value": wish}}
        answer = {**empty, "knobs": knobs, "reason": "so", "confidence": 0.5}
        understood = isinstance(read(json.dumps(answer), terms), Verdict)
        tried = (tuple(wish) if isinstance(wish, list) else wish) == was
        falls = isinstance(wish, list) and wish != sorted(wish)
        assert validator.is_valid(answer) == understood or tried or falls, wish
    for verdict_ in ("confirm", "reject"):
        answer = {**empty, "knobs": {one.id: {"verdict": verdict_}}, "reason": "so", "confidence": 0.5}
        assert validator.is_valid(answer) and isinstance(read(json.dumps(answer), terms), Verdict)
    for probes in (["memory"], ["top_processes cpu", "knob vm.swappiness"]):
        assert validator.is_valid({**empty, "probes": probes})
    for probes in (["shell"], ["memory now"], ["memory"] * 5):
        assert not validator.is_valid({**empty, "probes": probes})
