"""Which regions are empty, by one look at a coarse level: glass, no-data, open water.

Knows images and grids; knows no models, no plans and no torch. The rule only ever errs towards running a region:

1. The look is the coarsest level on which a region still spans 8 pixels, halved further while it spans 16, so that an
   image with a pyramid and the same image without one are judged alike. Means keep a small dark thing as a faint one.
2. A region is judged with its halo. It is *flat* where no channel varies by more than 3 % of the channel's spread over
   the image (1st to 99th percentile): faint tissue has texture long before Otsu's threshold on saturation (HistoQC,
   Janowczyk et al., 2019; CLAM, Lu et al., 2021, which takes 8 of 255) would call it tissue.
3. The *background* is the commonest colour of the flat regions, if they are at least 5 % of all and hardly anything in
   the image is brighter (glass) or hardly anything is darker (sea, dark field): a field between forests is neither.
4. A region is empty where it is flat and within 6 % of the background in every channel, which is stricter than a
   threshold on saturation, or where nothing was recorded: every pixel 0 in all channels, not finite, no-data or hidden
   by alpha. Of a region that was recorded in part, what was recorded counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box, Grid
from napari_xt.io.image import Image
from napari_xt.io.images.nodata import hidden_pixels
from napari_xt.io.images.pyramid import is_computed

REGION_PX = 8  # a region spans at least so many pixels of the look
LOOK_PX = 2048**2  # no look reads more pixels of a level
COMPUTED_PX = 8192**2  # nor computes a level from more
FLAT, NEAR = 0.03, 0.06  # shares of a channel's spread
FLAT_COUNTS, NEAR_COUNTS = 3, 6  # whole numbers may vary by so much whatever the spread: rounding, compression
COMMON, BEYOND = 0.05, 0.05  # least share of flat regions, most share of pixels beyond the background

Runs = tuple[tuple[int, int], ...]
Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen: ``empty`` are runs ``(first, last + 1)`` of region indices, in order; ``why`` there is no look."""

    empty: Runs = ()
    why: str = ""


def look(image: Image, grid: Grid, channels: Sequence[int], roi: Box) -> Look:
    """Find the regions that need not be run.

    Whether one is empty depends on the image and the grid alone, never on ``roi``, which only says which are asked for.
    What can't be seen is run: a damaged level, or none that is coarse enough to be cheap.

    Parameters
    ----------
    channels
        Those that the model sees.
    roi
        Run pixels.
    """
    level = _level(image, grid)
    if level is None:
        return Look(why=f"{image.name} has no level that is cheap to look at: no region is skipped")
    try:
        pixels = image.read(Box(0, 0, *image.level_shapes[level]), level)
    except ImageReadError as error:
        return Look(why=f"no region is skipped: {error}")
    hidden = hidden_pixels(pixels, channels, None if image.alpha in channels else image.alpha, image.nodata)
    table = empty_regions(pixels[list(channels)], grid, hidden, trusted=not is_computed(image.levels[level]))
    return Look(runs_of(np.array([r.index for r in grid.regions(roi) if table[r.row, r.col]], np.int64)))


class Picture:
    """The pixels of skipped regions as the look shows them, for the store's overview. Not for many threads."""

    def __init__(self, image: Image, grid: Grid) -> None:
        self._image, self._grid = image, grid

    def of(self, box: Box) -> NDArray[Any] | None:
        """``(C, Y, X)`` of ``box`` (run px, inside the image), the nearest of the look; None where it can't be seen."""
        if self._pixels is None:
            return None
        _, height, width = self._pixels.shape
        rows = np.arange(box.y0, box.y1) * height // self._grid.height
        cols = np.arange(box.x0, box.x1) * width // self._grid.width
        seen: NDArray[Any] = self._pixels[:, rows[:, None], cols]
        return seen

    @cached_property
    def _pixels(self) -> NDArray[Any] | None:
        level = _level(self._image, self._grid)
        try:
            return None if level is None else self._image.read(Box(0, 0, *self._image.level_shapes[level]), level)
        except ImageReadError:
            return None


def empty_regions(
    pixels: NDArray[Any], grid: Grid, hidden: NDArray[np.bool_] | None = None, *, trusted: bool = True
) -> NDArray[np.bool_]:
    """Which regions of a grid are empty, ``(rows, cols)``.

    Parameters
    ----------
    pixels
        The whole image at any level, ``(C, Y, X)``, as it is stored.
    hidden
        ``(Y, X)``, where there is no picture; None for nowhere.
    trusted
        Whether a pixel that is not finite says that none was recorded; in a mean one of many may have been.
    """
    whole = pixels.dtype.kind in "iu"
    found = pixels.astype(np.float32)
    doubtful = np.zeros(grid.shape, bool) if trusted else _doubtful(found, hidden, grid)
    if hidden is not None:
        found[:, hidden] = np.nan
    values = _reduced(found, grid)
    values[~np.isfinite(values)] = np.nan
    recorded = ~np.isnan(values)
    black = (values == 0).all(axis=0)
    nothing: NDArray[np.bool_] = _over_regions((black | ~recorded.any(axis=0))[None], grid, np.min)[0] & ~doubtful
    seen = values[:, recorded.all(axis=0) & ~black]
    if not seen.size:
        return nothing
    low, high = (_over_regions(values, grid, extreme.reduce) for extreme in (np.fmin, np.fmax))
    flat, near = _tolerances(seen, whole)
    level = (high - low <= flat).all(axis=0) & ~nothing & ~doubtful
    background = _background(seen, (low + high)[:, level] / 2, near, int((~nothing).sum()))
    if background is not None:
        nothing |= level & (low >= background - near).all(axis=0) & (high <= background + near).all(axis=0)
    return nothing


def _doubtful(found: Pixels, hidden: NDArray[np.bool_] | None, grid: Grid) -> NDArray[np.bool_]:
    """Regions in which a mean is not finite that may be of pixels that are."""
    lost = ~np.isfinite(found)
    by_channel = _over_regions(lost if hidden is None else lost & ~hidden, grid, np.max)
    doubtful: NDArray[np.bool_] = np.logical_or.reduce(by_channel, axis=0)
    return doubtful


def _level(image: Image, grid: Grid) -> int | None:
    """The coarsest level that shows regions, None where it is not cheap to read."""
    spans = [min(y / grid.height, x / grid.width) * grid.region_px for y, x in image.level_shapes]
    level = max((k for k, span in enumerate(spans) if round(span) >= REGION_PX), default=0)
    (height, width), (full_height, full_width) = image.level_shapes[level], image.shape
    dear = is_computed(image.levels[level]) and full_height * full_width > COMPUTED_PX
    return None if dear or height * width > LOOK_PX else level


def _reduced(values: Pixels, grid: Grid) -> Pixels:
    """``values (C, Y, X)`` halved while a region spans twice what it must; the mean of what is finite."""
    while round(min(values.shape[1] / grid.height, values.shape[2] / grid.width) * grid.region_px) >= 2 * REGION_PX:
        pads = [(0, 0), *((0, n % 2) for n in values.shape[1:])]
        even = np.pad(values, pads, mode="edge")
        parts = np.stack([even[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
        finite = np.isfinite(parts)
        count = finite.sum(axis=0, dtype=np.float32)
        total = np.where(finite, parts, np.float32(0)).sum(axis=0)
        values = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return values


def _over_regions(values: NDArray[Any], grid: Grid, extreme: Callable[..., Any]) -> NDArray[Any]:
    """``extreme`` of ``values (C, Y, X)`` over each region with its halo: ``(C, rows, cols)``; what is NaN stays so."""
    shape = values.shape[1:]
    fy, fx = shape[0] / grid.height, shape[1] / grid.width
    tall = [grid.region(row, 0).outer.scale(fy, fx).clip(Box(0, 0, *shape)) for row in range(grid.shape[0])]
    wide = [grid.region(0, col).outer.scale(fy, fx).clip(Box(0, 0, *shape)) for col in range(grid.shape[1])]
    bands = np.stack([extreme(values[:, box.y0 : box.y1], axis=1) for box in tall], axis=1)
    return np.stack([extreme(bands[:, :, box.x0 : box.x1], axis=2) for box in wide], axis=2)


def _tolerances(seen: Pixels, whole: bool) -> tuple[Pixels, Pixels]:
    """How far a channel of ``seen (C, n)`` may vary in an empty region, and from the background: ``(C, 1, 1)`` each."""
    first, last = np.percentile(seen, (1, 99), axis=1)
    spread = (last - first).astype(np.float32)[:, None, None]
    return np.maximum(FLAT * spread, FLAT_COUNTS * whole), np.maximum(NEAR * spread, NEAR_COUNTS * whole)


def _background(seen: Pixels, flat: Pixels, near: Pixels, regions: int) -> Pixels | None:
    """The colour ``(C, 1, 1)`` of what is empty in ``seen (C, n)``, from flat regions' ``(C, m)``; None for none."""
    if flat.shape[1] == 0 or flat.shape[1] < COMMON * regions:
        return None
    near = near[:, :, 0]
    step = np.where(near > 0, near, 1)
    bins, counts = np.unique(np.floor(flat / step), axis=1, return_counts=True)
    colour = (bins[:, [int(counts.argmax())]] + np.float32(0.5)) * step
    alike = (np.abs(flat - colour) <= step).all(axis=0)
    colour = np.median(flat[:, alike], axis=1)[:, None]
    if alike.sum() < COMMON * regions or not _outermost(seen.mean(axis=0), colour.mean(), near.mean()):
        return None
    found: Pixels = colour[:, :, None]
    return found


def _outermost(brightness: Pixels, background: np.floating[Any], near: np.floating[Any]) -> bool:
    """Whether hardly anything is brighter than the background, or hardly anything is darker."""
    brighter, darker = (brightness > background + near).mean(), (brightness < background - near).mean()
    return bool(min(brighter, darker) <= BEYOND)


def runs_of(indices: NDArray[np.int64]) -> Runs:
    """Increasing numbers as half-open runs: 3, 4, 5, 9 are (3, 6), (9, 10)."""
    cuts = [0, *(np.flatnonzero(np.diff(indices) > 1) + 1).tolist(), len(indices)]
    return tuple((int(indices[a]), int(indices[b - 1]) + 1) for a, b in pairwise(cuts) if a < b)
