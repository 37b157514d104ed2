"""Many rings in little memory: corners of 8 bytes one after the other, turned and ordered when they are asked for.

Knows lattice points; must not know masks, classes or files.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.exports.corners import Bools, Ints

CORNERS = 1 << 19  # that are looked at together
RINGS = 1 << 12  # that are handed out together


class Outline(NamedTuple):
    """One area's rings, each from the first of its corners by row and column: exterior, holes, pixels inside."""

    exterior: Ints
    holes: Sequence[Ints]
    px: int


class Rings:
    """Rings of one area that are still being gathered."""

    __slots__ = ("_lengths", "_saddles", "_xy")

    def __init__(self) -> None:
        self._xy, self._lengths, self._saddles = array("i"), array("i"), bytearray()

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, xy: NDArray[Any], lengths: Ints, saddles: Bools) -> None:
        """Add rings: corners ``(n, 2)``, how many each has, and whether it may come by a point twice."""
        self._xy.frombytes(xy.astype(np.int32).tobytes())
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self._saddles += saddles.astype(np.uint8).tobytes()

    def take(self, other: Rings) -> None:
        """Add the rings of another, which has none then."""
        self._xy += other._xy
        self._lengths += other._lengths
        self._saddles += other._saddles
        other.__init__()  # type: ignore[misc]

    def outline(self) -> Outline:
        """What they are, now that no more will come."""
        if any(self._saddles):
            return self._simple().outline()
        xy = np.frombuffer(self._xy, np.int32).reshape(-1, 2)
        first = np.concatenate([[0], np.cumsum(np.frombuffer(self._lengths, np.int32), dtype=np.int64)])
        sizes, keys = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        for a, b in _parts(first):
            part, starts = xy[first[a] : first[b]].astype(np.int64), first[a:b] - first[a]
            sizes[a:b], keys[a:b] = _sizes(part, starts), np.minimum.reduceat(_keys(part), starts)
        exterior = int(np.argmax(sizes))
        order = np.argsort(keys, kind="stable")
        holes = Holes(xy, first, order[order != exterior])
        return Outline(Holes(xy, first, np.array([exterior]))[0], holes, int(sizes.sum()))

    def _simple(self) -> Rings:
        """Rings that come by each point once."""
        xy, found, at = np.frombuffer(self._xy, np.int32).reshape(-1, 2), Rings(), 0
        for length, saddles in zip(self._lengths, self._saddles, strict=True):
            ring = xy[at : at + length]
            for part in split(ring) if saddles else [ring]:
                found.add(part, np.array([len(part)]), np.zeros(1, np.bool_))
            at += length
        return found


class Holes(Sequence[Any]):
    """Rings in an order, int64 ``(n, 2)``, each from the first of its corners by row and column."""

    def __init__(self, xy: Any, first: Ints, order: Ints) -> None:
        self._xy, self._first, self._order = xy, first, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        chosen = self._order[index]
        return self._turned(np.array([chosen]))[0] if np.ndim(chosen) == 0 else Holes(self._xy, self._first, chosen)

    def __iter__(self) -> Iterator[Ints]:
        for at in range(0, len(self), RINGS):
            yield from self._turned(self._order[at : at + RINGS])

    def _turned(self, which: Ints) -> list[Ints]:
        lengths = self._first[which + 1] - self._first[which]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        along = np.arange(ends[-1]) - np.repeat(starts, lengths)
        begin = np.repeat(self._first[which], lengths)
        keys = _keys(self._xy[begin + along].astype(np.int64))
        top = np.flatnonzero(keys == np.repeat(np.minimum.reduceat(keys, starts), lengths)) - starts
        turned = self._xy[begin + (along + np.repeat(top, lengths)) % np.repeat(lengths, lengths)]
        return np.split(turned.astype(np.int64), ends[:-1])


def split(xy: Any) -> list[Ints]:
    """The simple rings of one that may come by a point twice."""
    path: list[int] = []
    place: dict[int, int] = {}
    rings: list[Ints] = []
    for point in _keys(xy.astype(np.int64)).tolist():
        if (at := place.get(point)) is not None:
            rings.append(_points(path[at:]))
            for gone in path[at:]:
                del place[gone]
            del path[at:]
        place[point] = len(path)
        path.append(point)
    return [*rings, _points(path)]


def top_corners(xy: Ints, starts: Ints) -> Ints:
    """The first corner by row, then column, ``(k, 2)``, of outlines ``xy`` that begin at ``starts``."""
    return _points(np.minimum.reduceat(_keys(xy), starts))


def _keys(xy: Ints) -> Ints:
    """A number for each corner that sorts by row, then column."""
    keys: Ints = (xy[:, 1] << 32) + xy[:, 0]
    return keys


def _points(keys: Any) -> Ints:
    found = np.asarray(keys, np.int64)
    return np.stack([found & 0xFFFFFFFF, found >> 32], axis=1)


def _sizes(xy: Ints, starts: Ints) -> Ints:
    """Pixels within each ring; below 0 where it runs about a hole."""
    after = np.append(xy[1:, 1], 0)
    after[np.append(starts[1:], len(xy)) - 1] = xy[starts, 1]
    found: Ints = np.add.reduceat(xy[:, 0] * (after - xy[:, 1]), starts)
    return found


def _parts(first: Ints) -> Iterator[tuple[int, int]]:
    """Rings of about so many corners together."""
    a = 0
    while a < len(first) - 1:
        b = max(a + 1, int(np.searchsorted(first, first[a] + CORNERS, "right")) - 1)
        yield a, b
        a = b
