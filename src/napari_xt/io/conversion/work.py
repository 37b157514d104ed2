"""A pyramid of one source, written to its place: begun, gone on with, whole or not there.

Knows strips and places; must not know what the pixels are of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import zarr

from napari_xt.errors import StoreError
from napari_xt.io.conversion.place import RESTART, Place
from napari_xt.io.conversion.sweep import ArrayRows, Column, Lead, Reduce, Rows, Sweep, area_mean, planes_of, sweeps
from napari_xt.io.conversion.target import Target
from napari_xt.io.stores.durable import DurableStore

NOTE_S = 1.0  # what a killed conversion has to do again at most, and a little

Progress = Callable[[int, int], object]
"""Called with how many strips are written, and of how many."""

Describe = Callable[[DurableStore], object]


@dataclass(frozen=True, slots=True)
class Part:
    """A column of a sweep: the strips of some planes between two x."""

    sweep: Sweep
    place: tuple[Lead, int, int]
    side: int
    strips: int
    reduce: Reduce = area_mean

    def column(self, rows: Rows, arrays: list[zarr.Array[Any]]) -> Column:
        """What writes it."""
        first, last = self.sweep.first, self.sweep.last
        source = ArrayRows(arrays[first]) if first else rows
        return Column(source, arrays[first : last + 1], self.side, self.place, fresh=not first, reduce=self.reduce)


def write(
    rows: Rows,
    target: Target,
    parts: Sequence[Part],
    place: Place,
    describe: Describe,
    progress: Progress | None = None,
    restart: bool = False,
) -> None:
    """Write a pyramid to its place, or what is missing of it.

    Parameters
    ----------
    rows, target
        Where level 0 comes from, and the arrays to write.
    parts
        All columns, in their order.
    place
        Where it comes to lie.
    describe
        Writes the metadata, once the arrays are whole.
    progress
        What it raises stops the work; what is done by then is gone on with.
    restart
        Begin anew, and replace what lies there.

    Raises
    ------
    ImageReadError, ImageFormatError
        The source can't be read.
    StoreError
        Something lies there already, or is damaged; StoreLockedError where another process writes it.
    """
    noted: tuple[int, int] | None = None
    try:
        with place.locked():
            place.check_out(restart)  # another process may have ended meanwhile
            noted = place.begun(restart)
            with closing(DurableStore(place.image, late=True)) as store:
                try:
                    arrays = _arrays(target, store, place, fresh=noted == (0, 0))
                    for done in _written(rows, arrays, parts, noted, progress):
                        store.flush()
                        place.note(*done)
                        noted = done
                    describe(store)
                    store.flush()
                finally:
                    store.end()  # threads of Zarr's may still be writing when a signal ends the call
            place.note(*noted, whole=True)
            place.publish(restart)
        place.forget()
    except BaseException:
        if noted == (0, 0):
            place.forget()
        raise


def _arrays(target: Target, store: DurableStore, place: Place, *, fresh: bool) -> list[zarr.Array[Any]]:
    if fresh:
        target.create(store)
    try:
        return target.open(store)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise StoreError(place.aside, "what was begun there is damaged", f"delete it or pass {RESTART}") from error


def _written(
    rows: Rows,
    arrays: list[zarr.Array[Any]],
    parts: Sequence[Part],
    begun: tuple[int, int],
    progress: Progress | None,
) -> Iterator[tuple[int, int]]:
    """Write what is missing; yields how far it came, about once a second and at the end."""
    first, strips = begun
    total = sum(part.strips for part in parts)
    told, last = sum(part.strips for part in parts[:first]) + strips, time.monotonic()
    for number, part in enumerate(parts[first:], start=first):
        for strip in part.column(rows, arrays).write(strips if number == first else 0):
            told += 1
            if time.monotonic() - last >= NOTE_S:
                yield (number, strip) if strip < part.strips else (number + 1, 0)
                last = time.monotonic()
            if progress is not None:
                progress(told, total)
    yield len(parts), 0


def parts_of(rows: Rows, target: Target, reduce: Reduce = area_mean) -> list[Part]:
    """The columns of all sweeps that write ``target`` within the bounds of memory."""
    shapes = target.shapes
    planes = planes_of(rows, target.least, target.side)
    return [
        Part(sweep, place, target.side, -(-shapes[sweep.first][-2] // target.side), reduce)
        for sweep in sweeps(shapes, target.side, planes, rows)
        for place in sweep.columns(shapes[sweep.first])
    ]
