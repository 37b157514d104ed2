"""The one rule by which boxes compete: greedily by (-score, id), over a set, so that the order of arrival is nothing.

Knows boxes; must not know images, stores or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log2

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import IDS_PER_REGION

BOX_DTYPE = np.dtype(
    [
        ("id", "<i8"),
        ("y0", "<f8"),
        ("x0", "<f8"),
        ("y1", "<f8"),
        ("x1", "<f8"),
        ("label", "<i4"),
        ("score", "<f4"),
    ]
)  # level-0 px, half-open; id = region index * IDS_PER_REGION + rank in the region; label counts from 0
IOU = 0.5  # where a run's settings say nothing
PAIRS_AT_ONCE = 1 << 21  # bounds the memory of the search

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def box_rows(corners: Floats, labels: NDArray[np.generic], scores: NDArray[np.generic]) -> NDArray[np.void]:
    """Boxes as ``BOX_DTYPE`` rows without ids: ``corners (n, 4)`` y0, x0, y1, x1, ``labels (n,)``, ``scores (n,)``."""
    rows = np.zeros(len(corners), BOX_DTYPE)
    for i, name in enumerate(("y0", "x0", "y1", "x1")):
        rows[name] = corners[:, i]
    rows["label"], rows["score"] = labels, scores
    return rows


def suppress(boxes: NDArray[np.void], iou: float, *, across_regions: bool) -> NDArray[np.bool_]:
    """Which boxes stay.

    Two boxes compete if they have one label and overlap by more than ``iou``: those of different regions where
    ``across_regions``, else those of one region. In the order (-score, id), a box falls if one that stayed before it
    competes with it.

    Parameters
    ----------
    boxes
        ``BOX_DTYPE``, any order, level-0 px.
    iou
        Intersection over union, 0..1.
    across_regions
        Whether different regions compete, or each region within itself.

    Returns
    -------
    numpy.ndarray
        bool, one per box, in the order given.
    """
    order = np.lexsort((boxes["id"], -boxes["score"].astype(np.float64)))
    ranked = boxes[order]
    first, second = _pairs(ranked, iou, across_regions)
    stays = bytearray(b"\x01") * len(boxes)
    by_first = np.argsort(first, kind="stable")
    # a box's own fate is known before it decides that of the ones after it
    for before, after in zip(first[by_first].tolist(), second[by_first].tolist(), strict=True):
        if stays[before]:
            stays[after] = 0
    keep = np.empty(len(boxes), np.bool_)
    keep[order] = np.frombuffer(stays, np.bool_)
    return keep


def _pairs(ranked: NDArray[np.void], iou: float, across_regions: bool) -> tuple[Ints, Ints]:
    """The pairs ``(before, after)`` that compete, as ranks."""
    region = ranked["id"] // IDS_PER_REGION
    edges = np.array([ranked[name] for name in ("y0", "x0", "y1", "x1")])
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for large, small in _candidates(ranked["label"].astype(np.int64), edges, iou):
        near = (region[large] != region[small]) == across_regions
        near &= large != small
        a, b = large[near], small[near]
        over = _overlap(edges[:, a], edges[:, b], iou)
        found.append((np.minimum(a, b)[over], np.maximum(a, b)[over]))
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def _overlap(a: Floats, b: Floats, iou: float) -> NDArray[np.bool_]:
    """Whether boxes ``a`` and ``b``, each ``(4, N)``, overlap by more than ``iou``; the same either way round."""
    height = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    width = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    both = height.clip(0) * width.clip(0)
    return np.asarray(both > iou * ((_area(a) + _area(b)) - both))


def _area(edges: Floats) -> Floats:
    area: Floats = (edges[2] - edges[0]) * (edges[3] - edges[1])
    return area


def _candidates(label: Ints, edges: Floats, iou: float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs among which are all that have one label and overlap by more than ``iou``; a pair may come twice.

    Boxes are sorted into octaves of their longer side. The centre of a box lies less than ``2**octave`` from that of
    any it overlaps in its own octave or a smaller one: in the same square of that size, or in one of the eight around
    it. Sides that differ by more than a factor ``1 / iou`` can't overlap enough, which leaves few octaves to compare.
    """
    side = np.maximum(edges[2] - edges[0], edges[3] - edges[1])
    octave = np.ceil(np.log2(np.maximum(side, 1.0))).astype(np.int64)
    reach = floor(log2(1 / iou)) + 1 if iou > 0 else 64
    for level in np.unique(octave).tolist():
        row_keys, width, cols = _squares(label, edges, float(2.0**level))
        large = np.flatnonzero(octave == level)
        small = np.flatnonzero((octave <= level) & (octave >= level - reach))
        yield from _neighbours(row_keys, width, cols, large, small)


def _squares(label: Ints, edges: Floats, cell: float) -> tuple[Ints, int, Ints]:
    """The squares of side ``cell`` that the centres lie in: a key for label and row, the keys' step, the column."""
    rows = np.floor((edges[0] + edges[2]) / (2 * cell)).astype(np.int64)
    cols = np.floor((edges[1] + edges[3]) / (2 * cell)).astype(np.int64)
    rows, cols = rows - rows.min() + 1, cols - cols.min() + 1
    return label * (int(rows.max()) + 2) + rows, int(cols.max()) + 2, cols


def _neighbours(row_keys: Ints, width: int, cols: Ints, large: Ints, small: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of one label of ``large`` and ``small`` in the same square or in ones that touch."""
    keys = row_keys * width + cols
    large, small = (part[np.argsort(keys[part], kind="stable")] for part in (large, small))
    place = keys[large]
    for step in (-1, 0, 1):
        centre = keys[small] + step * width
        start = np.searchsorted(place, centre - 1, "left")
        stop = np.searchsorted(place, centre + 1, "right")
        for part in _parts(stop - start):
            yield _expand(large, small[part], start[part], stop[part])


def _parts(counts: Ints) -> Iterator[slice]:
    """Runs of queries with not many more than ``PAIRS_AT_ONCE`` answers together."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _expand(large: Ints, small: Ints, start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Each query of ``small`` with each of its answers ``large[start:stop]``."""
    counts = stop - start
    before = np.cumsum(counts) - counts
    places = np.arange(int(counts.sum())) + np.repeat(start - before, counts)
    return large[places], np.repeat(small, counts)
