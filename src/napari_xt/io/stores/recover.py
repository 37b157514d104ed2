"""What a killed writer left is brought back to exactly what its journal says.

Knows the arrays and the journal; must not know runs, models or locks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Block, Box
from napari_xt.io.stores.durable import remove_partials
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.ledger import Ledger, RegionRow
from napari_xt.io.stores.patches import cells, paint
from napari_xt.io.stores.tree import MASK, PROBABILITY, Tree

Key = tuple[int, int]  # (row, col) of a block


def recover(root: Path, layout: Layout, tree: Tree, ledger: Ledger, encoded: Collection[Key] = ()) -> frozenset[Key]:
    """Make the store at ``root`` what an undisturbed run has when it has committed the blocks that are returned.

    Blocks whose bytes are not those that were committed are forgotten, chunks of blocks in flight removed, and what
    several blocks share is made again from the journal and from level 0. Blocks that are ``encoded`` keep their part of
    the overview.
    """
    remove_partials(root)
    blocks = ledger.blocks()
    damaged = {key for key, crc in blocks.items() if stored_checksum(tree, layout, layout.grid.block(*key)) != crc}
    if damaged:
        ledger.drop(damaged)
    committed = frozenset(blocks.keys() - damaged)
    show(root, layout, tree, ledger, committed, encoded)
    return committed


def show(
    root: Path, layout: Layout, tree: Tree, ledger: Ledger, committed: Collection[Key], encoded: Collection[Key]
) -> None:
    """Let the arrays hold ``committed`` blocks and nothing else, but for the overview of ``encoded`` ones."""
    _remove_chunks(root, committed)
    _rebuild_tables(layout, tree, ledger.regions())
    _rebuild_levels(root, tree)
    _clear_overview(layout, tree, {*committed, *encoded})


def checksum(mask: NDArray[np.uint8] | None, probability: NDArray[np.uint8] | None) -> int:
    """The crc32 of a block's mask, then its probability, in C order."""
    crc = 0 if mask is None else crc32(mask.tobytes())
    return crc if probability is None else crc32(probability.tobytes(), crc)


def stored_checksum(tree: Tree, layout: Layout, block: Block) -> int | None:
    """The checksum of what is stored of ``block``; None where it can't be read."""
    try:
        mask = np.asarray(tree.mask[0][block.box.slices]) if tree.mask else None
        cut = (slice(None), *layout.cells(block.box).slices)
        return checksum(mask, None if tree.probability is None else np.asarray(tree.probability[cut]))
    except (OSError, ValueError, RuntimeError):
        return None


def _remove_chunks(root: Path, committed: Collection[Key]) -> None:
    """Remove the chunks of level 0 and of the probability that belong to no committed block."""
    for path in (f"{MASK}/0", PROBABILITY):
        for place, file in _chunk_files(root / path):
            if place not in committed:
                file.unlink()


def _rebuild_tables(layout: Layout, tree: Tree, rows: list[RegionRow]) -> None:
    shape = layout.grid.shape
    whole = Box(0, 0, *shape)
    status = np.zeros(shape, np.uint8)
    for row in rows:
        status[row.row, row.col] = row.status
    paint(tree.status, [(whole, status)])
    if tree.scores is not None:
        paint(tree.scores, [(whole, score_table(rows, (*shape, tree.scores.shape[-1])))])


def score_table(rows: list[RegionRow], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The scores in the journal as float32 ``(rows, cols, K)``, NaN where there are none."""
    scores = np.full(shape, np.nan, np.float32)
    for row in rows:
        if row.scores is not None:
            scores[row.row, row.col] = np.frombuffer(row.scores, np.float32)[: shape[2]]
    return scores


def _rebuild_levels(root: Path, tree: Tree) -> None:
    """Each coarser mask level is every second pixel of the one before; where neither has a chunk, both are empty."""
    there = {place for place, _ in _chunk_files(root / f"{MASK}/0")}
    for level, (finer, coarser) in enumerate(pairwise(tree.mask), start=1):
        there = {(row // 2, col // 2) for row, col in there}
        there |= {place for place, _ in _chunk_files(root / f"{MASK}/{level}")}
        side, bounds = coarser.chunks[0], Box(0, 0, *coarser.shape)
        for row, col in sorted(there):
            box = Box(row, col, row + 1, col + 1).scale(side, side).clip(bounds)
            values: NDArray[Any] = np.asarray(finer[box.scale(2, 2).slices])[::2, ::2]
            paint(coarser, [(box, values)])


def _chunk_files(array: Path) -> Iterator[tuple[Key, Path]]:
    """The chunks of an array on disk, by the last two of their indices."""
    for folder, _, names in os.walk(array / "c"):
        for name in names:
            yield (int(Path(folder).name), int(name)), Path(folder, name)


def _clear_overview(layout: Layout, tree: Tree, committed: Collection[Key]) -> None:
    """Empty the overview where no block is committed."""
    rows, cols = layout.grid.block_shape
    waiting = [(row, col) for row in range(rows) for col in range(cols) if (row, col) not in committed]
    boxes = [cells(layout.grid.block(*key).box, layout.overview_factor) for key in waiting]
    lead = tree.overview.shape[:-2]
    nothing = np.zeros((), tree.overview.dtype)
    paint(tree.overview, [(box, np.broadcast_to(nothing, (*lead, *box.shape))) for box in boxes], y_axis=len(lead))
