"""What the stages say, put together for the blocks that a store takes.

Knows plans, regions and blocks; must not know files, threads or events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.engine import stages
from napari_xt.engine.decode import Decoded
from napari_xt.engine.plan import Plan, shelf_layout
from napari_xt.geometry import Block, Box, Region, Window
from napari_xt.io.store import BlockData, EncodedBlock, RegionData
from napari_xt.model.xt import XT


def members(plan: Plan, block: Block, window: Window) -> list[Region]:
    """The regions of a block that are run."""
    k = plan.grid.block_regions
    part = replace(
        window,
        row0=max(block.row * k, window.row0),
        col0=max(block.col * k, window.col0),
        row1=min((block.row + 1) * k, window.row1),
        col1=min((block.col + 1) * k, window.col1),
    )
    return list(plan.grid.window_regions(part))


def encoded_block(model: XT, plan: Plan, block: Block, encoded: Sequence[stages.Encoded]) -> EncodedBlock:
    """What the region encoder says of one block."""
    k, shelf = plan.grid.block_regions, shelf_layout(model.config)
    own = [e for e in encoded if (e.region.row // k, e.region.col // k) == (block.row, block.col)]
    rows, cols = (min(k, n - place * k) for n, place in zip(plan.grid.shape, (block.row, block.col), strict=True))
    tokens = np.zeros((rows, cols, *shelf.tokens), shelf.dtype)
    local = np.zeros((rows, cols, *shelf.local), shelf.dtype)
    for e in own:
        if plan.skips(e.region.index):
            continue  # not there: known without waiting
        at = e.region.row % k, e.region.col % k
        tokens[at], local[at] = (part.cpu().numpy() for part in stages.features(model, e))
    errors = {e.region.index: e.error for e in own if e.error}
    return EncodedBlock(block, _pixels(plan, block, own), tokens, local, errors)


def block_data(plan: Plan, block: Block, windows: Sequence[Decoded], regions: Sequence[stages.Encoded]) -> BlockData:
    """What the windows say of one block."""
    mask = probability = None
    found: list[RegionData] = []
    for window in windows:
        part = window.box.clip(block.box)
        if part.empty:
            continue
        found += [data for data in window.regions if data.region.inner.touches(block.box)]
        if window.mask is not None and window.probability is not None:
            mask = _paste(mask, block.box, part, window.mask, window.box, 1)
            probability = _paste(probability, block.box, part, window.probability, window.box, plan.stride)
    return BlockData(block, _pixels(plan, block, regions), mask, probability, tuple(found))


def _pixels(plan: Plan, block: Block, regions: Sequence[stages.Encoded]) -> NDArray[Any] | None:
    """The source's pixels of one block, as far as they are at hand."""
    pixels = None
    for region in regions:
        if region.pixels is not None and region.region.inner.touches(block.box):
            inner = region.region.inner
            pixels = _paste(pixels, block.box, inner, region.pixels[list(plan.channels)], inner, 1)
    return pixels


def _paste(
    canvas: NDArray[Any] | None, canvas_box: Box, part: Box, source: NDArray[Any], source_box: Box, stride: int
) -> NDArray[Any]:
    """Copy ``part`` (run px) from ``source`` to ``canvas``, which is made where it is None; both at ``stride``."""

    def cells(box: Box, origin: Box) -> tuple[slice, slice]:
        return box.shift(-origin.y0, -origin.x0).scale(1 / stride, 1 / stride).slices

    if canvas is None:
        shape = canvas_box.scale(1 / stride, 1 / stride).shape
        canvas = np.zeros((*source.shape[:-2], *shape), source.dtype)
    canvas[(..., *cells(part, canvas_box))] = source[(..., *cells(part, source_box))]
    return canvas
