"""The mask as a pure function of the stored probability: bilinear, then the largest.

Knows arrays and boxes; must not know stores, models or runs. Integers throughout, so that the same bytes give the same
mask on every machine.

Glossary: s = stride (run pixels a cell); K = classes; (h, w) = cells of the window. With half-pixel centres (torch's
``align_corners=False``) run pixel i lies at cell ``(2 i + 1 - s) / (2 s)``: weights are whole multiples of 1 / (2 s).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box

SMALL_STRIDE = 5  # up to here 255 (2 s)^2 fits int16, which is twice as fast as int32

Weighted = tuple[int, int, int, int]  # first row of the lower and of the upper neighbours, their weights


def mask_from_probability(probability: NDArray[np.uint8], stride: int, box: Box, window: Box) -> NDArray[np.uint8]:
    """The mask of ``box`` from the probability of the window around it.

    Parameters
    ----------
    probability
        uint8 ``(K, h, w)`` of all of ``window``, with ``h = ceil(window.height / stride)`` and ``w`` alike. It is
        upsampled bilinearly, clamped at the window's edge; a pixel's class is the largest, of equals the lowest.
    stride
        Run pixels per cell.
    box, window
        In run pixels, ``box`` inside ``window``; it starts on whole cells, and ends on them or with the window.

    Returns
    -------
    numpy.ndarray
        uint8 ``(Y, X)`` of ``box``, values 0..K-1.
    """
    rows, cols = _cells(probability.shape, stride, box, window)
    padded = probability[:, rows[:, None], cols]
    dtype = np.int16 if stride <= SMALL_STRIDE else np.int32
    out = np.empty((len(rows) - 2, stride, (len(cols) - 2) * stride), np.uint8)
    planes = _planes(padded, dtype)
    wide = [_upsample_x(plane, stride) for plane in planes]
    for phase, weighted in enumerate(_phases(stride)):
        out[:, phase] = _largest([_blend(plane, weighted) for plane in wide])
    return out.reshape(-1, out.shape[-1])[: box.height, : box.width]


def _cells(shape: tuple[int, ...], stride: int, box: Box, window: Box) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of cells that ``box`` needs, with one more on each side, clamped to the window's."""
    h, w = -(-window.height // stride), -(-window.width // stride)
    if shape[1:] != (h, w) or box.clip(window) != box:
        raise ValueError(f"probability {shape} at stride {stride} does not cover {box} in {window}")
    local = box.shift(-window.y0, -window.x0)
    if local.y0 % stride or local.x0 % stride:
        raise ValueError(f"{box} does not start on whole cells of {stride} px in {window}")
    rows = np.arange(local.y0 // stride - 1, -(-local.y1 // stride) + 1)
    cols = np.arange(local.x0 // stride - 1, -(-local.x1 // stride) + 1)
    return rows.clip(0, h - 1), cols.clip(0, w - 1)


def _planes(padded: NDArray[np.uint8], dtype: type[np.signedinteger[Any]]) -> list[NDArray[Any]]:
    """What must be upsampled: of two classes only their difference, since upsampling is linear."""
    if len(padded) == 1:
        return [np.zeros(padded[0].shape, dtype)]
    if len(padded) == 2:
        return [padded[1].astype(dtype) - padded[0]]
    return [plane.astype(dtype) for plane in padded]


def _phases(stride: int) -> Iterator[Weighted]:
    """For each pixel of a cell: which padded cells it lies between, and their weights in 1 / (2 s)."""
    for phase in range(stride):
        step = 2 * phase + 1 - stride
        first = 0 if step < 0 else 1
        upper = step % (2 * stride)
        yield first, first + 1, 2 * stride - upper, upper


def _blend(plane: NDArray[Any], weighted: Weighted) -> NDArray[Any]:
    """One phase of rows: (cells + 2, X) -> (cells, X)."""
    lower, upper, a, b = weighted
    count = len(plane) - 2
    mixed: NDArray[Any] = plane[lower : lower + count] * plane.dtype.type(a)
    if b:
        mixed += plane[upper : upper + count] * plane.dtype.type(b)
    return mixed


def _upsample_x(plane: NDArray[Any], stride: int) -> NDArray[Any]:
    """Columns: (Y, cells + 2) -> (Y, cells * s), values times 2 s."""
    out = np.empty((len(plane), plane.shape[1] - 2, stride), plane.dtype)
    for phase, weighted in enumerate(_phases(stride)):
        out[..., phase] = _blend(plane.T, weighted).T
    return out.reshape(len(plane), -1)


def _largest(planes: list[NDArray[Any]]) -> NDArray[np.uint8]:
    """The index of the largest plane, the lowest of equals; of one plane, a difference: whether it is above 0."""
    if len(planes) == 1:
        return (planes[0] > 0).view(np.uint8)
    best, index = planes[0], np.zeros(planes[0].shape, np.uint8)
    for value, plane in enumerate(planes[1:], start=1):
        np.copyto(index, np.uint8(value), where=plane > best)
        best = np.maximum(best, plane)
    return index
