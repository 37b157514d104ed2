"""Many boxes as one picture: how many there are in each cell, in the colour of most of them or of their mean score.

Knows tables of boxes and pixels; must not know layers, viewers or Qt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.plugin.boxes.table import BoxTable, ColorBy, Kept

FINEST_CELLS = 1024  # along the picture's longer side, at most: it is in memory
COARSEST_CELLS = 256
FAINTEST, FULL = 120, 255  # opacity of a cell with one box, and of one with as many as the fullest have
FULLEST = 99.0  # percentile of the counts of the cells that have any
SCORES = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)  # viridis

Counts = NDArray[np.int64]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """Boxes as pictures of several sizes, finest first, each half of the one before.

    Attributes
    ----------
    counts
        int64 ``(y, x)``: the boxes whose middle is in the cell; their sum is the same at every level.
    pictures
        uint8 ``(y, x, 4)``, red, green, blue, alpha.
    cell_px
        Level-0 pixels along a side of a cell of the finest level.
    """

    counts: list[Counts]
    pictures: list[Picture]
    cell_px: int


def density(table: BoxTable, kept: Kept, color_by: ColorBy, one: NDArray[np.float64]) -> Pyramid:
    """The pyramid of the ``kept`` boxes.

    Parameters
    ----------
    table, kept
        Which boxes.
    color_by
        What the colour of a cell tells: the class that most of its boxes have, their mean score, or nothing.
    one
        The colour that tells nothing, red to alpha in 0..1.
    """
    cell_px = max(1, -(-max(table.shape) // FINEST_CELLS))
    shape = (max(1, -(-table.shape[0] // cell_px)), max(1, -(-table.shape[1] // cell_px)))
    codes = table.codes[kept] if color_by == "class" else np.zeros(np.count_nonzero(kept), np.int64)
    cells, codes, amounts = _gathered(_cells(table, kept, cell_px, shape), codes, np.ones(len(codes), np.int64))
    counts = [_picture(cells, amounts, shape)]
    if color_by == "score":
        return _by_score(table, kept, counts[0], cell_px)
    colors = table.colors if color_by == "class" else np.atleast_2d(one)
    pictures = [_painted(counts[0], _majority(cells, codes, amounts, colors, shape))]
    while max(shape) > COARSEST_CELLS:
        cells, coarser = _halved(cells, shape)
        shape = coarser
        cells, codes, amounts = _gathered(cells, codes, amounts)
        counts.append(_picture(cells, amounts, shape))
        pictures.append(_painted(counts[-1], _majority(cells, codes, amounts, colors, shape)))
    return Pyramid(counts, pictures, cell_px)


def score_colors(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours of scores 0..1, continuous: ``(..., 3)``, 0..1; they differ for the colour-blind and in grey."""
    at = np.linspace(0, 1, len(SCORES))
    return np.stack([np.interp(scores, at, channel) for channel in SCORES.T], axis=-1) / 255


def _cells(table: BoxTable, kept: Kept, cell_px: int, shape: tuple[int, int]) -> Counts:
    """The flat index of the finest cell that each kept box has its middle in."""
    y0, x0, y1, x1 = (edge[kept] for edge in table.edges)
    row = np.clip((y0 + y1) / (2 * cell_px), 0, shape[0] - 1).astype(np.int64)
    col = np.clip((x0 + x1) / (2 * cell_px), 0, shape[1] - 1).astype(np.int64)
    flat: Counts = row * shape[1] + col
    return flat


def _gathered(cells: Counts, codes: Counts, amounts: Counts) -> tuple[Counts, Counts, Counts]:
    """One entry for each cell and class that occur, by cell and then by class, with the sum of its amounts."""
    classes = int(codes.max(initial=0)) + 1
    keys = cells * classes + codes
    order = np.argsort(keys, kind="stable")
    keys, amounts = keys[order], amounts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    sums = np.add.reduceat(amounts, first) if len(first) else amounts
    return keys[first] // classes, keys[first] % classes, sums


def _halved(cells: Counts, shape: tuple[int, int]) -> tuple[Counts, tuple[int, int]]:
    coarser = (-(-shape[0] // 2), -(-shape[1] // 2))
    return (cells // shape[1] // 2) * coarser[1] + cells % shape[1] // 2, coarser


def _picture(cells: Counts, amounts: Counts, shape: tuple[int, int]) -> Counts:
    flat = np.bincount(cells, weights=amounts, minlength=shape[0] * shape[1])
    return flat.astype(np.int64).reshape(shape)


def _majority(
    cells: Counts, codes: Counts, amounts: Counts, colors: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.floating]:
    """The colour ``(y, x, 3)`` of the class that most boxes of each cell have, of several the first."""
    order = np.lexsort((codes, -amounts, cells))
    winners = order[np.flatnonzero(np.diff(cells[order], prepend=-1))]
    picture = np.zeros((shape[0] * shape[1], 3), np.float32)
    picture[cells[winners]] = colors[codes[winners], :3]
    return picture.reshape(*shape, 3)


def _by_score(table: BoxTable, kept: Kept, counts: Counts, cell_px: int) -> Pyramid:
    cells = _cells(table, kept, cell_px, (counts.shape[0], counts.shape[1]))
    scores = np.nan_to_num(table.scores[kept], nan=1.0)  # somebody is sure
    sums = np.bincount(cells, weights=scores, minlength=counts.size).reshape(counts.shape)
    levels, pictures = [counts], [_painted(counts, score_colors(sums / np.maximum(counts, 1)))]
    while max(counts.shape) > COARSEST_CELLS:
        counts, sums = _pooled(counts), _pooled(sums)
        levels.append(counts)
        pictures.append(_painted(counts, score_colors(sums / np.maximum(counts, 1))))
    return Pyramid(levels, pictures, cell_px)


def _pooled(values: NDArray[Any]) -> NDArray[Any]:
    """Sums of two by two cells."""
    even = np.pad(values, [(0, side % 2) for side in values.shape])
    pooled: NDArray[Any] = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).sum(axis=(1, 3))
    return pooled


def _painted(counts: Counts, colors: NDArray[np.floating]) -> Picture:
    """Pixels ``(y, x, 4)`` in ``colors``, the more opaque the more boxes there are."""
    some = counts[counts > 0]
    most = max(2.0, float(np.percentile(some, FULLEST))) if len(some) else 2.0
    share = np.sqrt(np.clip((counts - 1) / (most - 1), 0, 1))
    picture = np.zeros((*counts.shape, 4), np.uint8)
    picture[..., :3] = np.rint(255 * colors)
    picture[..., 3] = np.where(counts > 0, FAINTEST + (FULL - FAINTEST) * share, 0)
    return picture
