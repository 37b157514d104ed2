"""What the prediction says where something is corrected, so that agreeing with it is no correction.

Knows a mask and which regions are settled; must not know edits, journals or files.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.corrections.sparse import NONE, SIDE, groups
from napari_xt.io.prediction import Prediction

CHUNKS = 64  # that are held, 16 MiB
FULL = Box(0, 0, SIDE, SIDE)

Bytes = NDArray[np.uint8]
Places = NDArray[np.intp]


class Predicted:
    """The finest level of a prediction's mask where it is settled, a few chunks of it in memory.

    A model that says nothing, only encodes, settles nothing: whoever agrees with its background says something.
    """

    def __init__(self, prediction: Prediction) -> None:
        self._prediction, self._grid = prediction, prediction.layout.grid
        self._side = self._grid.region_px
        self._settled = np.zeros(self._grid.shape, np.bool_)
        self._chunks: OrderedDict[tuple[int, int], Bytes] = OrderedDict()
        self._final = bool(prediction.header.model.get("blank"))
        self.refresh()

    def refresh(self) -> None:
        """See which regions are settled now; meanwhile new ones pass for unsettled, where every value is kept."""
        if self._final:
            return
        final = self._prediction.complete
        self._settled, self._final = self._prediction.settled, final

    def without(self, rows: Places, cols: Places, values: Bytes) -> Bytes:
        """``values`` at pixels, `NONE` where the prediction says the same."""
        known = self._settled[rows // self._side, cols // self._side]
        if not self._prediction.mask or not known.any():
            return values
        said = np.full(rows.shape, NONE, np.uint8)
        said[known] = self.at(rows[known], cols[known])
        return np.where(said == values, np.uint8(NONE), values)

    def without_all(self, part: Box, values: Bytes) -> Bytes:
        """The same of all pixels of a part that lies in one chunk."""
        rows, cols = (np.arange(first, last) // self._side for first, last in ((part.y0, part.y1), (part.x0, part.x1)))
        known = self._settled[rows][:, cols]
        if not self._prediction.mask or not known.any():
            return values
        key = part.y0 // SIDE, part.x0 // SIDE
        said = self._chunk(key)[part.shift(-key[0] * SIDE, -key[1] * SIDE).slices]
        return np.where(known & (said == values), np.uint8(NONE), values)

    def at(self, rows: Places, cols: Places) -> Bytes:
        """The mask at settled pixels."""
        out = np.empty(rows.shape, np.uint8)
        for key, chosen in groups(rows, cols, SIDE):
            chunk = self._chunk(key)
            out[chosen] = chunk[rows[chosen] - key[0] * SIDE, cols[chosen] - key[1] * SIDE]
        return out

    def _chunk(self, key: tuple[int, int]) -> Bytes:
        if (found := self._chunks.get(key)) is not None:
            self._chunks.move_to_end(key)
            return found
        box = FULL.shift(key[0] * SIDE, key[1] * SIDE).clip(self._grid.bounds)
        all_settled = bool(self._settled[box.scale(1 / self._side, 1 / self._side).slices].all())
        pixels: Any = np.asarray(self._prediction.mask[0][box.slices])
        if all_settled:
            self._chunks[key] = pixels
            if len(self._chunks) > CHUNKS:
                self._chunks.popitem(last=False)
        found_now: Bytes = pixels
        return found_now
