"""Which points and pixels lie inside polygons, by the even-odd rule: holes are rings like any other.

Knows corners and pixels; must not know files, scales or what a polygon means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box

Floats = NDArray[np.float64]
Rings = Iterable[Floats]  # (n, 2), y and x


def bounds(rings: Rings) -> Box:
    """The whole pixels that rings touch."""
    corners = np.concatenate([np.zeros((0, 2)), *rings])
    if not len(corners):
        return Box(0, 0, 0, 0)
    (y0, x0), (y1, x1) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    return Box(int(y0), int(x0), int(y1), int(x1))


def points_inside(points: Floats, rings: Rings) -> NDArray[np.bool_]:
    """Which of ``points (n, 2)`` lie inside; ``(n,)``."""
    order = np.argsort(points[:, 0], kind="stable")
    y, x = points[order].T
    odd = np.zeros(len(points), np.bool_)
    for y0, x0, y1, x1 in _edges(rings):
        first, last = np.searchsorted(y, (min(y0, y1), max(y0, y1)))
        across = x0 + (y[first:last] - y0) * ((x1 - x0) / (y1 - y0)) if last > first else x[:0]
        odd[first:last] ^= x[first:last] >= across
    inside = np.empty_like(odd)
    inside[order] = odd
    return inside


def pixels_inside(rings: Rings, box: Box) -> NDArray[np.bool_]:
    """Which pixels of ``box`` have their middle inside, ``(h, w)``."""
    odd = np.zeros((box.height, box.width + 1), np.bool_)
    for y0, x0, y1, x1 in _edges(rings):
        # the rows whose middle lies between its ends
        first, last = (int(np.clip(np.ceil(end - 0.5), box.y0, box.y1)) for end in sorted((y0, y1)))
        rows = np.arange(first, last)
        across = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) if last > first else rows
        cols = np.clip(np.ceil(across - 0.5), box.x0, box.x1).astype(np.int64)
        odd[rows - box.y0, cols - box.x0] ^= True
    return np.logical_xor.accumulate(odd, axis=1)[:, :-1]


def _edges(rings: Rings) -> Iterator[tuple[float, float, float, float]]:
    """The edges that are not level, as ``y0, x0, y1, x1``."""
    for ring in rings:
        ends = np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1)
        yield from map(tuple, ends[ends[:, 0] != ends[:, 2]].tolist())
