"""A pyramid written in one pass: strips of level 0 are read once, each level is made from the one before in memory.

Knows arrays and strips; must not know files, metadata or what the pixels are of.

A *strip* is as high as a chunk (or shard) of the target, a *column* the strips of some planes between two x. Columns
begin on chunk borders of every level that is made on the way, so that each chunk is written once and whole. Where
columns of all levels would not fit the memory, a *sweep* makes only the first few, and the next one goes on from the
last level that was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.stores.patches import mean

STRIP_BYTES = 64 << 20  # of a strip of level 0; some five times as much is in memory in all
BAND_BYTES = 4 * STRIP_BYTES  # a row of source chunks is read at once up to this size

Lead = tuple[slice, ...]  # where on the axes before y and x
Reduce = Callable[[NDArray[Any]], NDArray[Any]]


class Rows(Protocol):
    """Where strips come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, the last two y and x."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what ``read`` returns."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is decoded at once along each axis."""

    def read(self, lead: Lead, box: Box, /) -> NDArray[Any]:
        """The pixels ``(..., Y, X)`` of a box of some planes."""


@dataclass(frozen=True, slots=True)
class ArrayRows:
    """A level that is written already, as the source of a later sweep."""

    array: zarr.Array[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shards or self.array.chunks

    def read(self, lead: Lead, box: Box) -> NDArray[Any]:
        """The pixels of a box of some planes."""
        return np.asarray(self.array[(*lead, *box.slices)])


@dataclass(frozen=True, slots=True)
class Sweep:
    """Levels ``first`` to ``last`` from what ``first`` holds (0: from the source), in columns of ``width`` px."""

    first: int
    last: int
    width: int
    planes: tuple[int, ...]  # along each axis before y and x, in one column

    def columns(self, shape: Sequence[int]) -> list[tuple[Lead, int, int]]:
        """The columns of a level of ``shape``: some planes, and from which x to which."""
        leads = product(*(_steps(size, step) for size, step in zip(shape[:-2], self.planes, strict=True)))
        return [(lead, part.start, part.stop) for lead in leads for part in _steps(shape[-1], self.width)]


def sweeps(shapes: Sequence[Sequence[int]], side: int, planes: tuple[int, ...], source: Rows) -> list[Sweep]:
    """The sweeps that make levels of ``shapes`` with strips of ``side`` px, within `STRIP_BYTES` where that can be."""
    made, first, last = list[Sweep](), 0, len(shapes) - 1
    tall = max(side, source.chunks[-2] * STRIP_BYTES // BAND_BYTES)
    while first < last or not made:
        width, column = shapes[first][-1], max(1, tall * prod(planes) * source.dtype.itemsize)
        fits = (k for k in range(last, first, -1) if min(width, side << (k - first)) * column <= STRIP_BYTES)
        reach = next(fits, min(first + 1, last))
        step = side << (reach - first)
        made.append(Sweep(first, reach, max(step, STRIP_BYTES // column // step * step), planes))
        first, tall = reach, side
    return made


def planes_of(rows: Rows, least: Sequence[int], side: int) -> tuple[int, ...]:
    """How many planes to take at once: those that lie in one chunk of the source, if so many fit; else ``least``."""
    shape = rows.shape[:-2]
    wanted = tuple(min(n, -(-max(a, b) // b) * b) for n, a, b in zip(shape, rows.chunks, least, strict=False))
    square = side * min(rows.shape[-1], 2 * side) * rows.dtype.itemsize
    return wanted if prod(wanted) * square <= 2 * STRIP_BYTES else tuple(least)


class Column:
    """The strips of some planes between two x, written to ``arrays``, the levels of one sweep, finest first.

    Parameters
    ----------
    source
        What level 0 of ``arrays`` holds or is to hold.
    arrays
        The levels. The first one is written where ``fresh``, else it is the source itself.
    side
        Rows of a strip, even.
    place
        Planes, and from which x to which of the first level.
    reduce
        Makes ``(..., h, w)`` from ``(..., 2 h, 2 w)``.
    """

    def __init__(
        self,
        source: Rows,
        arrays: Sequence[zarr.Array[Any]],
        side: int,
        place: tuple[Lead, int, int],
        *,
        fresh: bool = True,
        reduce: Reduce,
    ) -> None:
        self._source, self._arrays, self._side, self._fresh, self._reduce = source, arrays, side, fresh, reduce
        self._lead, self._x0, self._x1 = place
        self._pending: dict[int, NDArray[Any]] = {}
        self._held: NDArray[Any] | None = None  # rows from the begin of the next strip on
        self.strips = _strips(source.shape[-2], side)

    def write(self, done: int = 0) -> Iterator[int]:
        """Write all strips but the first ``done``, which an earlier call has; yields how many are done after each."""
        self._restore(done)
        for strip in range(done, self.strips):
            self._put(0, strip, self._next(strip))
            yield strip + 1

    def _next(self, strip: int) -> NDArray[Any]:
        """The rows of a strip; a row of source chunks that goes on into the next strip is held until then."""
        begin, height = strip * self._side, self._source.shape[-2]
        end = min(height, begin + self._side)
        held = 0 if self._held is None else self._held.shape[-2]
        ahead = min(height, -(-end // self._band()) * self._band())
        rows = self._held
        if begin + held < end:
            fresh = self._source.read(self._lead, Box(begin + held, self._x0, ahead, self._x1))
            rows = fresh if rows is None or not held else np.concatenate([rows, fresh], axis=-2)
        assert rows is not None
        rest = rows[..., end - begin :, :]
        self._held = rest.copy() if rest.size else None
        return rows[..., : end - begin, :]

    def _band(self) -> int:
        rows = self._source.chunks[-2]
        planes = prod(len(range(*part.indices(n))) for part, n in zip(self._lead, self._source.shape, strict=False))
        return rows if rows * planes * (self._x1 - self._x0) * self._source.dtype.itemsize <= BAND_BYTES else 1

    def _put(self, level: int, strip: int, rows: NDArray[Any]) -> None:
        """Write a strip of a level, and what becomes of it in the coarser ones."""
        if level or self._fresh:
            self._arrays[level][(*self._lead, *self._box(level, strip).slices)] = rows
        if level + 1 == len(self._arrays):
            return
        half = self._reduce(rows)
        upper = self._pending.pop(level + 1, None)
        if upper is not None:
            half = np.concatenate([upper, half], axis=-2)
        if strip % 2 or strip + 1 == _strips(self._arrays[level].shape[-2], self._side):
            self._put(level + 1, strip // 2, half)
        else:
            self._pending[level + 1] = half

    def _restore(self, done: int) -> None:
        """Make again what was in memory when the first ``done`` strips were written."""
        self._held = None
        self._pending.clear()
        for level in range(len(self._arrays) - 1):
            if done % 2:
                last = self._arrays[level][(*self._lead, *self._box(level, done - 1).slices)]
                self._pending[level + 1] = self._reduce(np.asarray(last))
            done //= 2

    def _box(self, level: int, strip: int) -> Box:
        height, width = self._arrays[level].shape[-2:]
        x0, x1 = self._x0 >> level, -(-self._x1 >> level) if self._x1 < self._arrays[0].shape[-1] else width
        return Box(strip * self._side, x0, (strip + 1) * self._side, x1).clip(Box(0, 0, height, width))


def area_mean(rows: NDArray[Any], nodata: int | None = None) -> NDArray[Any]:
    """The means over 2 x 2 pixels: exact for integers, rounded half up; of real numbers over those that are finite.

    Whole numbers that are ``nodata`` do not count; where there is nothing else it stays.
    """
    if nodata is not None and rows.dtype.kind in "iu" and (rows == nodata).any():
        return _mean_but(rows, nodata)
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return _mean(rows)
    finite = np.isfinite(rows)
    share = _mean(finite.astype(np.float64))
    plain = _mean(np.where(finite, rows, 0).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(share > 0, plain / share, _mean(rows)).astype(rows.dtype)


def _mean_but(rows: NDArray[Any], nodata: int) -> NDArray[Any]:
    there = rows != nodata
    share = _mean(there.astype(np.float64))
    plain = _mean(np.where(there, rows, 0).astype(np.float64))
    means = np.floor(np.divide(plain, share, out=np.zeros_like(plain), where=share > 0) + 0.5)
    ends = np.iinfo(rows.dtype)
    most = float(ends.max) if rows.dtype.itemsize < 8 else np.nextafter(float(ends.max), 0)
    kept: NDArray[Any] = np.clip(means, float(ends.min), most).astype(rows.dtype)
    kept[share == 0] = nodata
    return kept


def every_other(rows: NDArray[Any]) -> NDArray[Any]:
    """Every second pixel, for values that have no mean."""
    return rows[..., ::2, ::2]


def _mean(rows: NDArray[Any]) -> NDArray[Any]:
    """In pieces that fit the processor's cache."""
    step = max(2, (1 << 20) // max(1, prod(rows.shape[:-1])) // 2 * 2)
    pieces = (rows[..., x : x + step] for x in range(0, rows.shape[-1], step))
    return np.concatenate([mean(piece, Box(0, 0, *piece.shape[-2:]), 2)[1] for piece in pieces], axis=-1)


def _strips(height: int, side: int) -> int:
    return -(-height // side)


def _steps(size: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, size)) for at in range(0, size, step)]
