"""The search finds, under noise, what a random one does not: seeds are fixed, thresholds are measured.

Each threshold lies between what the climb and what random search reach over these seeds (the figures stand
beside it), and a test checks that random search would fail it.
"""

from __future__ import annotations

from functools import cache
from statistics import median

import pytest

from workloads.climb_bench import NOISES, Run, simulate
from workloads.landscape import LANDSCAPES

SEEDS = range(15)


@cache
def found(curve: str, arm: str) -> list[Run]:
    return simulate(LANDSCAPES[curve], SEEDS, NOISES, [arm])[arm]


# curve, which mark (0: after 10 tries, 1: 20, 2: 40), how far away at most        climb, random
REACHED = [
    ("bowl2", 1, 0.06),  # 0.02, 0.10
    ("bowl3", 2, 0.10),  # 0.04, 0.24
    ("bowl4", 2, 0.15),  # 0.02, 0.37
]
# curve, what the search may cost on the way, as a share of the best
PAID = [
    ("slice", 0.25),  # 0.04, 0.59
    ("bowl1", 0.40),  # 0.15, 1.19
    ("bowl2", 0.60),  # 0.20, 2.11
    ("bowl4", 1.20),  # 0.44, 5.85
    ("drift", 0.40),  # 0.15, 1.19
    ("shift", 0.60),  # 0.24, 1.10
]


@pytest.mark.parametrize(("curve", "mark", "away"), REACHED)
def test_reaches_the_best_and_random_does_not(curve: str, mark: int, away: float) -> None:
    climb, chance = (median(run.away[mark] for run in found(curve, arm)) for arm in ("climb", "random"))
    assert climb <= away < chance


@pytest.mark.parametrize(("curve", "paid"), PAID)
def test_the_way_there_is_cheap_and_a_random_one_is_not(curve: str, paid: float) -> None:
    climb, chance = (median(run.on_the_way for run in found(curve, arm)) for arm in ("climb", "random"))
    assert climb <= paid < chance
