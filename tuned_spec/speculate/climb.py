"""Climb: a search for the best setting of one to four numbers, while the workload runs and under its noise.

Owns the search: what to try next, what is best so far, when to stop. Pure: no I/O, no clock, and its only
randomness is a seed in its memory, so that the same samples give the same moves. Must not know who writes the
values, nor whether the envelope would allow them.

Every window's reading goes into one small model of the objective's logarithm over that of the knobs (a
Gaussian process, Rasmussen & Williams 2006, ch. 2), so that none is wasted and near settings speak for each
other. To it belongs a part that depends on time alone: a load that swells and ebbs moves all settings alike,
and readings taken next to each other compare better than distant ones. Readings far from what the model says
count less (spikes), and all fade with age. The next try is where the most is expected to be gained over the
best (expected improvement, Jones et al. 1998), never more than `climb.step` away from what is set now. When
that is less than half of `climb.expect.min_effect`, or many tries brought nothing, the search rests at the
best, and begins again when what it knows has faded. A guard has a model of the same kind; a setting where it
is worse than at the origin, beyond its margin and the doubt, is neither tried again nor best.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from operator import mul
from statistics import median

import msgspec

from tuned_spec.errors import KnobError
from tuned_spec.model import Action, Climb, Frozen, Guard, Op, Rule, Span, Value, Way, Write, Writes

READINGS = 36  # the most that are remembered: the model's cost grows with their cube
NOISE = 0.2  # of one reading's logarithm, before there is a better estimate
NOISE_WEIGHT = 4  # as many readings as that prior is worth
REACH = 3.0  # octaves over which settings speak for each other
RELIEF = 0.4  # the objective's logarithm is thought to vary by this much at least ...
DRIFT, DRIFT_S = 0.15, 60.0  # ... and by this much with time alone, over so many seconds
FADE_S = 600.0  # a reading of this age has half its weight
SPIKE = 2.0  # standard deviations beyond which a reading counts less
FLOOR = 0.01  # an objective at or below 0 counts as this share of the usual one
PATIENCE = 6  # tries, and as many again for each knob, without progress: enough
BOUT = 20  # tries, and as many again for each knob, whatever they bring
SILENCE = 3  # windows without a sample, then the search rests
PAUSES = 4  # a rest that follows one without progress is twice as long, this often
PULSE = 8  # windows at rest that make one reading

Point = tuple[int, ...]
Octaves = tuple[float, ...]


class Reading(Frozen, frozen=True):
    """The medians of one window, None where there was no sample. `at` is what was set."""

    at: Point
    t: float
    value: float
    guards: tuple[float | None, ...] = ()


class ClimbMemory(Frozen, frozen=True):
    """Everything a search remembers. `at` and `best` are one number a span."""

    spans: tuple[Span, ...]  # the climb's, or as advice narrowed them
    values: Writes  # the knobs' whole values, at `at`
    at: Point
    best: Point
    origin: Point  # where it began, or was restarted: the guards are held against it
    seed: int
    readings: tuple[Reading, ...] = ()
    pulse: tuple[Reading, ...] = ()  # the newest windows at rest
    silent: int = 0  # windows on end without a sample
    suspect: Point | None = None  # the setting at which the objective fell silent
    mute: tuple[Point, ...] = ()  # settings at which it does, while it speaks elsewhere
    count: int = 0  # windows read since the beginning
    bout: int = 0  # of these, since it last began to search
    stall: int = 0  # of these, since the last progress
    anchor: Point | None = None  # the best at that time
    noise: float = NOISE
    gain: float | None = None  # what the model expected of the last try, relative
    done: str = ""  # why it is on its way to the best, to rest there
    came_from: Point | None = None  # on that way: where it was before
    why: str = ""  # why it rests; "" while it searches
    check_at: float = 0.0
    idle: int = 0  # rests on end since it last made progress


class Try(Frozen, frozen=True):
    """Set these next and bring the samples of the window that follows."""

    writes: Writes
    gain: float  # expected, relative: 0.1 is ten percent


class Rest(Frozen, frozen=True):
    """Leave these set; go on bringing samples, so that the search can wake."""

    writes: Writes
    why: str


Move = Try | Rest


def as_rule(climb: Climb) -> Rule:
    """What a search and a rule have in common, for those who ask either."""
    return Rule(
        id=climb.id,
        when=(),
        do=tuple(Action(span.knob, Op.SET, span.low, field=span.field) for span in climb.spans),
        expect=climb.expect,
        reason=climb.reason,
        source=climb.source,
        guard=climb.guard,
        confidence=climb.confidence,
        origin=climb.origin,
        settle_s=climb.settle_s,
        dwell_s=climb.dwell_s,
    )


def begin(climb: Climb, live: Mapping[str, Value], t: float, seed: int) -> ClimbMemory:
    """A search from what the knobs hold now. KnobError: no number there, or a span without room."""
    for span in climb.spans:
        _room(span)
    point = tuple(_held(span, live.get(span.knob)) for span in climb.spans)
    values = tuple(Write(knob, live[knob]) for knob in dict.fromkeys(span.knob for span in climb.spans))
    return ClimbMemory(climb.spans, values, point, point, point, seed, check_at=t)


def wrote(memory: ClimbMemory, values: Mapping[str, Value]) -> ClimbMemory:
    """What the last move came to, where it was not what it asked for: clamped, rounded, or refused."""
    live = {write.knob: values.get(write.knob, write.value) for write in memory.values}
    at = tuple(map(_held, memory.spans, (live.get(span.knob) for span in memory.spans)))
    return msgspec.structs.replace(memory, values=tuple(map(Write, live, live.values())), at=at)


def restarted(climb: Climb, memory: ClimbMemory, t: float) -> ClimbMemory:
    """The workload is another one: nothing measured holds, and the search begins from where it is."""
    live = {write.knob: write.value for write in memory.values}
    fresh = begin(climb, live, t, memory.seed + 1)
    return msgspec.structs.replace(fresh, spans=memory.spans, noise=memory.noise)


def advance(
    climb: Climb, memory: ClimbMemory, seen: Mapping[str, Sequence[float]], t: float
) -> tuple[ClimbMemory, Move]:
    """One window is over: what to do next.

    `seen`: samples of the objective and of the guards, with what the last move asked for set all the while.
    """
    value = _middle(seen.get(climb.expect.metric, ()))
    if value is None:
        return _unheard(climb, memory, t)
    if memory.suspect is not None:  # silent there, and not here
        mute = tuple(dict.fromkeys((*memory.mute, memory.suspect)))
        memory = msgspec.structs.replace(memory, mute=mute)
    guards = tuple(_middle(seen.get(guard.metric, ())) for guard in climb.guard)
    reading = Reading(memory.at, t, value, guards)
    done = "" if memory.silent else memory.done
    heard = msgspec.structs.replace(memory, silent=0, suspect=None, done=done)
    if memory.why and not memory.silent:
        pulse = (*memory.pulse, reading)[-PULSE:]
        heard = msgspec.structs.replace(heard, pulse=pulse)
        if t < memory.check_at:
            return heard, Rest(heard.values, heard.why)
        reading = msgspec.structs.replace(reading, value=median(one.value for one in pulse))
    heard = _with(heard, reading)
    return _settle(climb, heard, heard.done, t) if heard.done else _search(climb, heard, t)


def _with(memory: ClimbMemory, reading: Reading) -> ClimbMemory:
    readings = (*memory.readings, reading)
    if len(readings) > READINGS:  # the first two are the origin's
        readings = readings[:2] + readings[3:]
    return msgspec.structs.replace(memory, readings=readings, count=memory.count + 1, pulse=())


def _unheard(climb: Climb, memory: ClimbMemory, t: float) -> tuple[ClimbMemory, Move]:
    """No sample, perhaps because of what is being tried: back to the best, wait a little, then rest."""
    suspect = memory.at if memory.at != memory.best and not memory.silent else memory.suspect
    memory = msgspec.structs.replace(memory, silent=memory.silent + 1, suspect=suspect)
    if memory.at == memory.best and memory.silent < SILENCE and not memory.why:
        return memory, Try(memory.values, 0.0)
    return _settle(climb, memory, f"no sample of {climb.expect.metric}", t)


def _search(climb: Climb, memory: ClimbMemory, t: float) -> tuple[ClimbMemory, Move]:
    model = _Model(climb, memory, t)
    best = model.best()
    bout, stall, anchor = memory.bout + 1, memory.stall + 1, memory.anchor
    if memory.why:
        bout, stall, anchor = 0, 0, None
    progress = anchor is not None and model.gain(best, anchor) > climb.expect.min_effect
    if anchor is None or progress:
        stall, anchor = 0, best
    memory = msgspec.structs.replace(
        memory,
        best=best,
        noise=model.noise,
        bout=bout,
        stall=stall,
        anchor=anchor,
        idle=0 if progress else memory.idle,
    )
    spans, enough = 1 + len(memory.spans), climb.expect.min_effect / 2
    goals = _candidates(climb, memory)
    gain, point = model.most_promising([_toward(climb, memory, goal) for goal in goals])
    if gain < enough:  # nothing within one move from here: then what lies on the other side of the best
        gain, point = model.most_promising(goals)
    memory = msgspec.structs.replace(memory, gain=gain)
    if memory.count > 2 * spans and gain < enough:
        return _settle(climb, memory, f"at most {gain:.1%} more is expected of any other setting", t)
    if stall >= PATIENCE * spans:
        return _settle(climb, memory, f"{stall} tries on end brought nothing better", t)
    if bout >= BOUT * spans:
        return _settle(climb, memory, f"{bout} tries are enough for now", t)
    return _go(climb, msgspec.structs.replace(memory, why=""), point, gain)


def _settle(climb: Climb, memory: ClimbMemory, why: str, t: float) -> tuple[ClimbMemory, Move]:
    """To the best, in as many steps as it takes, and rest there; or here, if nothing moves."""
    if memory.at in (memory.best, memory.came_from):
        return _rest(climb, memory, why, t)
    on_the_way = msgspec.structs.replace(memory, done=why, came_from=memory.at)
    return _go(climb, on_the_way, memory.best, 0.0)


def _rest(climb: Climb, memory: ClimbMemory, why: str, t: float) -> tuple[ClimbMemory, Move]:
    pause = climb.recheck_s * 2 ** min(memory.idle, PAUSES)
    idle = memory.idle if memory.why else memory.idle + 1  # it had not stirred
    memory = msgspec.structs.replace(memory, why=why, check_at=t + pause, idle=idle, done="", came_from=None)
    return memory, Rest(memory.values, why)


def _go(climb: Climb, memory: ClimbMemory, goal: Point, gain: float) -> tuple[ClimbMemory, Move]:
    at = _toward(climb, memory, goal)
    values: dict[str, Value] = {write.knob: write.value for write in memory.values}
    for span, number in zip(memory.spans, at, strict=True):
        old = values[span.knob]
        if isinstance(old, tuple) and span.field is not None:
            values[span.knob] = (*old[: span.field], number, *old[span.field + 1 :])
        else:
            values[span.knob] = number
    writes = tuple(Write(knob, value) for knob, value in values.items())
    return msgspec.structs.replace(memory, at=at, values=writes), Try(writes, gain)


def _middle(samples: Sequence[float]) -> float | None:
    real = [sample for sample in samples if math.isfinite(sample)]
    return median(real) if real else None


# ------------------------------------------------------------------------ settings and steps


def octaves(span: Span, number: int) -> float:
    """Where a setting lies: its logarithm to base 2, or one that goes through 0 where the span does."""
    if span.low > 0 and number > 0:
        return math.log2(number)
    return math.copysign(math.log2(1 + abs(number) / span.quantum), number)


def _number(span: Span, at: float) -> float:
    return 2.0**at if span.low > 0 else math.copysign((2.0 ** abs(at) - 1) * span.quantum, at)


def _room(span: Span) -> tuple[int, int]:
    """The lowest and the highest multiple of the quantum inside the span."""
    low, high = -(-span.low // span.quantum) * span.quantum, span.high // span.quantum * span.quantum
    if low > high:
        what = f"has no multiple of {span.quantum} between {span.low} and {span.high}"
        raise KnobError(span.knob, "probe", what, hint="widen the climb's range")
    return low, high


def _held(span: Span, value: Value | None) -> int:
    """The span's number in a knob's value."""
    match value, span.field:
        case int(), None:
            return value
        case tuple(), int(field) if 0 <= field < len(value):
            return value[field]
    what = f"holds {value!r}, of which {'all' if span.field is None else f'field {span.field}'} is no number"
    raise KnobError(span.knob, "probe", what, hint="take it out of the climb")


def _width(span: Span) -> float:
    low, high = _room(span)
    return octaves(span, high) - octaves(span, low)


def _nearest(span: Span, at: float) -> int:
    low, high = _room(span)
    return min(max(round(_number(span, at) / span.quantum) * span.quantum, low), high)


def _toward(climb: Climb, memory: ClimbMemory, goal: Point) -> Point:
    """As near to `goal` as one move may come: a factor of `climb.step`, or one quantum where that is more.

    What is outside its span (it began there) enters it at once: nothing outside is ever written.
    """
    return tuple(
        _one_step(span, now, wanted, climb.step)
        for span, now, wanted in zip(memory.spans, memory.at, goal, strict=True)
    )


def _one_step(span: Span, now: int, goal: int, step: float) -> int:
    low, high = _room(span)
    if not low <= now <= high:
        return low if now < low else high
    far = math.log2(step)
    at = octaves(span, now)
    up = _number(span, at + far) + 1e-6  # 2 ** log2(x) may fall short of x
    down = _number(span, at - far) - 1e-6
    most = max(math.floor(up / span.quantum) * span.quantum, now + span.quantum)
    least = min(math.ceil(down / span.quantum) * span.quantum, now - span.quantum)
    return min(max(goal, least, low), most, high)


def _candidates(climb: Climb, memory: ClimbMemory) -> list[Point]:
    """Settings within one move of the best or of what is set now, knob by knob and at random."""
    chance = random.Random(memory.seed * 1_000_003 + memory.count)
    strides = [min(math.log2(climb.step), _width(span) / 2) for span in memory.spans]
    centres = tuple(dict.fromkeys((memory.best, memory.at)))
    goals = list(centres)
    for centre in centres:
        for n, span in enumerate(memory.spans):
            for share in (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0):
                there = _nearest(span, octaves(span, centre[n]) + share * strides[n])
                goals.append((*centre[:n], there, *centre[n + 1 :]))
    if len(memory.spans) > 1:
        for _ in range(8):
            goals.append(
                tuple(
                    _nearest(span, octaves(span, number) + chance.gauss(0, stride / 2))
                    for span, number, stride in zip(memory.spans, memory.best, strides, strict=True)
                )
            )
    return goals


# ------------------------------------------------------------------------------- the model


class _Model:
    """What the readings say about the objective and the guards; smaller is better, all in logarithms."""

    def __init__(self, climb: Climb, memory: ClimbMemory, t: float) -> None:
        self.memory = memory
        self.reach = [min(REACH, 0.4 * _width(span)) or 1.0 for span in memory.spans]
        readings = memory.readings
        self.places = [self._place(one.at) for one in readings]
        times = [one.t for one in readings]
        age = [1 + ((t - one) / FADE_S) ** 2 for one in times]
        near = [[_alike(here, there) for there in self.places[: n + 1]] for n, here in enumerate(self.places)]
        drift = [
            [DRIFT**2 * math.exp(-abs(one - two) / DRIFT_S) for two in times[: n + 1]]
            for n, one in enumerate(times)
        ]
        costs = _costs([one.value for one in readings], climb.expect.way)
        self.objective = _Surface(costs, near, drift, age, memory.noise)
        self.noise = self.objective.noise
        self.guards: list[tuple[Guard, _Surface, list[int]]] = []
        for n, guard in enumerate(climb.guard):
            known = [i for i, one in enumerate(readings) if one.guards[n] is not None]
            if known:
                values = [value for one in readings if (value := one.guards[n]) is not None]
                surface = _Surface(
                    _costs(values, guard.better),
                    [[near[i][j] for j in known if j <= i] for i in known],
                    [[drift[i][j] for j in known if j <= i] for i in known],
                    [age[i] for i in known],
                    NOISE,
                )
                self.guards.append((guard, surface, known))

    def _place(self, point: Point) -> Octaves:
        return tuple(
            octaves(span, number) / reach
            for span, number, reach in zip(self.memory.spans, point, self.reach, strict=True)
        )

    def _near(self, point: Point) -> list[float]:
        here = self._place(point)
        return [_alike(here, there) for there in self.places]

    def best(self) -> Point:
        """The measured setting of the lowest expected cost; the origin if guards are against all."""
        found: list[tuple[float, Point]] = []
        for point in sorted({one.at for one in self.memory.readings} - set(self.memory.mute)):
            near = self._near(point)
            if _inside(self.memory.spans, point) and not self._worse(point, near):
                found.append((self.objective.mean(near), point))
        return min(found)[1] if found else _enter(self.memory.spans, self.memory.origin)

    def gain(self, here: Point, there: Point) -> float:
        """How much better `here` is expected to be, as a share."""
        alike = _alike(self._place(here), self._place(there))
        return -math.expm1(-self.objective.compare(self._near(here), self._near(there), alike)[0])

    def most_promising(self, points: Sequence[Point]) -> tuple[float, Point]:
        """The highest gain over the best that is expected of any point, as a share, and that point."""
        best = self._near(self.memory.best)
        found = []
        for point in dict.fromkeys(points):
            if point in self.memory.mute:
                continue
            near = self._near(point)
            if point != self.memory.best and self._worse(point, near):
                continue
            alike = _alike(self._place(point), self._place(self.memory.best))
            better, doubt = self.objective.compare(near, best, alike)
            if point == self.memory.best:
                doubt = self.objective.doubt(near) / 2  # what another look may correct
            found.append((_expected_gain(better, doubt), point))
        gain, point = max(found, default=(0.0, self.memory.best))
        return -math.expm1(-gain), point

    def _worse(self, point: Point, near: Sequence[float]) -> bool:
        """Is a guard worse than at the origin, beyond its margin and the doubt?"""
        origin = self._near(self.memory.origin)
        alike = _alike(self._place(point), self._place(self.memory.origin))
        for guard, surface, known in self.guards:
            here, there = [near[i] for i in known], [origin[i] for i in known]
            better, doubt = surface.compare(here, there, alike)
            if -better - doubt > math.log1p(guard.margin):
                return True
        return False


class _Surface:
    """A Gaussian process over readings: `near` and `drift` are the lower triangles of what they share."""

    def __init__(
        self,
        costs: Sequence[float],
        near: Sequence[Sequence[float]],
        drift: Sequence[Sequence[float]],
        age: Sequence[float],
        noise: float,
    ) -> None:
        self.middle = median(costs)
        away = [cost - self.middle for cost in costs]
        self.relief = max(RELIEF, 1.4826 * median(map(abs, away))) ** 2
        self.noise, weight = noise, list(age)
        for last in (False, True):
            rows = [
                [self.relief * a + b for a, b in zip(*pair, strict=True)]
                for pair in zip(near, drift, strict=True)
            ]
            for n, row in enumerate(rows):
                row[n] += self.noise**2 * weight[n]
            self.root = _cholesky(rows)
            self.pull = _back(self.root, _forward(self.root, away))
            if last:
                break
            left = [self.noise**2 * w * pull for w, pull in zip(weight, self.pull, strict=True)]
            spread = 1.4826 * median(map(abs, left))
            n = len(costs)
            self.noise = math.sqrt((NOISE_WEIGHT * NOISE**2 + n * 1.3 * spread**2) / (NOISE_WEIGHT + n))
            weight = [
                max(1.0, (one / (SPIKE * self.noise)) ** 2) * old for one, old in zip(left, age, strict=True)
            ]

    def mean(self, near: Sequence[float]) -> float:
        return self.middle + self.relief * _dot(near, self.pull)

    def doubt(self, near: Sequence[float]) -> float:
        seen = _forward(self.root, near)
        return math.sqrt(max(self.relief - self.relief**2 * _dot(seen, seen), 1e-9))

    def compare(self, near: Sequence[float], other: Sequence[float], alike: float) -> tuple[float, float]:
        """How much lower the cost is expected here than there, and the standard deviation of that."""
        less = [a - b for a, b in zip(near, other, strict=True)]
        seen = _forward(self.root, less)
        variance = 2 * self.relief * (1 - alike) - self.relief**2 * _dot(seen, seen)
        return -self.relief * _dot(less, self.pull), math.sqrt(max(variance, 1e-9))


def _dot(one: Sequence[float], two: Sequence[float]) -> float:
    """Of the shorter one's length."""
    total: float = sum(map(mul, one, two))
    return total


def _alike(here: Octaves, there: Octaves) -> float:
    """Matérn's kernel of 5/2: smooth, but it can follow a cliff."""
    far = math.sqrt(5) * math.dist(here, there)
    return (1 + far + far * far / 3) * math.exp(-far)


def _inside(spans: Sequence[Span], point: Point) -> bool:
    return all(span.low <= number <= span.high for span, number in zip(spans, point, strict=True))


def _enter(spans: Sequence[Span], point: Point) -> Point:
    rooms = map(_room, spans)
    return tuple(min(max(number, low), high) for number, (low, high) in zip(point, rooms, strict=True))


def _costs(values: Sequence[float], good: Way) -> list[float]:
    """Logarithms, smaller is better. What is not above 0 is `FLOOR` of the usual."""
    usual = median([value for value in values if value > 0] or [1.0])
    sign = 1 if good is Way.DOWN else -1
    return [sign * math.log(max(value, usual * FLOOR)) for value in values]


def _expected_gain(better: float, doubt: float) -> float:
    z = better / doubt
    return better * math.erfc(-z / math.sqrt(2)) / 2 + doubt * math.exp(-z * z / 2) / math.sqrt(math.tau)


def _cholesky(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    root: list[list[float]] = []
    for n, row in enumerate(rows):
        out: list[float] = []
        for m in range(n):
            out.append((row[m] - _dot(out, root[m])) / root[m][m])
        out.append(math.sqrt(max(row[n] - _dot(out, out), 1e-12)))
        root.append(out)
    return root


def _forward(root: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    out: list[float] = []
    for row, value in zip(root, right, strict=True):
        out.append((value - _dot(row, out)) / row[len(out)])
    return out


def _back(root: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    out = list(right)
    for n in range(len(out) - 1, -1, -1):
        out[n] /= root[n][n]
        for m in range(n):
            out[m] -= root[n][m] * out[n]
    return out
