"""Rules: which of them hold now, and what they would write.

Owns hysteresis, `for`, fallbacks and the arithmetic of a guess. Must not know files, clocks, the kernel or
the envelope's budget: everything comes in as a parameter, and nothing here raises.

A condition holds from the first observation in which its metric is past `level`, without a gap; the rule
fires when all of its conditions have held for their `for_s` and stays *active* until one of them is past
`clear` or unknown. After that every condition starts from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import assert_never

import msgspec

from tuned_spec import windows
from tuned_spec.envelope import exact, limit_of
from tuned_spec.errors import KnobError
from tuned_spec.model import (
    Action,
    Condition,
    CouplingKind,
    Frozen,
    Knob,
    Limit,
    Observation,
    Op,
    Proposal,
    Refusal,
    Rule,
    Value,
    Way,
    Write,
)

STALE_S = 10.0  # a value older than this is unknown: two ticks of an idle host


class Hold(Frozen, frozen=True):
    """One condition so far: by which of its metrics it holds, and since when."""

    metric: str = ""
    since: float | None = None


_NOT = Hold()  # most conditions, at most times


class RuleState(Frozen, frozen=True):
    """`holds` is empty while no condition holds."""

    active: bool = False
    holds: tuple[Hold, ...] = ()


_QUIET = RuleState()  # most rules, at most times


class RulesMemory(Frozen, frozen=True):
    """What `advance` remembers: the latest values and when they were seen, and each rule's state.

    `due`: when the first waiting `for_s` ends, if nothing changes until then.
    """

    t: float = -math.inf
    values: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    states: dict[str, RuleState] = msgspec.field(default_factory=dict)
    due: float | None = None


def advance(
    rules: Sequence[Rule],
    memory: RulesMemory,
    observation: Observation,
    stale_s: Mapping[str, float] | None = None,
) -> tuple[RulesMemory, list[Rule]]:
    """Takes in one observation; returns the rules that are active now.

    `stale_s` says for single metrics (`MetricOwner.stale_s`) when a value is too old; else STALE_S.
    An observation from the past counts as of the latest time known.
    """
    t = max(memory.t, observation.t)
    stale_s = stale_s or {}
    known = {
        name: (value, seen)
        for name, (value, seen) in memory.values.items()
        if t - seen <= stale_s.get(name, STALE_S)
    }
    # A metric that was unknown a moment ago has not held "on end", whatever it was before the gap.
    returned = {name for name in observation.values if name not in known}
    known |= {name: (value, t) for name, value in observation.values.items() if math.isfinite(value)}
    states: dict[str, RuleState] = {}
    active: list[Rule] = []
    waiting: list[float] = []
    for rule in rules:
        states[rule.id] = state = _step(rule, memory.states.get(rule.id, _QUIET), known, returned, t)
        if state.active:
            active.append(rule)
        elif (at := _due(rule, state)) is not None:
            waiting.append(at)
    return RulesMemory(t, known, states, min(waiting, default=None)), active


def next_check(memory: RulesMemory, t: float) -> float | None:
    """When to call `advance` again though nothing new was seen; None: no rule waits."""
    return None if memory.due is None else max(memory.due, t)


def _step(
    rule: Rule, before: RuleState, known: Mapping[str, tuple[float, float]], returned: set[str], t: float
) -> RuleState:
    deliverable = [_in_effect(condition, known) for condition in rule.when]
    if not before.active and not any(
        now is not None and _beyond(known[now.metric][0], now.op, now.level) for now in deliverable
    ):
        return _QUIET
    if before.active:
        if all(
            now is not None and now.metric not in returned and not _past(now, known[now.metric][0])
            for now in deliverable
        ):
            return before
        before = RuleState()  # cleared: what holds now holds from now on
    holds = []
    for number, now in enumerate(deliverable):
        if now is None or not _beyond(known[now.metric][0], now.op, now.level):
            holds.append(_NOT)
            continue
        old = before.holds[number] if number < len(before.holds) else _NOT
        unbroken = old.metric == now.metric and old.since is not None and now.metric not in returned
        holds.append(old if unbroken else Hold(now.metric, t))
    state = RuleState(False, tuple(holds))
    due = _due(rule, state)
    return RuleState(True, state.holds) if due is not None and due <= t else state


def _due(rule: Rule, state: RuleState) -> float | None:
    """When the rule fires if everything stays as it is; None while a condition does not hold."""
    if not state.holds:
        return None
    ends = []
    for condition, hold in zip(rule.when, state.holds, strict=True):
        if hold.since is None:
            return None
        ends.append(hold.since + _named(condition, hold.metric).for_s)
    return max(ends, default=None)


def _named(condition: Condition, metric: str) -> Condition:
    while condition.metric != metric and condition.fallback is not None:
        condition = condition.fallback
    return condition


def _in_effect(condition: Condition, known: Mapping[str, object]) -> Condition | None:
    """The condition, or the first of its fallbacks, whose metric is known now."""
    now: Condition | None = condition
    while now is not None and now.metric not in known:
        now = now.fallback
    return now


def _beyond(value: float, op: str, level: float) -> bool:
    return value > level if op == ">" else value < level


def _past(condition: Condition, value: float) -> bool:
    """Is it over: back at the clearing level or on the quiet side of it?"""
    return not _beyond(value, condition.op, condition.clear)


def metrics(rule: Rule) -> tuple[str, ...]:
    """Every metric that the rule names, fallbacks too, each once."""
    names: list[str] = []
    for condition in rule.when:
        now: Condition | None = condition
        while now is not None:
            names.append(now.metric)
            now = now.fallback
    names += [rule.expect.metric, *(guard.metric for guard in rule.guard)]
    return tuple(dict.fromkeys(names))


def inert(rules: Sequence[Rule], absent: Mapping[str, str]) -> list[tuple[str, str]]:
    """(rule id, reason) of rules that can never do anything on this host.

    `absent`: metrics, and knobs if the caller knows, that the host does not offer -> why. A lost guard does
    not make a rule inert; a condition does only when its last fallback is gone too.
    """
    found = []
    for rule in rules:
        needed = [rule.expect.metric, *(action.knob for action in rule.do)]
        for condition in rule.when:
            now: Condition | None = condition
            while now is not None and now.metric in absent and now.fallback is not None:
                now = now.fallback
            needed.append(now.metric if now else "")
        missing = dict.fromkeys(name for name in needed if name in absent)
        if missing:
            found.append((rule.id, "; ".join(f"{name}: {absent[name]}" for name in missing)))
    return found


# ----------------------------------------------------------------------------- guesses


def propose(
    rule: Rule,
    catalogue: Mapping[str, Knob],
    limits: Mapping[str, Limit],
    live: Callable[[str], Value],
    original: Callable[[str], Value],
    seen: Mapping[str, float],
) -> Proposal | Refusal:
    """What an active rule would write now, in the order of its actions.

    Each number is clamped to the catalogue's range, the limit's range, the bound from the original and the
    step from the live value, then rounded as the kernel would. A clamp never turns a rise into a fall.
    Refusals: "unreadable" (live or original raised, or is of another shape), "not_a_choice", "no_room" (a
    field that the rule leaves alone is outside what is allowed), "no_change" (nothing is left to write).
    """
    before: dict[str, Value] = {}
    values: dict[str, Value] = {}
    stuck: list[Refusal] = []
    for action in rule.do:
        knob, limit = catalogue[action.knob], limit_of(limits, action.knob)
        try:
            if knob.id not in before:
                before[knob.id] = values[knob.id] = live(knob.id)
            span = _partners(knob, catalogue, values, live)
            wanted = _wanted(action, values[knob.id], original(knob.id), knob, limit, span)
        except KnobError as error:
            return Refusal("unreadable", knob.id, str(error))
        if not isinstance(wanted, Refusal):
            values[knob.id] = wanted
        elif wanted.code == "no_change":
            stuck.append(wanted)
        else:
            return wanted
    writes = tuple(Write(name, value) for name, value in values.items() if value != before[name])
    if not writes:
        return stuck[0] if stuck else Refusal("no_change", "", "the rule does nothing")
    timing = windows.of(rule, catalogue)
    return Proposal(
        rule=rule.id,
        writes=writes,
        reason=rule.reason,
        seen={name: seen[name] for name in metrics(rule) if name in seen},
        expect=rule.expect,
        guard=rule.guard,
        settle_s=timing.settle_s,
        dwell_s=timing.dwell_s,
        lease_s=timing.lease_s,
        cooldown_s=rule.cooldown_s,
        confidence=rule.confidence,
    )


class _Span(Frozen, frozen=True):
    """An inclusive range of whole numbers; None is open."""

    low: int | None = None
    high: int | None = None

    def __and__(self, other: _Span) -> _Span:
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        return _Span(max(lows, default=None), min(highs, default=None))

    def __contains__(self, value: int) -> bool:
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f"{'any' if self.low is None else self.low} to {'any' if self.high is None else self.high}"


def _wanted(
    action: Action, live: Value, original: Value, knob: Knob, limit: Limit, partners: _Span
) -> Value | Refusal:
    """The knob's next value. `live` includes what earlier actions of the same rule do to other fields."""
    if isinstance(live, str):
        return _word(str(action.value), live, knob, limit)
    now, first, targets = _whole(live), _whole(original), _numbers(action.value)
    chosen = range(len(now)) if action.field is None else (action.field,)
    if len(first) != len(now) or len(targets) not in (1, len(now)) or max(chosen) >= len(now):
        return Refusal(
            "unreadable", knob.id, f"shows {len(now)} fields; the catalogue or the rule has others"
        )
    room = [_room(now[n], first[n], knob, limit) & partners for n in range(len(now))]
    goals, out = list(now), list(now)
    for n in chosen:
        goals[n] = _goal(action, now[n], targets[n if len(targets) > 1 else 0])
        out[n] = _clamp(goals[n], now[n], room[n], knob.quantum)
    if out == list(now):
        n = next((n for n in chosen if goals[n] != now[n]), chosen[0])
        what = f"is {now[n]}, the rule wants {goals[n]}, allowed is {room[n]}"
        return Refusal("no_change", knob.id, what)
    for value, span in zip(out, room, strict=True):
        if value not in span:
            return Refusal("no_room", knob.id, f"{value}, a field left alone, is outside {span}")
    return tuple(out) if isinstance(live, tuple) else out[0]


def _word(word: str, live: str, knob: Knob, limit: Limit) -> Value | Refusal:
    for allowed in (knob.choices, limit.choices):  # none named: the kernel alone knows them
        if allowed and word not in allowed:
            return Refusal("not_a_choice", knob.id, f"{word} is not among {', '.join(allowed)}")
    return Refusal("no_change", knob.id, f"is {live} already") if word == live else word


def _room(live: int, original: int, knob: Knob, limit: Limit) -> _Span:
    """Catalogue, limit, bound and step together."""
    room = _Span(knob.low, knob.high) & _Span(limit.low, limit.high)
    if limit.bound_ratio is not None and original > 0:  # from 0 no ratio can be taken: the range bounds it
        room &= _around(original, limit.bound_ratio, None)
    if limit.step_ratio is not None or limit.step_abs is not None:
        room &= _around(live, limit.step_ratio, limit.step_abs)
    return room


def _around(centre: int, ratio: float | None, distance: int | None) -> _Span:
    """At most `ratio` times or `distance` away; where both are given the wider one counts."""
    ends = [Fraction(centre)]
    if ratio is not None and centre > 0:
        ends += [centre / exact(ratio), centre * exact(ratio)]
    if distance is not None:
        ends += [Fraction(centre - distance), Fraction(centre + distance)]
    return _Span(math.ceil(min(ends)), math.floor(max(ends)))


def _partners(
    knob: Knob, catalogue: Mapping[str, Knob], values: Mapping[str, Value], live: Callable[[str], Value]
) -> _Span:
    """The room that knobs leave of which the kernel demands an order (`a` <= `b`)."""
    span = _Span()
    for other in catalogue.values():
        for lower, upper in ((knob, other), (other, knob)):
            if any(c.kind is CouplingKind.ORDERED and c.partner == upper.id for c in lower.coupled):
                try:
                    value = values[other.id] if other.id in values else live(other.id)
                except KnobError:
                    continue  # a partner that is not there demands nothing
                if isinstance(value, int):
                    span &= _Span(high=value) if lower is knob else _Span(low=value)
    return span


def _goal(action: Action, now: int, target: int | float) -> int:
    """Where the rule wants the number to be, rounded away from where it is, so that it always moves."""
    by = exact(target)
    if (action.only is Way.UP and by < now) or (action.only is Way.DOWN and by > now):
        return now
    match action.op:
        case Op.SET:
            goal = by
        case Op.MULTIPLY:
            goal = now * by
        case Op.ADD:
            goal = now + by
        case Op.TOWARD:
            goal = now + (by - now) * exact(action.step)
        case _:
            assert_never(action.op)
    return math.ceil(goal) if goal > now else math.floor(goal)


def _clamp(goal: int, now: int, room: _Span, quantum: int) -> int:
    """The allowed multiple of `quantum` nearest to `goal` on its side of `now`; `now` if there is none."""
    value = goal if room.high is None else min(goal, room.high)
    value = value if room.low is None else max(value, room.low)
    value -= value % quantum
    if room.low is not None and value < room.low:
        value += quantum
    forward = value > now if goal > now else value < now
    return value if forward and value in room else now


def _numbers(value: Value | float) -> tuple[int | float, ...]:
    if isinstance(value, str):
        return ()
    return value if isinstance(value, tuple) else (value,)


def _whole(value: Value) -> tuple[int, ...]:
    if isinstance(value, str):
        return ()
    return value if isinstance(value, tuple) else (value,)
