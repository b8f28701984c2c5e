"""The safety envelope: may this change be made now? Allow it, or refuse with a reason.

Pure: no I/O and no clock; what it must remember is `Envelope`, a value that the engine carries.
It only ever says yes or no: shaping a value until it fits is the speculator's work, and an actor's
value that does not fit is refused, never bent.

The reason codes are part of the interface (scripts count them): see `CODES`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import assert_never

import msgspec

from tuned_spec import approval
from tuned_spec.model import (
    Allowed,
    CouplingKind,
    Knob,
    KnobType,
    Limit,
    Policy,
    Proposal,
    Refusal,
    Risk,
    Value,
    Writes,
    entry_of,
)

MINUTE_S = 60.0
LONGEST_REST = 64  # a rejected guess rests at most this many times `rest_s`

CODES = {
    "paused": "the owner paused changes",
    "journal_failed": "the undo journal cannot be written, so nothing new is",
    "no_actor": "nobody is there to judge a change",
    "unknown_knob": "not in the catalogue",
    "absent": "this host does not have the knob",
    "read_only": "the knob cannot be written here",
    "untried": "no kernel is on record on which it was written and put back: it is only observed",
    "irreversible": "the way back is not proven",
    "risk": "high-risk knobs are for a person to change, or to approve (`approval:` in a policy)",
    "unapproved": "a person said yes to other values of this knob",
    "questions": "as many questions as a person may be asked at once wait for an answer",
    "foreign": "somebody else wrote this knob: theirs until `tuned-spec resume KNOB`",
    "knob_busy": "the knob, or one coupled to it, is in an open trial",
    "metric_busy": "another open trial is judged by this metric and cannot be told apart",
    "resting": "this guess was rejected, found no verdict, or could not be written, and rests",
    "advised": "a verdict advised to let it rest (`tuned-spec resume --advice` drops all advice)",
    "not_worth": "its record says that it is not worth a trial now",
    "cooldown": "the knob was changed a short while ago",
    "hysteresis": "it would turn back a change made a short while ago",
    "budget": "more changes a minute than the policy allows",
    "type": "the value is of the wrong type",
    "out_of_range": "outside the catalogue's range, or the policy's narrower one",
    "order": "fields that rise from left to right (min, default, max) would not any more",
    "bound": "too far from the value that the host had",
    "step": "too large a step at once",
    "coupled": "knobs that undo each other are set in one change",
    "no_change": "the knob already has this value, or as near to it as is allowed",
    "no_room": "a field of the knob that the rule leaves alone is outside what is allowed",
    "not_a_choice": "the value is none of the knob's words here",
    "flood": "more proposals a minute than are heard from one who is not the policy",
    "silent": "nobody reports the metric by which the change would be judged",
    "no_metric": "the metric by which the change would be judged cannot be sensed here",
    "not_offered": "a model may only propose the knobs, and by the metrics, that it was asked about",
    "not_yours": "no change of this name was proposed by this source and is still there",
    "unreadable": "the knob's value cannot be read or has another shape than the catalogue says",
}


class Rest(msgspec.Struct, frozen=True):
    """How long a rule's guesses are left alone, and how often they were wrong in a row."""

    until: float
    times: int


class LastMove(msgspec.Struct, frozen=True):
    """The last change of one knob: when, by which rule, up (+1), down (-1) or neither (0)."""

    t: float
    rule: str
    direction: int
    cooldown_s: float


class Envelope(msgspec.Struct, frozen=True):
    """What the envelope remembers. `changes` and `toggles` are the times within the last minute."""

    changes: tuple[float, ...] = ()
    toggles: tuple[float, ...] = ()
    last: dict[str, LastMove] = {}
    rests: dict[str, Rest] = {}


class OpenTrial(msgspec.Struct, frozen=True):
    """As much of another open trial as a new one can collide with; `metric` "": none judges it now."""

    knobs: frozenset[str]
    metric: str
    randomised: bool


class Situation(msgspec.Struct, frozen=True):
    """All that holds at the moment of asking, beside the proposal itself."""

    t: float
    policy: Policy
    limits: Mapping[str, Limit]
    catalogue: Mapping[str, Knob]
    memory: Envelope
    paused: bool
    journal_ok: bool
    actor_alive: bool
    foreign: frozenset[str]
    open_trials: tuple[OpenTrial, ...]
    tried_only: bool = False
    advised: Mapping[str, str] = {}  # rule -> who advised to let it rest, and how long


def partners(knobs: Collection[str], catalogue: Mapping[str, Knob]) -> frozenset[str]:
    """The knobs and all that are coupled to them, by whichever coupling."""
    found = set(knobs)
    for name in knobs:
        if name in catalogue:
            found.update(c.partner for c in catalogue[name].coupled)
    return frozenset(found)


def limit_of(limits: Mapping[str, Limit], knob: str) -> Limit:
    """The knob's own limit, else that of its entry."""
    return limits.get(knob) or limits.get(entry_of(knob)) or Limit(knob=knob)


def allowed(knob: Knob, limit: Limit, original: Value) -> Allowed:
    """The values of one knob that lie inside catalogue, policy and bound, as an actor is told them."""
    if knob.type in (KnobType.CHOICE, KnobType.WORDS):
        names = tuple(c for c in knob.choices if not limit.choices or c in limit.choices)
        return Allowed(knob=knob.id, choices=names)
    lows = [x for x in (knob.low, limit.low) if x is not None]
    highs = [x for x in (knob.high, limit.high) if x is not None]
    if limit.bound_ratio is not None and isinstance(original, int) and original > 0:
        ratio = exact(limit.bound_ratio)
        lows.append(math.ceil(original / ratio))
        highs.append(math.floor(original * ratio))
    return Allowed(knob=knob.id, low=max(lows, default=None), high=min(highs, default=None))


def exact(ratio: float) -> Fraction:
    """A ratio as it was written: 1.15 times 100 is 115, which floats deny. The speculator counts so too."""
    return Fraction(str(ratio))


def _numbers(value: Value) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value if isinstance(value, tuple) else ()


def _type_fits(knob: Knob, value: Value) -> bool:
    match knob.type:
        case KnobType.INT:
            return isinstance(value, int) and not isinstance(value, bool)
        case KnobType.BOOL:
            return isinstance(value, int) and value in (0, 1)
        case KnobType.INTS:
            return isinstance(value, tuple) and len(value) == (len(knob.fields) or len(value))
        case KnobType.CHOICE | KnobType.WORDS | KnobType.CPUS | KnobType.CPUMASK:
            return isinstance(value, str)
        case _:
            assert_never(knob.type)


def judge_value(knob: Knob, limit: Limit, value: Value, original: Value) -> Refusal | None:
    """Type, range and bound of one value. The same for a rule's guess and for an actor's wish."""
    if not _type_fits(knob, value):
        return Refusal("type", knob.id, f"{value!r} is no {knob.type.value}")
    if isinstance(value, str):
        choices = allowed(knob, limit, original).choices
        # An empty list of choices is a knob whose words only the kernel knows: it judges them.
        if (knob.choices or limit.choices) and value not in choices:
            return Refusal("out_of_range", knob.id, f"{value} is none of {', '.join(choices)}")
        return None
    lows = [x for x in (knob.low, limit.low) if x is not None]
    highs = [x for x in (knob.high, limit.high) if x is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    for number in _numbers(value):
        if (low is not None and number < low) or (high is not None and number > high):
            return Refusal("out_of_range", knob.id, f"{number} is outside {low}..{high} {knob.unit}")
    if _rises(original) and not _rises(value):
        fields = " <= ".join(knob.fields) or "each field at most the next"
        return Refusal("order", knob.id, f"{value} does not keep {fields}")
    if limit.bound_ratio is not None:
        for number, first in zip(_numbers(value), _numbers(original), strict=False):
            # From 0 no ratio can be taken: the range alone bounds such a knob.
            ratio = exact(limit.bound_ratio)
            if first > 0 and not first / ratio <= number <= first * ratio:
                return Refusal(
                    "bound",
                    knob.id,
                    f"{number} is more than {limit.bound_ratio:g}x from the original {first}",
                )
    return None


def _rises(value: Value) -> bool:
    numbers = _numbers(value)
    return list(numbers) == sorted(numbers)


def judge_step(knob: Knob, limit: Limit, value: Value, live: Value) -> Refusal | None:
    """One change moves a number by no more than the wider of step_ratio and step_abs."""
    if limit.step_ratio is None and limit.step_abs is None:
        return None
    for number, now in zip(_numbers(value), _numbers(live), strict=False):
        reach = [Fraction(limit.step_abs or 0)]
        if limit.step_ratio is not None and now > 0:
            ratio = exact(limit.step_ratio)
            reach.append(now * (ratio - 1) if number > now else now * (1 - 1 / ratio))
        # A knob held in multiples of `quantum` may be rounded past the step by less than one of them.
        if abs(number - now) >= max(reach) + knob.quantum:
            return Refusal("step", knob.id, f"{now} to {number} is more than {float(max(reach)):g} at once")
    return None


def judge_coupling(writes: Writes, catalogue: Mapping[str, Knob]) -> Refusal | None:
    """Two knobs that zero or reset each other may not both be set by one change."""
    names = [w.knob for w in writes]
    for name in names:
        if names.count(name) > 1:
            return Refusal("coupled", name, "set twice in one change")
        for coupling in catalogue[name].coupled:
            if coupling.partner in names and coupling.kind is CouplingKind.ZEROES:
                return Refusal("coupled", name, f"it and {coupling.partner} set each other to 0")
    return None


def may_be_asked(rule: str, knobs: Collection[str], now: Situation) -> bool:
    """Whether a person says yes to each value first. A search finds its values itself: nobody could."""
    searches = any(climb.id == rule for climb in now.policy.climbs)
    return not searches and approval.needed(now.policy.approval, (rule,), knobs, now.catalogue)


def collision(knobs: Collection[str], metric: str, randomised: bool, now: Situation) -> Refusal | None:
    """Which other open trial could not be told apart from one on these knobs, judged by that metric."""
    touched = partners(knobs, now.catalogue)
    for other in now.open_trials:
        for name in sorted(touched & partners(other.knobs, now.catalogue)):
            return Refusal("knob_busy", name, CODES["knob_busy"])
        if other.metric == metric and not (randomised and other.randomised):
            return Refusal("metric_busy", next(iter(knobs), ""), f"{metric}: {CODES['metric_busy']}")
    return None


def gate(
    rule: str, knobs: Collection[str], metric: str, randomised: bool, cooldown_s: float, now: Situation
) -> Refusal | None:
    """Everything that can be said before a value is known: cheap, asked at each observation."""
    first = next(iter(knobs), "")
    if now.paused:
        return Refusal("paused", first, CODES["paused"])
    if not now.journal_ok:
        return Refusal("journal_failed", first, CODES["journal_failed"])
    for name in knobs:
        if name not in now.catalogue:
            return Refusal("unknown_knob", name, CODES["unknown_knob"])
        if now.catalogue[name].risk is Risk.HIGH and not may_be_asked(rule, knobs, now):
            return Refusal("risk", name, CODES["risk"])
        if now.tried_only and not now.catalogue[name].tried:
            return Refusal("untried", name, CODES["untried"])
    touched = partners(knobs, now.catalogue)
    for name in sorted(touched & now.foreign):
        return Refusal("foreign", name, CODES["foreign"])
    if refusal := collision(knobs, metric, randomised, now):
        return refusal
    rest = now.memory.rests.get(rule)
    if rest and now.t < rest.until:
        wrong = "once" if rest.times == 1 else f"{rest.times} times in a row"
        return Refusal("resting", first, f"{CODES['resting']} ({wrong})")
    if rule in now.advised:
        return Refusal("advised", first, f"{CODES['advised']}: {now.advised[rule]}")
    for name in knobs:
        last = now.memory.last.get(name)
        wait = max(cooldown_s, limit_of(now.limits, name).cooldown_s)
        if last and now.t < last.t + wait:
            return Refusal("cooldown", name, f"changed less than {wait:g} s ago")
    if not now.actor_alive:
        return Refusal("no_actor", first, CODES["no_actor"])
    budget = now.policy.changes_per_minute
    if len([t for t in now.memory.changes if t > now.t - MINUTE_S]) >= budget:
        return Refusal("budget", first, f"{budget} changes in the last minute")
    return None


def judge(
    proposal: Proposal,
    live: Mapping[str, Value],
    original: Mapping[str, Value],
    now: Situation,
    *,
    free_step: bool = False,
) -> Refusal | None:
    """The whole envelope, for one proposal. `original` falls back to `live` for a knob not yet managed.

    `free_step`: a jump to what was confirmed before is bound by everything but the step.
    """
    knobs = [w.knob for w in proposal.writes]
    randomised = all(now.catalogue[k].alternable for k in knobs if k in now.catalogue)
    metric = proposal.expect.metric
    refusal = gate(proposal.rule, knobs, metric, randomised, proposal.cooldown_s, now)
    if refusal:
        return refusal
    if all(live[w.knob] == w.value for w in proposal.writes):
        return Refusal("no_change", knobs[0] if knobs else "", CODES["no_change"])
    for write in proposal.writes:
        knob, limit = now.catalogue[write.knob], limit_of(now.limits, write.knob)
        was = live[write.knob]
        refusal = (
            judge_value(knob, limit, write.value, original.get(write.knob, was))
            or (None if free_step else judge_step(knob, limit, write.value, was))
            or _judge_turn(knob, proposal.rule, write.value, was, now)
        )
        if refusal:
            return refusal
    return judge_coupling(proposal.writes, now.catalogue)


def direction(value: Value, live: Value) -> int:
    new, old = _numbers(value), _numbers(live)
    return (new > old) - (new < old) if new and old else 0


def _judge_turn(knob: Knob, rule: str, value: Value, live: Value, now: Situation) -> Refusal | None:
    """Another rule may not turn a change back within three of its cooldowns: that is how hosts swing."""
    last = now.memory.last.get(knob.id)
    if not last or last.rule == rule or now.t >= last.t + 3 * last.cooldown_s:
        return None
    if last.direction * direction(value, live) >= 0:
        return None
    return Refusal("hysteresis", knob.id, f"{last.rule} moved it the other way {now.t - last.t:.0f} s ago")


def may_toggle(envelope: Envelope, policy: Policy, t: float) -> bool:
    """A trial's own budget: so many switches between its arms a minute."""
    return len([x for x in envelope.toggles if x > t - MINUTE_S]) < policy.toggles_per_minute


def changed(envelope: Envelope, proposal: Proposal, live: Mapping[str, Value], t: float) -> Envelope:
    """The memory after a change was made."""
    moves = {
        w.knob: LastMove(t, proposal.rule, direction(w.value, live[w.knob]), proposal.cooldown_s)
        for w in proposal.writes
    }
    recent = tuple(x for x in envelope.changes if x > t - MINUTE_S)
    return msgspec.structs.replace(envelope, changes=(*recent, t), last={**envelope.last, **moves})


def toggled(envelope: Envelope, t: float) -> Envelope:
    recent = tuple(x for x in envelope.toggles if x > t - MINUTE_S)
    return msgspec.structs.replace(envelope, toggles=(*recent, t))


def rested(envelope: Envelope, rule: str, rest_s: float, t: float) -> Envelope:
    """A guess was wrong: its rule rests, twice as long each time."""
    before = envelope.rests.get(rule, Rest(0.0, 0))
    length = rest_s * min(2**before.times, LONGEST_REST)
    return msgspec.structs.replace(
        envelope, rests={**envelope.rests, rule: Rest(t + length, before.times + 1)}
    )


def right(envelope: Envelope, rule: str) -> Envelope:
    """A guess was right: its rule's record of wrong ones is wiped."""
    rests = {name: rest for name, rest in envelope.rests.items() if name != rule}
    return msgspec.structs.replace(envelope, rests=rests)
