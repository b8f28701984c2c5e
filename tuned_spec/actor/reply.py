"""What a model may answer, and what an answer comes to: a verdict, probes to ask, or why it cannot be used.

Owns the reply's format: one strict JSON object, its JSON schema, and the check of every value against
the case's own envelope. An answer is wrong or right as it stands: nothing is bent, guessed or picked
out of prose. Must not know how the model is reached, or what its word is worth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tuned_spec.actor.quoting import Names, clean
from tuned_spec.model import (
    UNLIMITED,
    Allowed,
    Case,
    Frozen,
    Knob,
    KnobType,
    Narrow,
    Prefer,
    RestRule,
    Strategy,
    Value,
    Verdict,
    VerdictKind,
    Write,
    Writes,
)
from tuned_spec.probes.names import PROBES, RESOURCES, Arg, wrong_with

MOST_CHARACTERS = 16_384  # of a reply
MOST_REASON = 600
MOST_STRATEGY = 4
MOST_PROBES = 4  # in one reply
LONGEST_ADVICE_S = 86_400.0
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)

T = TypeVar("T")


class Question(Frozen, frozen=True):
    """One probe to ask."""

    name: str
    args: dict[str, str]


class Ask(Frozen, frozen=True):
    questions: tuple[Question, ...]


class Unusable(Frozen, frozen=True):
    """`why` is told to the model and written down."""

    why: str


class OneKnob(Frozen, frozen=True):
    verdict: VerdictKind
    value: int | str | tuple[int, ...] | None = None


class Reply(Frozen, frozen=True):
    """The object as it is spoken. Either `probes` or the rest."""

    probes: tuple[str, ...] | None = None
    knobs: dict[str, OneKnob] | None = None
    reason: str | None = None
    confidence: float | None = None
    strategy: tuple[Strategy, ...] | None = None


@dataclass(frozen=True)
class Terms:
    """What one reply may say. `kept`: what a confirm would keep, the trial's best value so far."""

    case: Case
    names: Names
    kept: Writes
    may_overwrite: bool = True
    probes: int = 0  # still to be asked

    @property
    def rooms(self) -> dict[str, Room]:
        allowed = {one.knob: one for one in self.case.allowed}
        before = {write.knob: write.value for write in self.case.before}
        return {
            knob.id: room(knob, allowed.get(knob.id), before[knob.id])
            for knob in self.case.knobs
            if knob.id in before
        }

    @property
    def overwritable(self) -> dict[str, Room]:
        return {name: one for name, one in self.rooms.items() if self.may_overwrite and one.open}


@dataclass(frozen=True)
class Room:
    """The values that may be chosen for one knob. Not `open`: none but those that were tried."""

    knob: Knob
    like: Value  # of this shape
    low: int | None
    high: int | None
    choices: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        if self.knob.type in (KnobType.CHOICE, KnobType.WORDS):
            return bool(self.choices)
        if self.knob.type in (KnobType.CPUS, KnobType.CPUMASK):
            return False  # nothing says which sets are safe
        return self.low is not None and self.high is not None and self.low <= self.high

    def wrong(self, value: Value) -> str:
        """Why this value may not be chosen, or ""."""
        if not self.open:
            return "takes no other value: confirm or reject"
        if self.choices:
            listed = ", ".join(self.choices)
            return "" if isinstance(value, str) and value in self.choices else f"takes one of: {listed}"
        if isinstance(self.like, tuple):
            if not isinstance(value, tuple) or len(value) != len(self.like):
                return f"takes a list of {len(self.like)} whole numbers"
            if list(self.like) == sorted(self.like) and list(value) != sorted(value):
                return "takes numbers that do not fall from left to right"
            return next((what for number in value if (what := self._wrong(number))), "")
        if isinstance(value, bool) or not isinstance(value, int):
            return "takes a whole number"
        return self._wrong(value)

    def _wrong(self, number: int) -> str:
        assert self.low is not None and self.high is not None
        if not self.low <= number <= self.high:
            return f"takes {self.low} to {self.high}"
        if number % self.knob.quantum:
            return f"takes multiples of {self.knob.quantum}"
        if self.knob.power_of_two and (number <= 0 or number & (number - 1)):
            return "takes powers of two"
        return ""


def room(knob: Knob, allowed: Allowed | None, like: Value) -> Room:
    allowed = allowed or Allowed(knob.id)
    if knob.type in (KnobType.CHOICE, KnobType.WORDS):
        return Room(knob, like, None, None, allowed.choices or knob.choices)
    if knob.type is KnobType.BOOL:
        return Room(knob, like, max(0, allowed.low or 0), 1 if allowed.high is None else min(1, allowed.high))
    lows = [x for x in (knob.low, allowed.low) if x is not None]
    highs = [x for x in (knob.high, allowed.high) if x is not None]
    return Room(knob, like, max(lows, default=None), min(highs, default=None))


# ------------------------------------------------------------------------------- reading


def read(text: str, terms: Terms) -> Verdict | Ask | Unusable:
    """What the model said, checked. Total: whatever the text, one of the three."""
    try:
        said = decoded(text, Reply)
        if said.probes and said.knobs:
            raise No("it asks and judges at once; do one of them")
        if said.probes:
            return _ask(said.probes, terms)
        return _verdict(said, terms)
    except No as no:
        return Unusable(clean(str(no), 400))


class No(Exception):
    """Why a reply cannot be used; never leaves this room and those that read other replies with it."""


def decoded(text: str, kind: type[T]) -> T:
    """One JSON object of that kind and nothing else, but for a fence around it. `No` says what is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise No(f"it has {len(text)} characters, the most is {MOST_CHARACTERS}")
    bare = text.strip()
    if fenced := _FENCE.fullmatch(bare):
        bare = fenced[1].strip()
    if not bare.startswith("{") or not bare.endswith("}"):
        raise No("it is not one JSON object and nothing else")
    try:
        said = msgspec.json.decode(bare, type=kind)
        json.loads(bare, object_pairs_hook=_once)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise No(str(error)) from error
    return said


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values under one key each reader would take another one."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return dict(pairs)


def _ask(probes: tuple[str, ...], terms: Terms) -> Ask:
    if len(probes) > min(terms.probes, MOST_PROBES):
        raise No(f"{len(probes)} probes at once; {min(terms.probes, MOST_PROBES)} may be asked now")
    questions = []
    for probe in probes:
        name, *words = probe.split(" ") if len(probe) <= 400 else [probe[:40]]
        kind = PROBES.get(name)
        wanted = tuple(kind.args) if kind else ()
        if kind and len(words) != len(wanted):
            raise No(
                f"a probe is written {' '.join((name, *(w.upper() for w in wanted)))!r}, not {probe[:80]!a}"
            )
        args = {arg: terms.names.real(word) for arg, word in zip(wanted, words, strict=False)}
        if what := wrong_with(name, args):
            raise No(what)
        questions.append(Question(name, args))
    return Ask(tuple(questions))


def _verdict(said: Reply, terms: Terms) -> Verdict:
    case, names = terms.case, terms.names
    if said.knobs is None:
        raise No("it has neither knobs nor probes")
    by_id = {names.real(shown): one for shown, one in said.knobs.items()}
    if strange := [shown for shown in said.knobs if names.real(shown) not in terms.rooms]:
        raise No(f"{strange[0][:80]!a} is not in this change")
    if missing := [names.show(knob) for knob in terms.rooms if knob not in by_id]:
        raise No(f"a verdict on {missing[0]} is missing")
    if len(by_id) < len(said.knobs):
        raise No("one knob is named twice")
    if not said.reason or not said.reason.strip():
        raise No("it gives no reason")
    if said.confidence is None or not math.isfinite(said.confidence) or not 0 <= said.confidence <= 1:
        raise No("confidence is to be a number from 0 to 1")
    kept = {write.knob: write.value for write in terms.kept}
    before = {write.knob: write.value for write in case.before}
    values = {knob: _value(one, terms, knob, kept[knob], before[knob]) for knob, one in by_id.items()}
    writes = tuple(Write(write.knob, values[write.knob]) for write in case.before)
    kind = VerdictKind.OVERWRITE
    if writes == case.before:
        kind = VerdictKind.REJECT
    elif writes == tuple(Write(write.knob, kept[write.knob]) for write in case.before):
        kind = VerdictKind.CONFIRM
    elif not terms.may_overwrite:
        raise No("only confirm or reject can be said now, and the same of all knobs")
    return Verdict(
        case=case.id,
        kind=kind,
        reason=clean(said.reason.strip(), MOST_REASON),
        writes=writes if kind is VerdictKind.OVERWRITE else (),
        confidence=said.confidence,
        by="model",
        strategy=_strategy(said.strategy or (), terms),
    )


def _value(one: OneKnob, terms: Terms, knob: str, kept: Value, before: Value) -> Value:
    shown = terms.names.show(knob)
    if one.verdict is not VerdictKind.OVERWRITE:
        value = kept if one.verdict is VerdictKind.CONFIRM else before
        if one.value is not None and one.value != value:
            raise No(f"{shown}: {one.verdict.value} takes no value")
        return value
    if one.value is None:
        raise No(f"{shown}: overwrite needs a value")
    room = terms.rooms[knob]
    wish: Value = UNLIMITED if room.knob.max_word and one.value == room.knob.max_word else one.value
    if wish in (kept, before):
        return wish
    if not terms.may_overwrite:
        raise No(f"{shown}: only confirm or reject can be said now")
    if what := room.wrong(wish):
        raise No(f"{shown} {what}")
    return wish


def _strategy(advice: tuple[Strategy, ...], terms: Terms) -> tuple[Strategy, ...]:
    if len(advice) > MOST_STRATEGY:
        raise No(f"at most {MOST_STRATEGY} items of strategy")
    return tuple(_advice(one, terms) for one in advice)


def _advice(one: Strategy, terms: Terms) -> Strategy:
    if not math.isfinite(one.for_s) or not 0 < one.for_s <= LONGEST_ADVICE_S:
        raise No(f"strategy: for_s is to be up to {LONGEST_ADVICE_S:.0f} seconds")
    reason = clean(one.reason, 200)
    if isinstance(one, RestRule):
        if terms.names.real(one.rule) != terms.case.rule:
            raise No("strategy: rest_rule is for the rule of this change only")
        return msgspec.structs.replace(one, rule=terms.case.rule, reason=reason)
    knob = terms.names.real(one.knob)
    if knob not in terms.rooms:
        raise No(f"strategy: {one.knob[:80]!a} is not in this change")
    if isinstance(one, Prefer):
        return msgspec.structs.replace(one, knob=knob, reason=reason)
    low, high = terms.rooms[knob].low, terms.rooms[knob].high
    if low is None or high is None or not low <= one.low <= one.high <= high:
        within = "has no range" if low is None or high is None else f"lies within {low} to {high}"
        raise No(f"strategy: {terms.names.show(knob)} {within}")
    return msgspec.structs.replace(one, knob=knob, reason=reason)


# -------------------------------------------------------------------------------- schema


def schema(terms: Terms) -> dict[str, object]:
    """JSON schema of what `read` takes: a server that follows it can say nothing else.

    Every key is required and may be null, as the strictest of the servers demand.
    """
    shown = terms.names.show
    knobs = {shown(knob): _one_knob(knob, terms) for knob in terms.rooms}
    properties: dict[str, object] = {
        "knobs": _maybe(obj(knobs)),
        "reason": _maybe({"type": "string", "minLength": 1, "maxLength": MOST_REASON}),
        "confidence": _maybe({"type": "number", "minimum": 0, "maximum": 1}),
        "strategy": _maybe({"type": "array", "maxItems": MOST_STRATEGY, "items": {"anyOf": _advices(terms)}}),
    }
    if terms.probes:
        probes = {"type": "array", "maxItems": min(terms.probes, MOST_PROBES), "items": _probe_schema()}
        properties = {"probes": _maybe(probes), **properties}
    return obj(properties)


def obj(properties: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _maybe(one: object) -> dict[str, object]:
    return {"anyOf": [one, {"type": "null"}]}


def _one_knob(knob: str, terms: Terms) -> dict[str, object]:
    judged = obj({"verdict": {"type": "string", "enum": ["confirm", "reject"]}})
    if knob not in terms.overwritable:
        return judged
    value = value_schema(terms.rooms[knob])
    return {"anyOf": [judged, obj({"verdict": {"type": "string", "enum": ["overwrite"]}, "value": value})]}


def value_schema(room: Room) -> dict[str, object]:
    if room.choices:
        return {"type": "string", "enum": list(room.choices)}
    number: dict[str, object] = {"type": "integer", "minimum": room.low, "maximum": room.high}
    if room.knob.power_of_two and room.low is not None and room.high is not None:
        number = {"type": "integer", "enum": [1 << n for n in range(63) if room.low <= 1 << n <= room.high]}
    if room.knob.quantum > 1:
        number["multipleOf"] = room.knob.quantum
    if isinstance(room.like, tuple):
        return {"type": "array", "items": number, "minItems": len(room.like), "maxItems": len(room.like)}
    return number


def _probe_schema() -> dict[str, object]:
    whole = [name for name, kind in PROBES.items() if not kind.args]
    open_ended = []
    for name, kind in PROBES.items():
        if tuple(kind.args.values()) == (Arg.RESOURCE,):
            whole += [f"{name} {word}" for word in RESOURCES]
        elif kind.args:
            open_ended.append(name)
    pattern = f"^({'|'.join(open_ended)}) [!-~]{{1,200}}$"
    return {"anyOf": [{"type": "string", "enum": whole}, {"type": "string", "pattern": pattern}]}


def _advices(terms: Terms) -> list[dict[str, object]]:
    shown = terms.names.show
    shared: dict[str, object] = {
        "for_s": {"type": "number", "minimum": 1, "maximum": LONGEST_ADVICE_S},
        "reason": {"type": "string", "maxLength": 200},
    }

    def item(kind: type[Narrow] | type[RestRule] | type[Prefer], **own: object) -> dict[str, object]:
        tag = {"type": "string", "enum": [kind.__struct_config__.tag]}
        return obj({"type": tag, **own, **shared})

    knobs = {"type": "string", "enum": [shown(knob) for knob in terms.rooms]}
    narrow = [
        item(
            Narrow,
            knob={"type": "string", "enum": [shown(knob)]},
            low={"type": "integer", "minimum": room.low, "maximum": room.high},
            high={"type": "integer", "minimum": room.low, "maximum": room.high},
        )
        for knob, room in terms.rooms.items()
        if room.low is not None and room.high is not None
    ]
    rule = {"type": "string", "enum": [shown(terms.case.rule)]}
    return [*narrow, item(RestRule, rule=rule), item(Prefer, knob=knobs)]
