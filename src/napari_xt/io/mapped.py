"""Pixels that lie in a file as they are: mapped for the moment of each read. Knows no file format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MappedArray:
    """The uncompressed pixels of a file, mapped for the moment of each read (mapped pages count as memory).

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
        """Return a copy of a part, in native byte order."""
        mapped = np.memmap(self.path, self.stored, "r", self.offset, self.shape, self.order)
        return np.array(mapped[key], dtype=self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=False)
