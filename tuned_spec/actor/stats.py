"""What pairs of windows prove: betting e-processes and the bounds got by inverting them.

Pure functions of numbers; knows nothing of knobs, messages or time.

The unit is one pair of windows (arms A and B, order by a fair coin) and its oriented log-ratio x,
positive where B is better. If the change multiplies the metric by the same factor in every pair, then
x = m + s*d with s the coin (+1 or -1) and d whatever the load did between the two windows. Given the
past *and* d, the sign of x - m is fair: that is all the proof needs. Nothing is assumed of d, which may
be heavy-tailed, autocorrelated or drifting, and samples within a window may be as dependent as they like.

A gambler who bets a share b in [0, 1] of the capital on x > m, at stake g (odd, nondecreasing, within
[-1, 1]), multiplies it by 1 + b*g(x - m). Against a fair coin the capital is a nonnegative martingale,
and a supermartingale if the true m is lower. A fixed mixture over b is one too, so by Ville's inequality
it ever reaches 1/alpha with probability at most alpha, however often one looks and whenever one stops.
(Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference, 2023;
Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, 2024; confidence
sequences by inverting such tests: also Howard, Ramdas, McAuliffe, Sekhon, 2021.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

# (share of the capital bet, weight of that gambler). The bold one is what lets six pairs that all
# point one way suffice at alpha 0.05; the timid ones live on where a third of the pairs point back.
BETS = ((0.2, 0.25), (0.5, 0.25), (0.9, 0.50))

Floats = NDArray[np.float64]


def evidence(ratios: Sequence[float], above: float = 0.0) -> float:
    """The e-value against "the median log-ratio is at most `above`", after these pairs, in order."""
    return float(evidence_path(ratios, above)[-1]) if ratios else 1.0


def evidence_path(ratios: Sequence[float], above: float = 0.0) -> Floats:
    """`evidence` as it stood after each pair."""
    path: Floats = _capital(np.asarray(ratios, float), np.asarray([above]))[0]
    return path


def evidence_below(ratios: Sequence[float], below: float = 0.0) -> float:
    """The e-value against "the median log-ratio is at least `below`"."""
    return evidence([-x for x in ratios], -below)


def bounds(ratios: Sequence[float], alpha: float) -> tuple[float, float]:
    """Anytime-valid bounds of the median log-ratio, each missed with probability at most `alpha`.

    Infinite while there are fewer than `fewest_pairs(alpha)`. The low one is above 0 exactly when
    `evidence` has reached 1/alpha (up to the grid, which errs outwards).
    """
    x = np.asarray(ratios, float)
    return _lower(x, alpha), -_lower(-x, alpha)


def fewest_pairs(alpha: float) -> int:
    """How many pairs, all pointing one way, bring the e-value to 1/alpha."""
    n = 1
    while sum(weight * (1 + bet) ** n for bet, weight in BETS) < 1 / alpha:
        n += 1
    return n


def best_growth(pairs: int) -> float:
    """The most by which `pairs` further pairs can multiply an e-value."""
    return float((1 + max(bet for bet, _ in BETS)) ** pairs)


def rate_bound(hits: int, trials: int, level: float = 0.95) -> float:
    """Exact (Clopper-Pearson) one-sided upper bound of a rate seen `hits` times in `trials`."""
    return 1.0 if hits >= trials else float(special.betaincinv(hits + 1, trials - hits, level))


def _capital(x: Floats, centres: Floats) -> Floats:
    """The mixture's capital for each centre (rows) after each pair (columns).

    A stake is the distance from the centre, in units of the running median distance, clipped at one.
    That median includes the present pair's own distance: allowed, for the sign is fair given it, and
    d / median(past, d) still rises with d, which is what the one-sided claim needs.
    """
    distance = x[None, :] - centres[:, None]
    scale = np.empty_like(distance)
    for n in range(x.size):
        past = np.sort(np.abs(distance[:, : n + 1]), axis=1)  # np.median takes five times as long
        scale[:, n] = (past[:, n // 2] + past[:, (n + 1) // 2]) / 2
    stake = np.sign(distance)  # where half the distances are 0, the others count in full
    np.divide(np.clip(distance, -scale, scale), scale, out=stake, where=scale > 0)
    capital = np.zeros_like(stake)
    for bet, weight in BETS:
        capital += weight * np.cumprod(1 + bet * stake, axis=1)
    return capital


def _lower(x: Floats, alpha: float) -> float:
    if x.size < fewest_pairs(alpha):
        return float("-inf")
    # Far below all data every stake is 1 and the capital at its most: start where that is nearly so.
    middle, reach = float(np.median(x)), float(np.ptp(x)) + 1e-9
    while _capital(x, np.asarray([middle - reach]))[0, -1] < 1 / alpha:
        reach *= 2
        if reach > 1e6:
            return float("-inf")
    grid = np.linspace(middle - reach, middle, 257)
    kept = np.flatnonzero(_capital(x, grid)[:, -1] < 1 / alpha)
    return float(grid[max(int(kept[0]) - 1, 0)]) if kept.size else middle
