"""What would be done now, and why not: every rule and search against the present, without doing anything.

Pure: a question to a state, whose answer changes nothing. What the knobs hold is given, as a Look finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from tuned_spec import approval, envelope
from tuned_spec.engine.events import Looked
from tuned_spec.engine.guessing import ROOM, knobs_of, reader
from tuned_spec.engine.outside import Outside
from tuned_spec.engine.state import State, situation
from tuned_spec.errors import KnobError
from tuned_spec.model import Condition, Expect, Frozen, Mode, Refusal, Rule, Write, Writes
from tuned_spec.speculate import climb as search
from tuned_spec.speculate import rules as speculator
from tuned_spec.speculate import selection

replace = msgspec.structs.replace


class Stand(StrEnum):
    """How a rule or a search stands."""

    READY = "ready"  # its conditions hold and the envelope allows it
    REFUSED = "refused"  # they hold, and it may not, or not now
    OPEN = "open"  # its change is on trial
    WAITS = "waits"  # they do not hold
    INERT = "inert"  # this host lacks what it needs


class Checked(Frozen, frozen=True):
    """One condition now, by the metric that stands for it. `value` None: not known. `short`: what is missing
    to the level, in the metric's unit, 0 where it is past. `hold_s`: how long it must stay past it yet, None
    where it is not."""

    metric: str
    op: str
    level: float
    clear: float
    for_s: float
    value: float | None = None
    short: float | None = None
    hold_s: float | None = None


class Step(Frozen, frozen=True):
    """One rule or search. `before` and `writes`: what it would write now in place of what; a search begins
    where the host is. `code`, `knob` and `what`: why it may not, would not or cannot, whether it asks or not.
    """

    id: str
    kind: str  # rule, search
    stand: Stand
    reason: str
    expect: Expect
    origin: str = ""
    when: tuple[Checked, ...] = ()
    before: Writes = ()
    writes: Writes = ()
    code: str = ""
    knob: str = ""
    what: str = ""


def asked(state: State) -> tuple[Rule, ...]:
    """The rules and searches that there are: whoever looks at their knobs for `plan`."""
    return (*state.setup.rules, *map(search.as_rule, state.setup.climbs))


def plan(state: State, looks: Mapping[str, Looked], inert: Mapping[str, str], t: float) -> tuple[Step, ...]:
    """`looks`: rule id -> what its knobs hold; `inert`: rule id -> why it can do nothing on this host."""
    steps = [_step(rule, looks[rule.id], inert.get(rule.id, ""), state, t) for rule in asked(state)]
    # Those that could go now are weighed against each other, as they would be.
    setup, learned = state.setup, state.learned
    ready = [step.id for step in steps if step.stand is Stand.READY and step.kind == "rule"]
    candidates = [selection.candidate(rule, setup.catalogue) for rule in setup.rules if rule.id in ready]
    wall = t + state.wall_offset
    chosen = selection.choose(candidates, learned.record, learned.watched.usual, wall, ROOM)
    for number, step in enumerate(steps):
        if step.id in chosen.skip:
            code = "not_worth" if chosen.worth[step.id] < 0 else "knob_busy"
            steps[number] = replace(step, stand=Stand.REFUSED, code=code, what=chosen.skip[step.id])
    return tuple(steps)


def _step(rule: Rule, look: Looked, inert: str, state: State, t: float) -> Step:
    climb = state.setup.climb(rule.id)
    step = Step(
        id=rule.id,
        kind="rule" if climb is None else "search",
        stand=Stand.READY,
        reason=rule.reason,
        expect=rule.expect,
        origin=rule.origin,
        when=tuple(_checked(condition, n, rule.id, state, t) for n, condition in enumerate(rule.when)),
    )
    if any(trial.proposal.rule == rule.id for trial in state.trials.values()):
        return replace(step, stand=Stand.OPEN, what="on trial")
    if inert:
        return replace(step, stand=Stand.INERT, what=inert)
    turn = Outside(state, t)
    refusal = turn.gate(rule if climb is None else turn.due(climb))
    if look.refusal is not None:
        refusal = refusal or look.refusal
    elif climb is None:
        writes, judged = _judged(rule, look, state, t)
        step, refusal = replace(step, writes=writes), refusal or judged
    else:
        try:
            step = replace(step, writes=search.begin(climb, look.live, t, seed=0).values)
        except KnobError as error:
            refusal = refusal or Refusal("unreadable", error.knob, str(error))
    before = tuple(Write(write.knob, look.live[write.knob]) for write in step.writes)
    step = replace(step, before=before)
    if refusal is not None:
        step = replace(step, stand=Stand.REFUSED, code=refusal.code, knob=refusal.knob, what=refusal.what)
    elif approval.needed(state.setup.policy.approval, (rule.id,), knobs_of(rule), state.setup.catalogue):
        first = approval.before(state.setup.policy.approval, knobs_of(rule), state.setup.catalogue)
        step = replace(step, what=f"a person is asked before it is {'tried' if first else 'kept'}")
    if waits := _waits(rule, state):
        step = replace(step, stand=Stand.WAITS, what=step.what or waits)
    return step


def _judged(rule: Rule, look: Looked, state: State, t: float) -> tuple[Writes, Refusal | None]:
    setup, live = state.setup, look.live
    originals = {**live, **{k: v for k, v in state.originals.items() if k in live}}
    guess = speculator.propose(rule, setup.catalogue, setup.limits, reader(live), reader(originals), {})
    if isinstance(guess, Refusal):
        return (), guess
    return guess.writes, envelope.judge(guess, live, originals, situation(state, t))


def _waits(rule: Rule, state: State) -> str:
    """Why it does not ask now, "" if it does."""
    if rule.when:
        held = state.rules.states.get(rule.id)
        return "" if held is not None and held.active else "its conditions do not hold"
    if state.mode is not Mode.LOSSY:
        return f"a search tries as it goes: only in lossy mode, and this is {state.mode.value}"
    metric = rule.expect.metric
    return "" if metric in state.rules.values else f"{metric} is not heard"


def _checked(condition: Condition, number: int, rule: str, state: State, t: float) -> Checked:
    known, here = state.rules.values, condition
    while here.metric not in known and here.fallback is not None:
        here = here.fallback
    checked = Checked(here.metric, here.op, here.level, here.clear, here.for_s)
    if here.metric not in known:
        return replace(checked, metric=condition.metric)
    value = known[here.metric][0]
    short = max(0.0, here.level - value if here.op == ">" else value - here.level)
    holds = state.rules.states[rule].holds if rule in state.rules.states else ()
    since = holds[number].since if number < len(holds) and holds[number].metric == here.metric else None
    hold_s = None if since is None else max(0.0, since + here.for_s - t)
    return replace(checked, value=value, short=short, hold_s=hold_s)
