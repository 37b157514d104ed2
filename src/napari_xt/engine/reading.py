"""Pixels for a run, each chunk row of the source decompressed once while boxes come from top to bottom.

Knows images and plans; knows no networks and no stores.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import lcm
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.image import Image
from napari_xt.io.images.resample import read_run

if TYPE_CHECKING:
    from napari_xt.engine.plan import Plan

Pixels = NDArray[np.generic]

KEPT_BYTES = 320 << 20  # of pixels that may be asked for again
SLAB_PX = 512  # where the source has no chunks of the run's own


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels ``(C, Y, X)`` of ``box`` (run px, which may reach outside the image: filled by replication)."""

    box: Box
    pixels: Pixels

    def cut(self, box: Box) -> Pixels:
        """The pixels of ``box``, which lies inside."""
        rows, cols = box.shift(-self.box.y0, -self.box.x0).slices
        return self.pixels[:, rows, cols]


def read_patch(image: Image, plan: Plan, box: Box) -> Patch:
    """Read ``box`` (run px); what lies outside the image is the nearest pixel inside.

    Raises
    ------
    ImageReadError
        The image is damaged there.
    """
    inside = box.clip(plan.grid.bounds)
    return _filled(box, inside, read_run(image, plan.level, plan.frame.shape_run, inside))


class Reader:
    """Reads patches of one run from slabs: rows of chunks, as wide as what is run, kept while there is room.

    Safe to use from many threads, one of which reads at a time.
    """

    def __init__(self, image: Image, plan: Plan) -> None:
        self._image, self._plan = image, plan
        self._across, self._height = _across(plan), _chunk_rows(image, plan)
        self._room = KEPT_BYTES // max(1, _slab_bytes(image, plan))
        self._kept = min(self._room, _slabs_at_once(image, plan))
        self._slabs: OrderedDict[int, Pixels] = OrderedDict()
        self._lock = Lock()

    def read(self, box: Box, early: bool = False) -> Patch:
        """`read_patch` of ``box``, with what was read before.

        Slabs too large to keep are not read whole, nor those of a box that comes ``early``, before its turn, nor one
        that is damaged somewhere: it may be whole in ``box``.
        """
        inside = box.clip(self._plan.grid.bounds)
        numbers = range(inside.y0 // self._height, -(-inside.y1 // self._height))
        if early or len(numbers) > self._room:
            return read_patch(self._image, self._plan, box)
        try:
            with self._lock:
                parts = [self._cut(number, inside) for number in numbers]
                while len(self._slabs) > self._kept:
                    self._slabs.popitem(last=False)
        except ImageReadError:
            return read_patch(self._image, self._plan, box)
        return _filled(box, inside, np.concatenate(parts, axis=1))

    def forget(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._slabs.clear()

    def _cut(self, number: int, inside: Box) -> Pixels:
        slab = self._slab_box(number)
        part = inside.clip(slab)
        rows, cols = part.shift(-slab.y0, -slab.x0).slices
        return self._slab(number, slab)[:, rows, cols]

    def _slab_box(self, number: int) -> Box:
        top, across = number * self._height, self._across
        return Box(top, across.x0, top + self._height, across.x1).clip(self._plan.grid.bounds)

    def _slab(self, number: int, slab: Box) -> Pixels:
        if number not in self._slabs:
            self._slabs[number] = read_run(self._image, self._plan.level, self._plan.frame.shape_run, slab)
        self._slabs.move_to_end(number)
        return self._slabs[number]


def kept_bytes(image: Image, plan: Plan) -> int:
    """Bytes of pixels that a `Reader` keeps at most; at times as many again are on their way."""
    slab, whole = _slab_bytes(image, plan), _across(plan).height * _row_bytes(image, plan)
    kept = min(KEPT_BYTES // max(1, slab), _slabs_at_once(image, plan)) * slab
    return min(2 * kept, whole)


def _across(plan: Plan) -> Box:
    """What is run and what it sees, from left to right."""
    return plan.roi_run.grow(plan.grid.halo_px + plan.grid.region_px).clip(plan.grid.bounds)


def _row_bytes(image: Image, plan: Plan) -> int:
    return _across(plan).width * image.channels * image.dtype.itemsize


def _slab_bytes(image: Image, plan: Plan) -> int:
    return _row_bytes(image, plan) * _chunk_rows(image, plan)


def _slabs_at_once(image: Image, plan: Plan) -> int:
    return -(-_span(plan) // _chunk_rows(image, plan)) + 2


def _filled(box: Box, inside: Box, pixels: Pixels) -> Patch:
    lacking = [(inside.y0 - box.y0, box.y1 - inside.y1), (inside.x0 - box.x0, box.x1 - inside.x1)]
    if any(n for pair in lacking for n in pair):
        pixels = np.pad(pixels, [(0, 0), *lacking], mode="edge")
    return Patch(box, pixels)


def _span(plan: Plan) -> int:
    """Rows of pixels that are asked for before those below them: a step's, or a row of blocks of a large window."""
    k, side = plan.grid.block_regions, plan.grid.window or max(plan.grid.shape)
    return (k if plan.large else lcm(side, k)) * plan.grid.region_px + 2 * plan.grid.halo_px


def _chunk_rows(image: Image, plan: Plan) -> int:
    """Height of the source's chunks in run pixels, where the run is on a level as it is."""
    chunks = getattr(image.levels[plan.level], "chunks", None)
    if plan.resampled or not chunks:
        return SLAB_PX
    rows = chunks[image.axes.index("y")]
    return int(rows[0] if isinstance(rows, tuple) else rows)  # dask states every chunk
