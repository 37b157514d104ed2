"""What regions look like on their own while the rest of a large window is still encoded: shown, then thrown away.

Knows Zarr and regions; must not know networks, runs or screens.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from napari_xt.geometry import Box, Region
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.patches import joined, paint

PREVIEW = "preview"
NONE = 255  # no preview there
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError)  # cut short by a loss of power

RegionPreview = tuple[Region, NDArray[np.uint8]]  # classes (h, w) of its inner, at the layout's stride


class Previews:
    """The previews of a run, for its writer: a uint8 array of classes ``(y, x)`` at the layout's stride.

    It is neither fsynced nor journalled. What a stopped run leaves is shown again by the one that goes on.

    Parameters
    ----------
    root
        The store's folder.
    layout
        Its layout, which has a mask.

    Attributes
    ----------
    left
        The regions that have one since before.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        self._layout = layout
        try:
            self.left = list(_left(open_previews(root, layout), layout))
        except UNREADABLE:
            remove_previews(root)
            self.left = []
        if not self.left:
            _create(root, layout)
        self._classes = zarr.open_array(LocalStore(root), path=PREVIEW, mode="r+")

    def put(self, found: Sequence[RegionPreview]) -> None:
        """Write the previews of some regions."""
        if not found:
            return
        patches = joined([(self._layout.cells(region.inner), classes) for region, classes in found])
        if len(patches) == 1:
            box, classes = patches[0]
            self._classes[box.slices] = classes
        else:
            paint(self._classes, patches)


def open_previews(root: Path, layout: Layout) -> zarr.Array[Any]:
    """The previews in the store at ``root`` for reading: uint8 classes ``(y, x)``, `NONE` where there is none.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, RuntimeError
        There are none, or they are damaged; reading them may raise these, too (see `UNREADABLE`).
    """
    array = zarr.open_array(LocalStore(root, read_only=True), path=PREVIEW, mode="r")
    if array.shape != layout.probability_shape or array.dtype != np.uint8:
        raise ValueError(f"{PREVIEW} is {array.dtype} {array.shape}")
    return array


def remove_previews(root: Path) -> None:
    """Remove the array; one that is not there is no matter. Its chunks go first: what is left meanwhile is an array."""
    for part in (root / PREVIEW / "c", root / PREVIEW):
        shutil.rmtree(part, ignore_errors=True)


def _create(root: Path, layout: Layout) -> None:
    side = layout.grid.block_px // layout.stride
    zarr.create_array(
        LocalStore(root),
        name=PREVIEW,
        shape=layout.probability_shape,
        chunks=(side, side),
        dtype="uint8",
        fill_value=NONE,
        compressors=[ZstdCodec(level=1, checksum=True)],
        dimension_names=("y", "x"),
        overwrite=True,
    )


def _left(array: zarr.Array[Any], layout: Layout) -> Iterator[Region]:
    """The regions that have a preview already."""
    grid = layout.grid
    for row in range(grid.block_shape[0]):
        box = Box(row * grid.block_px, 0, (row + 1) * grid.block_px, grid.width).clip(grid.bounds)
        cells = layout.cells(box)
        classes = np.asarray(array[cells.slices])
        for region in grid.regions(box):
            if (classes[layout.cells(region.inner).shift(-cells.y0, 0).slices] != NONE).any():
                yield region
