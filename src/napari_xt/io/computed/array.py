"""An array that is computed where it is read. Knows boxes and indices; knows nothing of what is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box


class ComputedArray:
    """An array ``(Y, X, ...)`` of uint8, read by any index that numpy takes for a view.

    Parameters
    ----------
    shape
        Height, width and what else there is.
    read
        Computes the pixels of a box inside the array.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...], read: Callable[[Box], NDArray[np.uint8]]) -> None:
        self.shape, self.ndim, self.size = shape, len(shape), int(np.prod(shape))
        self.chunks = (512, 512, *shape[2:])
        self._read = read

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = _keys(key, self.ndim)
        y, x = (_span(k, n) for k, n in zip(keys[:2], self.shape[:2], strict=True))
        there = y and x
        if there:
            pixels = self._read(Box(min(y), min(x), max(y) + 1, max(x) + 1))
        else:
            pixels = np.empty((_reach(y), _reach(x), *self.shape[2:]), self.dtype)
        within = (
            slice(None, None, s.step) if isinstance(k, slice) else 0 for k, s in zip(keys[:2], (y, x), strict=True)
        )
        chosen: NDArray[np.uint8] = pixels[(*within, *keys[2:])]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[()]
        return pixels if dtype is None else pixels.astype(dtype, copy=bool(copy))


def _keys(key: Any, ndim: int) -> list[Any]:
    """One index for each axis, whole where ``key`` does not say."""
    keys = list(key) if isinstance(key, tuple) else [key]
    place = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
    keys[place : place + 1] = [slice(None)] * (ndim - len(keys) + (place < len(keys)))
    return keys


def _reach(span: range) -> int:
    """How many indices lie from the first of a span to its last."""
    return max(span) - min(span) + 1 if span else 0


def _span(key: Any, size: int) -> range:
    """The indices along an axis that ``key`` chooses."""
    if isinstance(key, slice):
        return range(size)[key]
    at = range(size)[key]
    return range(at, at + 1)
