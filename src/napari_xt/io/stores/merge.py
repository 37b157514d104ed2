"""The one rule by which boxes compete: greedily by (-score, id), over a set, so that the order of arrival is nothing.

Knows boxes; must not know images, stores or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the search; so many stay in the cache
FIRST_BATCH, BATCH_PAIRS = 1 << 10, 1 << 23  # boxes in the first batch, pairs that one batch may hold
SLACK = 2.0**-10  # of a cell, beyond what rounding can do

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def box_rows(corners: Floats, labels: NDArray[np.generic], scores: NDArray[np.generic]) -> NDArray[np.void]:
    """Boxes as ``BOX_DTYPE`` rows without ids: ``corners (n, 4)`` y0, x0, y1, x1, ``labels (n,)``, ``scores (n,)``."""
    rows = np.zeros(len(corners), BOX_DTYPE)
    for i, name in enumerate(("y0", "x0", "y1", "x1")):
        rows[name] = corners[:, i]
    rows["label"], rows["score"] = labels, scores
    return rows


def suppress(boxes: NDArray[np.void], iou: float, *, across_regions: bool) -> Flags:
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

    Notes
    -----
    Boxes are worked off in batches that double. Most of a pile fall to the few that earlier batches left standing, of
    which only so many find room on one spot, so that its pairs are never formed: a batch is halved where they would be.
    """
    order = np.lexsort((boxes["id"], -boxes["score"].astype(np.float64)))
    field = _Field.of(boxes[order], iou, across_regions)
    stays = np.zeros(len(boxes), np.bool_)
    start, size = 0, FIRST_BATCH
    while start < len(boxes):
        stop = min(start + size, len(boxes))
        batch = np.arange(start, stop)
        batch = batch[~field.beaten(batch, np.flatnonzero(stays[:start]))]
        while len(batch) > FIRST_BATCH and field.count(batch) > BATCH_PAIRS:
            batch, stop = batch[: len(batch) // 2], int(batch[len(batch) // 2])
        stays[field.greedy(batch)] = True
        start, size = stop, 2 * (stop - start)
    keep = np.empty(len(boxes), np.bool_)
    keep[order] = stays
    return keep


def overlapping(
    one: NDArray[np.void], other: NDArray[np.void], iou: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs of boxes of one label, of ``one`` and ``other``, that overlap by more than ``iou``.

    Parameters
    ----------
    one, other
        ``BOX_DTYPE``, any order, in one frame.
    iou
        Intersection over union, 0..1.

    Returns
    -------
    tuple of numpy.ndarray
        The indices in ``one`` and in ``other``, and the pairs' intersections over unions, each ``(n,)``.
    """
    both = np.concatenate([one, other])
    both["id"] = np.repeat([0, IDS_PER_REGION], [len(one), len(other)])  # as of two regions, which compete
    field = _Field.of(both, iou, across_regions=True)
    first, second = field.pairs(np.arange(len(both)))
    return first, second - len(one), _iou(field.edges[:, first], field.edges[:, second])


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """Boxes in their order, each an index; which of them compete is looked up in a grid.

    Boxes are sorted into octaves of their longer side. Boxes that overlap by more than ``iou`` have centres that are
    nearer, in y and in x, than ``1 - iou`` of the longer of their sides: in squares of that share of the larger one's
    octave, they lie in one square or in two that touch. Their sides differ by less than a factor ``1 / iou``, which
    leaves few octaves to compare.
    """

    edges: Floats  # (4, n)
    label: Ints
    region: Ints
    octave: Ints
    iou: float
    across_regions: bool

    @classmethod
    def of(cls, ranked: NDArray[np.void], iou: float, across_regions: bool) -> _Field:
        edges = np.array([ranked[name] for name in ("y0", "x0", "y1", "x1")])
        side = np.maximum(edges[2] - edges[0], edges[3] - edges[1])
        octave = np.ceil(np.log2(np.maximum(side, 1.0))).astype(np.int64)
        label, region = ranked["label"].astype(np.int64), ranked["id"] // IDS_PER_REGION
        return cls(edges, label, region, octave, iou, across_regions)

    def beaten(self, some: Ints, others: Ints) -> Flags:
        """Which of ``some`` compete with any of ``others``: a few answers at a time, as one is enough."""
        found = np.zeros(len(self.label), np.bool_)
        for query, answers, begin, stop in self._runs(some, others):
            left, start, few = np.flatnonzero(~found[query]), begin.copy(), 4
            while len(left):
                end = np.minimum(start[left] + few, stop[left])
                for part in _parts(end - start[left]):
                    which = left[part]
                    a, b = _expand(query[which], answers, start[which], end[part])
                    found[a[self._compete(a, b)]] = True
                start[left] = end
                left, few = left[~found[query[left]] & (end < stop[left])], 4 * few
        return found[some]

    def count(self, some: Ints) -> int:
        """How many pairs of ``some`` are near each other, about."""
        return sum(int((stop - start).sum()) for _, _, start, stop in self._runs(some, some))

    def greedy(self, some: Ints) -> Ints:
        """Those of ``some``, in their order, that no one before them that stayed competes with."""
        before, after = self.pairs(some)
        by_first = np.argsort(before, kind="stable")
        after = after[by_first]
        firsts, counts = np.unique(before, return_counts=True)
        ends = np.cumsum(counts)
        fallen = np.zeros(len(self.label), np.bool_)
        # a box's own fate is known before it decides that of the ones after it
        for first, i, j in zip(firsts.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True):
            if not fallen[first]:
                fallen[after[i:j]] = True
        return some[~fallen[some]]

    def pairs(self, some: Ints) -> tuple[Ints, Ints]:
        """The pairs ``(before, after)`` of ``some`` that compete."""
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for query, answers, start, stop in self._runs(some, some):
            for part in _parts(stop - start):
                after, before = _expand(query[part], answers, start[part], stop[part])
                near = before < after
                after, before = after[near], before[near]
                over = self._compete(before, after)
                found.append((before[over], after[over]))
        return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])

    def _compete(self, one: Ints, other: Ints) -> Flags:
        """Whether the boxes of each pair compete; the same either way round."""
        said: Flags = (self.region[one] != self.region[other]) == self.across_regions
        near = np.flatnonzero(said)
        said[near] = _overlap(self.edges[:, one[near]], self.edges[:, other[near]], self.iou)
        return said

    def _runs(self, some: Ints, others: Ints) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
        """What is near what: ``query`` (of ``some``), and for each the run ``answers[start:stop]`` (of ``others``)."""
        reach = floor(log2(1 / self.iou)) + 1 if self.iou > 0 else 64
        for level in np.union1d(self.octave[some], self.octave[others]).tolist() if len(others) else ():
            here, there = (part[self._within(part, level - reach, level)] for part in (some, others))
            at_level = self.octave[here] == level, self.octave[there] == level
            for query, answers in ((here[at_level[0]], there), (here[~at_level[0]], there[at_level[1]])):
                if len(query) and len(answers):
                    yield from self._neighbours(query, answers, 2.0**level * min(1.0, 1 - self.iou + SLACK))

    def _within(self, some: Ints, low: int, high: int) -> Flags:
        octave = self.octave[some]
        return np.asarray((octave >= low) & (octave <= high))

    def _neighbours(self, query: Ints, answers: Ints, cell: float) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
        keys, places, width = self._keys(query, answers, cell)
        order = np.argsort(places, kind="stable")
        answers, places = answers[order], places[order]
        order = np.argsort(keys, kind="stable")  # one after the other in memory, too
        query, keys = query[order], keys[order]
        for step in (-width, 0, width):
            start = np.searchsorted(places, keys + (step - 1), "left")
            stop = np.searchsorted(places, keys + (step + 1), "right")
            there = np.flatnonzero(start < stop)
            yield query[there], answers, start[there], stop[there]

    def _keys(self, query: Ints, answers: Ints, cell: float) -> tuple[Ints, Ints, int]:
        """The squares of side ``cell`` that the centres lie in, as numbers by label, row and column; a row's width."""
        both = np.concatenate([query, answers])
        y0, x0, y1, x1 = (edge[both] for edge in self.edges)
        rows, cols = (np.floor((low + high) / (2 * cell)).astype(np.int64) for low, high in ((y0, y1), (x0, x1)))
        rows, cols = rows - rows.min() + 1, cols - cols.min() + 1
        height, width = int(rows.max()) + 2, int(cols.max()) + 2
        keys = (self.label[both] * height + rows) * width + cols
        return keys[: len(query)], keys[len(query) :], width


def _overlap(a: Floats, b: Floats, iou: float) -> Flags:
    """Whether boxes ``a`` and ``b``, each ``(4, N)``, overlap by more than ``iou``; the same either way round."""
    height = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    width = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    both = height.clip(0) * width.clip(0)
    return np.asarray(both > iou * ((_area(a) + _area(b)) - both))


def _iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes ``a`` and ``b``, each ``(4, N)``."""
    both = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod(axis=0)
    share: Floats = both / np.maximum(_area(a) + _area(b) - both, np.finfo(np.float64).tiny)
    return share


def _area(edges: Floats) -> Floats:
    area: Floats = (edges[2] - edges[0]) * (edges[3] - edges[1])
    return area


def _parts(counts: Ints) -> Iterator[slice]:
    """Runs of queries with not many more than ``PAIRS_AT_ONCE`` answers together."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _expand(query: Ints, answers: Ints, start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Each of ``query`` with each of its answers ``answers[start:stop]``."""
    counts = stop - start
    before = np.cumsum(counts) - counts
    places = np.arange(int(counts.sum())) + np.repeat(start - before, counts)
    return np.repeat(query, counts), answers[places]
