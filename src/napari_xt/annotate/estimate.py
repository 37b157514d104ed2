"""How wrong a prediction is, from regions that were drawn at random and looked at, with an interval.

Knows numbers; must not know predictions, corrections or screens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of the whole, 0..1, and the interval that holds it with 95 % confidence; NaN of nothing.

    Attributes
    ----------
    value, low, high
        The share and its interval.
    regions
        How many regions it was measured in.
    """

    value: float
    low: float
    high: float
    regions: int

    def __str__(self) -> str:
        if not self.regions:
            return "not known yet"
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}, {self.regions} regions)"


def faulty(wrong: int, regions: int) -> Estimate:
    """The share of regions with any fault: Wilson's interval (Wilson 1927)."""
    if not regions:
        return Estimate(np.nan, np.nan, np.nan, 0)
    interval = stats.binomtest(wrong, regions).proportion_ci(LEVEL, method="wilson")
    return Estimate(wrong / regions, float(interval.low), float(interval.high), regions)


def mean_share(shares: NDArray[np.floating], weights: NDArray[np.floating]) -> Estimate:
    """The share of all pixels, of the shares and sizes of single regions: a ratio estimate with Student's t.

    Regions are drawn, not pixels: the interval comes of how much regions differ (Cochran 1977, section 6.4). Where none
    has a fault it ends where Wilson's interval of as many regions without a fault does.

    Parameters
    ----------
    shares, weights
        ``(n,)``: the wrong share of each region, 0..1, and its pixels.
    """
    n = len(shares)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = float(np.average(shares, weights=weights))
    spread = np.inf
    if n > 1:
        residuals = weights * (shares - value) / weights.mean()
        spread = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.sqrt((residuals**2).sum() / (n - 1) / n))
    least = faulty(0, n).high if not shares.any() else 0.0
    return Estimate(value, max(0.0, value - spread), min(1.0, max(value + spread, least)), n)
