"""Levels of a corrected mask and of the corrections alone, composed where they are read.

Knows arrays; must not know strokes, journals or predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.corrections.sparse import NONE, SIDE, Edits, groups

Bytes = NDArray[np.uint8]


class EditedLevel(ComputedArray):
    """A level as it is corrected, or the corrections alone: uint8 ``(y, x)``, read by slices, numbers or index arrays.

    Parameters
    ----------
    edits, index
        Which level of what was corrected.
    beneath
        The predicted level; None: the corrections alone, 255 where there is none.
    """

    def __init__(self, edits: Edits, index: int, beneath: Any = None) -> None:
        super().__init__(edits.levels[index].shape, self._composed)
        self.chunks = (SIDE, SIDE) if beneath is None else tuple(beneath.chunks)
        self._edits, self._index, self._beneath = edits, index, beneath

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(one, (np.ndarray, list)) for one in keys):
            return self._picked(keys)
        return super().__getitem__(key)

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def alone(self) -> EditedLevel:
        """The corrections of this level without what is beneath."""
        return EditedLevel(self._edits, self._index)

    def __deepcopy__(self, memo: object) -> EditedLevel:
        return self  # a copy of a layer shows the same corrections

    def _composed(self, box: Box) -> Bytes:
        edits = self._edits.read(self._index, box)
        if self._beneath is None:
            return edits
        return np.where(edits == NONE, np.asarray(self._beneath[box.slices]), edits)

    def _picked(self, keys: tuple[Any, ...]) -> Bytes:
        """Single pixels, or rows or columns of them, as numpy picks them."""
        if len(keys) == 1:
            first = np.asarray(keys[0])
            keys = tuple(np.nonzero(first)) if first.dtype == bool and first.ndim == 2 else (*keys, slice(None))
        if any(isinstance(one, slice) for one in keys):
            whole = [np.arange(n)[one].ravel() for one, n in zip(keys, self.shape, strict=True)]
            picked: Bytes = self[np.ix_(*whole)]
            return picked.reshape([-1 if isinstance(k, slice) else len(w) for k, w in zip(keys, whole, strict=True)])
        rows, cols = np.broadcast_arrays(*(np.arange(n)[one] for one, n in zip(keys, self.shape, strict=True)))
        out = np.empty(rows.size, np.uint8)
        y, x = rows.ravel(), cols.ravel()
        for _, chosen in groups(y, x, SIDE) if y.size else ():
            r, c = y[chosen], x[chosen]
            near = Box(int(r.min()), int(c.min()), int(r.max()) + 1, int(c.max()) + 1)
            out[chosen] = self._composed(near)[r - near.y0, c - near.x0]
        return out.reshape(rows.shape)


def edited(edits: Edits, beneath: Sequence[Any] | None = None) -> list[EditedLevel]:
    """All levels, finest first."""
    return [EditedLevel(edits, k, None if beneath is None else beneath[k]) for k in range(len(edits.levels))]
