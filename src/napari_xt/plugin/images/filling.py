"""Coarse levels of an image whose file has none, made in the background from all of its pixels while it is shown.

Knows images and blocks; must not know Qt, layers or where the levels are shown.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.image import Image
from napari_xt.io.images.pyramid import halve, is_computed
from napari_xt.plugin.images.level import empty
from napari_xt.plugin.images.watch import Fault, Watch

LIGHT_PX = 2**24
"""A coarsest level that is computed from no more pixels is computed when the image is opened."""

HELD_BYTES = 2**26
"""Computed levels of no more bytes are held in memory, whole."""

BLOCK_PX, MOST_SIDE = 2048, 8192
SHOW_EVERY_S = 0.5


class Filling:
    """The small computed levels of an image: empty at first, then filled block by block, from the middle outwards.

    Parameters
    ----------
    image
        One with computed levels and no axes but c, y and x; it is not kept open.
    last
        Whether the channels are to be last in memory: then views with the channels last are contiguous.

    Attributes
    ----------
    levels
        ``(c, y, x)`` in the image's dtype, by the index of the level.
    """

    def __init__(self, image: Image, *, last: bool) -> None:
        self._image = weakref.ref(image)
        computed = [is_computed(level) for level in image.levels]
        self._stored = computed.index(True) - 1
        shapes = [(image.channels, *shape) for shape in image.level_shapes]
        coarsest = len(shapes) - 1
        nbytes = [math.prod(shape) * image.dtype.itemsize for shape in shapes]
        held = [k for k in range(self._stored + 1, coarsest + 1) if nbytes[k] <= HELD_BYTES or k == coarsest]
        self.levels = {k: _blank(shapes[k], image, last=last) for k in held}
        self._blocks = _blocks(image, self._stored, 2 ** (coarsest - self._stored))

    def start(self, watches: Sequence[Watch]) -> None:
        """Fill, in a thread that ends with the image; ``watches`` are told what is damaged, and to look again."""
        threading.Thread(target=self._fill, args=(watches,), name="napari-xt-filling", daemon=True).start()

    def now(self, image: Image) -> NDArray[Any]:
        """Fill here, and return the coarsest level."""
        for box in self._blocks:
            self._put(box, image.read(box, self._stored))
        return self.levels[max(self.levels)]

    def _fill(self, watches: Sequence[Watch]) -> None:
        shown = time.monotonic()
        warned = False
        for box in self._blocks:
            image = self._image()
            if image is None or image.closed:
                return
            try:
                self._put(box, image.read(box, self._stored))
            except ImageReadError as error:
                if not warned and not image.closed:
                    watches[0].note(Fault(self._stored, box, error.why))
                warned = True
            del image
            if time.monotonic() - shown > SHOW_EVERY_S:
                shown = time.monotonic()
                _show(watches)
        _show(watches)

    def _put(self, box: Box, pixels: NDArray[Any]) -> None:
        for level in range(self._stored + 1, max(self.levels) + 1):
            pixels = halve(pixels, 1, 2)
            y, x = box.y0 >> (level - self._stored), box.x0 >> (level - self._stored)
            if level in self.levels:
                self.levels[level][:, y : y + pixels.shape[1], x : x + pixels.shape[2]] = pixels


def coarsest(image: Image) -> NDArray[Any]:
    """Return the coarsest level ``(c, y, x)`` of the plane, here and now.

    Raises
    ------
    ImageReadError
        It is damaged.
    """
    last = len(image.levels) - 1
    if not is_computed(image.levels[last]):
        return image.read(Box(0, 0, *image.level_shapes[last]), last)
    return Filling(image, last=False).now(image)


def is_heavy(image: Image) -> bool:
    """Whether the coarsest level is computed from so many pixels that it can't be waited for."""
    stored = sum(not is_computed(level) for level in image.levels)
    height, width = image.level_shapes[stored - 1]
    return stored < len(image.levels) and height * width * image.channels > LIGHT_PX


def _show(watches: Sequence[Watch]) -> None:
    for watch in watches:
        watch.look_again()


def _blank(shape: tuple[int, ...], image: Image, *, last: bool) -> NDArray[Any]:
    """Memory is taken page by page where nothing stands for no pixels."""
    c, y, x = shape
    made = np.zeros((y, x, c) if last else shape, image.dtype)
    nothing = empty(image)
    if nothing != 0:
        made[...] = nothing
    return made.transpose(2, 0, 1) if last else made


def _blocks(image: Image, level: int, factor: int) -> list[Box]:
    """Blocks of a level, of whole chunks where that can be, each a multiple of ``factor``; the middle ones first."""
    frame = Box(0, 0, *image.level_shapes[level])
    chunks = getattr(image.levels[level], "chunks", None) or ()
    sizes = dict(zip(image.axes, (n if isinstance(n, int) else n[0] for n in chunks), strict=False))
    width = _side(sizes.get("x", 1), factor, BLOCK_PX)
    height = _side(sizes.get("y", 1), factor, max(1, BLOCK_PX * BLOCK_PX // width))
    boxes = [
        Box(y, x, y + height, x + width).clip(frame)
        for y in range(0, frame.height, height)
        for x in range(0, frame.width, width)
    ]
    middle = frame.height / 2, frame.width / 2
    return sorted(boxes, key=lambda b: math.hypot((b.y0 + b.y1) / 2 - middle[0], (b.x0 + b.x1) / 2 - middle[1]))


def _side(chunk: int, factor: int, wanted: int) -> int:
    whole = math.lcm(chunk, factor)
    step = whole if whole <= max(wanted, MOST_SIDE) else factor
    return step * max(1, -(-max(wanted, min(chunk, MOST_SIDE * 16)) // step))
