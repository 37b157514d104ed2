"""Reads parts of a level for a viewer, who never waits long and never meets an error: damaged parts come empty.

Knows arrays and chunks; must not know layers, Qt or files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.images.pyramid import chunk_boxes
from napari_xt.io.images.source import ArrayLike
from napari_xt.plugin.images.watch import Fault, Watch

LONGEST_S = 10.0
"""Seconds after which what has not come counts as what can't be read."""

AT_A_TIME = 3  # reads of one level
FINISHED = 2  # late ones that are kept for the next look
PART_PX = 512  # where the chunks are of no common size

Index = tuple[slice | int, ...]


@dataclass(slots=True)
class _Read:
    """A read that is under way or over."""

    start: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    pixels: NDArray[Any] | None = None
    late: bool = False
    given_up: bool = False

    @property
    def hopeless(self) -> bool:
        """Whether it has been waited for too long, and is still."""
        return self.given_up and not self.over.is_set()


class Looks:
    """Reads a level in threads of its own.

    Parameters
    ----------
    array
        The level's pixels.
    axes
        One letter for each axis of ``array``.
    level
        Its index.
    fill
        Stands where there are no pixels.
    watch
        Is told what can't be read and when late pixels are there.
    """

    def __init__(self, array: ArrayLike, axes: str, level: int, fill: object, watch: Watch) -> None:
        self._array, self._axes, self._level, self._fill, self._watch = array, axes, level, fill, watch
        self._reads: dict[tuple[object, ...], _Read] = {}
        self._lock = threading.Lock()

    def get(self, index: Index, patience: float) -> NDArray[Any] | None:
        """Return a part, its damaged chunks filled; None where it takes longer than ``patience``, and is then awaited.

        Parameters
        ----------
        index
            A whole number or a forward slice of step 1 inside the array for each axis.
        patience
            Seconds.
        """
        key = _key(index)
        with self._lock:
            read = self._reads.get(key) or self._start(key, index)
        if read is None or read.hopeless:
            return None
        read.over.wait(patience)
        with self._lock:
            if not read.over.is_set():
                self._await(read, index)
                return None
            if self._reads.get(key) is read:
                del self._reads[key]
        return read.pixels

    def hopeless(self, index: Index) -> bool:
        """Whether a part, or what must come before it, has been waited for too long."""
        with self._lock:
            read = self._reads.get(_key(index))
            return any(r.hopeless for r in ([read] if read else self._reads.values()))

    def _start(self, key: tuple[object, ...], index: Index) -> _Read | None:
        """Begin to read; nothing where enough reads are under way: the end of one lets the viewer look again."""
        finished = [k for k, read in self._reads.items() if read.over.is_set()]
        for old in finished[: len(finished) - FINISHED]:
            del self._reads[old]
        running = [read for read in self._reads.values() if not read.over.is_set()]
        if len(running) >= AT_A_TIME:
            running[-1].late = True
            return None
        read = self._reads[key] = _Read()
        threading.Thread(target=self._work, args=(read, index), name="napari-xt-look", daemon=True).start()
        return read

    def _await(self, read: _Read, index: Index) -> None:
        if not read.late:
            read.late = True
            threading.Thread(target=self._give_up, args=(read, index), name="napari-xt-look", daemon=True).start()

    def _work(self, read: _Read, index: Index) -> None:
        faults: list[Fault] = []
        try:
            read.pixels = self._patched(index, read.start + LONGEST_S, faults)
        finally:
            with self._lock:
                read.over.set()
                late = read.late
            for fault in faults:
                self._watch.note(fault)
            if late:
                self._watch.look_again()

    def _give_up(self, read: _Read, index: Index) -> None:
        if not read.over.wait(read.start + LONGEST_S - time.monotonic()):
            read.given_up = True
            self._watch.note(Fault(self._level, self._box(index), f"no pixels came within {LONGEST_S:g} s"))
            self._watch.look_again()

    def _patched(self, index: Index, until: float, faults: list[Fault]) -> NDArray[Any]:
        try:
            return np.asarray(self._array[index])
        except Exception as error:  # noqa: BLE001 - codecs and file systems raise almost anything
            box, first = self._box(index), error
        pixels = np.full(_shape(index), self._fill, self._array.dtype)
        parts = list(self._parts(box))
        if len(parts) == 1:
            faults.append(Fault(self._level, box, _reason(first)))
            return pixels
        for part in parts:
            why = f"not complete after {LONGEST_S:g} s"
            if time.monotonic() < until:
                why = self._put(pixels[self._place(index, part, box)], self._within(index, part))
            if why:
                faults.append(Fault(self._level, part, why))
        return pixels

    def _put(self, pixels: NDArray[Any], index: Index) -> str:
        """Read a part into ``pixels``; return why not where that fails."""
        try:
            pixels[...] = self._array[index]
        except Exception as error:  # noqa: BLE001 - as above
            return _reason(error)
        return ""

    def _box(self, index: Index) -> Box:
        (y0, y1), (x0, x1) = (_span(index[self._axes.index(axis)]) for axis in "yx")
        return Box(y0, x0, y1, x1)

    def _parts(self, box: Box) -> Iterator[Box]:
        chunks = list(chunk_boxes(self._array, self._axes, box))
        if chunks:
            yield from chunks
            return
        for y, x in product(range(box.y0, box.y1, PART_PX), range(box.x0, box.x1, PART_PX)):
            yield Box(y, x, y + PART_PX, x + PART_PX).clip(box)

    def _within(self, index: Index, part: Box) -> Index:
        """``index`` with only ``part`` of its rows and columns."""
        spans = dict(zip("yx", part.slices, strict=True))
        return tuple(
            spans[axis] if axis in spans and isinstance(k, slice) else k
            for axis, k in zip(self._axes, index, strict=True)
        )

    def _place(self, index: Index, part: Box, box: Box) -> tuple[slice, ...]:
        """Where ``part`` lies in the pixels of ``box``."""
        spans = dict(zip("yx", part.shift(-box.y0, -box.x0).slices, strict=True))
        axes = [axis for axis, k in zip(self._axes, index, strict=True) if isinstance(k, slice)]
        return tuple(spans.get(axis, slice(None)) for axis in axes)


def _key(index: Index) -> tuple[object, ...]:
    return tuple((k.start, k.stop) if isinstance(k, slice) else k for k in index)


def _shape(index: Index) -> tuple[int, ...]:
    return tuple(k.stop - k.start for k in index if isinstance(k, slice))


def _span(key: slice | int) -> tuple[int, int]:
    return (key.start, key.stop) if isinstance(key, slice) else (key, key + 1)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__
