"""The claims of `stats`, against exact enumeration and against simulation with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from tuned_spec.actor import stats

ALPHA = 0.05
TRIALS = 2000
ratios = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=12)


def null_pairs(kind: str, rng: np.random.Generator, pairs: int) -> NDArray[np.float64]:
    """Log-ratios of a change that does nothing, in a load that does a lot; the coin is the trial's own."""
    windows = 2 * pairs
    shocks = rng.standard_t(1.5, windows)
    match kind:
        case "heavy":
            log = shocks
        case "autocorrelated":
            log = np.zeros(windows)
            for n in range(1, windows):
                log[n] = 0.95 * log[n - 1] + rng.normal()
        case "drifting":
            log = 0.3 * np.arange(windows) + rng.normal(size=windows)
        case "bursts":
            log = np.where(rng.random(windows) < 0.2, 4.0, 0.0) + 0.01 * shocks
        case _:
            raise AssertionError(kind)
    coin = rng.choice([-1.0, 1.0], pairs)
    return np.asarray(coin * (log[0::2] - log[1::2]))


@pytest.mark.parametrize("kind", ["heavy", "autocorrelated", "drifting", "bursts"])
def test_looking_after_every_pair_errs_no_more_than_alpha(kind: str) -> None:
    rng = np.random.default_rng(20)
    crossed = 0
    for _ in range(TRIALS):
        path = stats.evidence_path(null_pairs(kind, rng, 24).tolist())
        crossed += bool(path.max() >= 1 / ALPHA)
    # Not more than alpha, as far as 2,000 trials can tell.
    assert binomtest(crossed, TRIALS, ALPHA, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("kind", ["heavy", "autocorrelated"])
def test_bounds_hold_at_every_pair_at_once(kind: str) -> None:
    rng, trials, true = np.random.default_rng(21), 150, 0.4
    missed_low = missed_high = 0
    for _ in range(trials):
        x = (null_pairs(kind, rng, 16) + true).tolist()
        found = [stats.bounds(x[:n], ALPHA) for n in range(6, 17)]
        missed_low += any(low > true for low, _ in found)
        missed_high += any(high < true for _, high in found)
    for missed in (missed_low, missed_high):
        assert binomtest(missed, trials, ALPHA, alternative="greater").pvalue > 0.001


@settings(deadline=None)
@given(ratios)
def test_it_is_a_martingale_whatever_the_distances(x: list[float]) -> None:
    """All sign patterns of given distances, equally likely, average to a capital of exactly 1."""
    distances = x[:7]
    capitals = [
        stats.evidence([s * d for s, d in zip(signs, distances, strict=True)])
        for signs in itertools.product((-1, 1), repeat=len(distances))
    ]
    assert np.mean(capitals) == pytest.approx(1.0)


@settings(deadline=None)
@given(ratios, st.floats(0, 3))
def test_worse_than_the_null_only_loses_on_average(x: list[float], shift: float) -> None:
    """The one-sided claim: a fair coin shifted down never gains."""
    distances = x[:7]
    capitals = [
        stats.evidence([s * d - shift for s, d in zip(signs, distances, strict=True)])
        for signs in itertools.product((-1, 1), repeat=len(distances))
    ]
    assert np.mean(capitals) <= 1 + 1e-9


@settings(deadline=None)
@given(ratios)
def test_the_path_is_what_was_known_at_the_time(x: list[float]) -> None:
    path = stats.evidence_path(x)
    assert path[: len(x) // 2 + 1] == pytest.approx(stats.evidence_path(x[: len(x) // 2 + 1]))
    assert path[-1] == stats.evidence(x)


@settings(deadline=None)
@given(ratios)
def test_bounds_are_ordered_and_mirror(x: list[float]) -> None:
    low, high = stats.bounds(x, ALPHA)
    assert low <= high
    assert stats.bounds([-v for v in x], ALPHA) == (-high, -low)


def test_no_pairs_prove_nothing_and_ties_neither() -> None:
    assert stats.evidence([]) == 1.0
    assert stats.evidence([0.0] * 20) == 1.0
    assert stats.bounds([], ALPHA) == (-math.inf, math.inf)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 0.001])
def test_fewest_pairs_is_exactly_that(alpha: float) -> None:
    few = stats.fewest_pairs(alpha)
    assert stats.evidence([0.5] * few) >= 1 / alpha > stats.evidence([0.5] * (few - 1))
    assert math.isfinite(stats.bounds([0.5] * few, alpha)[0])
    assert math.isinf(stats.bounds([0.5] * (few - 1), alpha)[0])


@settings(deadline=None)
@given(ratios, st.integers(1, 8))
def test_nothing_grows_faster_than_best_growth(x: list[float], more: int) -> None:
    assert stats.evidence(x + [9.0] * more) <= stats.evidence(x) * stats.best_growth(more) * (1 + 1e-9)


@pytest.mark.parametrize(("hits", "trials"), [(0, 200), (3, 200), (20, 20), (1, 1), (19, 20)])
def test_rate_bound_is_clopper_pearson(hits: int, trials: int) -> None:
    interval = binomtest(hits, trials, alternative="less").proportion_ci(0.95, "exact")
    assert stats.rate_bound(hits, trials) == pytest.approx(interval.high)
