"""Guesses what the axes of a bare array are, and makes coarser levels of an array lazily.

Knows shapes and dask; knows no file format and computes nothing when called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import lcm
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageFormatError
from napari_xt.geometry import Box
from napari_xt.io.images.source import ArrayLike

COARSEST_PX = 2048
LARGE_END_PX = 4096  # the pyramid of a file that ends above is made longer
MAX_GUESSED_CHANNELS = 16
_BLOCK_PX = 1024
_dask: Any = da  # its functions have no types


def guess_axes(name: str, shape: Sequence[int]) -> str:
    """Return the axes of an array that does not name them: (Y, X), (Y, X, 3 | 4) or (C, Y, X).

    Parameters
    ----------
    name
        What the array is called in the error.
    shape
        The array's shape.

    Raises
    ------
    ImageFormatError
        Where the shape is none of these.
    """
    if len(shape) == 2:
        return "yx"
    if len(shape) == 3 and shape[2] in (3, 4):
        return "yxc"
    if len(shape) == 3 and shape[0] <= MAX_GUESSED_CHANNELS and shape[0] < min(shape[1:]):
        return "cyx"
    why = f"an array of shape {tuple(shape)} is not understood: it may be (Y, X), (Y, X, 3), (Y, X, 4) or (C, Y, X)"
    raise ImageFormatError(name, why, f"pass one of these, with at most {MAX_GUESSED_CHANNELS} channels")


def lazy_pyramid(array: ArrayLike, axes: str, coarsest: int = COARSEST_PX) -> tuple[ArrayLike, ...]:
    """Return ``array`` and its means over 2 x 2, 4 x 4, ... pixels, until a level is at most ``coarsest`` long.

    Parameters
    ----------
    array
        Any array with the given axes; it stays as it is as level 0, so reading it costs nothing more.
    axes
        One letter for each axis, with "y" and "x".
    coarsest
        Longest side of the last level, in its pixels.

    Returns
    -------
    tuple of array
        Level 0 and dask arrays of the same dtype; heights and widths are halved and rounded up. An edge pixel is the
        mean of the pixels that exist, whole numbers are rounded half up. Nothing is computed until it is read.
    """
    y, x = axes.index("y"), axes.index("x")
    levels: list[ArrayLike] = [array]
    if max(array.shape[y], array.shape[x]) <= coarsest:
        return (array,)
    level = _as_dask(array, y, x)
    while max(level.shape[y], level.shape[x]) > coarsest:
        level = _halved(level, y, x)
        levels.append(level)
    return tuple(levels)


def extended(levels: Sequence[ArrayLike], axes: str) -> tuple[ArrayLike, ...]:
    """Return ``levels``, and lazy ones behind them where they end at a large one or there is only one."""
    last = levels[-1]
    small = max(last.shape[axes.index(axis)] for axis in "yx") <= LARGE_END_PX
    return tuple(levels) if len(levels) > 1 and small else (*levels[:-1], *lazy_pyramid(last, axes))


def chunk_boxes(array: ArrayLike, axes: str, box: Box) -> Iterator[Box]:
    """Yield the parts of ``box`` that lie in one chunk each; nothing where the chunks have no common size."""
    chunks = getattr(array, "chunks", None)
    if not chunks or not all(isinstance(length, int) for length in chunks):
        return
    height, width = chunks[axes.index("y")], chunks[axes.index("x")]
    cells = box.scale(1 / height, 1 / width)
    for row, col in product(range(cells.y0, cells.y1), range(cells.x0, cells.x1)):
        yield Box(row * height, col * width, (row + 1) * height, (col + 1) * width).clip(box)


def _as_dask(array: ArrayLike, y: int, x: int) -> da.Array:
    if isinstance(array, da.Array):
        return array
    # name=False: a name from the content would read all of it
    lazy: da.Array = _dask.from_array(
        array, chunks=_chunks(array, y, x), name=False, inline_array=True, meta=_meta(array)
    )
    return lazy


def _meta(array: ArrayLike) -> NDArray[Any]:
    return np.empty((0,) * array.ndim, array.dtype)


def _chunks(array: ArrayLike, y: int, x: int) -> tuple[int, ...]:
    """Whole source chunks of an even length of about 1024 px along y and x; the other axes as they are stored."""
    stored = getattr(array, "chunks", None) or tuple(
        1 if i in (y, x) or size > MAX_GUESSED_CHANNELS else size for i, size in enumerate(array.shape)
    )
    return tuple(
        min(size + size % 2, _even(chunk)) if i in (y, x) else chunk
        for i, (chunk, size) in enumerate(zip(stored, array.shape, strict=True))
    )


def _even(chunk: int) -> int:
    side = lcm(chunk, 2)
    return side * max(1, round(_BLOCK_PX / side))


def _halved(level: da.Array, y: int, x: int) -> da.Array:
    """Blocks of an even length are halved each on its own, so that no pixel is read twice."""
    whole = _dask.rechunk(level, {axis: _whole(level.chunks[axis]) for axis in (y, x)})
    chunks = tuple(
        tuple(-(-n // 2) for n in sizes) if axis in (y, x) else sizes for axis, sizes in enumerate(whole.chunks)
    )
    half: da.Array = _dask.map_blocks(halve, whole, y=y, x=x, chunks=chunks, dtype=level.dtype, meta=_meta(level))
    return half


def _whole(sizes: Sequence[int]) -> tuple[int, ...]:
    """Chunk lengths along an axis, grown to even ones of at least half a block; the last one takes the rest."""
    total, first = sum(sizes), sizes[0] + sizes[0] % 2
    side = first * max(1, round(_BLOCK_PX / first))
    return (side,) * (total // side) + ((total % side,) if total % side else ())


def is_computed(level: ArrayLike) -> bool:
    """Whether a level is made from finer ones when it is read."""
    return isinstance(level, da.Array) and level.name.startswith(f"{halve.__name__}-")


def halve(block: NDArray[Any], y: int, x: int) -> NDArray[Any]:
    """Return the mean over 2 x 2 pixels of the axes ``y`` and ``x`` in the same dtype; odd edges are repeated first."""
    pads = [(0, n % 2 if axis in (y, x) else 0) for axis, n in enumerate(block.shape)]
    even = np.pad(block, pads, mode="edge") if any(after for _, after in pads) else block
    wide = even.astype(_wide(block.dtype), copy=False)
    for axis in (y, x):
        first, second = (_every_other(wide.ndim, axis, start) for start in (0, 1))
        wide = wide[first] + wide[second]
    return _quarter(wide, block.dtype)


def _every_other(ndim: int, axis: int, start: int) -> tuple[slice, ...]:
    return tuple(slice(start, None, 2) if i == axis else slice(None) for i in range(ndim))


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that holds the sum of four values."""
    if dtype.kind == "f":
        return np.promote_types(dtype, np.float32)
    wider = {1: "i2", 2: "i4", 4: "i8"}
    return np.dtype(wider[dtype.itemsize]) if dtype.itemsize in wider else np.dtype("f8")


def _quarter(total: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return (total / 4).astype(dtype)
    mean = (total + 2) >> 2 if total.dtype.kind == "i" else np.floor(total / 4 + 0.5)
    return mean.astype(dtype)
