"""The search's promises: where it goes, that it ends, what it makes of verdicts, silence, zeros, guards."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuned_spec.errors import KnobError
from tuned_spec.model import Climb, Expect, Guard, Span, Value, Way
from tuned_spec.speculate.climb import (
    BOUT,
    SILENCE,
    ClimbMemory,
    Move,
    Rest,
    Try,
    advance,
    begin,
    octaves,
    restarted,
    wrote,
)

Samples = dict[str, list[float]]


def climb(*spans: Span, way: Way = Way.DOWN, guard: tuple[Guard, ...] = (), step: float = 4.0) -> Climb:
    return Climb("c", spans, Expect("m", way), "reason", "source", guard, step=step)


ONE = climb(Span("k", 16, 16384))
TWO = climb(Span("k", 16, 16384), Span("l", 1, 1000))


class Host:
    """Runs one search on a curve of the settings, window after window, a second each."""

    def __init__(
        self, plan: Climb, live: dict[str, Value], samples: Callable[[list[int]], Samples], seed: int = 1
    ):
        self.plan, self.samples, self.t = plan, samples, 0.0
        self.memory: ClimbMemory = begin(plan, live, 0.0, seed)
        self.path: list[list[int]] = [self.at()]
        self.moves: list[Move] = []

    def at(self) -> list[int]:
        live = {write.knob: write.value for write in self.memory.values}
        found = []
        for span in self.plan.spans:
            value = live[span.knob]
            found.append(value[span.field or 0] if isinstance(value, tuple) else value)
        return [number for number in found if isinstance(number, int)]

    def window(self) -> Move:
        self.t += 1.0
        self.memory, move = advance(self.plan, self.memory, self.samples(self.at()), self.t)
        assert move.writes == self.memory.values
        self.path.append(self.at())
        self.moves.append(move)
        return move

    def until_rest(self, most: int = 200) -> Rest:
        for _ in range(most):
            if isinstance(move := self.window(), Rest):
                return move
        raise AssertionError(f"no rest in {most} windows")


def bowl(
    best: int, chance: random.Random | None = None, noise: float = 0.25
) -> Callable[[list[int]], Samples]:
    def samples(at: list[int]) -> Samples:
        away = math.log2(at[0] / best)
        return {"m": [10 * math.exp(0.05 * away**2 + (chance.gauss(0, noise) if chance else 0))]}

    return samples


def noise_alone(seed: int, spread: float = 0.3) -> Callable[[list[int]], Samples]:
    chance = random.Random(seed)
    return lambda at: {"m": [math.exp(chance.gauss(0, spread))]}


# ------------------------------------------------------------------------------ wherever it goes


@st.composite
def plans(draw: st.DrawFn) -> tuple[Climb, dict[str, Value]]:
    spans: list[Span] = []
    live: dict[str, Value] = {}
    for n in range(draw(st.integers(1, 4))):
        quantum = draw(st.sampled_from([1, 1, 8, 4096]))
        low = draw(st.integers(-50, 5000)) * quantum
        high = low + draw(st.integers(0, 10**6)) * quantum
        ragged = draw(st.integers(0, quantum - 1))
        field = draw(st.sampled_from([None, 0, 2]))
        spans.append(Span(f"k{n}", low, high + ragged, field, quantum))
        start = draw(st.integers(low // quantum, high // quantum)) * quantum
        live[f"k{n}"] = start if field is None else tuple(start if i == field else 7 for i in range(3))
    plan = climb(*spans, step=draw(st.sampled_from([1.1, 1.5, 2.0, 4.0, 10.0])))
    return plan, live


@settings(max_examples=60, deadline=None)
@given(plans(), st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_inside_the_spans_on_the_quantum_and_never_more_than_a_step(
    planned: tuple[Climb, dict[str, Value]], chance: random.Random, seed: int
) -> None:
    plan, live = planned

    def samples(at: list[int]) -> Samples:
        kind = chance.random()
        if kind < 0.1:
            return {}
        return {
            "m": [0.0 if kind < 0.2 else chance.lognormvariate(0, 1) for _ in range(chance.randint(1, 3))]
        }

    host = Host(plan, live, samples, seed)
    for _ in range(25):
        host.window()
    for before, after in zip(host.path, host.path[1:], strict=False):
        for span, old, new in zip(plan.spans, before, after, strict=True):
            assert span.low <= new <= span.high
            assert new % span.quantum == 0
            far = abs(octaves(span, new) - octaves(span, old))
            assert far <= math.log2(plan.step) + 1e-9 or abs(new - old) <= span.quantum
    for write in host.memory.values:  # fields that are nobody's stay as they were
        if isinstance(write.value, tuple):
            kept = [
                n for n in range(3) if n not in {span.field for span in plan.spans if span.knob == write.knob}
            ]
            assert all(write.value[n] == 7 for n in kept)


def test_a_start_outside_the_span_enters_it_at_once() -> None:
    host = Host(ONE, {"k": 1_000_000}, bowl(100))
    host.window()
    assert host.at() == [16384]


def test_two_fields_of_one_knob() -> None:
    plan = climb(Span("k", 1, 1000, field=1), Span("k", 1, 1000, field=2))
    host = Host(plan, {"k": (4, 100, 100)}, lambda at: {"m": [at[0] / at[1]]})
    for _ in range(30):
        host.window()
    (write,) = host.memory.values
    assert isinstance(write.value, tuple)
    assert write.value[0] == 4
    assert write.value[1] < 10 and write.value[2] > 500


@pytest.mark.parametrize("live", [{}, {"k": "madvise"}, {"k": (1, 2, 3)}])
def test_what_holds_no_number_is_refused_by_name(live: dict[str, Value]) -> None:
    with pytest.raises(KnobError, match=r"^k: .* is no number"):
        begin(ONE, live, 0.0, 1)


def test_a_span_without_a_multiple_of_its_quantum_is_refused() -> None:
    with pytest.raises(KnobError, match="no multiple of 4096"):
        begin(climb(Span("k", 1, 4095, quantum=4096)), {"k": 1}, 0.0, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_samples_give_the_same_moves(seed: int) -> None:
    def played() -> list[Move]:
        host = Host(TWO, {"k": 4096, "l": 30}, bowl(100, random.Random(seed)), seed)
        return [host.window() for _ in range(20)]

    assert played() == played()


def test_its_memory_survives_json() -> None:
    host = Host(TWO, {"k": 4096, "l": 30}, bowl(100, random.Random(3)))
    for _ in range(12):
        host.window()
        again = msgspec.json.decode(msgspec.json.encode(host.memory), type=ClimbMemory)
        seen = host.samples(host.at())
        assert advance(host.plan, again, seen, host.t + 1) == advance(
            host.plan, host.memory, seen, host.t + 1
        )


# ------------------------------------------------------------------------------------ it ends


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.sampled_from([ONE, TWO]))
def test_on_a_plateau_it_rests_and_says_why(seed: int, noise: float, plan: Climb) -> None:
    host = Host(plan, {"k": 512, "l": 30}, noise_alone(seed, noise), seed)
    rest = host.until_rest(BOUT * 3 + 5)  # and a few moves back to the best
    assert rest.why
    assert host.at() == list(host.memory.best)


def test_at_rest_it_looks_again_now_and_then_only() -> None:
    host = Host(ONE, {"k": 512}, noise_alone(5))
    host.until_rest()
    moves = [host.window() for _ in range(1800)]
    tries = sum(isinstance(move, Try) for move in moves)
    assert 1 <= tries <= 180


def test_at_rest_it_finds_a_best_that_has_moved_though_nobody_told_it() -> None:
    chance = random.Random(8)
    best = 64
    host = Host(ONE, {"k": 4096}, lambda at: bowl(best, chance, 0.1)(at))
    host.until_rest()
    assert 24 <= host.at()[0] <= 192
    best = 4096
    for _ in range(3600):
        host.window()
    assert host.memory.best[0] >= 1024


# ---------------------------------------------------------------------------- told from outside


def test_restart_forgets_and_finds_the_new_best() -> None:
    chance = random.Random(8)
    best = 64
    host = Host(ONE, {"k": 4096}, lambda at: bowl(best, chance, 0.1)(at))
    host.until_rest()
    best = 8192
    host.memory = restarted(host.plan, host.memory, host.t)
    assert host.memory.readings == ()
    assert host.at() == list(host.memory.best)
    host.until_rest()
    assert host.at()[0] >= 2048


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 16384), st.integers(16, 16384), st.integers(16, 16384), st.integers(0, 2**32))
def test_it_keeps_to_the_room_that_it_is_given(one: int, two: int, to: int, seed: int) -> None:
    low, high = min(one, two), max(one, two)
    to = min(max(to, low), high)
    host = Host(ONE, {"k": 4096}, bowl(64, random.Random(seed)))
    host.memory = begin(climb(Span("k", low, high)), {"k": to}, host.t, seed)
    assert host.at() == [to]
    for _ in range(20):
        host.window()
        assert low <= host.at()[0] <= high
    host.memory = restarted(host.plan, host.memory, host.t)  # which outlives the workload
    for _ in range(10):
        host.window()
        assert low <= host.at()[0] <= high


def test_a_clamped_write_is_what_was_measured() -> None:
    """The envelope allows no more than 200: what is asked for beyond is set to 200, and found to be so."""
    host = Host(ONE, {"k": 64}, lambda at: {"m": [1000.0 / at[0]]})
    for _ in range(20):
        host.window()
        host.memory = wrote(host.memory, {"k": min(host.at()[0], 200)})
    assert {reading.at[0] for reading in host.memory.readings} <= set(range(16, 201))
    assert host.memory.best == (200,)


def test_begun_elsewhere_it_leaves_a_local_minimum() -> None:
    def valleys(at: list[int]) -> Samples:  # the best is at 64, another one at 8192, a hill between them
        away = math.log2(at[0])
        return {"m": [10 * math.exp(min(0.5 * (away - 6) ** 2, 0.3 + 0.5 * (away - 13) ** 2, 3))]}

    host = Host(climb(*ONE.spans, step=1.5), {"k": 16384}, valleys)
    host.until_rest()
    assert host.at()[0] > 4096
    host.memory = begin(climb(Span("k", 16, 1024), step=1.5), {"k": 100}, host.t, 1)
    host.until_rest()
    assert 45 <= host.at()[0] <= 90


# ------------------------------------------------------------------------------ hard objectives


def test_spikes_do_not_lead_it_astray() -> None:
    found = []
    for seed in range(20):
        chance = random.Random(seed)

        def samples(at: list[int], chance: random.Random = chance) -> Samples:
            spike = 20 if chance.random() < 0.1 else 1
            return {"m": [bowl(64, chance, 0.15)(at)["m"][0] * spike]}

        host = Host(ONE, {"k": 8192}, samples, seed)
        host.until_rest()
        found.append(abs(math.log2(host.at()[0] / 64)))
    assert sorted(found)[15] <= 2


def test_a_window_counts_by_its_median() -> None:
    host = Host(ONE, {"k": 8192}, lambda at: {"m": [*bowl(64)(at)["m"] * 3, 1e9, math.nan, math.inf]})
    host.until_rest()
    assert 24 <= host.at()[0] <= 170


def test_up_is_up() -> None:
    plan = climb(Span("k", 16, 16384), way=Way.UP)
    host = Host(plan, {"k": 64}, lambda at: {"m": [float(at[0])]})
    host.until_rest()
    assert host.at() == [16384]


@pytest.mark.parametrize("way", Way)
def test_an_objective_of_nothing_but_zeros_is_a_plateau(way: Way) -> None:
    host = Host(climb(Span("k", 16, 16384), way=way), {"k": 512}, lambda at: {"m": [0.0]})
    host.until_rest()


def test_zero_is_the_best_that_falls() -> None:
    host = Host(ONE, {"k": 64}, lambda at: {"m": [0.0 if at[0] > 1000 else 5.0]})
    host.until_rest()
    assert host.at()[0] > 1000


def test_a_span_through_zero_reaches_both_ends() -> None:
    plan = climb(Span("k", -20, 19))
    for best in (-20, 0, 19):
        host = Host(plan, {"k": 5}, lambda at, best=best: {"m": [10.0 + abs(at[0] - best)]})  # type: ignore[misc]
        host.until_rest()
        assert abs(host.at()[0] - best) <= 2


def test_a_metric_that_stops_brings_it_to_rest_and_wakes_it() -> None:
    talks = True
    host = Host(ONE, {"k": 4096}, lambda at: bowl(64)(at) if talks else {})
    for _ in range(4):
        host.window()
    talks = False
    moves = [host.window() for _ in range(SILENCE + 4)]
    assert isinstance(moves[-1], Rest)
    assert "no sample of m" in moves[-1].why
    assert host.at() == list(host.memory.best)
    talks = True
    host.window()
    host.until_rest()
    assert 24 <= host.at()[0] <= 170


def test_a_setting_that_silences_the_metric_is_left_and_not_tried_again() -> None:
    host = Host(ONE, {"k": 1024}, lambda at: {} if at[0] < 256 else {"m": [float(at[0])]})
    host.until_rest()
    assert 256 <= host.at()[0] <= 512
    silent = [at[0] for at in host.path if at[0] < 256]
    assert silent
    assert len(silent) == len(set(silent))


def test_a_metric_that_never_speaks() -> None:
    host = Host(ONE, {"k": 1024}, lambda at: {})
    host.until_rest(SILENCE)
    assert host.path == [[1024]] * len(host.path)


def test_a_guard_keeps_it_from_gaming_the_objective() -> None:
    """As with long slices: the p95 looks wonderful, and the slowest wait ten times as long."""
    chance = random.Random(4)

    def samples(at: list[int]) -> Samples:
        trap = at[0] > 2000
        return {
            "m": [(1.0 if trap else 30 + at[0] / 100) * math.exp(chance.gauss(0, 0.2))],
            "max": [(600.0 if trap else 60.0) * math.exp(chance.gauss(0, 0.2))],
        }

    free = Host(ONE, {"k": 1000}, samples)
    free.until_rest()
    assert free.at()[0] > 2000
    guarded = Host(climb(Span("k", 16, 16384), guard=(Guard("max", Way.DOWN),)), {"k": 1000}, samples)
    guarded.until_rest()
    assert guarded.at()[0] <= 2000
    assert sum(at[0] > 2000 for at in guarded.path) <= 3


def test_a_guard_without_samples_does_not_stop_the_search() -> None:
    host = Host(climb(Span("k", 16, 16384), guard=(Guard("max", Way.DOWN),)), {"k": 4096}, bowl(64))
    host.until_rest()
    assert 24 <= host.at()[0] <= 170


def test_a_kernel_that_refuses_every_write_does_not_keep_it_busy() -> None:
    host = Host(ONE, {"k": 512}, noise_alone(11))
    for _ in range(BOUT * 2 + 5):
        move = host.window()
        host.memory = wrote(host.memory, {"k": 512})
    assert isinstance(move, Rest)


def test_a_range_that_closes_behind_it_does_not_keep_it_busy() -> None:
    """Nothing below 3000 can be set any more when it wants to go back to the best, which is there."""
    host = Host(ONE, {"k": 512}, bowl(512, random.Random(2)))
    moves = []
    for n in range(BOUT * 2 + 5):
        moves.append(host.window())
        if n > 6:
            host.memory = wrote(host.memory, {"k": max(host.at()[0], 3000)})
    assert any(isinstance(move, Rest) for move in moves)
