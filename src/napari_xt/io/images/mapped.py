"""Pixels that lie in a file as they are: read in runs, never mapped, for a map of a shrinking file kills the process.

Knows no file format.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.images.keys import full_key

_PAGE = 4096  # bytes; a read of less costs as much
_SHORT = 1 << 16  # bytes; what is shorter is read by the call that costs least
_WASTE = 4  # how much more may be read than is wanted, where runs are short


@dataclass(frozen=True, slots=True)
class MappedArray:
    """The uncompressed pixels of a file, which is opened for the moment of each read.

    Parameters
    ----------
    path
        The file.
    offset
        First byte.
    shape
        Length of each axis.
    stored
        Type of the pixels in the file, with its byte order.
    order
        "C", or "F" where the first axis runs fastest.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    order: Literal["C", "F"] = "C"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels in native byte order."""
        return self.stored.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Return a copy of a part, in native byte order: whole numbers and slices.

        Raises
        ------
        OSError
            The file is gone, or shorter than it was.
        """
        keys = full_key(key, self.shape)
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(n)[k : k + 1] for k, n in zip(keys, self.shape, strict=True)
        ]
        spans = [(min(r), max(r) + 1) if r else (0, 0) for r in ranges]
        if any(first == last for first, last in spans):
            block = np.empty([last - first for first, last in spans], self.stored)
        elif self.order == "F":
            block = self._block(self.shape[::-1], spans[::-1]).T
        else:
            block = self._block(self.shape, spans)
        within = tuple(slice(None, None, k.step) if isinstance(k, slice) else 0 for k in keys)
        return np.asarray(block[within], dtype=self.dtype, order="C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=False)

    def _block(self, shape: Sequence[int], spans: Sequence[tuple[int, int]]) -> NDArray[Any]:
        """Read the part between ``spans`` of an array of ``shape`` whose last axis runs fastest."""
        wide = _widened(shape, spans, self.stored.itemsize)
        lengths = [last - first for first, last in wide]
        axis = _first_whole(shape, wide)
        steps = [math.prod(shape[k + 1 :]) * self.stored.itemsize for k in range(len(shape))]
        start = self.offset + sum(first * step for (first, _), step in zip(wide, steps, strict=True))
        starts = np.full((), start, np.int64)
        for length, step in zip(lengths[:axis], steps, strict=False):
            starts = starts[..., None] + np.arange(length) * step
        out = np.empty(lengths, self.stored)
        _read_runs(self.path, starts.reshape(-1).tolist(), out.reshape(-1).view(np.uint8))
        return out[tuple(slice(a - b, c - b) for (a, c), (b, _) in zip(spans, wide, strict=True))]


def _read_runs(path: str, starts: Sequence[int], out: NDArray[np.uint8]) -> None:
    """Fill ``out`` with equally many bytes from each place in a file."""
    nbytes = len(out) // len(starts)
    with open(path, "rb", buffering=0) as file:
        if nbytes < _SHORT and hasattr(os, "pread"):
            number, pread = file.fileno(), os.pread
            runs = b"".join([pread(number, nbytes, start) for start in starts])
            if len(runs) == len(out):
                out[:] = np.frombuffer(runs, np.uint8)
                return
        for number, start in enumerate(starts):
            file.seek(start)
            _fill(file, out[number * nbytes : (number + 1) * nbytes].data)


def _fill(file: io.FileIO, rest: memoryview) -> None:
    while rest:
        count = file.readinto(rest)
        if not count:
            raise OSError("the file was cut short while it was open")
        rest = rest[count:]


def _first_whole(shape: Sequence[int], spans: Sequence[tuple[int, int]]) -> int:
    """The first axis from which on the pixels lie one after another in the file."""
    axis = len(shape) - 1
    while axis > 0 and spans[axis] == (0, shape[axis]):
        axis -= 1
    return axis


def _widened(shape: Sequence[int], spans: Sequence[tuple[int, int]], itemsize: int) -> list[tuple[int, int]]:
    """``spans`` with the last ones made whole where many short runs would cost more than reading what lies between."""
    wide = list(spans)
    while (axis := _first_whole(shape, wide)) > 0:
        inner = math.prod(shape[axis + 1 :]) * itemsize
        length = wide[axis][1] - wide[axis][0]
        short, bearable = length * inner < _PAGE, shape[axis] <= _WASTE * length
        if not (shape[axis] * inner <= _PAGE or (short and bearable)):
            break
        wide[axis] = (0, shape[axis])
    return wide
