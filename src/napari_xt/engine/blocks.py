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
from napari_xt.io.stores.layout import FEATURES
from napari_xt.io.stores.store import BlockData, EncodedBlock, RegionData
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


def span(blocks: Sequence[Block]) -> Box:
    """What blocks cover that fill a rectangle, row by row."""
    first, last = blocks[0].box, blocks[-1].box
    return Box(first.y0, first.x0, last.y1, last.x1)


def encoded_block(model: XT, plan: Plan, block: Block, encoded: Sequence[stages.Encoded]) -> EncodedBlock:
    """What the region encoder says of one block, with local features where they wait or are kept."""
    k = plan.grid.block_regions
    own = [e for e in encoded if (e.region.row // k, e.region.col // k) == (block.row, block.col)]
    run = [e for e in own if not plan.skips(e.region.index)]  # of the others it is known without waiting
    tokens, local = _stored(model, plan, block, run)
    errors = {e.region.index: e.error for e in own if e.error}
    stores = {e.kept for e in run}
    kept = stores.pop() if len(stores) == 1 else None
    return EncodedBlock(block, _pixels(plan, block, own), tokens, local, errors, kept)


def _stored(
    model: XT, plan: Plan, block: Block, run: Sequence[stages.Encoded]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Tokens ``(r, q, L, D)`` and local features ``(r, q, c, h, w)`` as they are stored."""
    k, shelf = plan.grid.block_regions, shelf_layout(model.config, plan)
    rows, cols = (min(k, n - place * k) for n, place in zip(plan.grid.shape, (block.row, block.col), strict=True))
    tokens = np.zeros((rows, cols, *shelf.tokens), shelf.dtype)
    known = FEATURES in shelf.arrays and all(e.local is not None or e.error for e in run)
    local = np.zeros((rows, cols, *shelf.local), shelf.dtype) if known else None
    for e in run:
        at, parts = (e.region.row % k, e.region.col % k), stages.features(model, e)
        tokens[at] = parts[0].cpu().numpy()
        if local is not None:
            local[at] = parts[1].cpu().numpy()
    return tokens, local


def kept_block(
    model: XT, plan: Plan, block: Block, windows: Sequence[Decoded], regions: Sequence[stages.Encoded]
) -> BlockData:
    """What the windows say of one block, with what of its encoded regions is kept."""
    if plan.keep == "nothing":
        return block_data(plan, block, windows, regions)
    encoded = encoded_block(model, plan, block, regions)
    return replace(block_data(plan, block, windows, []), pixels=encoded.pixels, encoded=encoded)


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
