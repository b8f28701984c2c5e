"""Landscapes to search in: what an objective would be at a setting, without and with noise.

Owns made-up and measured curves only; knows nothing of who searches. `cost` is smaller-is-better and never
has noise; `sample` is what a sensor would deliver: log-normal noise, and a few spikes of 3 to 10 times.

The measured ones are curves through points of this project's own tables (p95 in ms, see docs/measurements.md
and the sources below); between the points they are straight in log-log.
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

SPIKES = 0.03  # share of samples

Point = tuple[int, ...]


class Landscape(msgspec.Struct, frozen=True):
    """`cost(x, t)` of whole-numbered settings `x` within `low`..`high`, at `t` seconds."""

    name: str
    low: Point
    high: Point
    start: Point
    cost: Callable[[Point, float], float]
    moves: bool = False  # does `cost` depend on `t`?
    shift_s: float | None = None  # when the workload changes, and the search is told

    def sample(self, x: Point, t: float, noise: float, chance: random.Random) -> float:
        """One noisy reading; `noise` is the standard deviation of its logarithm."""
        spike = chance.uniform(3, 10) if chance.random() < SPIKES else 1.0
        return self.cost(x, t) * math.exp(chance.gauss(0, noise)) * spike

    def grid(self, points: int) -> list[Point]:
        """`points` settings a knob, evenly spaced in log."""
        axes = [
            sorted({round(low * (high / low) ** (i / (points - 1))) for i in range(points)})
            for low, high in zip(self.low, self.high, strict=True)
        ]
        return list(itertools.product(*axes))

    def best(self, t: float) -> float:
        """The cost at the best of a grid, without noise: 201 points for one knob, 41, 21, 11 for more."""
        return min(self.cost(x, t) for x in self.grid((201, 41, 21, 11)[len(self.low) - 1]))


def table(*points: tuple[float, float]) -> Callable[[Point, float], float]:
    """A curve through (setting, cost), straight in log-log, flat beyond its ends."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]

    def cost(x: Point, t: float) -> float:
        at = math.log(x[0])
        n = bisect_right(xs, at)
        if n == 0 or n == len(xs):
            return math.exp(ys[min(n, len(ys) - 1)])
        share = (at - xs[n - 1]) / (xs[n] - xs[n - 1])
        return math.exp(ys[n - 1] + share * (ys[n] - ys[n - 1]))

    return cost


def bowl(low: Point, high: Point, best: Sequence[float], depth: float) -> Callable[[Point, float], float]:
    """Smooth, lowest where each knob is at the share `best` of its (log) range; they lean on each other.

    A knob at a full range's distance alone costs exp(depth) times the lowest.
    """

    def cost(x: Point, t: float) -> float:
        away = [
            math.log(v / a) / math.log(b / a) - share
            for v, a, b, share in zip(x, low, high, best, strict=True)
        ]
        lean = sum(p * q for p, q in itertools.pairwise(away))
        return 10 * math.exp(depth * (sum(a * a for a in away) + 0.8 * lean))

    return cost


def _bowls() -> dict[str, Landscape]:
    found = {}
    best = (0.25, 0.7, 0.45, 0.6)
    for n in range(1, 5):
        low, high = (16,) * n, (16384,) * n
        found[f"bowl{n}"] = Landscape(f"bowl{n}", low, high, (2048,) * n, bowl(low, high, best[:n], 5.0))
    return found


_BOWL = bowl((16,), (16384,), (0.25,), 5.0)
_OTHER = bowl((16,), (16384,), (0.75,), 5.0)
# sysbench, 16 threads on 2 CPUs, p95 by EEVDF slice: flat below the tick of 250 Hz
_SLICE = table((1e6, 61), (3e6, 61), (10e6, 92), (30e6, 231), (100e6, 300))


LANDSCAPES: dict[str, Landscape] = {
    "slice": Landscape("slice", (100_000,), (100_000_000,), (30_000_000,), _SLICE),
    # four hogs in a virtual machine of 6.12, debugfs base_slice_ns
    "base_slice": Landscape(
        "base_slice",
        (400_000,),
        (30_000_000,),
        (6_000_000,),
        table((0.4e6, 7.0), (1.4e6, 8.0), (6e6, 11.2), (30e6, 29.7)),
    ),
    # arXiv 2510.04371: from 10 ms (103) a search without the actor ends at 0.55 ms (36.24), 0.2 ms has 30.26.
    # The hill between them and the cost above and below are ours.
    "two_valleys": Landscape(
        "two_valleys",
        (50_000,),
        (50_000_000,),
        (10_000_000,),
        table((5e4, 38), (2e5, 30.26), (3.3e5, 39), (5.5e5, 36.24), (3e6, 60), (10e6, 103), (50e6, 200)),
    ),
    **_bowls(),
    "plateau": Landscape("plateau", (16,), (16384,), (512,), lambda x, t: 10.0),
    # it gets better and better up to 3000, beyond it is five times worse
    "cliff": Landscape(
        "cliff", (16,), (16384,), (64,), lambda x, t: 100 * x[0] ** -0.4 * (5 if x[0] > 3000 else 1)
    ),
    # the same load, which swells and ebbs by a factor of 2.7 every minute
    "drift": Landscape(
        "drift",
        (16,),
        (16384,),
        (2048,),
        lambda x, t: _BOWL(x, t) * math.exp(0.5 * math.sin(t * math.tau / 60)),
        moves=True,
    ),
    "shift": Landscape(
        "shift",
        (16,),
        (16384,),
        (2048,),
        lambda x, t: (_BOWL if t < 20 else _OTHER)(x, t),
        moves=True,
        shift_s=20.0,
    ),
}
