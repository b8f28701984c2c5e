"""How near the best is the climb after 10, 20 and 40 tries, beside Optuna's TPE and random search?

    python -m workloads.climb_bench [--seeds N] [--only NAME] [--noise SIGMA]     made-up and measured curves
    python -m workloads.climb_bench --real [--rounds N]                          a real scheduler, real noise
    python -m workloads.climb_bench --cost                                       CPU time of one `advance`

One try is one second. All arms begin at the same bad setting and have the same room, noise and number of
tries; the climb alone may not move by more than a factor of 4 a try, and alone may stop. "Away" is how much
worse than the best of the grid the setting is, without noise, that an arm would choose then: the climb its
best, the others the best they have seen. "On the way" is the same, averaged over what was set in all tries:
what the workload pays for the search.

--real: `sysbench cpu`, 16 threads on two CPUs, started here; the knob is the slice of its threads
(sched_setattr(2)), the objective the p95 of each second. A grid of slices is passed before each round, in
random order, two seconds each after one that does not count; the arms take turns in random order too. "Away"
is read off the grid's medians, straight in log-log between its points. Nothing but these threads is touched.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Protocol

import msgspec

from tuned_spec.model import Climb, Expect, Span, Way
from tuned_spec.speculate import climb
from workloads.landscape import LANDSCAPES, Landscape, Point, table

MARKS = (10, 20, 40)
NOISES = (0.05, 0.15, 0.30)

# ----------------------------------------------------------------------------------- arms


class Arm(Protocol):
    """Searches: where next, this is what came of it, and what it would choose now."""

    def ask(self) -> Point: ...
    def tell(self, at: Point, value: float, t: float) -> None: ...
    def choice(self) -> Point: ...
    def changed(self, t: float) -> None:
        """The workload is another one."""


class Climbing:
    def __init__(self, low: Point, high: Point, start: Point, seed: int, quantum: int = 1) -> None:
        spans = tuple(
            Span(str(n), a, b, quantum=quantum) for n, (a, b) in enumerate(zip(low, high, strict=True))
        )
        self.plan = Climb("bench", spans, Expect("m", Way.DOWN), "a measurement", "none")
        self.memory = climb.begin(self.plan, {str(n): x for n, x in enumerate(start)}, 0.0, seed)

    def ask(self) -> Point:
        return self.memory.at

    def tell(self, at: Point, value: float, t: float) -> None:
        self.memory, _ = climb.advance(self.plan, self.memory, {"m": [value]}, t)

    def choice(self) -> Point:
        return self.memory.best

    def changed(self, t: float) -> None:
        self.memory = climb.restarted(self.plan, self.memory, t)


class Guessing:
    """Uniform in log; chooses the best it has seen."""

    def __init__(self, low: Point, high: Point, start: Point, seed: int, quantum: int = 1) -> None:
        self.low, self.high, self.next, self.quantum = low, high, start, quantum
        self.chance = random.Random(seed)
        self.seen: list[tuple[float, Point]] = []

    def ask(self) -> Point:
        return self.next

    def tell(self, at: Point, value: float, t: float) -> None:
        self.seen.append((value, at))
        self.next = tuple(
            max(round(a * (b / a) ** self.chance.random() / self.quantum), 1) * self.quantum
            for a, b in zip(self.low, self.high, strict=True)
        )

    def choice(self) -> Point:
        return min(self.seen)[1]

    def changed(self, t: float) -> None:
        self.next, self.seen = self.choice(), []


class Tpe:
    """Optuna's tree-structured Parzen estimator, as it is by default; the start is its first trial."""

    def __init__(self, low: Point, high: Point, start: Point, seed: int, quantum: int = 1) -> None:
        self.low, self.high, self.seed, self.quantum = low, high, seed, quantum
        self.begin(start)

    def begin(self, start: Point) -> None:
        optuna = _optuna()
        self.study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed))
        self.study.enqueue_trial({str(n): x // self.quantum for n, x in enumerate(start)})
        self.trial: Any = None

    def ask(self) -> Point:
        self.trial = self.trial or self.study.ask()
        return tuple(
            self.quantum * self.trial.suggest_int(str(n), a // self.quantum, b // self.quantum, log=True)
            for n, (a, b) in enumerate(zip(self.low, self.high, strict=True))
        )

    def tell(self, at: Point, value: float, t: float) -> None:
        self.study.tell(self.trial, value)
        self.trial = None

    def choice(self) -> Point:
        best = self.study.best_params
        return tuple(best[str(n)] * self.quantum for n in range(len(self.low)))

    def changed(self, t: float) -> None:
        self.seed += 1
        self.begin(self.choice())


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SystemExit(
            "optuna is not installed: .venv/bin/pip install 'optuna>=4', or -e '.[bench]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


ARMS: dict[str, Callable[..., Arm]] = {"climb": Climbing, "tpe": Tpe, "random": Guessing}

# --------------------------------------------------------------------------------- results


class Run(msgspec.Struct, frozen=True):
    """One search; shares by which it was worse than the best."""

    away: tuple[float, ...]  # at each of MARKS
    on_the_way: float  # geometric mean
    tries: int  # until it stopped moving


def spread(shares: Sequence[float]) -> str:
    """Median and quartiles in percent."""
    low, middle, high = quantiles(shares, n=4, method="inclusive")
    return f"{middle:.0%} ({low * 100:.0f}..{high * 100:.0f})"


def lines(where: str, runs: dict[str, list[Run]]) -> Iterator[str]:
    for name, found in runs.items():
        away = [spread([run.away[n] for run in found]) for n in range(len(MARKS))]
        cost = f"{median(run.on_the_way for run in found):.0%}"
        tries = f"{median(run.tries for run in found):.0f}"
        yield f"| {where} | {name} | {' | '.join(away)} | {cost} | {tries} |"


def heading() -> str:
    marks = " | ".join(f"away after {n}" for n in MARKS)
    return f"| curve | arm | {marks} | on the way | tries |\n|---|---|{'---|' * len(MARKS)}---|---|"


def search(
    arm: Arm,
    look: Callable[[Point, int], float],
    cost: Callable[[Point, int], float],
    best: Callable[[int], float],
    shift_s: float | None = None,
) -> Run:
    """`look` is what an arm is shown, `cost` and `best` are the truth."""
    path: list[Point] = []
    away: list[float] = []
    for t in range(MARKS[-1]):
        if t == shift_s:
            arm.changed(t)
        at = arm.ask()
        path.append(at)
        arm.tell(at, look(at, t), t)
        if t + 1 in MARKS:
            away.append(cost(arm.choice(), t) / best(t) - 1)
    paid = fmean(math.log(cost(at, t) / best(t)) for t, at in enumerate(path))
    tries = max((t for t in range(1, len(path)) if path[t] != path[t - 1]), default=0) + 1
    return Run(tuple(away), math.expm1(paid), tries)


# ------------------------------------------------------------------------------- simulated


def simulate(
    land: Landscape, seeds: Sequence[int], noises: Sequence[float], arms: Sequence[str]
) -> dict[str, list[Run]]:
    bests = (
        {t: land.best(t) for t in range(MARKS[-1])} if land.moves else dict.fromkeys(range(40), land.best(0))
    )
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for seed in seeds:
        noise = noises[seed % len(noises)]
        for name in arms:
            chance = random.Random(seed * 7919 + 1)  # the same luck for all arms
            runs[name].append(
                search(
                    ARMS[name](land.low, land.high, land.start, seed),
                    lambda at, t, noise=noise, chance=chance: land.sample(at, t, noise, chance),  # type: ignore[misc]
                    land.cost,
                    bests.__getitem__,
                    land.shift_s,
                )
            )
    return runs


def costs(seeds: int) -> Iterator[str]:
    """CPU time of `advance`, one to four knobs, once as many readings are remembered as ever are."""
    for knobs in range(1, 5):
        land, took = LANDSCAPES[f"bowl{knobs}"], []
        for seed in range(seeds):
            chance, arm = random.Random(seed), Climbing(land.low, land.high, land.start, seed)
            for t in range(2 * climb.READINGS):
                at = arm.ask()
                value = land.sample(at, t, 0.3, chance)
                began = time.thread_time()
                arm.tell(at, value, t)
                if t >= climb.READINGS:
                    took.append(time.thread_time() - began)
                arm.memory = msgspec.structs.replace(arm.memory, why="", stall=0, bout=0)  # go on
        yield f"| {knobs} | {median(took) * 1e3:.1f} | {max(took) * 1e3:.1f} | {len(took)} |"


# ------------------------------------------------------------------------------------ real

SCHED_SETATTR, SCHED_GETATTR = 314, 315  # x86-64
MS = 1_000_000
GRID = (100_000, 1 * MS, 3 * MS, 6 * MS, 10 * MS, 20 * MS, 30 * MS, 100 * MS)
START = 30 * MS
LINE = re.compile(r"lat \(ms,95%\): ([\d.]+)")


class SchedAttr(ctypes.Structure):
    """sched_setattr(2); for SCHED_OTHER `runtime` is the EEVDF slice in ns (since Linux 6.12)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


class Sysbench:
    """A load of ours, whose threads' slice is the knob."""

    def __init__(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))[:2]
        words = (
            "sysbench cpu --threads=16 --cpu-max-prime=80000 --percentile=95 --report-interval=1 --time=0 run"
        )
        try:
            self.process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, cpus)), *words.split()], stdout=subprocess.PIPE, text=True
            )
        except FileNotFoundError as error:
            raise SystemExit(f"{error.filename} is not installed: apt install sysbench util-linux") from None
        self.libc = ctypes.CDLL(None, use_errno=True)

    def set(self, slice_ns: int) -> None:
        """On each of its threads; OSError if the kernel does not take it or shows another."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            attr = SchedAttr(size=ctypes.sizeof(SchedAttr), runtime=slice_ns)
            self._call(SCHED_SETATTR, int(task.name), ctypes.byref(attr), 0)
            self._call(SCHED_GETATTR, int(task.name), ctypes.byref(attr), attr.size, 0)
            if attr.runtime != slice_ns:
                raise OSError(
                    f"thread {task.name}: slice {slice_ns} ns was written, the kernel has {attr.runtime}"
                )

    def _call(self, number: int, *args: Any) -> None:
        if self.libc.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), f"syscall {number}: {os.strerror(ctypes.get_errno())}")

    def p95_ms(self) -> float:
        """Of the second that ends with its next line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := LINE.search(line):
                return float(found[1])
        raise SystemExit(f"sysbench ended with status {self.process.wait()}")

    def at(self, slice_ns: int) -> float:
        self.set(slice_ns)
        return self.p95_ms()


@contextmanager
def sysbench() -> Iterator[Sysbench]:
    load = Sysbench()
    try:
        for _ in range(3):  # all threads are there, and warm
            load.p95_ms()
        yield load
    finally:
        load.process.kill()
        load.process.wait()
        if load.process.stdout is not None:
            load.process.stdout.close()


def real(rounds: int, arms: Sequence[str]) -> tuple[dict[str, list[Run]], dict[int, list[float]]]:
    """The runs, and the p95 of each second at each point of the grid."""
    chance = random.Random(1)
    grid: dict[int, list[float]] = {point: [] for point in GRID}
    walks: list[tuple[str, list[Point], list[Point]]] = []
    with sysbench() as load:
        for number in range(rounds):
            for point in chance.sample(GRID, len(GRID)):
                load.at(point)  # the second of the change does not count
                grid[point] += [load.p95_ms(), load.p95_ms()]
            for name in chance.sample(arms, len(arms)):
                arm = ARMS[name]((GRID[0],), (GRID[-1],), (START,), number, GRID[0])
                path, choices = [], []
                for t in range(MARKS[-1]):
                    path.append(arm.ask())
                    arm.tell(path[-1], load.at(path[-1][0]), t)
                    choices.append(arm.choice())
                walks.append((name, path, choices))
                print(
                    f"round {number + 1} of {rounds}: {name} chose {choices[-1][0] / MS} ms", file=sys.stderr
                )
    medians = {point: median(values) for point, values in grid.items()}
    curve, best = table(*medians.items()), min(medians.values())
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for name, path, choices in walks:
        away = tuple(curve(choices[mark - 1], 0) / best - 1 for mark in MARKS)
        paid = math.expm1(fmean(math.log(curve(at, 0) / best) for at in path))
        tries = max((t for t in range(1, len(path)) if path[t] != path[t - 1]), default=0) + 1
        runs[name].append(Run(away, paid, tries))
    return runs, grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=30, help="searches a curve and arm")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", choices=LANDSCAPES, action="append", help="this curve")
    parser.add_argument(
        "--noise", type=float, help="of the logarithm of one reading; else 0.05, 0.15, 0.3 in turn"
    )
    parser.add_argument("--arm", choices=ARMS, action="append", help="this arm")
    parser.add_argument("--cost", action="store_true", help="the CPU time of a step")
    parser.add_argument("--real", action="store_true", help="on a real sysbench")
    parser.add_argument("--rounds", type=int, default=8, help="of --real: each arm once")
    args = parser.parse_args()
    arms = args.arm or list(ARMS)
    before = os.getloadavg()
    if args.cost:
        print("| knobs | median, ms | most, ms | n |\n|---|---|---|---|", *costs(args.seeds), sep="\n")
    elif args.real:
        runs, grid = real(args.rounds, arms)
        print("| slice, ms | p95 of a second, ms: median (quartiles) |\n|---|---|")
        for point, values in grid.items():
            low, middle, high = quantiles(values, n=4, method="inclusive")
            print(f"| {point / MS} | {middle:.0f} ({low:.0f}..{high:.0f}) |")
        print("\n" + heading(), *lines("sysbench", runs), sep="\n")
    else:
        noises = NOISES if args.noise is None else (args.noise,)
        print(heading())
        for name in args.only or LANDSCAPES:
            print(
                *lines(
                    name, simulate(LANDSCAPES[name], range(args.first, args.first + args.seeds), noises, arms)
                ),
                sep="\n",
                flush=True,
            )
    print(
        "\nload average", *(f"{one:.1f}" for one in before), "->", *(f"{one:.1f}" for one in os.getloadavg())
    )


if __name__ == "__main__":
    main()
