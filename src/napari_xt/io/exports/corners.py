"""The corners of a mask class in a band of rows, and how edges join them: arrays in, arrays out.

Knows pixels and lattice points only; must not know polygons, files or what a class means.

Pixel ``(r, c)`` covers ``[r, r + 1) x [c, c + 1)``, so corners are whole ``(y, x)``. Edges run with the class on
their right (y down): a pixel's top to the right, its right side down. A corner joins one horizontal and one vertical
edge. Where two pixels of the class touch by a corner only, there are two corners, one for each: areas are joined by
sides, never by corners (4-connected).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# By which of the pixels NW 1, NE 2, SW 4, SE 8 are of the class: for each corner, that with its edge on the left first,
# whether its horizontal edge is on its right, its vertical edge below it, and whether the outline enters by the latter.
_KINDS: dict[int, list[tuple[bool, bool, bool]]] = {
    1: [(False, False, True)],
    2: [(True, False, False)],
    4: [(False, True, False)],
    8: [(True, True, True)],
    14: [(False, False, False)],
    13: [(True, False, True)],
    11: [(False, True, True)],
    7: [(True, True, False)],
    9: [(False, False, True), (True, True, True)],
    6: [(False, True, False), (True, False, False)],
}
_COUNT = np.array([len(_KINDS.get(code, ())) for code in range(16)], np.uint8)
_TABLE = np.array([[kinds[0], kinds[-1]] for kinds in (_KINDS.get(code, [(False,) * 3]) for code in range(16))])

NOWHERE = -1  # the edge goes on below the band


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """The corners of a band by row, then column; ``i`` and ``i ^ 1`` are joined by a horizontal edge.

    Parameters
    ----------
    x, y
        int64 ``(n,)``, where they are.
    enters
        ``(n,)``: the outline comes to the corner by its vertical edge.
    saddle
        ``(n,)``: there is another corner at the same point.
    joined
        int64 ``(n + k,)``: the other end of each one's vertical edge, a corner or, from ``n`` on, one of the k edges
        that came from above the band; `NOWHERE` where it goes on below.
    by_column, column_keys
        Corners and edges from above by column, from the top, with the numbers that they are sorted by.
    """

    x: Ints
    y: Ints
    enters: Bools
    saddle: Bools
    joined: Ints
    by_column: Ints
    column_keys: Ints
    top: int

    def edge_at(self, y: Ints, x: Ints) -> Ints:
        """The upper end of the vertical edge that runs along pixel row ``y`` at column ``x``; there must be one."""
        keys = _keys(x, y - self.top, np.ones(len(x), np.bool_))
        return self.by_column[np.searchsorted(self.column_keys, keys, "right") - 1]


def find_corners(inside: Bools, top: int, above: Ints) -> Corners:
    """The corners on the lattice rows of a band.

    Parameters
    ----------
    inside
        ``(h + 1, w)``: whether pixels are of the class; the first row is the one above the band.
    top
        Lattice row of the band's first.
    above
        Columns of the vertical edges that cross the row above it, ascending.
    """
    h, w = len(inside) - 1, inside.shape[1] + 1
    code = np.zeros((h, w), np.uint8)
    pixels = inside.view(np.uint8)
    code[:, 1:] = pixels[:-1] | pixels[1:] << 2
    code[:, :-1] |= pixels[:-1] << 1 | pixels[1:] << 3
    count = _COUNT[code.ravel()]
    flat = np.flatnonzero(count)
    twice = count[flat] == 2
    index = np.repeat(np.arange(len(flat)), count[flat])
    second = np.zeros(len(index), np.intp)
    second[1:] = index[1:] == index[:-1]
    codes = code.ravel()[flat][index]
    y, x = np.divmod(flat[index], w)
    _, below, enters = _TABLE[codes, second].T
    all_x = np.concatenate([x, above])
    all_y = np.concatenate([y, np.full(len(above), -1)])
    all_below = np.concatenate([below, np.ones(len(above), np.bool_)])
    keys = _keys(all_x, all_y, all_below)
    order = np.argsort(keys)
    joined = _join(order, all_x, all_below)
    return Corners(x, y + top, enters, twice[index], joined, order, keys[order], top)


def _join(order: Ints, x: Ints, below: Bools) -> Ints:
    """The other end of each vertical edge: in a column, the next after one that has its edge below it."""
    joined = np.full(len(order), NOWHERE)
    upper, lower = order[:-1], order[1:]
    pairs = below[upper] & (x[upper] == x[lower])
    joined[upper[pairs]], joined[lower[pairs]] = lower[pairs], upper[pairs]
    return joined


def _keys(x: Ints, row: Ints, below: Bools) -> Ints:
    """Numbers that sort by column, then by row from -1 on, then the end of an edge before the beginning of the next."""
    return (x << 33) | ((row + 1) << 1) | below
