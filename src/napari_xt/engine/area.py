"""Which regions of a grid some drawn areas touch: the part of an image that is run, where it is no rectangle.

Knows polygons and grids; must not know models, plans or files of areas beyond that they can be read.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_xt.engine.background import Runs, runs_of
from napari_xt.errors import SettingsError
from napari_xt.geometry import Box, Frame, Grid, Step
from napari_xt.io.annotations import Ring, read_annotations
from napari_xt.io.image import Image

PAIRS = 1 << 20  # of an edge and a row that it crosses, at a time
DIGITS = 6  # of a region: what is nearer to a border than this lies on it

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def drawn_area(path: str, image: Image, frame: Frame, grid: Grid) -> tuple[Box, Runs]:
    """The whole regions that the areas in a file touch, and which of those between them are left out.

    Returns
    -------
    Box
        Run px: around all that they touch.
    Runs
        ``(first, last + 1)`` of the indices of regions in it that no area touches.

    Raises
    ------
    AnnotationError
        The file can't be read.
    SettingsError
        Nothing in it touches the image.
    """
    side = np.array(frame.px_per_run) * grid.region_px
    found = [polygon for one in read_annotations(path, image) for polygon in one.polygons]
    touched = touched_cells([[ring / side for ring in polygon] for polygon in found], grid.shape)
    rows, cols = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    if not len(rows):
        why = "has no areas" if not found else f"has no area that touches {image.name}"
        raise SettingsError(f"roi = {path}", why, "give a file of areas in the image's level-0 pixels")
    first, last = grid.region(int(rows[0]), int(cols[0])).inner, grid.region(int(rows[-1]), int(cols[-1])).inner
    box = Box(first.y0, first.x0, last.y1, last.x1)
    inside = np.zeros_like(touched)
    inside[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
    return box, runs_of(np.flatnonzero(inside & ~touched))


def digest_of(runs: Runs) -> str:
    """A name for ``runs``, the same for the same numbers: sha256 in hex."""
    return hashlib.sha256(np.array(runs, "<i8").tobytes()).hexdigest()


def within(runs: Runs, number: int) -> bool:
    """Whether one of ``runs``, which are in order, holds a number."""
    place = bisect_right(runs, number, key=lambda run: run[0])
    return place > 0 and number < runs[place - 1][1]


def without(runs: Runs, others: Runs) -> Runs:
    """The numbers of ``runs`` that ``others`` do not hold."""
    if not others:
        return runs
    numbers = [number for start, stop in runs for number in range(start, stop) if not within(others, number)]
    return runs_of(np.array(numbers, np.int64))


def wanted_steps(grid: Grid, roi: Box, left_out: Runs) -> Iterator[Step]:
    """The steps of a run over ``roi`` in which not all regions are left out."""
    for step in grid.steps(roi):
        if not left_out or any(not within(left_out, region.index) for region in grid.step_regions(step)):
            yield step


def wanted_count(grid: Grid, steps: Iterable[Step], left_out: Runs) -> int:
    """How many regions of ``steps`` are not left out."""
    if not left_out:
        return sum(rows * cols for step in steps for rows, cols in (window.shape for window in step.windows))
    return sum(not within(left_out, region.index) for step in steps for region in grid.step_regions(step))


def touched_cells(polygons: Iterable[Sequence[Ring]], shape: tuple[int, int]) -> Bools:
    """The cells ``(rows, cols)`` of a lattice of unit squares that share more than a border with a polygon.

    Parameters
    ----------
    polygons
        Each of rings ``(n, 2)``, ``y, x``, the exterior first; what lies within an odd number of rings is inside.
    shape
        Of the lattice, whose first cell covers ``[0, 1) x [0, 1)``.
    """
    cells = np.zeros(shape, np.bool_)
    for rings in polygons:
        edges = np.concatenate([_edges(np.round(ring, DIGITS)) for ring in rings])
        low, high = np.floor(edges[:, :2].min(axis=0)), np.ceil(edges[:, :2].max(axis=0))
        y0, x0 = np.clip(low, 0, shape).astype(np.int64)
        y1, x1 = np.clip(high, 0, shape).astype(np.int64)
        if (low + 1 == high).all() and y0 < y1 and x0 < x1:
            cells[y0, x0] = True
        elif y0 < y1 and x0 < x1:
            part = cells[y0:y1, x0:x1]
            part |= _touched(edges - np.tile([y0, x0], 2), part.shape)
    return cells


def _edges(ring: Ring) -> Floats:
    """The edges of a closed or open ring: ``(n, 4)``, y and x of both ends."""
    return np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1)


def _touched(edges: Floats, shape: tuple[int, ...]) -> Bools:
    """Cells that an edge runs through, and those whose centre lies inside."""
    through = np.zeros((shape[0], shape[1] + 1), np.int64)
    crossed = np.zeros((shape[0], shape[1] + 1), np.int64)
    for some, row in _crossings(edges, shape[0]):
        (first, last), middle = _columns(some, row, shape[1])
        np.add.at(through, (row, first), 1)
        np.add.at(through, (row, np.maximum(first, last)), -1)
        there = np.isfinite(middle)
        np.add.at(crossed, (row[there], middle[there].clip(0, shape[1]).astype(np.int64)), 1)
    inside = np.cumsum(crossed, axis=1) % 2 == 1
    found: Bools = ((np.cumsum(through, axis=1) > 0) | inside)[:, :-1]
    return found


def _crossings(edges: Floats, rows: int) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """Edges with each row that they run through, some at a time."""
    low = np.floor(edges[:, [0, 2]].min(axis=1)).clip(0, rows).astype(np.int64)
    high = np.ceil(edges[:, [0, 2]].max(axis=1)).clip(0, rows).astype(np.int64)
    ends = np.cumsum(np.maximum(high - low, 0))
    total = int(ends[-1])
    for begin in range(0, total, PAIRS):
        number = np.arange(begin, min(total, begin + PAIRS))
        edge = np.searchsorted(ends, number, "right")
        yield edges[edge], number - ends[edge] + high[edge]


def _columns(
    edges: Floats, row: NDArray[np.int64], cols: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Floats]:
    """The columns ``[first, last)`` that edges run through in a row, and the first whose centre lies behind them.

    The latter is NaN where an edge does not cross the middle of the row.
    """
    ya, xa, yb, xb = edges.T
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(ya == yb, 0.0, (xb - xa) / (yb - ya))
    level = ya == yb
    top, bottom = (np.clip(edge, np.minimum(ya, yb), np.maximum(ya, yb)) for edge in (row, row + 1))
    one = np.where(level, xa, xa + (top - ya) * slope)
    two = np.where(level, xb, xa + (bottom - ya) * slope)
    low, high = np.round(np.minimum(one, two), DIGITS), np.round(np.maximum(one, two), DIGITS)
    first, last = (np.clip(side, 0, cols).astype(np.int64) for side in (np.floor(low), np.ceil(high)))
    centre = row + 0.5
    crosses = (ya <= centre) != (yb <= centre)
    return (first, last), np.where(crosses, np.ceil(xa + (centre - ya) * slope - 0.5), np.nan)
