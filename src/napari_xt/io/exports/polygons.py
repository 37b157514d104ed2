"""The connected areas of a mask as polygons, traced exactly along pixel edges while the mask streams by.

Knows rows of classes and lattice points; must not know files, scales or what a class means.

Areas are joined by pixels' sides (4-connected): each is one polygon whose rings are simple and touch at points at most,
as OGC's Simple Features ask, so every reader finds it valid. Memory is that of a band and of the areas that have not
ended yet, whatever the mask's height.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.exports.corners import NOWHERE, Bools, Corners, Ints, find_corners
from napari_xt.io.exports.outlines import Runs
from napari_xt.io.exports.rings import Rings

BAND_PX = 1 << 20  # pixels that are traced at once


class Area(NamedTuple):
    """A connected area of one class.

    Rings are int64 ``(n, 2)``, ``x, y`` in pixels of the mask, not closed, from the first of their corners by row and
    column; ``exterior`` runs clockwise as seen with y down, ``holes`` the other way.
    """

    value: int
    exterior: Ints
    holes: Sequence[Ints]
    px: int


@dataclass(slots=True, eq=False)
class _Part:
    """Rings that are known to be of one area, and how many outlines of it are still open."""

    rings: Rings = field(default_factory=Rings)
    open: int = 0
    into: _Part | None = None

    def root(self) -> _Part:
        found = self
        while found.into is not None:
            if found.into.into is not None:
                found.into = found.into.into
            found = found.into
        return found

    def join(self, other: _Part) -> None:
        one, two = self.root(), other.root()
        if one is two:
            return
        if len(one.rings) < len(two.rings):
            one, two = two, one
        one.rings.take(two.rings)
        one.open += two.open
        two.into = one


@dataclass(slots=True, eq=False)
class _Chain:
    """An open outline: pieces of corners from where it comes up from below to where it goes down."""

    part: _Part
    pieces: deque[Ints]
    saddles: bool
    into: _Chain | None = None

    def root(self) -> _Chain:
        found = self
        while found.into is not None:
            if found.into.into is not None:
                found.into = found.into.into
            found = found.into
        return found


def trace(rows: Iterable[NDArray[np.uint8]], width: int) -> Iterator[Area]:
    """The connected areas of a mask, each when its last row has gone by.

    Parameters
    ----------
    rows
        The mask from top to bottom, in strips ``(h, width)`` of any height. 0 is background.
    width
        Of the mask.
    """
    sweeps: dict[int, _Sweep] = {}
    top, before = 0, np.zeros((1, width), np.uint8)
    for band in _bands(rows, width):
        stacked = np.concatenate([before, band])
        for value in (1 + np.flatnonzero(np.bincount(stacked.ravel(), minlength=256)[1:])).tolist():
            yield from sweeps.setdefault(value, _Sweep(value)).advance(stacked == value, top)
        top, before = top + len(band), stacked[-1:]


def _bands(rows: Iterable[NDArray[np.uint8]], width: int) -> Iterator[NDArray[np.uint8]]:
    height = max(1, BAND_PX // max(1, width))
    for strip in rows:
        for first in range(0, len(strip), height):
            yield strip[first : first + height]
    yield np.zeros((1, width), np.uint8)


class _Sweep:
    """The outlines of one class; knows only those that cross the seam between what was seen and what comes."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._x: Ints = np.zeros(0, np.int64)  # of the edges across the seam, ascending
        self._chains: list[_Chain] = []  # that each belongs to

    def advance(self, inside: Bools, top: int) -> Iterator[Area]:
        """See a band, whose first row was the last before; give the areas that ended."""
        corners = find_corners(inside, top, self._x)
        runs = Runs(corners)
        ended: list[_Part] = []
        chains = [self._link(runs, index, ended) for index in range(runs.open)]
        parts = dict(enumerate(chain.part for chain in chains))
        holes, tops = runs.holes()
        for index in np.setdiff1d(np.arange(runs.open, len(runs)), holes).tolist():
            ended.append(_Part())
            ended[-1].rings.add(*runs.some(np.array([index])))
            parts[index] = ended[-1]
        if len(holes):
            self._join_holes(corners, runs, parts, inside, (holes, tops))
        self._cross(corners, runs, chains)
        roots = {id(root): root for root in map(_Part.root, ended)}
        return (Area(self.value, *root.rings.outline()) for root in roots.values() if not root.open)

    def _link(self, runs: Runs, index: int, ended: list[_Part]) -> _Chain:
        """Take an open outline of the band up; return what it became part of."""
        entry, leaving = runs.entry[index], runs.leaving[index]
        head = None if entry == NOWHERE else self._chains[entry].root()
        tail = None if leaving == NOWHERE else self._chains[leaving].root()
        chain = _linked(head, runs.xy[runs.first[index] : runs.first[index + 1]].copy(), tail)
        chain.saddles |= runs.saddles[index]
        if head is not None and head is tail:
            part = chain.part.root()
            xy = np.concatenate(chain.pieces)
            part.rings.add(xy, np.array([len(xy)]), np.array([chain.saddles]))
            part.open -= 1
            ended.append(part)
        return chain

    def _join_holes(
        self, corners: Corners, runs: Runs, parts: dict[int, _Part], inside: Bools, found: tuple[Ints, Ints]
    ) -> None:
        """A closed outline about a hole is of the area that has the next edge to the left of the hole's first pixel.

        That edge may be another hole's: the way is followed until it is not.
        """
        holes, tops = found
        x, y = tops.T
        rows, where = np.unique(y - corners.top + 1, return_inverse=True)
        width = inside.shape[1]
        starts = np.flatnonzero(np.diff(inside[rows].view(np.int8), axis=1, prepend=np.int8(0)).ravel() == 1)
        left = starts[np.searchsorted(starts, where * width + x - 1, "right") - 1] % width
        ends, of_corner, n = corners.edge_at(y, left), runs.of_corner(), len(corners.x)
        above = len(runs) - n  # outlines that came from above are counted behind those of the band
        owner = np.arange(len(runs) + len(self._chains))
        owner[holes] = np.where(ends >= n, ends + above, of_corner[np.minimum(ends, n - 1)])
        while not np.array_equal(owner, further := owner[owner]):
            owner = further
        order = holes[np.argsort(owner[holes], kind="stable")]
        for group in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
            of = int(owner[group[0]])
            part = parts[of] if of < len(runs) else self._chains[of - len(runs)].root().part
            part.root().rings.add(*runs.some(group))

    def _cross(self, corners: Corners, runs: Runs, chains: list[_Chain]) -> None:
        """Find what crosses the seam below, and that the two edges of a run of pixels there are of one area."""
        stays = np.flatnonzero(corners.joined[len(corners.x) :] == NOWHERE)
        new = [*runs.down, *runs.up]
        x = np.concatenate([self._x[stays], np.array([column for column, _ in new], np.int64)])
        crossing = [self._chains[k] for k in stays.tolist()] + [chains[i] for _, i in new]
        order = np.argsort(x)
        self._x = x[order]
        self._chains = [crossing[k].root() for k in order.tolist()]
        for left, right in zip(self._chains[::2], self._chains[1::2], strict=True):
            if left is not right:
                left.part.join(right.part)


def _linked(head: _Chain | None, xy: Ints, tail: _Chain | None) -> _Chain:
    """The chain that goes on from the end of ``head`` by ``xy`` to the beginning of ``tail``."""
    if head is not None:
        head.pieces.append(xy)
        return head if tail is None or tail is head else _merged(head, tail)
    if tail is not None:
        tail.pieces.appendleft(xy)
        return tail
    return _Chain(_Part(open=1), deque([xy]), saddles=False)


def _merged(head: _Chain, tail: _Chain) -> _Chain:
    """One chain of two: the shorter one's pieces move."""
    if len(head.pieces) >= len(tail.pieces):
        kept, gone = head, tail
        kept.pieces.extend(gone.pieces)
    else:
        kept, gone = tail, head
        kept.pieces.extendleft(reversed(gone.pieces))
    gone.pieces, gone.into = deque(), kept
    kept.saddles |= gone.saddles
    kept.part.join(gone.part)
    kept.part.root().open -= 1
    return kept
