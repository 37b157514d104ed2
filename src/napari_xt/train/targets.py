"""What the heads should say about a window whose boxes are known: heat maps, crown masks, region classes.

Knows boxes and arrays; knows nothing of networks. Crown masks are ellipses inscribed in the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box

COVER_LIMITS = (0.10, 0.40)  # crown cover of a region: open below the first, dense above the second
HEAT_SIGMA = 0.10  # of a box's side


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of one window of ``h x w`` cells and ``R x Q`` regions.

    ``heat (h, w)`` 0..1, 1 at centres; ``boxes (4, h, w)`` centre y, x and height, width in px, meaningful where
    ``near (h, w)`` is positive (1 at centres, falling); ``crown (h, w)`` 0 or 1; ``valid (h, w)`` bool;
    ``classes (R, Q)`` int64, -1 where a region is not wholly valid.
    """

    heat: NDArray[np.float32]
    boxes: NDArray[np.float32]
    near: NDArray[np.float32]
    crown: NDArray[np.float32]
    valid: NDArray[np.bool_]
    classes: NDArray[np.int64]


def make_targets(
    boxes: NDArray[np.float64], valid: Box, shape_px: tuple[int, int], stride: int, region: int
) -> Targets:
    """Draw the targets.

    Parameters
    ----------
    boxes, valid
        ``(n, 4)`` y0, x0, y1, x1, and the labelled part, in pixels of the window.
    shape_px, stride, region
        Size of the window, of a cell and of a region, in pixels.
    """
    shape = shape_px[0] // stride, shape_px[1] // stride
    heat, crown = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    near, values = np.zeros(shape, np.float32), np.zeros((4, *shape), np.float32)
    for y0, x0, y1, x1 in boxes:
        size = np.array([y1 - y0, x1 - x0])
        centre = np.array([y0 + y1, x0 + x1]) / 2
        place, dy, dx = _around(centre, size, shape, stride)
        if place is None:
            continue
        crown[place] = np.maximum(crown[place], (2 * dy / size[0]) ** 2 + (2 * dx / size[1]) ** 2 < 1)
        sigma = np.maximum(HEAT_SIGMA * size, 0.6 * stride)
        cell = (centre // stride + 0.5) * stride - centre  # the peak is exactly 1 at the centre's own cell
        bump = np.exp(-(((dy - cell[0]) / sigma[0]) ** 2 + ((dx - cell[1]) / sigma[1]) ** 2) / 2).astype(np.float32)
        heat[place] = np.maximum(heat[place], bump)
        closer = bump > np.maximum(near[place], 0.3)
        near[place][closer] = bump[closer]
        values[(slice(None), *place)][:, closer] = np.array([*centre, *size], np.float32)[:, None]
    labelled = np.zeros(shape, np.bool_)
    labelled[-(-valid.y0 // stride) : valid.y1 // stride, -(-valid.x0 // stride) : valid.x1 // stride] = True
    return Targets(heat, values, near, crown, labelled, _cover_classes(crown, labelled, region // stride))


def cover_class(cover: float) -> int:
    """Index of the class of a region whose share ``cover`` (0..1) is under crowns: open, sparse, dense."""
    return int(cover >= COVER_LIMITS[0]) + int(cover > COVER_LIMITS[1])


_Place = tuple[slice, slice]


def _around(
    centre: NDArray[np.float64], size: NDArray[np.float64], shape: tuple[int, int], stride: int
) -> tuple[_Place | None, NDArray[np.float64], NDArray[np.float64]]:
    """The cells under a box and a little beyond, with their distance from its centre in pixels."""
    reach = size / 2 + 2 * stride
    first = np.maximum((centre - reach) // stride, 0).astype(int)
    last = np.minimum((centre + reach) // stride + 1, shape).astype(int)
    ys, xs = (np.arange(a, b) for a, b in zip(first, last, strict=True))
    dy = ((ys + 0.5) * stride - centre[0])[:, None]
    dx = ((xs + 0.5) * stride - centre[1])[None, :]
    place = (slice(first[0], last[0]), slice(first[1], last[1])) if len(ys) and len(xs) else None
    return place, dy, dx


def _cover_classes(crown: NDArray[np.float32], valid: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    rows, cols = crown.shape[0] // side, crown.shape[1] // side
    per_region = (rows, side, cols, side)
    cover = crown.reshape(per_region).mean(axis=(1, 3))
    whole = valid.reshape(per_region).all(axis=(1, 3))
    classes = np.vectorize(cover_class, otypes=[np.int64])(cover)
    return np.where(whole, classes, -1)
