"""Chance that is fixed by its place: the same number wherever, whenever and in whatever order it is asked for.

Knows numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Chance:
    """Numbers on an endless grid, one grid for each ``salt`` (at most 16 letters), all drawn from ``seed``."""

    seed: int

    def at(self, salt: str, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers in 0..1, evenly spread, of each row with each column: ``(len(rows), len(cols))``."""
        first, second = np.frombuffer(salt.encode().ljust(16, b"\0"), np.uint64)
        key = _mixed(_mixed(np.array([self.seed], np.int64).view(np.uint64) + first) + second)
        by_row = _mixed(rows.astype(np.int64).view(np.uint64) + key)
        both = _mixed(by_row[:, None] + cols.astype(np.int64).view(np.uint64) * _GOLDEN)
        return (both >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def choice(self, salt: str, rows: NDArray[np.int64], cols: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Whole numbers in 0..count - 1, as `at`."""
        return (self.at(salt, rows, cols) * count).astype(np.int64)

    def wave(self, salt: str, ys: NDArray[np.float64], xs: NDArray[np.float64]) -> NDArray[np.float32]:
        """Value noise in 0..1 at rising rows and columns: chance at whole numbers, smooth in between."""
        lattice = [np.arange(int(np.floor(p[0])), int(np.floor(p[-1])) + 2) for p in (ys, xs)]
        values = self.at(salt, *lattice).astype(np.float32)
        by_row = _between(values, ys - lattice[0][0])
        return _between(by_row.T, xs - lattice[1][0]).T


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble whole numbers so that neighbours have nothing in common (the finaliser of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _between(values: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of ``values`` at fractional places."""
    first = np.floor(at).astype(np.int64)
    share = (at - first).astype(np.float32)[:, None]
    share = share * share * (3 - 2 * share)
    blended: NDArray[np.float32] = values[first] * (1 - share) + values[first + 1] * share
    return blended
