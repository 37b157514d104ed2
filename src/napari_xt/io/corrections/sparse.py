"""Edits of a large mask, where there are some: the chunks of a pyramid that were touched.

Knows arrays and a Zarr group that keeps them; must not know strokes, journals or predictions.

A chunk that was handed out by `Edits.freeze` is never written to again: who writes after that writes to a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from napari_xt.errors import StoreError
from napari_xt.geometry import Box
from napari_xt.io.stores.durable import DurableStore

NONE = 255  # no correction
SIDE = 512  # of a chunk

Bytes = NDArray[np.uint8]
Ints = NDArray[np.intp]
Key = tuple[int, int]


class Change(NamedTuple):
    """A chunk of the finest level before and after; ``before`` is None where nothing was corrected."""

    key: Key
    before: Bytes | None
    after: Bytes


class Level:
    """One level: uint8 chunks in memory over those that a Zarr array has, `NONE` where there is none."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.chunks: dict[Key, Bytes] = {}
        self.dirty: set[Key] = set()
        self._kept: Any = None
        self._there: set[Key] = set()  # in the Zarr array and not in memory

    def keep_in(self, array: Any, there: set[Key]) -> None:
        """Take what is not in memory from a Zarr array, which has chunks at ``there``."""
        self._kept, self._there = array, there

    def keys(self) -> list[Key]:
        """The chunks that may have corrections."""
        return sorted({*self.chunks, *self._there})

    def box(self, key: Key) -> Box:
        """Where a chunk lies."""
        y, x = key[0] * SIDE, key[1] * SIDE
        return Box(y, x, y + SIDE, x + SIDE).clip(Box(0, 0, *self.shape))

    def get(self, key: Key) -> Bytes | None:
        """A chunk; None where nothing is corrected."""
        found = self.chunks.get(key)
        if found is None and key in self._there:
            found = self._read_kept(key)
            self.chunks[key] = found
            self._there.discard(key)
        return found

    def _read_kept(self, key: Key) -> Bytes:
        try:
            return np.asarray(self._kept[self.box(key).slices])
        except (OSError, ValueError, RuntimeError) as error:
            folder = getattr(self._kept.store, "root", "corrections")
            do = "remove the folder corrections, which is made again of the journal"
            raise StoreError(folder, f"corrected pixels are damaged: {error}", do) from error

    def own(self, key: Key, fresh: bool) -> Bytes:
        """A chunk that can be written to: of its own where it is ``fresh``."""
        found = self.get(key)
        if found is None:
            found = np.full(self.box(key).shape, NONE, np.uint8)
        elif fresh:
            found = found.copy()
        self.chunks[key] = found
        self.dirty.add(key)
        return found

    def read(self, box: Box, lock: AbstractContextManager[Any]) -> Bytes:
        """The edits of a box."""
        out = np.full(box.shape, NONE, np.uint8)
        for y in range(box.y0 // SIDE, -(-box.y1 // SIDE)):
            for x in range(box.x0 // SIDE, -(-box.x1 // SIDE)):
                with lock:
                    chunk = self.get((y, x))
                if chunk is not None:
                    part = self.box((y, x)).clip(box)
                    out[part.shift(-box.y0, -box.x0).slices] = chunk[part.shift(-y * SIDE, -x * SIDE).slices]
        return out


class Edits:
    """The edits of all levels: level k is every 2**k-th pixel of the finest.

    Parameters
    ----------
    shapes
        Of the levels, finest first.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        self.levels = [Level(shape) for shape in shapes]
        self._lock = RLock()
        self._before: dict[Key, Bytes | None] = {}

    def read(self, index: int, box: Box) -> Bytes:
        """The edits of a box of a level; from any thread."""
        return self.levels[index].read(box, self._lock)

    def chunks(self) -> list[Key]:
        """The chunks of the finest level that may have corrections."""
        with self._lock:
            return self.levels[0].keys()

    def put(self, key: Key, rows: Ints, cols: Ints, values: Bytes) -> None:
        """Write pixels of one chunk, by their places in the image."""
        with self._lock:
            self._own(key)[rows - key[0] * SIDE, cols - key[1] * SIDE] = values
            for k, level in enumerate(self.levels[1:], start=1):
                on = ((rows | cols) & ((1 << k) - 1)) == 0
                if not on.any():
                    return
                rows, cols, values = rows[on], cols[on], values[on]
                coarse = (int(rows[0] >> k) // SIDE, int(cols[0] >> k) // SIDE)
                chunk = level.own(coarse, fresh=False)
                chunk[(rows >> k) - coarse[0] * SIDE, (cols >> k) - coarse[1] * SIDE] = values

    def write(self, box: Box, values: Bytes) -> None:
        """Write a box that lies in one chunk of the finest level."""
        key = (box.y0 // SIDE, box.x0 // SIDE)
        with self._lock:
            self._own(key)[box.shift(-key[0] * SIDE, -key[1] * SIDE).slices] = values
            for k, level in enumerate(self.levels[1:], start=1):
                step = 1 << k
                part = values[-box.y0 % step :: step, -box.x0 % step :: step]
                if not part.size:
                    return
                y0, x0 = -(-box.y0 // step), -(-box.x0 // step)
                coarse = (y0 // SIDE, x0 // SIDE)
                place = Box(y0, x0, y0 + part.shape[0], x0 + part.shape[1]).shift(-coarse[0] * SIDE, -coarse[1] * SIDE)
                level.own(coarse, fresh=False)[place.slices] = part

    def freeze(self) -> list[Change]:
        """What changed since the last call."""
        with self._lock:
            before, self._before = self._before, {}
            return [Change(key, old, self.levels[0].chunks[key]) for key, old in before.items()]

    def become(self, other: Edits) -> None:
        """Take what ``other`` has, which is not used any more."""
        with self._lock:
            self.levels, self._before = other.levels, {}

    def forget(self) -> None:
        """Let what changed since the last call of `freeze` pass for what was there."""
        with self._lock:
            self._before = {}

    def _own(self, key: Key) -> Bytes:
        finest = self.levels[0]
        if key not in self._before:
            self._before[key] = finest.get(key)
            return finest.own(key, fresh=True)
        return finest.own(key, fresh=False)

    def load(self, folder: Path) -> None:
        """Read lazily what `save` kept in ``folder``.

        Raises
        ------
        StoreError
            It is damaged.
        """
        for index, level in enumerate(self.levels):
            try:
                array = zarr.open_array(folder / str(index), mode="r")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(folder, f"its corrections can't be read: {error}") from error
            if (array.shape, array.dtype, array.chunks) != (level.shape, np.dtype(np.uint8), (SIDE, SIDE)):
                raise StoreError(folder, f"its corrections are {array.dtype} {array.shape}")
            level.keep_in(array, set(_there(folder / str(index) / "c")))

    def save(self, folder: Path) -> None:
        """Keep what is in memory in ``folder``, on the disk."""
        files = DurableStore(folder, late=True)
        zarr.create_group(files, overwrite=False) if not (folder / "zarr.json").exists() else None
        for index, level in enumerate(self.levels):
            array = _array(files, folder, index, level.shape)
            for key in sorted(level.dirty):
                array[level.box(key).slices] = level.chunks[key]
            level.dirty.clear()
        files.flush()


def groups(rows: Ints, cols: Ints, side: int) -> Iterator[tuple[Key, Any]]:
    """The chunks that hold pixels, each with which of them."""
    y, x = rows // side, cols // side
    key = y * (int(x.max()) + 1) + x
    if key.min() == key.max():
        yield (int(y[0]), int(x[0])), slice(None)
        return
    order = np.argsort(key, kind="stable")
    cuts = np.flatnonzero(np.diff(key[order])) + 1
    for chosen in np.split(order, cuts):
        yield (int(y[chosen[0]]), int(x[chosen[0]])), chosen


def pieces(box: Box, side: int = SIDE) -> Iterator[Box]:
    """The parts of a box in each chunk."""
    for y in range(box.y0 // side, -(-box.y1 // side)):
        for x in range(box.x0 // side, -(-box.x1 // side)):
            yield Box(y * side, x * side, (y + 1) * side, (x + 1) * side).clip(box)


def _array(files: DurableStore, folder: Path, index: int, shape: tuple[int, int]) -> Any:
    if (folder / str(index) / "zarr.json").exists():
        return zarr.open_array(files, path=str(index), mode="r+")
    return zarr.create_array(
        files,
        name=str(index),
        shape=shape,
        chunks=(SIDE, SIDE),
        dtype="uint8",
        fill_value=NONE,
        compressors=[ZstdCodec(level=1, checksum=True)],
        dimension_names=("y", "x"),
    )


def _there(folder: Path) -> Iterator[Key]:
    for path in folder.glob("*/*"):
        if path.name.isdigit() and path.parent.name.isdigit():
            yield int(path.parent.name), int(path.name)
