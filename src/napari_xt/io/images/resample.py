"""Reading in the frame of a run: a level as it is, or resampled so that every pixel depends on its place alone.

Knows images and arrays; knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.image import Image


def read_run(image: Image, level: int, shape_run: tuple[int, int], box: Box) -> NDArray[np.generic]:
    """Read ``box`` of a run's grid.

    Parameters
    ----------
    image, level
        The source.
    shape_run
        ``(height, width)`` of the run's grid: that of the level, or another that the level is resampled to (by area
        where it gets smaller, bilinearly where it gets larger).
    box
        In run pixels, inside the grid.

    Returns
    -------
    ndarray
        ``(C, Y, X)`` in the image's dtype. The same pixel comes out the same whatever box it is read with.
    """
    shape = image.level_shapes[level]
    if shape == shape_run:
        return image.read(box, level)
    rows = _taps(box.y0, box.y1, shape[0], shape_run[0])
    cols = _taps(box.x0, box.x1, shape[1], shape_run[1])
    source = image.read(Box(rows.first, cols.first, rows.last, cols.last), level).astype(np.float32)
    values = cols.apply(rows.apply(source, axis=1), axis=2)
    if image.dtype.kind in "iu":
        values = np.rint(values)
    return values.astype(image.dtype)


@dataclass(frozen=True, slots=True)
class _Taps:
    """For each pixel of one axis: which source pixels, counted from ``first``, and with what weight, ``(n, taps)``."""

    first: int
    last: int
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    def apply(self, values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """The weighted sums along ``axis``, tap by tap, so that the order of additions never changes."""
        shape = [1] * values.ndim
        shape[axis] = -1
        total = np.zeros((), np.float32)
        for index, weight in zip(self.index.T, self.weight.T, strict=True):
            total = total + np.take(values, index, axis=axis) * weight.reshape(shape)
        return np.asarray(total, np.float32)


def _taps(start: int, stop: int, size: int, size_run: int) -> _Taps:
    factor = size / size_run
    places = np.arange(start, stop)
    index, weight = (_area if factor > 1 else _bilinear)(places, factor)
    index = index.clip(0, size - 1)
    first = int(index.min())
    return _Taps(first, int(index.max()) + 1, index - first, weight.astype(np.float32))


def _area(places: NDArray[np.int64], factor: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    begin, end = places * factor, (places + 1) * factor
    index = np.floor(begin).astype(np.int64)[:, None] + np.arange(int(np.ceil(factor)) + 1)
    covered = np.minimum(end[:, None], index + 1) - np.maximum(begin[:, None], index)
    return index, covered.clip(0) / factor


def _bilinear(places: NDArray[np.int64], factor: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    centre = (places + 0.5) * factor - 0.5
    index = np.floor(centre).astype(np.int64)[:, None] + np.arange(2)
    return index, 1 - np.abs(centre[:, None] - index)
