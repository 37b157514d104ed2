"""The connected objects of a mask measured while the mask streams by: exact sums, whatever the bands it comes in.

Knows rows of classes and pixels; must not know files, scales or what a class means. Objects are joined by pixels' sides
(4-connected), within one class. Memory is that of a band and of the objects that have not ended yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Numbers = NDArray[np.float64]
Table = Mapping[str, Numbers]
Ints = NDArray[np.int64]
Sample = Callable[[int, Ints, Ints], Sequence[NDArray[np.number]]]

LEAST = ("y0", "x0", "first")
MOST = ("y1", "x1")
ADDED = ("px", "y", "x", "across", "down", "diagonal", "corners")


def measure_components(
    bands: Iterable[tuple[NDArray[np.uint8], Sample]], width: int, sampled: Sequence[str] = ()
) -> Iterator[tuple[int, Table]]:
    """Measure the objects of a mask, those together that ended in the same band.

    Parameters
    ----------
    bands
        The mask from top to bottom in bands ``(h, width)`` of any height, 0 = background, each with a function
        ``(class, y, x) -> values`` that gives one array for each name of ``sampled`` at pixels ``(y, x)`` of the band.
    width
        Of the mask.
    sampled
        Names of what is added up over each object's pixels beside its own sums.

    Yields
    ------
    class, table
        Columns, one number an object: ``px`` pixels; ``y, x`` sums of the pixels' coordinates; ``y0, x0, y1, x1`` its
        bounds, half-open; ``first`` its first pixel by row and column, as ``y * width + x``; ``across, down, diagonal``
        how often a line along x, along y, or along one of the two diagonals crosses its edge; ``corners`` convex less
        concave ones, four for each hole that it does not have; and those of ``sampled``.
    """
    sweeps: dict[int, _Sweep] = {}
    top = 0
    for band, sample in _ended(bands, width):
        there = 1 + np.flatnonzero(np.bincount(band.ravel(), minlength=256)[1:])
        for value in sorted({*there.tolist(), *(value for value, sweep in sweeps.items() if sweep.going_on)}):
            sweep = sweeps.setdefault(value, _Sweep(value, width, sampled))
            ended = sweep.advance(band == value, top, sample)
            if len(ended["px"]):
                yield value, ended
        top += len(band)


def _ended(bands: Iterable[tuple[NDArray[np.uint8], Sample]], width: int) -> Iterator[tuple[NDArray[np.uint8], Sample]]:
    yield from bands
    yield np.zeros((1, width), np.uint8), lambda *_: ()


class _Sweep:
    """The objects of one class; holds those that touch the last row that was seen."""

    def __init__(self, value: int, width: int, sampled: Sequence[str]) -> None:
        self._value, self._width, self._sampled = value, width, sampled
        self._row: Ints = np.zeros(width, np.int64)  # the open object of each pixel of that row, from 1
        self._open: dict[str, Numbers] = {name: np.zeros(0) for name in (*LEAST, *MOST, *ADDED, *sampled)}

    @property
    def going_on(self) -> bool:
        """Whether an object has not ended."""
        return len(self._open["px"]) > 0

    def advance(self, inside: NDArray[np.bool_], top: int, sample: Sample) -> Table:
        """See a band, whose first row is ``top``; give the objects that ended above its last row."""
        labels, count = ndimage.label(inside)
        opened = len(self._open["px"])
        joined = self._joined(labels[0], opened, count)
        objects = int(joined.max(initial=-1)) + 1
        stacked = np.zeros((len(labels) + 1, self._width + 2), np.int32)
        stacked[0, 1:-1] = np.append(0, joined[:opened] + 1)[self._row]
        stacked[1:, 1:-1] = np.append(0, joined[opened:] + 1).astype(np.int32)[labels]
        sums = _merged(self._open, self._own(labels, count, top, sample), joined, objects)
        for name, found in _edges(stacked, objects).items():
            sums[name] += found
        last = np.unique(stacked[-1])
        going_on = np.zeros(objects, np.bool_)
        going_on[last[last > 0] - 1] = True
        self._open = {name: values[going_on] for name, values in sums.items()}
        self._row = np.append(0, np.where(going_on, np.cumsum(going_on), 0))[stacked[-1, 1:-1]]
        return {name: values[~going_on] for name, values in sums.items()}

    def _joined(self, first: NDArray[np.int32], opened: int, count: int) -> Ints:
        """The object, from 0, of each of those that are open and then of each label of a band."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components  # takes long to import

        touch = (self._row > 0) & (first > 0)
        pairs = np.unique(np.stack([self._row[touch] - 1, opened + first[touch].astype(np.int64) - 1]), axis=1)
        size = opened + count
        graph = coo_array((np.ones(pairs.shape[1], np.int8), tuple(pairs)), shape=(size, size))
        found: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
        return found

    def _own(self, labels: NDArray[np.int32], count: int, top: int, sample: Sample) -> dict[str, Numbers]:
        """What the labels of a band have without their edges."""
        y, x = np.nonzero(labels)
        which = labels[y, x]
        first = np.zeros(count + 1)
        first[which[::-1]] = (y[::-1] + top) * self._width + x[::-1]
        bounds = np.array([(a.start, b.start, a.stop, b.stop) for a, b in ndimage.find_objects(labels)], float)
        y0, x0, y1, x1 = bounds.reshape(-1, 4).T
        own = {"y0": y0 + top, "x0": x0, "y1": y1 + top, "x1": x1, "first": first[1:]}
        values = [np.ones(len(y)), y + top, x, *sample(self._value, y, x)] if count else []
        names = ("px", "y", "x", *self._sampled)
        added = {name: np.bincount(which, some, count + 1)[1:] for name, some in zip(names, values, strict=False)}
        return own | {name: added.get(name, np.zeros(count)) for name in (*ADDED, *self._sampled)}


def _merged(one: Table, two: Table, joined: Ints, objects: int) -> dict[str, Numbers]:
    """The numbers of what is joined, of the open objects and then of a band's labels."""
    merged = {}
    for name in one:
        values = np.concatenate([one[name], two[name]])
        if name in LEAST or name in MOST:
            extreme, start = (np.minimum, np.inf) if name in LEAST else (np.maximum, -np.inf)
            merged[name] = np.full(objects, start)
            extreme.at(merged[name], joined, values)
        else:
            merged[name] = np.bincount(joined, values, objects)
    return merged


def _edges(objects: NDArray[np.int32], count: int) -> Table:
    """What the corners between four pixels each tell of the objects ``(h, w)``, from 1, around them."""
    corners = objects[:-1, :-1], objects[:-1, 1:], objects[1:, :-1], objects[1:, 1:]
    mixed = np.flatnonzero(np.logical_or.reduce([corners[0] != other for other in corners[1:]]))
    a, b, c, d = (some.ravel()[mixed] for some in corners)

    def crossed(*pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]) -> Numbers:
        ends = [end[apart] for p, q, apart in pairs for end in (p, q)]
        return np.bincount(np.concatenate(ends), minlength=count + 1)[1:].astype(np.float64)

    # two pixels that touch at a corner alone are apart, even where their object comes round
    falling, rising = (a != d) | ((b != a) & (c != a)), (b != c) | ((a != b) & (d != b))
    quads = ((a, b, c, d), (b, a, d, c), (c, a, d, b), (d, b, c, a))  # a pixel, its two neighbours, the one across
    convex = [p[(p != q) & (p != r)] for p, q, r, _ in quads]
    concave = [q[(p != q) & (q == r) & (q == s)] for p, q, r, s in quads]
    turns = [np.bincount(np.concatenate(some), minlength=count + 1)[1:] for some in (convex, concave)]
    return {
        "across": crossed((a, b, a != b)),
        "down": crossed((a, c, a != c)),
        "diagonal": crossed((a, d, falling), (b, c, rising)),
        "corners": (turns[0] - turns[1]).astype(np.float64),
    }
