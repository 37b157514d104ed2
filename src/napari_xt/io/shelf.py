"""Where encoded regions wait for the rest of a window that is too large for memory: their tokens and local features.

Knows Zarr and blocks; must not know networks, or what the numbers mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from napari_xt.errors import StoreError
from napari_xt.geometry import Block
from napari_xt.io.layout import Layout

TOKENS, FEATURES = "tokens", "features"


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBlock:
    """A block's regions after the region encoder.

    Parameters
    ----------
    block
        Where it lies, in run pixels.
    pixels
        ``(C, Y, X)``, its source pixels in the run's frame, for the overview; None leaves the overview empty there.
    tokens, features
        ``(r, q, L, D)`` and ``(r, q, c, h, w)`` of its regions; what was not run is zeros.
    errors
        Why a region failed, by its index.
    """

    block: Block
    pixels: NDArray[Any] | None
    tokens: NDArray[np.floating[Any]]
    features: NDArray[np.floating[Any]]
    errors: Mapping[int, str]


def create_shelf(store: LocalStore, layout: Layout) -> None:
    """Make the empty arrays of a layout that has a shelf: a chunk for each block."""
    if layout.shelf is None:
        return
    k = layout.grid.block_regions
    for name, inner, axes in ((TOKENS, layout.shelf.tokens, "token channel"), (FEATURES, layout.shelf.local, "c y x")):
        zarr.create_array(
            store,
            name=name,
            shape=(*layout.grid.shape, *inner),
            chunks=(k, k, *(max(1, n) for n in inner)),
            dtype=layout.shelf.dtype,
            fill_value=0,
            compressors=[ZstdCodec(level=1, checksum=True)],
            dimension_names=("row", "col", *axes.split()),
        )


class Shelf:
    """The open arrays: ``tokens (rows, cols, L, D)`` and ``features (rows, cols, c, h, w)``.

    Raises
    ------
    StoreError
        Where one is missing.
    """

    def __init__(self, store: LocalStore, layout: Layout) -> None:
        self._k = layout.grid.block_regions
        try:
            self._tokens, self._features = (zarr.open_array(store, path=name, mode="r+") for name in (TOKENS, FEATURES))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise StoreError(store.root, f"it is damaged: {error}", "run it again with restart") from error

    def put(self, blocks: Sequence[EncodedBlock]) -> None:
        """Write blocks, one chunk of each array for each."""
        for data in blocks:
            place = self._place(data.block.row, data.block.col)
            self._tokens[place] = data.tokens
            self._features[place] = data.features

    def tokens(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Tokens of a rectangle of regions, ``(rows, cols, L, D)``."""
        return np.asarray(self._tokens[row0:row1, col0:col1])

    def features(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Local features of a rectangle of regions, ``(rows, cols, c, h, w)``."""
        return np.asarray(self._features[row0:row1, col0:col1])

    def _place(self, row: int, col: int) -> tuple[slice, slice]:
        k = self._k
        return slice(row * k, (row + 1) * k), slice(col * k, (col + 1) * k)


def remove_shelf(root: Path) -> None:
    """Give the disk back; what is not there is no matter."""
    for name in (TOKENS, FEATURES):
        shutil.rmtree(root / name, ignore_errors=True)
