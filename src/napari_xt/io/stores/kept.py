"""What a store keeps of a run's encoded regions, read while anything may happen to that store.

Knows stores; must not know models, or what the numbers are taken for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_xt.errors import StoreError
from napari_xt.geometry import Box
from napari_xt.io.stores.durable import DurableStore
from napari_xt.io.stores.layout import FEATURES, TOKENS, Header
from napari_xt.io.stores.ledger import Ledger
from napari_xt.io.stores.place import ledger_path
from napari_xt.io.stores.shelf import open_shelf
from napari_xt.io.stores.tree import open_tree, read_header

HELD_BYTES = 64 << 20  # an overview of so many is held in memory
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError)


class Kept:
    """Tokens and local features in a store that this process may not own. Safe to use from many threads.

    Parameters
    ----------
    path
        ``NAME.xt.zarr``, complete or not; a run may be writing it.

    Attributes
    ----------
    path, header
        The store, and what it is of.
    tokens, features
        Which regions have them, bool ``(rows, cols)``; what was skipped or failed has none.

    Raises
    ------
    StoreError
        There is no store, a damaged one, or one of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self.header = read_header(self.path)
        self._self = self._identity()
        self._files = LocalStore(self.path, read_only=True)
        self._arrays = open_shelf(self._files, self.header.layout, "r")
        encoded = self._encoded() if self._arrays else np.zeros(self.header.layout.grid.shape, np.bool_)
        self.tokens, self.features = (encoded & self._there(name) for name in (TOKENS, FEATURES))

    def __repr__(self) -> str:
        return f"Kept({str(self.path)!r}, {self.tokens.sum()} tokens, {self.features.sum()} features)"

    def block(self, row: int, col: int, name: str) -> NDArray[Any] | None:
        """Tokens ``(r, q, L, D)`` or local features ``(r, q, c, h, w)`` of a block, as ``name`` says.

        None where they are damaged, or have been removed meanwhile.
        """
        k = self.header.layout.grid.block_regions
        rows, cols = slice(row * k, (row + 1) * k), slice(col * k, (col + 1) * k)
        try:
            found = np.asarray(self._arrays[name][rows, cols])
            # what was removed reads as zeros: it was there all the time if it still is, in this store
            there = all((self.path / key).exists() for key in self._keys(name, row, col))
            return found if there and self._identity() == self._self else None
        except (*UNREADABLE, StoreError):
            return None

    def link(self, name: str, row: int, col: int, to: DurableStore) -> bool:
        """Let ``to``, a store with an array just like this, share what `block` has read; False where that can't be."""
        try:
            return self._alike(name, to) and all(
                to.link(key, self.path / key, lambda: self._identity() == self._self)
                for key in self._keys(name, row, col)
            )
        except (*UNREADABLE, StoreError):
            return False

    def _alike(self, name: str, to: DurableStore) -> bool:
        one, other = ((Path(root) / name / "zarr.json").read_bytes() for root in (self.path, to.root))
        return one == other

    def pixels(self, box: Box) -> NDArray[Any] | None:
        """``(C, Y, X)`` of ``box`` (run px, in the image), the nearest of the overview; None where that is damaged."""
        factor = self.header.layout.overview_factor
        part = Box(box.y0 // factor, box.x0 // factor, -(-box.y1 // factor), -(-box.x1 // factor))
        try:
            cells = np.asarray(self._overview[(..., *part.slices)])
        except (*UNREADABLE, StoreError):
            return None
        if cells.ndim == 2:
            cells = cells[None]
        rows = np.arange(box.y0, box.y1) // factor - part.y0
        cols = np.arange(box.x0, box.x1) // factor - part.x0
        seen: NDArray[Any] = cells.take(cols, axis=2).take(rows, axis=1)  # ten times as fast as by both at once
        return seen

    @cached_property
    def _overview(self) -> zarr.Array[Any] | NDArray[Any]:
        array = open_tree(self._files, self.header.layout, "r").overview
        return np.asarray(array[...]) if array.nbytes <= HELD_BYTES else array

    def _identity(self) -> tuple[int, int]:
        """Which of the stores that may come to lie at the path this is: their description is written once."""
        try:
            found = (self.path / "zarr.json").stat()
        except OSError as error:
            raise StoreError(self.path, f"it can't be read: {error.strerror}", "check the path") from error
        return found.st_ino, found.st_mtime_ns

    def _encoded(self) -> NDArray[np.bool_]:
        """The regions that the journal says were encoded, ``(rows, cols)``."""
        grid = self.header.layout.grid
        found = np.zeros(grid.shape, np.bool_)
        with Ledger(ledger_path(self.path), read_only=True) as ledger:
            blocks = ledger.encoded()
        k = grid.block_regions
        for row, col in blocks:
            found[row * k : (row + 1) * k, col * k : (col + 1) * k] = True
        try:
            run = _run(self.header)
            failed = [int(index) for text in blocks.values() for index in _errors(text)]
            found.flat[np.array(failed, np.intp)] = False
        except (*UNREADABLE, IndexError) as error:
            raise StoreError(self.path, f"its description is damaged: {error!r}") from error
        return found & run

    def _there(self, name: str) -> NDArray[np.bool_]:
        """The regions of which an array has a chunk, ``(rows, cols)``."""
        grid = self.header.layout.grid
        there = np.zeros(grid.shape, np.bool_)
        if name in self._arrays:
            tall, wide = self._arrays[name].chunks[:2]
            for row in range(0, grid.shape[0], tall):
                for col in range(0, grid.shape[1], wide):
                    file = self.path / self._key(name, row // tall, col // wide)
                    there[row : row + tall, col : col + wide] = file.exists()
        return there

    def _keys(self, name: str, row: int, col: int) -> list[str]:
        """Those of the chunks of an array that hold a block."""
        k, tall = self.header.layout.grid.block_regions, self._arrays[name].chunks[0]
        last = min((row + 1) * k, self.header.layout.grid.shape[0])
        return [self._key(name, first // tall, col) for first in range(row * k, last, tall)]

    def _key(self, name: str, row: int, col: int) -> str:
        array = self._arrays[name]
        return f"{name}/{array.metadata.encode_chunk_key((row, col, *(0,) * (array.ndim - 2)))}"


def _run(header: Header) -> NDArray[np.bool_]:
    """The regions that a run did not leave out, ``(rows, cols)``."""
    grid = header.layout.grid
    roi = Box(**cast("Mapping[str, int]", header.job["roi_run"]))
    run = np.zeros(grid.shape, np.bool_)
    run.flat[np.array([region.index for region in grid.regions(roi)], np.intp)] = True
    runs = (cast("list[tuple[int, int]]", header.plan.get(name, ())) for name in ("empty", "left_out"))
    for first, stop in chain.from_iterable(runs):
        run.flat[first:stop] = False
    return run


def _errors(text: str) -> Mapping[str, str]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}
