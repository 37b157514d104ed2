"""Reductions of a block, and patches painted into arrays whose chunks several blocks share.

Knows arrays and boxes; must not know runs, layouts or the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_xt.geometry import Box

HELD_CHUNKS = 4  # of an array that is painted stay in memory
MAX_NARROW = 2048  # factor up to which sums of bytes fit into int32
MAX_ITEM = 8  # bytes of an integer from which sums of it need more than int64

Patch = tuple[Box, NDArray[Any]]  # where in an array's (y, x), and what


def cells(box: Box, factor: int) -> Box:
    """The cells whose first pixel lies in ``box``."""
    return Box(*(-(-edge // factor) for edge in (box.y0, box.x0, box.y1, box.x1)))


def every(image: NDArray[Any], box: Box, factor: int) -> Patch:
    """Every ``factor``-th pixel, counted from the whole image's (0, 0), of ``image`` ``(..., Y, X)``, its ``box``."""
    return cells(box, factor), image[..., -box.y0 % factor :: factor, -box.x0 % factor :: factor]


def mean(image: NDArray[Any], box: Box, factor: int) -> Patch:
    """The means of ``image`` ``(..., Y, X)``, at ``box``, over cells of ``factor x factor`` pixels counted from (0, 0).

    A cell at the image's edge is the mean of the pixels that exist, one across two blocks of those in the block that
    holds its first pixel, so that the result does not depend on the order of the blocks. Integers round half up.
    """
    to = cells(box, factor)
    if to.empty:
        return to, image[..., :0, :0]
    image = image[..., -box.y0 % factor :, -box.x0 % factor :]
    counts = _sizes(image.shape[-2], factor)[:, None] * _sizes(image.shape[-1], factor)
    if image.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):  # a source may hold infinities: the picture shows them
            return to, (_sum(image, factor, np.float64) / counts).astype(image.dtype)
    return to, _integer_mean(image, factor, counts)


def joined(patches: list[Patch], *, y_axis: int = -2) -> list[Patch]:
    """The patches, as one where they tile a rectangle: Zarr is faster with many chunks at once.

    ``y_axis`` is the place of y among their axes, before x.
    """
    if not patches:
        return []
    boxes = [box for box, _ in patches]
    y0, x0 = min(box.y0 for box in boxes), min(box.x0 for box in boxes)
    bounds = Box(y0, x0, max(box.y1 for box in boxes), max(box.x1 for box in boxes))
    if sum(box.height * box.width for box in boxes) != bounds.height * bounds.width:
        return patches
    first = patches[0][1]
    y_axis %= first.ndim
    whole = np.empty((*first.shape[:y_axis], *bounds.shape, *first.shape[y_axis + 2 :]), first.dtype)
    for box, values in patches:
        whole[(*(slice(None),) * y_axis, *box.shift(-bounds.y0, -bounds.x0).slices)] = values
    return [(bounds, whole)]


def paint(array: zarr.Array[Any], patches: Iterable[Patch], *, y_axis: int = 0) -> None:
    """Write ``patches`` into ``array``, each chunk once; ``y_axis`` is the place of y among its axes, before x.

    A chunk that holds these values already is not written.
    """
    canvas = Canvas(array, y_axis=y_axis)
    canvas.paint(patches)
    canvas.write()


class Canvas:
    """An array that is painted in memory, chunk by chunk, until it is written; no other may write it meanwhile.

    Parameters
    ----------
    array
        Any.
    y_axis
        The place of y among its axes, before x.
    """

    def __init__(self, array: zarr.Array[Any], *, y_axis: int = 0) -> None:
        self._array, self._lead, self._side = array, (slice(None),) * y_axis, array.chunks[y_axis]
        self._bounds = Box(0, 0, array.shape[y_axis], array.shape[y_axis + 1])
        self._held: dict[Box, NDArray[Any]] = {}  # the last painted last
        self._fresh: set[Box] = set()  # of these: what is not written yet

    def paint(self, patches: Iterable[Patch]) -> None:
        """Paint ``patches``, each wholly inside the array."""
        for box, values in patches:
            for square in chunks(box, self._side):
                chunk = square.clip(self._bounds)
                part = box.clip(chunk)
                self._paint(chunk, part, values[(*self._lead, *part.shift(-box.y0, -box.x0).slices)])

    def write(self) -> None:
        """Write the chunks that have changed; a few stay in memory, for what may be painted next."""
        fresh = [(chunk, self._held[chunk]) for chunk in sorted(self._fresh)]
        for box, values in joined(fresh, y_axis=len(self._lead)):
            self._array[(*self._lead, *box.slices)] = values
        self._fresh.clear()
        for chunk in list(self._held)[:-HELD_CHUNKS]:
            del self._held[chunk]

    def _paint(self, chunk: Box, part: Box, values: NDArray[Any]) -> None:
        held = self._held.pop(chunk, None)
        if held is None and part == chunk:  # whatever it holds, were it damaged
            self._held[chunk] = np.array(values)
            self._fresh.add(chunk)
            return
        self._held[chunk] = held = np.array(self._array[(*self._lead, *chunk.slices)]) if held is None else held
        place = held[(*self._lead, *part.shift(-chunk.y0, -chunk.x0).slices)]
        if place.tobytes() != values.tobytes():
            place[...] = values
            self._fresh.add(chunk)


def chunks(box: Box, side: int) -> Iterator[Box]:
    """The squares of ``side`` cells, counted from (0, 0), that ``box`` touches, row by row."""
    if box.empty:
        return
    for y in range(box.y0 // side * side, box.y1, side):
        for x in range(box.x0 // side * side, box.x1, side):
            yield Box(y, x, y + side, x + side)


def _integer_mean(image: NDArray[Any], factor: int, counts: NDArray[np.int64]) -> NDArray[Any]:
    if image.dtype.itemsize < MAX_ITEM:
        sums = _sum(image, factor, np.int32 if image.dtype.itemsize == 1 and factor <= MAX_NARROW else np.int64)
        return ((2 * sums + counts) // (2 * counts)).astype(image.dtype)
    # sums of 64-bit values would overflow: near enough in floating point, and never past the type's ends
    limits = np.iinfo(image.dtype)
    means = np.floor(_sum(image, factor, np.float64) / counts + 0.5)
    return np.clip(means, float(limits.min), np.nextafter(float(limits.max), 0)).astype(image.dtype)


def _sum(image: NDArray[Any], factor: int, dtype: type[np.number[Any]]) -> NDArray[Any]:
    """The sums of ``image`` ``(..., Y, X)`` over cells; adding slices is ten times as fast as ``add.reduceat``."""
    tall = _sum_rows(image, factor, dtype)
    return _sum_rows(tall.swapaxes(-1, -2), factor, dtype).swapaxes(-1, -2)


def _sum_rows(image: NDArray[Any], factor: int, dtype: type[np.number[Any]]) -> NDArray[Any]:
    sums = image[..., ::factor, :].astype(dtype)
    for step in range(1, factor):
        part = image[..., step::factor, :]
        sums[..., : part.shape[-2], :] += part
    return sums


def _sizes(length: int, factor: int) -> NDArray[np.int64]:
    """How many of ``length`` pixels each cell holds: the last perhaps fewer than ``factor``."""
    return np.minimum(factor, length - np.arange(0, length, factor))
