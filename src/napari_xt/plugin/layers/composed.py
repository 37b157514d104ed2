"""The mask as it is shown: stored, or composed of the probability at another threshold; hatched where nothing is known.

Knows predictions and arrays; must not know layers, viewers, Qt or threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Region
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Status

RUN_THRESHOLD = 0.5  # of a class against the background: the largest of both, what is stored
UNKNOWN, FAILED = 255, 254  # values of stripes: not computed (in dots: skipped), failed
PERIOD, STRIPE = 16, 4  # pixels of a level
NAMES = {UNKNOWN: "not computed", FAILED: "failed"}

Bytes = NDArray[np.uint8]
Rows = NDArray[np.intp]
Part = tuple[slice, slice]


class Sides(NamedTuple):
    """The likeliest class but the background, uint8, and its share of what both have, float32 0..1."""

    best: Bytes
    share: NDArray[np.float32]

    def at(self, threshold: float) -> Bytes:
        """The mask: ``best`` where its share is above ``threshold``, else 0; at 0.5 the largest of all classes."""
        return np.where(self.share > np.float32(threshold), self.best, np.uint8(0))

    def part(self, part: Part) -> Sides:
        """Those of a part."""
        return Sides(self.best[part], self.share[part])

    def put(self, part: Part, sides: Sides) -> None:
        """Take others in a part."""
        self.best[part], self.share[part] = sides


class ComposedMask:
    """The levels of a mask as a layer shows them.

    Parameters
    ----------
    prediction
        It has a mask.

    Attributes
    ----------
    levels
        uint8 ``(y, x)``, finest first: `ComposedLevel`, the coarsest in memory, as napari never reads a stored coarsest
        level twice.
    threshold
        Of each class against the background, 0..1. Finer levels follow at once, the coarsest with `recompose`.
    states
        `Status` of each region, uint8 ``(rows, cols)``.
    hides_rest
        Whether regions that are not settled are left to a layer of previews and not hatched.
    """

    def __init__(self, prediction: Prediction) -> None:
        layout = prediction.layout
        self._stored, self._probability = prediction.mask, prediction.probability
        self._stride, self._side = layout.stride, layout.grid.region_px
        self._roi = _roi(prediction)
        self.threshold = RUN_THRESHOLD
        self.states: Bytes = np.full(layout.grid.shape, Status.NOT_YET, np.uint8)
        self.hides_rest = False
        self._lock = threading.RLock()
        self._sides: Sides | None = None  # of the coarsest level, once that was wanted
        self._coming: Sides | None = None  # the same, while it is being made
        self._coarsest = len(self._stored) - 1
        self.levels: list[Any] = [ComposedLevel(self, index) for index in range(self._coarsest)]
        self.levels.append(np.zeros(self._stored[-1].shape, np.uint8))  # until `update` reads it

    def __deepcopy__(self, memo: object) -> ComposedMask:
        return self  # a copy of a layer shows the same store

    def settle(self, region: Region, status: Status) -> None:
        """Take what is known of one region."""
        self.states[region.row, region.col] = status

    def take_states(self, states: Bytes) -> bool:
        """Take what is known of all regions; whether that is news."""
        if np.array_equal(states, self.states):
            return False
        self.states[:] = states
        return True

    def update(self, part: Part) -> None:
        """Read a part of the coarsest level again."""
        with self._lock:
            for sides in (self._sides, self._coming):
                if sides is not None:
                    sides.put(part, self._compose(*self._places(part, self._coarsest)))
            self._draw(part)

    def recompose(self, outdated: Callable[[], bool] = lambda: False) -> bool:
        """Bring the coarsest level to ``threshold``, chunk by chunk; whether that was done and not ``outdated``."""
        if self._sides is None and self.threshold != RUN_THRESHOLD:
            self._weigh()
        for part in self.parts():
            if outdated():
                return False
            with self._lock:
                self._draw(part)
        return True

    def _weigh(self) -> None:
        """Bring what all thresholds need of the coarsest level into memory, while a run may go on."""
        shape = self.levels[-1].shape
        self._coming = Sides(np.zeros(shape, np.uint8), np.zeros(shape, np.float32))
        for part in self.parts():
            with self._lock:
                self._coming.put(part, self._compose(*self._places(part, self._coarsest)))
        with self._lock:
            self._sides, self._coming = self._coming, None

    def parts(self) -> Iterator[Part]:
        """The chunks of the coarsest level."""
        stored = self._stored[-1]
        side, (height, width) = int(stored.chunks[0]), stored.shape
        for y in range(0, height, side):
            for x in range(0, width, side):
                yield slice(y, min(y + side, height)), slice(x, min(x + side, width))

    def shares(self) -> NDArray[np.float64]:
        """The share of the settled pixels that each class has now, by the coarsest level; 256 values."""
        counts = np.bincount(self.levels[-1].ravel(), minlength=256).astype(np.float64)
        counts[[UNKNOWN, FAILED]] = 0
        counts /= max(counts.sum(), 1)
        return counts

    def read(self, index: int, part: Part) -> Bytes:
        """A part of a level as it is shown."""
        rows, cols = self._places(part, index)
        if self.threshold == RUN_THRESHOLD:
            pixels: Bytes = np.array(self._stored[index][part])
        else:
            pixels = self._blanked(self._compose(rows, cols).at(self.threshold), rows, cols)
        return self._hatched(pixels, part, rows, cols)

    def _draw(self, part: Part) -> None:
        """Bring a part of the coarsest level to the threshold, from what is in memory where there is something."""
        index = self._coarsest
        if self._sides is None or self.threshold == RUN_THRESHOLD:
            self.levels[-1][part] = self.read(index, part)
            return
        rows, cols = self._places(part, index)
        pixels = self._blanked(self._sides.part(part).at(self.threshold), rows, cols)
        self.levels[-1][part] = self._hatched(pixels, part, rows, cols)

    def _places(self, part: Part, index: int) -> tuple[Rows, Rows]:
        """The run pixels of a part of a level."""
        height, width = self._stored[index].shape
        return np.arange(height)[part[0]] << index, np.arange(width)[part[1]] << index

    def _compose(self, rows: Rows, cols: Rows) -> Sides:
        """What `io.mask.mask_from_probability` weighs, at these run pixels, in the same whole numbers."""
        assert self._probability is not None
        height, width = self._probability.shape[1:]
        y, x = _between(rows, self._stride, height), _between(cols, self._stride, width)
        if not rows.size or not cols.size:
            return Sides(np.zeros((rows.size, cols.size), np.uint8), np.zeros((rows.size, cols.size), np.float32))
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

    def _blanked(self, pixels: Bytes, rows: Rows, cols: Rows) -> Bytes:
        """Without what lies outside the region of interest and in regions that are not done."""
        y0, x0, y1, x1 = self._roi
        pixels[(rows < y0) | (rows >= y1)] = 0
        pixels[:, (cols < x0) | (cols >= x1)] = 0
        states = self._states(rows, cols)
        if (states != Status.DONE).any():
            pixels[self._spread(states != Status.DONE, rows, cols)] = 0
        return pixels

    def _hatched(self, pixels: Bytes, part: Part, rows: Rows, cols: Rows) -> Bytes:
        """With a pattern over regions that are not done; in the pixels of the level, so that it is seen at any zoom."""
        states = self._states(rows, cols)
        for status in np.unique(states):
            if status == Status.DONE or (self.hides_rest and status in (Status.NOT_YET, Status.PREVIEW)):
                continue
            there = self._spread(states == status, rows, cols)
            there &= pattern(Status(status), pixels.shape, part[0].start or 0, part[1].start or 0)
            pixels[there] = FAILED if status == Status.FAILED else UNKNOWN
        return pixels

    def _states(self, rows: Rows, cols: Rows) -> Bytes:
        """Those of the regions that a part touches."""
        if not rows.size or not cols.size:
            return self.states[:0, :0]
        (top, left), (bottom, right) = (np.array([rows[i], cols[i]]) // self._side for i in (0, -1))
        return self.states[top : bottom + 1, left : right + 1]

    def _spread(self, chosen: NDArray[np.bool_], rows: Rows, cols: Rows) -> NDArray[np.bool_]:
        """Regions, as `_states` gives them, as pixels."""
        y, x = rows // self._side, cols // self._side
        spread: NDArray[np.bool_] = chosen[y - y[0]][:, x - x[0]]
        return spread


class ComposedLevel:
    """A level of a `ComposedMask`, read lazily: uint8 ``(y, x)``."""

    ndim, dtype = 2, np.dtype(np.uint8)

    def __init__(self, composed: ComposedMask, index: int) -> None:
        stored = composed._stored[index]  # noqa: SLF001 - its other half
        self.composed, self._index = composed, index
        self.shape, self.chunks, self.size = stored.shape, stored.chunks, stored.size

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        if (gap := next((i for i, k in enumerate(keys) if k is Ellipsis), None)) is not None:
            keys[gap : gap + 1] = [slice(None)] * (3 - len(keys))
        keys += [slice(None)] * (2 - len(keys))
        part = [_plain(k, n) for k, n in zip(keys, self.shape, strict=True)]
        pixels = self.composed.read(self._index, (part[0], part[1]))
        return pixels[tuple(slice(None, None, k.step) if isinstance(k, slice) else 0 for k in keys)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __deepcopy__(self, memo: object) -> ComposedLevel:
        return self


def pattern(status: Status, shape: tuple[int, ...], y0: int, x0: int) -> NDArray[np.bool_]:
    """The hatching of a part that starts at ``(y0, x0)``: stripes, crossed where it failed, dots where skipped."""
    y, x = np.arange(y0, y0 + shape[0])[:, None], np.arange(x0, x0 + shape[1])
    rising = (y + x) % PERIOD < STRIPE
    if status == Status.FAILED:
        return rising | ((y - x) % PERIOD < STRIPE)
    if status == Status.SKIPPED:
        return (y % PERIOD < STRIPE) & ((x + PERIOD // 2 * (y // PERIOD % 2)) % PERIOD < STRIPE)
    return rising


def _between(places: Rows, stride: int, count: int) -> tuple[Rows, Rows, Rows, Rows]:
    """For each run pixel: the cells that it lies between, clamped at the image's edge, and their weights."""
    lower, upper = np.divmod(2 * places + 1 - stride, 2 * stride)
    return lower.clip(0, count - 1), (lower + 1).clip(0, count - 1), 2 * stride - upper, upper


def _blended(plane: NDArray[Any], between: tuple[Rows, Rows, Rows, Rows], first: int) -> NDArray[Any]:
    """Rows of ``plane``, which starts with cell ``first``, weighted."""
    lower, upper, a, b = between
    kind = plane.dtype
    mixed: NDArray[Any] = plane[lower - first] * a[:, None].astype(kind)
    mixed += plane[upper - first] * b[:, None].astype(kind)
    return mixed


def _plain(key: slice | int, size: int) -> slice:
    """The same part without a step."""
    if not isinstance(key, slice):
        at = int(key) + size if key < 0 else int(key)
        return slice(at, at + 1)
    places = range(size)[key]
    return slice(places.start, places[-1] + 1) if places else slice(0, 0)


def _roi(prediction: Prediction) -> tuple[int, int, int, int]:
    """The region of interest in run pixels, ``y0, x0, y1, x1``; all of the image where the run states none."""
    roi, edges = prediction.header.plan.get("roi_run"), ("y0", "x0", "y1", "x1")
    if isinstance(roi, dict) and all(isinstance(roi.get(edge), int) for edge in edges):
        y0, x0, y1, x1 = (int(roi[edge]) for edge in edges)
        return y0, x0, y1, x1
    return 0, 0, *prediction.layout.shape
