"""The mask as it is shown: stored, or composed of the probability at another threshold; hatched where nothing is known.

Knows predictions and arrays; must not know layers, viewers, Qt or threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box, Region
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Status
from napari_xt.io.thresholds import RUN_THRESHOLD, Bytes, Places, Sides, Weighing

UNKNOWN, FAILED = 255, 254  # values of stripes: not computed (in dots: skipped), failed
PERIOD, STRIPE = 16, 4  # pixels of a level
TILE = 2 * PERIOD  # all hatchings repeat after so many
NAMES = {UNKNOWN: "not computed", FAILED: "failed"}

Part = tuple[slice, slice]


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
        self._stored = prediction.mask
        self._weighing = Weighing(layout, prediction.header.plan, prediction.probability)
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
                    sides.put(part, self._weighing.sides(*self._places(part, self._coarsest)))
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
                self._coming.put(part, self._weighing.sides(*self._places(part, self._coarsest)))
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
            pixels = self._blanked(self._weighing.sides(rows, cols), rows, cols)
        return self._hatched(pixels, part, rows, cols)

    def _draw(self, part: Part) -> None:
        """Bring a part of the coarsest level to the threshold, from what is in memory where there is something."""
        index = self._coarsest
        if self._sides is None or self.threshold == RUN_THRESHOLD:
            self.levels[-1][part] = self.read(index, part)
            return
        rows, cols = self._places(part, index)
        pixels = self._blanked(self._sides.part(part), rows, cols)
        self.levels[-1][part] = self._hatched(pixels, part, rows, cols)

    def _places(self, part: Part, index: int) -> tuple[Places, Places]:
        """The run pixels of a part of a level."""
        height, width = self._stored[index].shape
        return np.arange(height)[part[0]] << index, np.arange(width)[part[1]] << index

    def _blanked(self, sides: Sides, rows: Places, cols: Places) -> Bytes:
        return self._weighing.blank(sides.at(self.threshold), rows, cols, self.states)

    def _hatched(self, pixels: Bytes, part: Part, rows: Places, cols: Places) -> Bytes:
        """With a pattern over regions that are not done; in the pixels of the level, so that it is seen at any zoom."""
        states = self._weighing.near(self.states, rows, cols)
        found = np.unique(states)
        for status in found:
            if status == Status.DONE or (self.hides_rest and status in (Status.NOT_YET, Status.PREVIEW)):
                continue
            there = pattern(Status(status), pixels.shape, part[0].start or 0, part[1].start or 0)
            if len(found) > 1:
                there = there & self._weighing.spread(states == status, rows, cols)
            np.copyto(pixels, FAILED if status == Status.FAILED else UNKNOWN, where=there)
        return pixels


class ComposedLevel(ComputedArray):
    """A level of a `ComposedMask`, read lazily: uint8 ``(y, x)``."""

    def __init__(self, composed: ComposedMask, index: int) -> None:
        stored = composed._stored[index]  # noqa: SLF001 - its other half
        super().__init__(stored.shape, self._pixels)
        self.chunks, self.composed, self._index = stored.chunks, composed, index

    def _pixels(self, box: Box) -> Bytes:
        return self.composed.read(self._index, box.slices)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __deepcopy__(self, memo: object) -> ComposedLevel:
        return self


def pattern(status: Status, shape: tuple[int, ...], y0: int, x0: int) -> NDArray[np.bool_]:
    """The hatching of a part that starts at ``(y0, x0)``: stripes, crossed where it failed, dots where skipped."""
    height, width = shape
    tile = np.roll(_tile(status), (-y0, -x0), (0, 1))
    return np.tile(tile, (-(-height // TILE), -(-width // TILE)))[:height, :width]


@cache
def _tile(status: Status) -> NDArray[np.bool_]:
    """What the hatching repeats."""
    y, x = np.arange(TILE)[:, None], np.arange(TILE)
    rising: NDArray[np.bool_] = (y + x) % PERIOD < STRIPE
    if status == Status.FAILED:
        return rising | ((y - x) % PERIOD < STRIPE)
    if status == Status.SKIPPED:
        return (y % PERIOD < STRIPE) & ((x + PERIOD // 2 * (y // PERIOD % 2)) % PERIOD < STRIPE)
    return rising
