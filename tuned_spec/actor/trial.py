"""The embedded judge: alternates arms in random order and rests its verdict on what was measured.

An I/O-free generator: it yields what it wants measured and is sent what was measured. Knows no socket,
no clock (it adds up what it asked for) and no knob beyond the case's data. The arithmetic is in `stats`.

Effect sizes are oriented so that better is positive: for a metric that should go down the effect is
1 - B/A (0.5: half as slow; -1: twice as slow), for one that should go up B/A - 1 (0.5: 50% more).

To confirm, three things must hold at once: e-value of the expected metric >= 1/alpha, median effect >=
`min_effect`, every guard shown to be no worse than its margin. Since all must hold, each may be tested at
alpha. A wrong rejection only costs a gain, so the tests that reject need less evidence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from tuned_spec.actor import stats
from tuned_spec.model import (
    Arm,
    Case,
    KnobType,
    Measure,
    Measurement,
    Probe,
    ProbeAnswer,
    Verdict,
    VerdictKind,
    Way,
    Write,
    Writes,
)
from tuned_spec.windows import LEASE_SHARE, TURN_S

Asked = Measure | Probe
Answer = Measurement | ProbeAnswer
Flow = Generator[Asked, Answer, Verdict]

HARM_ALPHA = 0.2  # evidence of harm: four pairs that all point the wrong way
FUTILE_ALPHA = 0.1  # evidence that the effect is below min_effect
TAIL_MARGIN = 1.0  # twice as bad: what a tail that nobody named may come to; it is noisy, gaming is tenfold
GOOD_PAIRS = 8  # windows are shortened, down to the knob's own minimum, until this many pairs fit
MOST_EMPTY = 6  # windows without a sample before the trial gives up
MOST_STALLED = 3  # the same, more on the new arm than on the old: dropping those pairs would flatter it
MOST_FURTHER = 12  # pairs spent on looking for a still better value
LARGEST_RATIO = 1e3  # a share that falls to 0 has no logarithm

# `p95_ms`, `latency.max_us`: head, statistic, unit.
_STATISTIC = re.compile(r"(?P<head>.*?)(?P<stat>p\d+|max|mean|avg|median)(?P<unit>_(?:ns|us|ms|s))?")
_LATENCY = re.compile(r".*(_ns|_us|_ms|(?<!_per)_s|latency)")


@dataclass(frozen=True)
class Watch:
    """One figure followed from pair to pair; `floor` is the log-ratio it must be shown to exceed."""

    name: str
    metric: str
    way: Way
    floor: float
    worst: bool = False  # the window's worst sample instead of its median

    def ratio(self, old: Sequence[float], new: Sequence[float]) -> float | None:
        """Oriented log-ratio of two windows; None where there is nothing to compare."""
        a, b = self._summary(old), self._summary(new)
        if a is None or b is None:
            return None
        least = max(a, b) / LARGEST_RATIO
        if least == 0:  # both silent at zero: alike
            return 0.0
        return log_gain(max(a, least), max(b, least), self.way)

    def _summary(self, samples: Sequence[float]) -> float | None:
        if not (usable := _usable(samples)):
            return None
        if self.worst:
            return max(usable) if self.way is Way.DOWN else min(usable)
        return median(usable)


def _usable(samples: Sequence[float]) -> list[float]:
    """A ratio needs finite numbers that are not negative."""
    return [s for s in samples if math.isfinite(s) and s >= 0]


def log_gain(old: float, new: float, way: Way) -> float:
    return math.log(old / new) if way is Way.DOWN else math.log(new / old)


def effect_of(ratio: float, way: Way) -> float:
    """The relative change that a log-ratio means, see the module."""
    return -math.expm1(-ratio) if way is Way.DOWN else math.expm1(ratio)


def ratio_of(effect: float, way: Way) -> float:
    """Inverse of `effect_of`; ValueError for an effect that cannot be (100% less, or beyond)."""
    return -math.log1p(-effect) if way is Way.DOWN else math.log1p(effect)


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: an arm, and what is written for it where that is arm C."""

    arm: Arm
    writes: Writes = ()


OLD, NEW = Side(Arm.A), Side(Arm.B)


@dataclass(frozen=True)
class Pair:
    """What two adjacent windows showed, or why they showed nothing."""

    old: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    new: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stop: str = ""


@dataclass
class Bench:
    """The running trial's bookkeeping: what is left of the lease, how long windows are."""

    case: Case
    rng: Random
    dwell_s: float
    left_s: float
    note: str = ""  # what the lease did to the plan; said with every rejection
    seq: int = 0
    empty: Counter[Side] = field(default_factory=Counter)
    samples: dict[Arm, dict[str, list[float]]] = field(default_factory=dict)  # of all windows, by arm

    def pair_s(self) -> float:
        return 2 * (self.case.settle_s + self.dwell_s + TURN_S)

    def pairs_left(self) -> int:
        return int(self.left_s / self.pair_s() + 1e-9)

    def pair(self, old: Side, new: Side) -> Generator[Asked, Answer, Pair]:
        """One pair in random order; repeated, with longer windows, while the metric is silent."""
        metric = self.case.expect.metric
        while self.pairs_left() > 0:
            order = [old, new] if self.rng.random() < 0.5 else [new, old]
            seen: dict[Side, Measurement] = {}
            for side in order:
                seen[side] = yield from self.window(side)
                if seen[side].error:
                    return Pair(stop=f"arm {side.arm} could not be measured: {seen[side].error[:300]}")
            silent = [side for side in order if not _usable(seen[side].samples.get(metric, ()))]
            if not silent:
                return Pair(seen[old].samples, seen[new].samples)
            self.empty.update(silent)
            if self.empty[new] - self.empty[old] >= MOST_STALLED:
                counts = f"{self.empty[new]} windows with the change and {self.empty[old]} without"
                return Pair(stop=f"{metric} sent nothing usable in {counts}")
            if self.empty.total() >= MOST_EMPTY:
                break
            self.dwell_s *= 2
        if silences := self.empty.total():
            return Pair(stop=f"{metric} sent nothing usable in {silences} windows; is its program running?")
        return Pair(stop="the lease is nearly used up")

    def window(self, side: Side) -> Generator[Asked, Answer, Measurement]:
        self.seq += 1
        self.left_s -= self.case.settle_s + self.dwell_s + TURN_S
        case = self.case
        answer = yield Measure(case.id, self.seq, side.arm, case.settle_s, self.dwell_s, side.writes)
        if not isinstance(answer, Measurement):
            raise TypeError(f"case {case.id}: a {type(answer).__name__} where a Measurement was due")
        pool = self.samples.setdefault(side.arm, {})
        for name, values in answer.samples.items():
            pool.setdefault(name, []).extend(values)
        return answer


@dataclass(frozen=True)
class Finding:
    """Where a comparison stands; `kind` None says that more pairs are wanted."""

    kind: VerdictKind | None
    reason: str


class Tally:
    """The log-ratios of all pairs so far of the expected metric and of what guards it."""

    def __init__(self, case: Case, least: float | None = None) -> None:
        """`least`: the effect to be shown instead of the case's own; below 0 it is a margin."""
        self.case = case
        expect = case.expect
        self.least = expect.min_effect if least is None else least
        self.target = ratio_of(self.least, expect.way)
        self.aim = Watch(expect.metric, expect.metric, expect.way, min(0.0, self.target))
        watched = [self.aim, *(_guard_watch(g.metric, g.better, g.margin) for g in case.guard)]
        if _is_latency(expect.metric) and expect.way is Way.DOWN:
            watched.append(_tail_watch(expect.metric, worst=True))
        # By watch, so that a guard on the expected metric itself cannot count its pairs twice.
        self.ratios: dict[Watch, list[float]] = {watch: [] for watch in watched}

    def add(self, pair: Pair) -> None:
        if self.aim.way is Way.DOWN:
            named = {watch.metric for watch in self.ratios}
            for name in _slower_tails(self.aim.metric, pair.old):
                if name not in named:
                    self.ratios[_tail_watch(name)] = []
        for watch, ratios in self.ratios.items():
            ratio = watch.ratio(pair.old.get(watch.metric, ()), pair.new.get(watch.metric, ()))
            if ratio is not None:
                ratios.append(ratio)

    @property
    def seen(self) -> list[float]:
        return self.ratios[self.aim]

    @property
    def guards(self) -> list[Watch]:
        return [watch for watch in self.ratios if watch != self.aim]

    def effect(self) -> float:
        return effect_of(median(self.seen), self.aim.way) if self.seen else 0.0

    def figures(self) -> str:
        low, high = stats.bounds(self.seen, self.case.alpha)
        way = self.aim.way
        between = ", ".join(_percent(effect_of(x, way)) if math.isfinite(x) else "?" for x in (low, high))
        sure = f" [{between}]" if math.isfinite(low) or math.isfinite(high) else ", too few to be sure,"
        return f"{self.aim.metric} {_better(self.effect())}{sure} in {len(self.seen)} pairs"

    def guard_state(self, guard: Watch) -> tuple[str, str]:
        """("held" | "worse" | "unclear", figures)."""
        ratios = self.ratios[guard]
        allowed = f"may get worse by {_percent(-effect_of(guard.floor, guard.way)).lstrip('+')}"
        if not ratios:
            return "unclear", f"no samples, {allowed}"
        figures = f"{_better(effect_of(median(ratios), guard.way))} in {len(ratios)} pairs, {allowed}"
        if stats.evidence(ratios, guard.floor) >= 1 / self.case.alpha:
            return "held", figures
        if stats.evidence_below(ratios, guard.floor) >= 1 / HARM_ALPHA:
            return "worse", figures
        return "unclear", figures

    def finding(self, more: int) -> Finding:
        """What these pairs allow to be said, with `more` pairs still to be had."""
        n, enough = len(self.seen), 1 / self.case.alpha
        states = {guard.name: self.guard_state(guard) for guard in self.guards}
        if stats.evidence_below(self.seen) >= 1 / HARM_ALPHA:
            return Finding(VerdictKind.REJECT, self.figures())
        if worse := [f"{name} {figures}" for name, (state, figures) in states.items() if state == "worse"]:
            return Finding(VerdictKind.REJECT, f"guard worse: {'; '.join(worse)}; {self.figures()}")
        if stats.evidence_below(self.seen, self.target) >= 1 / FUTILE_ALPHA:
            return Finding(VerdictKind.REJECT, f"less than {self._wanted()}: {self.figures()}")
        value = stats.evidence(self.seen, self.aim.floor)
        shown = value >= enough and median(self.seen) >= self.target
        unclear = [f"{name} {figures}" for name, (state, figures) in states.items() if state == "unclear"]
        if shown and not unclear:
            return Finding(VerdictKind.CONFIRM, self.figures())
        silent = [guard.metric for guard in self.guards if not self.ratios[guard]]
        if silent and n >= stats.fewest_pairs(self.case.alpha):
            what = f"guard unclear: no samples of {', '.join(silent)}"
            return Finding(VerdictKind.REJECT, f"{what}; {self.figures()}")
        if more > 0 and value * stats.best_growth(more) >= enough:
            return Finding(None, "")
        if shown:
            return Finding(VerdictKind.REJECT, f"guard unclear: {'; '.join(unclear)}; {self.figures()}")
        return Finding(VerdictKind.REJECT, f"not shown to be {self._wanted()} better: {self.figures()}")

    def harm(self) -> str:
        """What was shown to be worse, by the tests that reject; "" if nothing was."""
        if stats.evidence_below(self.seen) >= 1 / HARM_ALPHA:
            return self.figures()
        states = ((guard.name, *self.guard_state(guard)) for guard in self.guards)
        return "; ".join(f"guard {name} {figures}" for name, state, figures in states if state == "worse")

    def _wanted(self) -> str:
        return f"{self.least:.0%}"

    def verdict(self, finding: Finding, writes: Writes = ()) -> Verdict:
        """The finding with its figures; an overwrite's are B's against A, and C's in `reason`."""
        case, way = self.case, self.aim.way
        kind = finding.kind or VerdictKind.REJECT
        if not self.seen:
            return Verdict(case.id, kind, finding.reason)
        low, high = stats.bounds(self.seen, case.alpha)
        value = stats.evidence(self.seen)
        against = value if kind is not VerdictKind.REJECT else stats.evidence_below(self.seen, self.target)
        return Verdict(
            case.id,
            VerdictKind.OVERWRITE if writes else kind,
            finding.reason,
            writes=writes,
            effect=self.effect(),
            low=effect_of(low, way) if math.isfinite(low) else None,
            high=effect_of(high, way) if math.isfinite(high) else None,
            e_value=value,
            pairs=len(self.seen),
            claim="fresh" if case.fresh_instances else "alternated",
            confidence=1 - 1 / max(against, 1.0),
            guards={guard.name: ": ".join(self.guard_state(guard)) for guard in self.guards},
        )


@dataclass(frozen=True)
class Examined:
    """A trial's verdict, and what a review needs beside it. `bench` None: nothing could be measured.

    `harm`: in words, what was shown to get worse with the change; "" if nothing was.
    """

    verdict: Verdict
    bench: Bench | None = None
    harm: str = ""


def judge(case: Case, rng: Random) -> Flow:
    """Judge one change. A case that cannot be judged is rejected with the reason, never an exception."""
    return (yield from examine(case, rng)).verdict


def examine(case: Case, rng: Random) -> Generator[Asked, Answer, Examined]:
    bench = plan(case, rng)
    if isinstance(bench, str):
        return Examined(Verdict(case.id, VerdictKind.REJECT, bench))
    if not case.alternable:
        return Examined((yield from _before_after(bench)), bench)
    tally = Tally(case)
    finding = yield from compare(bench, tally, OLD, NEW, case.max_pairs)
    if finding.kind is VerdictKind.CONFIRM and (further := next_value(case)):
        beyond = Tally(case)
        second = yield from compare(bench, beyond, NEW, Side(Arm.C, further), MOST_FURTHER)
        if second.kind is VerdictKind.CONFIRM:
            value = f"{further[0].knob}={further[0].value}"
            text = f"{finding.reason}; {value} against that: {second.reason}"
            return Examined(tally.verdict(Finding(VerdictKind.OVERWRITE, text), further), bench)
    harm = tally.harm()
    if finding.kind is VerdictKind.REJECT and bench.note:
        finding = Finding(finding.kind, f"{finding.reason} ({bench.note})")
    return Examined(tally.verdict(finding), bench, harm)


def compare(bench: Bench, tally: Tally, old: Side, new: Side, most: int) -> Generator[Asked, Answer, Finding]:
    """Pairs of two sides until something is shown, or nothing more can be."""
    while True:
        finding = tally.finding(min(most - len(tally.seen), bench.pairs_left()))
        if finding.kind is not None:
            return finding
        pair = yield from bench.pair(old, new)
        if pair.stop:
            return Finding(VerdictKind.REJECT, pair.stop)
        tally.add(pair)


def plan(case: Case, rng: Random) -> Bench | str:
    """Window lengths that fit the lease, or why this case cannot be judged."""
    try:
        ratio_of(case.expect.min_effect, case.expect.way)
        floors = [_guard_watch(g.metric, g.better, g.margin).floor for g in case.guard]
    except ValueError:
        return "min_effect or a guard's margin means 100% less or beyond, which cannot be; lower it"
    sound = 0 < case.alpha < 1 and case.settle_s >= 0 and case.dwell_s > 0
    if not sound or not all(map(math.isfinite, floors)):
        return f"alpha {case.alpha}, settle_s {case.settle_s}, dwell_s {case.dwell_s}: out of range"
    few = stats.fewest_pairs(case.alpha)
    if case.max_pairs < few:
        return f"max_pairs {case.max_pairs}: alpha {case.alpha:g} takes at least {few} pairs"
    room = (case.lease_s - case.review_s) * LEASE_SHARE
    shortest = min(case.dwell_s, max((knob.dwell_s for knob in case.knobs), default=case.dwell_s))
    fitting = room / (2 * GOOD_PAIRS) - case.settle_s - TURN_S
    bench = Bench(case, rng, min(case.dwell_s, max(shortest, fitting)), room)
    if not case.alternable:
        return bench
    need = math.ceil(GOOD_PAIRS * bench.pair_s() / LEASE_SHARE)
    if bench.pairs_left() < few:
        pairs = f"{bench.pairs_left()} pairs of {bench.pair_s():.3g} s"
        return f"lease_s {case.lease_s:g} holds {pairs} and {few} are the least; set it to {need} or more"
    if bench.pairs_left() < GOOD_PAIRS:
        bench.note = f"lease_s {case.lease_s:g} holds {bench.pairs_left()} pairs only; better {need} or more"
    elif bench.dwell_s < case.dwell_s:
        bench.note = f"windows were cut from {case.dwell_s:g} s to {bench.dwell_s:.3g} s to fit the lease"
    return bench


def next_value(case: Case) -> Writes:
    """One more value to try after `after` did well: as far again, or halfway back at its range's end."""
    if len(case.after) != 1 or len(case.knobs) != 1 or case.knobs[0].type is not KnobType.INT:
        return ()
    knob, new = case.knobs[0], case.after[0]
    old = next((w.value for w in case.before if w.knob == new.knob), None)
    allowed = next((a for a in case.allowed if a.knob == new.knob), None)
    if not isinstance(old, int) or not isinstance(new.value, int) or allowed is None:
        return ()
    low = max((x for x in (knob.low, allowed.low) if x is not None), default=-math.inf)
    high = min((x for x in (knob.high, allowed.high) if x is not None), default=math.inf)
    for value in (min(max(2 * new.value - old, low), high), (old + new.value) // 2):
        rounded = int(value) // knob.quantum * knob.quantum
        if low <= rounded and rounded not in (old, new.value):
            return (Write(new.knob, rounded),)
    return ()


def _before_after(bench: Bench) -> Flow:
    """For knobs whose effect carries over: what B shows now against what there was before.

    Load that changed by itself looks the same, so this never confirms; the figures are for a person.
    The last third of the history is left out: it is what triggered the rule, and would flatter any change.
    """
    case, expect = bench.case, bench.case.expect
    history = case.history.get(expect.metric, ())
    before = history[: len(history) - math.ceil(len(history) / 3)]
    after: list[float] = []
    for _ in range(min(3, 2 * bench.pairs_left())):
        answer = yield from bench.window(NEW)
        if answer.error:
            return Verdict(case.id, VerdictKind.REJECT, f"arm B could not be measured: {answer.error[:300]}")
        after += answer.samples.get(expect.metric, ())
    ratio = Watch(expect.metric, expect.metric, expect.way, 0.0).ratio(before, after)
    counts = f"{len(before)} samples before, {len(after)} after"
    if ratio is None:
        return Verdict(
            case.id, VerdictKind.REJECT, f"arms cannot be alternated; {expect.metric} has {counts}"
        )
    effect = effect_of(ratio, expect.way)
    reason = (
        f"arms cannot be alternated; before and after only: {expect.metric} {_better(effect)} "
        f"({counts}), which a change of load explains as well; "
        "to keep it, set the knob yourself (sysctl.d)"
    )
    return Verdict(case.id, VerdictKind.REJECT, reason, effect=effect, claim="before_after", confidence=0.5)


def _guard_watch(metric: str, better: Way, margin: float) -> Watch:
    return Watch(metric, metric, better, ratio_of(-margin, better))


def _tail_watch(metric: str, worst: bool = False) -> Watch:
    name = f"{metric} (worst of window)" if worst else metric
    return Watch(name, metric, Way.DOWN, ratio_of(-TAIL_MARGIN, Way.DOWN), worst)


def _is_latency(metric: str) -> bool:
    return bool(_STATISTIC.fullmatch(metric) or _LATENCY.fullmatch(metric))


def _slower_tails(metric: str, names: Iterable[str]) -> list[str]:
    """Metrics beside `metric` that show more of the same tail: p99 and max beside p95.

    A change may starve the slowest few and so make p95 look wonderful; these say so, where they are sent.
    """
    mine = _STATISTIC.fullmatch(metric)
    if not mine:
        return []
    others = [(name, _STATISTIC.fullmatch(name)) for name in sorted(names)]
    return [
        name
        for name, other in others
        if other
        and (other["head"], other["unit"]) == (mine["head"], mine["unit"])
        and _rank(other["stat"]) > _rank(mine["stat"])
    ]


def _rank(stat: str) -> float:
    """How far out in the tail: p95 -> 0.95, p999 -> 0.999, max -> 1."""
    if stat == "max":
        return 1.0
    return float(f"0.{stat[1:]}") if stat.startswith("p") else 0.5


def _percent(effect: float) -> str:
    return f"{effect:+.1%}"


def _better(effect: float) -> str:
    """In words, for the sign alone would read as the metric's own direction."""
    return f"{'better' if effect >= 0 else 'worse'} by {abs(effect):.1%}"
