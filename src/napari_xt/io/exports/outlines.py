"""The corners of a band in the order of the outlines that they lie on.

Knows corners; must not know areas, classes or files.
"""

from __future__ import annotations

import numpy as np

from napari_xt.io.exports.corners import NOWHERE, Bools, Corners, Ints
from napari_xt.io.exports.rings import top_corners


class Runs:
    """The outlines of a band: first those that are open, from edge to edge of the band, then the closed ones.

    Attributes
    ----------
    xy
        int64 ``(n, 2)``, the corners, outline behind outline; those of outline i are ``xy[first[i]:first[i + 1]]``.
    first
        Where each begins, and the end.
    entry, leaving
        Of the open ones: the edge from above that each comes by and leaves by; `NOWHERE` for below the band.
    down, up
        Of the open ones: the columns where they leave below, and come from below, with their numbers.
    saddles
        Of each: whether it has a corner where there is another.
    """

    def __init__(self, corners: Corners) -> None:
        n = len(corners.x)
        self._after: list[int] = corners.joined[np.arange(n) ^ 1].tolist()
        self._seen = bytearray(n)
        order: list[int] = []
        ends = [0]
        self.leaving: list[int] = []
        before = corners.joined[:n]
        starts = np.flatnonzero(corners.enters & ((before == NOWHERE) | (before >= n)))
        for start in starts.tolist():
            self.leaving.append(self._follow(start, order))
            ends.append(len(order))
        for start in np.flatnonzero(corners.enters).tolist():
            if not self._seen[start]:
                self._follow(start, order)
                ends.append(len(order))
        self.entry: list[int] = np.where(before[starts] == NOWHERE, NOWHERE, before[starts] - n).tolist()
        half = np.array(order, np.int64)
        self._corner = np.stack([half, half ^ 1], axis=1).ravel()
        self.xy = np.stack([corners.x[self._corner], corners.y[self._corner]], axis=1)
        self.first = [2 * end for end in ends]
        self.saddles = self._any(corners.saddle)
        self._starts, self._flags = np.array(self.first, np.int64), np.array(self.saddles, np.bool_)
        self._count = n

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def open(self) -> int:
        """How many are open."""
        return len(self.entry)

    @property
    def down(self) -> list[tuple[int, int]]:
        """Column and number of each that leaves below."""
        return [(int(self.xy[self.first[i + 1] - 1, 0]), i) for i, k in enumerate(self.leaving) if k == NOWHERE]

    @property
    def up(self) -> list[tuple[int, int]]:
        """Column and number of each that comes from below."""
        return [(int(self.xy[self.first[i], 0]), i) for i, k in enumerate(self.entry) if k == NOWHERE]

    def holes(self) -> tuple[Ints, Ints]:
        """The closed ones about what is not of the class: their numbers, and the first corner of each, x and y."""
        starts = np.array(self.first[self.open : -1], np.int64)
        if not len(starts):
            return starts, np.zeros((0, 2), np.int64)
        steps = np.diff(self.xy[:, 0])[::2] * self.xy[::2, 1]
        signed = np.add.reduceat(steps[starts[0] // 2 :], (starts - starts[0]) // 2)
        found = np.flatnonzero(signed > 0)
        return self.open + found, top_corners(self.xy[starts[0] :], starts - starts[0])[found]

    def some(self, which: Ints) -> tuple[Ints, Ints, Bools]:
        """The corners of some of them, one after the other, how many each has, and whether it has saddles."""
        first = self._starts
        lengths = first[which + 1] - first[which]
        ends = np.cumsum(lengths)
        place = np.repeat(first[which] - ends + lengths, lengths) + np.arange(ends[-1])
        return self.xy[place], lengths, self._flags[which]

    def of_corner(self) -> Ints:
        """The outline of each of the band's corners, by the corner's number."""
        found = np.empty(self._count, np.int64)
        found[self._corner] = np.repeat(np.arange(len(self)), np.diff(self.first))
        return found

    def _follow(self, start: int, order: list[int]) -> int:
        """Walk from a corner to the end of its outline in the band; return the edge from above that it leaves by."""
        i, after, seen, n = start, self._after, self._seen, len(self._seen)
        while 0 <= i < n and not seen[i]:
            seen[i] = 1
            order.append(i)
            i = after[i]
        return i - n if i >= n else NOWHERE

    def _any(self, flags: Bools) -> list[bool]:
        if len(self.first) == 1:
            return []
        found: list[bool] = np.logical_or.reduceat(flags[self._corner], self.first[:-1]).tolist()
        return found
