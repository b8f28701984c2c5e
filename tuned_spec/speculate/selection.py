"""Selection: which of the guesses that could be made now are worth a trial.

Owns the record of each rule and the sum that decides. Must not know files, clocks or the engine: candidates,
time and room come in as parameters. After Theorem 3 of "Speculative Actions" (arXiv 2510.04371): best first,
launch while gain times *added* hit probability is at least the cost.

Everything is in seconds of work: a gain of 0.5 over a workload that goes on for an hour is worth half an
hour, and a trial that costs a tenth of the speed for 30 s costs 3 s.

How likely the actor is to confirm comes from two levels: a rule starts at its declared confidence, which
weighs as much as DECLARED trials, and moves with what it did elsewhere; under one signature it starts from
there, and moves with what it did under that. What it gains is what was measured here, confirmed or not: a
guess that shows no effect loses both ways. Evidence fades, so what was wrong grows uncertain again and comes
back, rarely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from tuned_spec import envelope, windows
from tuned_spec.model import Frozen, Knob, Risk, Rule
from tuned_spec.speculate.signature import KNOWN, Signature, distance

DECLARED = 2.0
ELSEWHERE = 0.5  # an outcome under another signature counts half
MOST = 4.0  # and what was known before a signature was seen counts as so many trials at most
CURIOSITY = 1.0  # standard deviations of doubt that count in a guess's favour
OUTCOMES = 32  # of one rule are kept
HERE = 8  # of them under one signature, so that what happens often does not crowd out the rest
RULES = 128
HALF_LIFE_S = 7 * 86_400.0
JUDGE_S = 5.0  # what asking the actor costs, whatever it says
TOGGLE_S = 0.05  # work lost by one switch between arms
PREFERRED = 2.0  # what a guess that advice prefers gives counts so much
HORIZON_S = 3600.0  # how long a workload goes on, where nobody knows better
# Share of the work lost while a wrong value of this risk is in place.
HARM = {Risk.LOW: 0.1, Risk.MEDIUM: 0.5, Risk.HIGH: 1.0}


class Outcome(Frozen, frozen=True):
    """How one guess was judged. `gain` is the measured relative effect, negative for harm."""

    wall: float
    confirmed: bool
    gain: float
    signature: Signature | None = None


class Tally(Frozen, frozen=True):
    """One rule: how often it was proposed and confirmed in all, and its latest outcomes, oldest first."""

    proposed: int = 0
    confirmed: int = 0
    outcomes: tuple[Outcome, ...] = ()


class Record(Frozen, frozen=True):
    rules: dict[str, Tally] = msgspec.field(default_factory=dict)


class HitRate(Frozen, frozen=True):
    """Confirmed of proposed. `share` is None before anything was proposed."""

    proposed: int
    confirmed: int

    @property
    def share(self) -> float | None:
        return self.confirmed / self.proposed if self.proposed else None


class Candidate(Frozen, frozen=True):
    """A guess that could be made now, as much of it as selection needs."""

    rule: str
    touches: frozenset[str]  # its knobs, and those coupled to them
    metric: str  # that must get better
    confidence: float
    min_effect: float
    risk: Risk
    trial_s: float
    toggles: int
    asked: bool = False  # a person says yes before it begins


class Choice(Frozen, frozen=True):
    """`launch`: in which order to start; `skip`: rule -> why not; `worth`: rule -> seconds of work."""

    launch: tuple[str, ...]
    skip: dict[str, str]
    worth: dict[str, float]


def candidate(rule: Rule, catalogue: Mapping[str, Knob]) -> Candidate:
    """What a rule's guess would touch and take. Its knobs must be in the catalogue."""
    knobs = [action.knob for action in rule.do]
    timing = windows.of(rule, catalogue)
    pairs = min(timing.pairs, windows.USUAL_PAIRS)
    alternable = all(catalogue[knob].alternable for knob in knobs)
    risks = {catalogue[knob].risk for knob in knobs}
    return Candidate(
        rule=rule.id,
        touches=envelope.partners(knobs, catalogue),
        metric=rule.expect.metric,
        confidence=rule.confidence,
        min_effect=rule.expect.min_effect,
        risk=max(risks, key=HARM.__getitem__),
        trial_s=pairs * timing.pair_s,
        toggles=2 * pairs if alternable else 1,
    )


def judged(
    record: Record, rule: str, confirmed: bool, gain: float | None, signature: Signature | None, wall: float
) -> Record:
    """One more outcome. A trial that ended without a verdict was proposed and not confirmed, too."""
    tally = record.rules.get(rule) or Tally()
    if signature is not None:  # a record of many has no need of each one's spread
        signature = msgspec.structs.replace(signature, spread={})
    outcomes = [*tally.outcomes, Outcome(wall, confirmed, gain or 0.0, signature)]
    alike = [o for o in outcomes if _alike(o.signature, signature)]
    if len(alike) > HERE:
        outcomes.remove(alike[0])
    now = Tally(tally.proposed + 1, tally.confirmed + confirmed, tuple(outcomes[-OUTCOMES:]))
    others = {
        name: t for name, t in record.rules.items() if name != rule
    }  # the longest unheard of goes first
    while len(others) >= RULES:
        others.pop(next(iter(others)))
    return Record({**others, rule: now})


def hit_rate(record: Record, rule: str | None = None) -> HitRate:
    """Of one rule, or of all that are remembered."""
    tallies = record.rules.values() if rule is None else [record.rules.get(rule) or Tally()]
    return HitRate(sum(t.proposed for t in tallies), sum(t.confirmed for t in tallies))


# ----------------------------------------------------------------------------------- the sum


class Odds(Frozen, frozen=True):
    """`p`: how likely it is confirmed; `doubt`: the deviation of that; `gain`, `harm`: relative."""

    p: float
    doubt: float
    gain: float
    harm: float

    @property
    def hopeful(self) -> float:
        return min(1.0, self.p + CURIOSITY * self.doubt)


def odds(guess: Candidate, record: Record, signature: Signature | None, wall: float) -> Odds:
    """What the record says of this guess under this signature."""
    outcomes = (record.rules.get(guess.rule) or Tally()).outcomes
    weights = [0.5 ** (max(0.0, wall - o.wall) / HALF_LIFE_S) for o in outcomes]
    here = [
        weight if _alike(o.signature, signature) else 0.0 for o, weight in zip(outcomes, weights, strict=True)
    ]
    elsewhere = [(weight - near) * ELSEWHERE for weight, near in zip(weights, here, strict=True)]
    yes, n = _sums(outcomes, elsewhere)
    base = (guess.confidence * DECLARED + yes) / (DECLARED + n)
    trials = min(DECLARED + n, MOST)
    yes, n = _sums(outcomes, here)
    a, b = base * trials + yes, (1 - base) * trials + n - yes
    p = a / (a + b)
    helped = [(o.gain, w) for o, w in zip(outcomes, weights, strict=True) if o.confirmed]
    harmed = [(-o.gain, w) for o, w in zip(outcomes, weights, strict=True) if not o.confirmed and o.gain < 0]
    shown = [(max(0.0, o.gain), near) for o, near in zip(outcomes, here, strict=True)]
    return Odds(
        p=p,
        doubt=math.sqrt(p * (1 - p) / (a + b + 1)),
        gain=_blend(_blend(guess.min_effect, helped), shown),
        harm=_blend(HARM[guess.risk], harmed),
    )


def _alike(a: Signature | None, b: Signature | None) -> bool:
    return distance(a, b) <= KNOWN if a and b else a is b


def _sums(outcomes: Sequence[Outcome], weights: Sequence[float]) -> tuple[float, float]:
    pairs = list(zip(outcomes, weights, strict=True))
    return sum(w for o, w in pairs if o.confirmed), sum(w for _, w in pairs)


def _blend(start: float, seen: Sequence[tuple[float, float]]) -> float:
    """The mean of what was seen, with `start` as if seen once."""
    return (start + sum(x * w for x, w in seen)) / (1 + sum(w for _, w in seen))


def weigh(guess: Candidate, chance: Odds, left: float, horizon_s: float) -> tuple[float, float]:
    """Seconds of work that the trial can give and takes: the judge, switches, half of it in a wrong value.

    `left`: how likely it is that nothing launched before does the same.
    """
    gives = left * chance.hopeful * chance.gain * max(0.0, horizon_s - guess.trial_s)
    wrong = (1 - chance.p) * chance.harm * guess.trial_s / 2
    return gives, JUDGE_S + guess.toggles * TOGGLE_S + wrong


def choose(
    candidates: Sequence[Candidate],
    record: Record,
    signature: Signature | None,
    wall: float,
    room: int,
    horizon_s: float = HORIZON_S,
    busy: frozenset[str] = frozenset(),
    preferred: frozenset[str] = frozenset(),
) -> Choice:
    """Which to launch now: at most `room`, none that touches `busy` knobs or those of another launched one.

    Several that would better the same metric are alternatives: the next one adds only what the ones before it
    leave (1-p1)(1-p2)... `preferred`: rules that somebody advised.
    """
    chances = {guess.rule: odds(guess, record, signature, wall) for guess in candidates}

    def weighed(guess: Candidate, left: float) -> tuple[float, float]:
        gives, takes = weigh(guess, chances[guess.rule], left, horizon_s)
        return gives * (PREFERRED if guess.rule in preferred else 1.0), takes

    def alone(guess: Candidate) -> float:
        gives, takes = weighed(guess, 1.0)
        return gives - takes

    launch: list[str] = []
    skip: dict[str, str] = {}
    worth: dict[str, float] = {}
    missed: dict[str, float] = {}  # metric -> how likely none of those launched for it is right
    touched = busy
    for guess in sorted(candidates, key=lambda guess: (-alone(guess), guess.rule)):
        chance = chances[guess.rule]
        left = missed.get(guess.metric, 1.0)
        gives, takes = weighed(guess, left)
        worth[guess.rule] = gives - takes
        if guess.risk is Risk.HIGH and not guess.asked:
            skip[guess.rule] = envelope.CODES["risk"]
        elif gives < takes:
            skip[guess.rule] = (
                f"not worth it: P {chance.p:.2f} (hopeful {chance.hopeful:.2f}) x {chance.gain:.0%} for "
                f"{horizon_s:.0f} s, x {left:.2f} left by others, is {gives:.1f} s; its cost is {takes:.1f} s"
            )
        elif clash := guess.touches & touched:
            skip[guess.rule] = f"{min(clash)} is in another trial, or coupled to one that is"
        elif len(launch) >= room:
            skip[guess.rule] = "no room left"
        else:
            launch.append(guess.rule)
            touched |= guess.touches
            missed[guess.metric] = left * (1 - chance.p)
    return Choice(tuple(launch), skip, worth)


def ahead(
    opened: Candidate,
    candidates: Sequence[Candidate],
    record: Record,
    signature: Signature | None,
    wall: float,
    room: int,
    horizon_s: float = HORIZON_S,
) -> Choice:
    """What to launch next if `opened` is confirmed: choose as though it had been, with the gain it promises.

    Candidates must be made from values as they will be then.
    """
    gain = odds(opened, record, signature, wall).gain
    after = judged(record, opened.rule, True, gain, signature, wall)
    return choose(candidates, after, signature, wall, room, horizon_s)
