"""The levels of a corrected mask as a layer shows them: hatched where nothing is known, the coarsest in memory.

Knows arrays and what is known of regions; must not know layers, viewers, Qt or threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.stores.layout import Status
from napari_xt.plugin.layers.composed import UNKNOWN, ComposedMask, pattern

NO_CORRECTION, DONT_KNOW = 255, 254

Bytes = NDArray[np.uint8]
Part = tuple[slice, slice]


class Stroke(Protocol):
    """One step that can be undone, while it is made; ``values`` as `NO_CORRECTION`, `DONT_KNOW` or a class."""

    def put(self, rows: NDArray[Any], cols: NDArray[Any], values: Any) -> None:
        """Correct single pixels; `NO_CORRECTION` goes back to the prediction."""

    def fill(self, box: Box, values: Bytes) -> None:
        """Correct a part; `NO_CORRECTION` leaves what is there."""


class Corrected(Protocol):
    """What painting needs of the corrections of a prediction."""

    changed: list[Callable[[Box], None]]

    @property
    def mask(self) -> Sequence[Any]:
        """uint8 levels ``(y, x)`` of the corrected mask, finest first."""

    @property
    def diff(self) -> Sequence[Any]:
        """uint8 levels ``(y, x)`` of the corrections, `NO_CORRECTION` where there is none."""

    def stroke(self, tool: str) -> AbstractContextManager[Stroke]:
        """One step that can be undone."""

    def undo(self) -> object:
        """Take the last step back."""

    def redo(self) -> object:
        """Make it again."""


class ShownLevels:
    """Levels that a layer shows while they change.

    Parameters
    ----------
    levels
        uint8 ``(y, x)``, finest first; level k is every 2**k-th pixel of the finest.
    hatch
        The mask whose regions that are not done are hatched, the side of a region in pixels, and the levels of
        corrections, which are shown all the same; None: nothing is hatched.

    Attributes
    ----------
    levels
        The same for napari, which never reads a coarsest level twice that is not in memory.
    """

    def __init__(self, levels: Sequence[Any], hatch: tuple[ComposedMask, int, Sequence[Any]] | None = None) -> None:
        self._stored, self._hatch = list(levels), hatch
        self._lock = threading.Lock()
        self._coarsest = np.zeros(levels[-1].shape, np.uint8)
        finer = [_Level(self, index) for index in range(len(self._stored) - 1)]
        self.levels: list[Any] = [*finer, self._coarsest]
        self.update()

    def as_data(self) -> dict[str, Any]:
        """Arguments of a layer that shows them."""
        several = len(self.levels) > 1
        return {"data": self.levels if several else self.levels[0], "multiscale": several}

    def follow(self, changed: Box) -> None:
        """Read the coarsest level again where pixels of the finest have ``changed``."""
        factor = 1 << (len(self._stored) - 1)
        self._read_again(changed.scale(1 / factor, 1 / factor).clip(Box(0, 0, *self._coarsest.shape)))

    def update(self, part: Part = (slice(None), slice(None))) -> None:
        """Read a part of the coarsest level again; from any thread."""
        (y0, y1, _), (x0, x1, _) = (k.indices(n) for k, n in zip(part, self._coarsest.shape, strict=True))
        self._read_again(Box(y0, x0, y1, x1))

    def read(self, index: int, box: Box) -> Bytes:
        """A part of a level."""
        pixels = np.asarray(self._stored[index][box.slices])
        return pixels if self._hatch is None else self._hatched(pixels, index, box, *self._hatch)

    def _read_again(self, box: Box) -> None:
        if not box.empty:
            with self._lock:
                self._coarsest[box.slices] = self.read(len(self._stored) - 1, box)

    def _hatched(self, pixels: Bytes, index: int, box: Box, composed: ComposedMask, side: int, edits: Any) -> Bytes:
        y, x = ((np.arange(*ends) << index) // side for ends in ((box.y0, box.y1), (box.x0, box.x1)))
        states = composed.states[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        if (states == Status.DONE).all():
            return pixels
        pixels = np.array(pixels)
        free = np.asarray(edits[index][box.slices]) == NO_CORRECTION
        for status in np.unique(states):
            if status == Status.DONE or (composed.hides_rest and status in (Status.NOT_YET, Status.PREVIEW)):
                continue
            there = (states == status)[y - y[0]][:, x - x[0]] & free
            pixels[there & pattern(Status(status), pixels.shape, box.y0, box.x0)] = UNKNOWN
        return pixels


class _Level(ComputedArray):
    """A level of `ShownLevels`, read lazily."""

    def __init__(self, shown: ShownLevels, index: int) -> None:
        stored = shown._stored[index]  # noqa: SLF001 - its other half
        super().__init__(tuple(stored.shape), partial(shown.read, index))
        self.chunks = getattr(stored, "chunks", self.chunks)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __deepcopy__(self, memo: object) -> _Level:
        return self
