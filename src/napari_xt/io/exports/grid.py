"""What a prediction says, on the pixel grid of its image, at any level and box of it.

Knows predictions and frames; must not know formats.

A pixel takes the value of the run pixel that its centre lies in. Level k is every ``2**k``-th pixel of level 0; where
the run's pixels are no whole multiple of the image's, or none of theirs, it may be a neighbour of that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.corrections.levels import EditedLevel
from napari_xt.io.corrections.sparse import NONE
from napari_xt.io.exports.wanted import What
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import COARSEST_PX

NOT_COMPUTED = 255  # in a mask: a region that was not run, or failed, is not background
WHOLE = 255.0  # of a stored probability

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Raster:
    """One of the mask, the probability of each class, or the score of each region and class.

    Parameters
    ----------
    prediction
        Whose.
    what
        ``"mask"`` is uint8, `NOT_COMPUTED` where nothing is known; the others are float32, 0..1, NaN there.
    """

    prediction: Prediction
    what: What

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(np.uint8 if self.what == "mask" else np.float32)

    @property
    def nothing(self) -> float:
        """The value where nothing is known."""
        return NOT_COMPUTED if self.what == "mask" else float("nan")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes: values of the mask, else the bands."""
        layout = self.prediction.layout
        return tuple((layout.scores if self.what == "regions" else layout.mask) or ())

    @property
    def bands(self) -> int:
        """Values at each pixel."""
        return 1 if self.what == "mask" else len(self.names)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of each level, finest first, until no side is above 2048 px."""
        shapes = [self.prediction.layout.frame.shape_px]
        while max(shapes[-1]) > COARSEST_PX:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        return tuple(shapes)

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """The values ``(h, w, bands)`` of a box of a level."""
        rows, cols = self._run(level, box)
        side = self.prediction.layout.grid.region_px
        found = self._values(level, rows, cols)
        known = self._known[np.ix_(rows // side, cols // side)][..., None]
        if self.what == "mask":
            known = (known | self._corrected(level, rows, cols)) & (found < len(self.names))
        return np.where(known, found, self.dtype.type(self.nothing))

    def tiles(self, level: int, side: int, most: int) -> Iterator[NDArray[Any]]:
        """The tiles ``(side, side, bands)`` of a level, row by row, filled up at its end; ``most`` bytes at a time."""
        height, width = self.shapes[level]
        step = max(1, most // (side * side * self.bands * self.dtype.itemsize)) * side
        for y in range(0, height, side):
            for x in range(0, width, step):
                part = self.read(level, Box(y, x, y + side, x + step).clip(Box(0, 0, height, width)))
                short = -part.shape[0] % side, -part.shape[1] % side
                part = np.pad(part, ((0, short[0]), (0, short[1]), (0, 0)), constant_values=self.nothing)
                yield from (np.ascontiguousarray(part[:, at : at + side]) for at in range(0, part.shape[1], side))

    def _run(self, level: int, box: Box) -> tuple[Ints, Ints]:
        """The run pixels in which the centres of a box's rows and columns lie."""
        frame = self.prediction.layout.frame
        ends = zip(((box.y0, box.y1), (box.x0, box.x1)), frame.shape_px, frame.shape_run, strict=True)
        rows, cols = (((2 * (np.arange(*end) << level) + 1) * run) // (2 * px) for end, px, run in ends)
        return rows, cols

    def _values(self, level: int, rows: Ints, cols: Ints) -> NDArray[Any]:
        layout = self.prediction.layout
        if self.what == "regions":
            found: NDArray[Any] = self._scores[np.ix_(rows // layout.grid.region_px, cols // layout.grid.region_px)]
            return found
        if self.what == "mask":
            coarse = self._stored(level)
            return _picked(self.prediction.mask[coarse], rows >> coarse, cols >> coarse)[..., None]
        array = self.prediction.probability
        assert array is not None
        cells = _picked(array, rows // layout.stride, cols // layout.stride)
        return np.moveaxis(cells, 0, -1).astype(np.float32) / np.float32(WHOLE)

    def _corrected(self, level: int, rows: Ints, cols: Ints) -> NDArray[np.bool_] | bool:
        """Where somebody said what is there, which is known before a run comes there."""
        coarse = self._stored(level)
        mask = self.prediction.mask[coarse]
        if not isinstance(mask, EditedLevel):
            return False
        return np.asarray(_picked(mask.alone, rows >> coarse, cols >> coarse)[..., None] != NONE)

    def _stored(self, level: int) -> int:
        """The coarsest stored level that is fine enough: of level 0 the finest, whose pixels are exact."""
        if level == 0:
            return 0
        step = min(2**level / px for px in self.prediction.layout.frame.px_per_run)
        return min(max(0, int(step).bit_length() - 1), len(self.prediction.mask) - 1)

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        """Which regions were done, or found to be empty."""
        return self.prediction.settled

    @cached_property
    def _scores(self) -> NDArray[np.float32]:
        table = self.prediction.scores
        scores = np.full((*self.prediction.layout.grid.shape, self.bands), np.nan, np.float32)
        scores[table["region_row"], table["region_col"]] = table[[f"p:{name}" for name in self.names]].to_numpy()
        return scores


def _picked(array: Any, rows: Ints, cols: Ints) -> NDArray[Any]:
    """``array[..., rows, cols]``, rising indices, by one read of the rectangle that they lie in."""
    part = np.asarray(array[..., rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
    return part[..., (rows - rows[0])[:, None], cols - cols[0]]
