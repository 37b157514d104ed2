"""Which whole pixels a brush or a polygon covers. Must not know layers, values or stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from napari_xt.geometry import Box

BAND_ROWS = 2048  # of a polygon at a time
EDGE = 1e-6  # a pixel on the brush's edge is covered

Mask = NDArray[np.bool_]
Point = Sequence[float] | NDArray[np.float64]


def swept(start: Point, end: Point, size: float, scale: Sequence[float], within: Box) -> tuple[Box, Mask] | None:
    """What napari's round brush covers on its way from one pixel to another.

    Parameters
    ----------
    start, end
        ``y, x`` in pixels, rounded as napari does.
    size
        The brush's diameter in pixels of the axis that has the smaller ones.
    scale
        Of a pixel ``(y, x)`` in the world: a brush is round there.
    within
        The image.

    Returns
    -------
    tuple of Box and bool ``(h, w)``, or None
        Where it lies and which of its pixels; None where it covers none.
    """
    unit = np.abs(np.asarray(scale, float))
    unit = unit / unit.min()
    radius = floor(size / 2) + 0.5
    ends = np.rint(np.array([start, end], float))
    reach = np.floor(radius / unit)
    (y0, x0), (y1, x1) = (ends.min(axis=0) - reach).astype(int), (ends.max(axis=0) + reach + 1).astype(int)
    box = Box(int(y0), int(x0), int(y1), int(x1)).clip(within)
    if box.empty:
        return None
    first, last = _spans(np.arange(box.y0, box.y1) * unit[0], ends * unit, radius)
    cols = np.arange(box.x0, box.x1) * unit[1]
    mask: Mask = (cols >= first[:, None] - EDGE) & (cols <= last[:, None] + EDGE)
    return (box, mask) if mask.any() else None


def inside(points: Point, within: Box) -> Iterator[tuple[Box, Mask]]:
    """What a polygon covers, its outline included, in bands of rows, each as `swept` returns it.

    Parameters
    ----------
    points
        ``(n, 2)`` corners ``y, x`` in pixels, cut to whole ones as napari does.
    within
        The image.
    """
    corners = np.asarray(points).astype(int)
    (y0, x0), (y1, x1) = corners.min(axis=0), corners.max(axis=0) + 1
    box = Box(int(y0), int(x0), int(y1), int(x1)).clip(within)
    for top in range(box.y0, box.y1, BAND_ROWS) if not box.empty else ():
        band = Box(top, box.x0, min(top + BAND_ROWS, box.y1), box.x1)
        picture = Image.new("L", (band.width, band.height))
        local = [(int(x) - band.x0, int(y) - band.y0) for y, x in corners]
        ImageDraw.Draw(picture).polygon(local, fill=1, outline=1)
        mask = np.asarray(picture).astype(bool)
        if mask.any():
            yield band, mask


def _spans(
    rows: NDArray[np.float64], ends: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a disc that moves from one of two ``ends`` to the other begins and stops in each row.

    It is convex, so a row has one span: of the discs at its ends and the rectangle between them.
    """
    first, last = np.full(rows.shape, np.inf), np.full(rows.shape, -np.inf)
    for y, x in ends:
        half = np.sqrt(np.maximum(radius**2 - (rows - y) ** 2, 0))
        there = np.abs(rows - y) <= radius + EDGE
        first[there] = np.minimum(first, x - half)[there]
        last[there] = np.maximum(last, x + half)[there]
    way = ends[1] - ends[0]
    if (length := float(np.hypot(*way))) == 0:
        return first, last
    aside = np.array([-way[1], way[0]]) / length * radius
    corners = np.array([ends[0] + aside, ends[1] + aside, ends[1] - aside, ends[0] - aside])
    for (ya, xa), (yb, xb) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if abs(yb - ya) < EDGE:
            continue  # its ends belong to its neighbours too
        there = (rows >= min(ya, yb)) & (rows <= max(ya, yb))
        x = xa + (rows - ya) * (xb - xa) / (yb - ya)
        first[there] = np.minimum(first, x)[there]
        last[there] = np.maximum(last, x)[there]
    return first, last
