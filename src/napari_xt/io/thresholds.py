"""The mask of a prediction at any threshold, composed of the stored probability where it is read.

Knows layouts and arrays; must not know stores, predictions, models or screens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.stores.layout import Layout, Status

RUN_THRESHOLD = 0.5  # of a class against the background: the largest of both, what is stored
AT_ONCE = 1 << 20  # pixels that are composed together

Bytes = NDArray[np.uint8]
Places = NDArray[np.intp]
States = Callable[[], Bytes]


class Sides(NamedTuple):
    """The likeliest class but the background, uint8, and its share of what both have, float32 0..1."""

    best: Bytes
    share: NDArray[np.float32]

    def at(self, threshold: float) -> Bytes:
        """The mask: ``best`` where its share is above ``threshold``, else 0; at 0.5 the largest of all classes."""
        return np.where(self.share > np.float32(threshold), self.best, np.uint8(0))

    def part(self, part: tuple[slice, slice]) -> Sides:
        """Those of a part."""
        return Sides(self.best[part], self.share[part])

    def put(self, part: tuple[slice, slice], sides: Sides) -> None:
        """Take others in a part."""
        self.best[part], self.share[part] = sides


class Weighing:
    """The stored probability, weighed at any run pixels.

    Parameters
    ----------
    layout
        It has a mask.
    plan
        The run's, which states its region of interest, if any.
    probability
        uint8 ``(K, h, w)``, an array or a stored one.
    """

    def __init__(self, layout: Layout, plan: Mapping[str, Any], probability: Any) -> None:
        self._probability, self._stride, self._side = probability, layout.stride, layout.grid.region_px
        self._roi = _roi(plan, layout)

    def sides(self, rows: Places, cols: Places) -> Sides:
        """What `mask_from_probability` weighs, at rising run pixels ``rows x cols``, in the same whole numbers."""
        if not rows.size or not cols.size:
            return Sides(np.zeros((rows.size, cols.size), np.uint8), np.zeros((rows.size, cols.size), np.float32))
        height, width = self._probability.shape[1:]
        y, x = _between(rows, self._stride, height), _between(cols, self._stride, width)
        y0, x0 = int(y[0][0]), int(x[0][0])
        cells = np.asarray(self._probability[:, y0 : int(y[1][-1]) + 1, x0 : int(x[1][-1]) + 1])
        dtype = np.int16 if 255 * (2 * self._stride) ** 2 < 2**15 else np.int32
        planes = (_blended(_blended(plane.astype(dtype), y, y0).T, x, x0).T for plane in cells)
        background = next(planes)
        best, top = np.zeros(background.shape, np.uint8), np.zeros_like(background)
        for value, plane in enumerate(planes, start=1):
            np.copyto(best, np.uint8(value), where=plane > top)
            top = np.maximum(top, plane)
        total = np.maximum(top.astype(np.float32) + background, 1)
        return Sides(best, top / total)

    def blank(self, pixels: Bytes, rows: Places, cols: Places, states: Bytes) -> Bytes:
        """``pixels``, in place, without what lies outside the region of interest or in regions that are not done.

        ``states`` is the `Status` of each region, uint8 ``(rows, cols)`` of the grid.
        """
        y0, x0, y1, x1 = self._roi
        pixels[(rows < y0) | (rows >= y1)] = 0
        pixels[:, (cols < x0) | (cols >= x1)] = 0
        near = self.near(states, rows, cols)
        if (near != Status.DONE).any():
            pixels[self.spread(near != Status.DONE, rows, cols)] = 0
        return pixels

    def near(self, states: Bytes, rows: Places, cols: Places) -> Bytes:
        """Those of ``states`` whose regions hold some of these pixels."""
        if not rows.size or not cols.size:
            return states[:0, :0]
        (top, left), (bottom, right) = (np.array([rows[i], cols[i]]) // self._side for i in (0, -1))
        return states[top : bottom + 1, left : right + 1]

    def spread(self, chosen: NDArray[np.bool_], rows: Places, cols: Places) -> NDArray[np.bool_]:
        """Regions, as `near` gives them, as pixels."""
        y, x = rows // self._side, cols // self._side
        spread: NDArray[np.bool_] = chosen[y - y[0]][:, x - x[0]]
        return spread


class MaskLevel(ComputedArray):
    """A level of the mask at a threshold, composed where it is read: uint8 ``(y, x)``.

    Parameters
    ----------
    stored
        The stored one, whose shape and chunks it has.
    index
        Which level it is: it has every ``2**index``-th run pixel.
    weighing, threshold
        What it is composed of, and where a class begins against the background, 0..1.
    states
        Gives the `Status` of each region, as they are when it is read.
    """

    def __init__(self, stored: Any, index: int, weighing: Weighing, threshold: float, states: States) -> None:
        super().__init__(stored.shape, self._composed)
        self.chunks = stored.chunks
        self._index, self._weighing, self._threshold, self._states = index, weighing, threshold, states

    def _composed(self, box: Box) -> Bytes:
        """In columns of rows, so that as much memory is taken for a whole strip as for a view."""
        states, pixels = self._states(), np.empty(box.shape, np.uint8)
        rows = np.arange(box.y0, box.y1) << self._index
        for x0 in range(box.x0, box.x1, wide := max(1, AT_ONCE // box.height)):
            cols = np.arange(x0, min(x0 + wide, box.x1)) << self._index
            part = self._weighing.sides(rows, cols).at(self._threshold)
            part = self._weighing.blank(part, rows, cols, states)
            pixels[:, x0 - box.x0 : x0 - box.x0 + wide] = part
        return pixels


def _between(places: Places, stride: int, count: int) -> tuple[Places, Places, Places, Places]:
    """For each run pixel: the cells that it lies between, clamped at the image's edge, and their weights."""
    lower, upper = np.divmod(2 * places + 1 - stride, 2 * stride)
    return lower.clip(0, count - 1), (lower + 1).clip(0, count - 1), 2 * stride - upper, upper


def _blended(plane: NDArray[Any], between: tuple[Places, Places, Places, Places], first: int) -> NDArray[Any]:
    """Rows of ``plane``, which starts with cell ``first``, weighted."""
    lower, upper, a, b = between
    kind = plane.dtype
    mixed: NDArray[Any] = plane[lower - first] * a[:, None].astype(kind)
    mixed += plane[upper - first] * b[:, None].astype(kind)
    return mixed


def _roi(plan: Mapping[str, Any], layout: Layout) -> tuple[int, int, int, int]:
    """The region of interest in run pixels, ``y0, x0, y1, x1``; all of the image where the run states none."""
    roi, edges = plan.get("roi_run"), ("y0", "x0", "y1", "x1")
    if isinstance(roi, dict) and all(isinstance(roi.get(edge), int) for edge in edges):
        y0, x0, y1, x1 = (int(roi[edge]) for edge in edges)
        return y0, x0, y1, x1
    return 0, 0, *layout.shape
