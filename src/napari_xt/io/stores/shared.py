"""What blocks share chunks of: coarse mask levels, the overview, the tables of regions.

Knows what a block is made of and the arrays; must not know the journal, files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box, Region
from napari_xt.io.stores.layout import BlockData, Layout, RegionData, Status
from napari_xt.io.stores.patches import Canvas, Patch, every, mean
from napari_xt.io.stores.shelf import EncodedBlock
from napari_xt.io.stores.tree import Tree


class Shared:
    """The shared arrays of a store, for its writer.

    What was painted last stays in memory, for what may be painted beside it. All but the overview can be made again
    from the journal and from level 0.

    Parameters
    ----------
    layout, tree
        Of the store; nobody else writes these arrays meanwhile.
    """

    def __init__(self, layout: Layout, tree: Tree) -> None:
        self._factor, self._y_axis = layout.overview_factor, tree.overview.ndim - 2
        self._overview = Canvas(tree.overview, y_axis=self._y_axis)
        self._levels = [Canvas(array) for array in tree.mask[1:]]
        self._scores = None if tree.scores is None else Canvas(tree.scores)
        self._classes = 0 if tree.scores is None else tree.scores.shape[-1]
        self._status = Canvas(tree.status)
        self._known = np.array(tree.status[...])

    def put_overview(self, blocks: Sequence[BlockData | EncodedBlock]) -> None:
        """Write blocks into the overview."""
        seen = [(data.block.box, data.pixels) for data in blocks if data.pixels is not None]
        self._overview.paint(mean(pixels if self._y_axis else pixels[0], box, self._factor) for box, pixels in seen)
        self._overview.write()

    def put(self, blocks: Sequence[BlockData]) -> None:
        """Write blocks into the coarse mask levels and the tables."""
        masks = [(data.mask, data.block.box) for data in blocks if data.mask is not None]
        for level, canvas in enumerate(self._levels, start=1):
            canvas.paint(every(mask, box, 2**level) for mask, box in masks)
            canvas.write()
        regions = [found for data in blocks for found in data.regions]
        self._tell([found.region for found in regions], np.array([found.status for found in regions], np.uint8))
        if self._scores is not None:
            self._scores.paint(
                _cell(found, found.scores[: self._classes]) for found in regions if found.scores is not None
            )
            self._scores.write()

    def put_previewed(self, regions: Sequence[Region]) -> None:
        """Tell of those of some regions of which nothing more is known that they have a preview."""
        news = [region for region in regions if self._known[region.row, region.col] == Status.NOT_YET]
        self._tell(news, np.full(len(news), Status.PREVIEW, np.uint8))

    def _tell(self, regions: Sequence[Region], status: NDArray[np.uint8]) -> None:
        if regions:
            row, col = np.array([(region.row, region.col) for region in regions]).T
            self._known[row, col] = status
            box = Box(int(row.min()), int(col.min()), int(row.max()) + 1, int(col.max()) + 1)
            self._status.paint([(box, self._known[box.slices])])
            self._status.write()


def _cell(found: RegionData, scores: NDArray[Any]) -> Patch:
    row, col = found.region.row, found.region.col
    return Box(row, col, row + 1, col + 1), scores[None, None]
