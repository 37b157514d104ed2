"""One picture of a tiled TIFF as an array: tiles are decoded in the thread that asks for them.

Knows pages of tifffile; must not know series, planes or levels. Beside ``aszarr`` it saves the way through Zarr's event
loop and back, and the copies on it: a quarter of the time that a JPEG tile of 256 px takes.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage, TiffPageSeries

from napari_xt.io.images.keys import full_key

_JPEG = (6, 7, 34892, 33007)


def one_tiled_page(level: TiffPageSeries) -> TiffPage | None:
    """The page that is all of a level, where its tiles hold all samples of their pixels; else None."""
    page = level.keyframe
    plain = page.is_tiled and page.planarconfig == 1 and page.tiledepth == 1 and len(level) == 1
    return page if plain and tuple(page.shape) == tuple(level.shape) and level.axes in ("YX", "YXS") else None


class TiledPage:
    """The pixels ``(y, x)`` or ``(y, x, samples)`` of a page; safe to read from many threads.

    Parameters
    ----------
    page
        Its file stays open; what it decodes is checked where `guard_segments` was told to.
    """

    def __init__(self, page: TiffPage) -> None:
        assert page.dtype is not None
        self._page = page
        page.parent.filehandle.set_lock(True)  # levels share it
        self.shape, self.dtype = tuple(map(int, page.shape)), np.dtype(page.dtype)
        self.chunks: tuple[int, ...] = (int(page.tilelength), int(page.tilewidth), *self.shape[2:])
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize
        self._told: dict[str, Any] = {"_fullsize": True}
        if int(page.compression) in _JPEG:
            self._told |= {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = full_key(key, self.shape)
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(k, k + 1) for k, n in zip(keys, self.shape, strict=True)
        ]
        low, high = ([end(r, default=0) for r in ranges[:2]] for end in (min, max))
        block = self._read((low[0], low[1]), (high[0] + bool(ranges[0]), high[1] + bool(ranges[1])))
        steps = (
            slice(None, None, r.step) if isinstance(k, slice) else 0 for k, r in zip(keys, ranges[:2], strict=False)
        )
        return block[(*steps, *keys[2:])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=bool(copy))

    def _read(self, low: tuple[int, int], high: tuple[int, int]) -> NDArray[Any]:
        """The pixels from ``low`` to ``high``, y and x."""
        out = np.empty((high[0] - low[0], high[1] - low[1], *self.shape[2:]), self.dtype)
        (tall, wide), across = self.chunks[:2], -(-self.shape[1] // self.chunks[1])
        rows, cols = (range(a // side, -(-b // side)) for a, b, side in zip(low, high, (tall, wide), strict=True))
        for row, col in product(rows, cols):
            y, x = max(low[0], row * tall), max(low[1], col * wide)
            y1, x1 = min(high[0], (row + 1) * tall), min(high[1], (col + 1) * wide)
            tile = self._tile(row * across + col)
            place = out[y - low[0] : y1 - low[0], x - low[1] : x1 - low[1]]
            place[...] = (
                self._page.nodata
                if tile is None
                else tile[y - row * tall : y1 - row * tall, x - col * wide : x1 - col * wide]
            )
        return out

    def _tile(self, index: int) -> NDArray[Any] | None:
        """The pixels of a tile, None where the file has none."""
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        if not count:
            return None
        file = self._page.parent.filehandle
        with file.lock:
            file.seek(offset)
            data = file.read(count)
        if len(data) != count:
            raise OSError("the file was cut short while it was open")
        found = self._page.decode(data, index, **self._told)[0]
        return None if found is None else np.asarray(found).reshape(self.chunks)
