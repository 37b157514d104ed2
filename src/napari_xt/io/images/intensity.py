"""Where an image's values lie: limits of each channel, measured at little cost and always the same.

Knows images; must not know what is done with the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.image import Image
from napari_xt.io.images.nodata import hidden_pixels
from napari_xt.io.images.pyramid import is_computed
from napari_xt.io.images.source import RemoteError

LOOK_PX = 2048**2  # no more pixels are looked at, of four channels; fewer of more
SQUARES, SQUARE_PX = 4, 512  # where no level is so small: so many along each axis of level 0

Limits = tuple[tuple[float, float], ...]


def measured_limits(image: Image, channels: Sequence[int], percentiles: tuple[float, float]) -> Limits:
    """Measure between which values the pixels of some channels lie.

    The finest level of the file that is small enough is looked at, or squares at fixed places of level 0 where none is
    or where it is damaged; once for a plane of an open image. What alpha hides, no-data and what is not finite does not
    count. Where the percentiles are one number, the least and the greatest value stand for them.

    Parameters
    ----------
    channels
        Indices of the image's channels.
    percentiles
        The lower and the higher one, 0 to 100.

    Returns
    -------
    tuple of (low, high)
        For each of ``channels``; ``(0, 0)`` where nothing counts, ``low == high`` where all is one value.

    Raises
    ------
    ImageReadError
        Nothing of what is looked at can be read.
    """

    def measure() -> Limits:
        parts = [_seen(pixels, image, channels) for pixels in _looked_at(image)]
        return tuple(_limits([part[i] for part in parts], percentiles) for i in range(len(channels)))

    return image.measured(("limits", tuple(channels), tuple(percentiles)), measure)


def _looked_at(image: Image) -> Iterator[NDArray[Any]]:
    most = LOOK_PX * 4 // max(4, image.channels)
    small = (k for k, (height, width) in enumerate(image.level_shapes) if height * width <= most)
    level = next((k for k in small if not is_computed(image.levels[k])), None)
    if level is not None:
        try:
            yield image.read(Box(0, 0, *image.level_shapes[level]), level)
        except ImageReadError as error:
            if isinstance(error.__cause__, RemoteError):
                raise
        else:
            return
    yield from _squares(image, most)


def _squares(image: Image, most: int) -> Iterator[NDArray[Any]]:
    """Squares at fixed places of level 0; those that can't be read are left out."""
    side, read = min(SQUARE_PX, int(most**0.5) // SQUARES), 0
    starts = [
        sorted({max(0, min(size - side, size * (2 * i + 1) // (2 * SQUARES) - side // 2)) for i in range(SQUARES)})
        for size in image.shape
    ]
    failed: ImageReadError | None = None
    for y in starts[0]:
        for x in starts[1]:
            try:
                pixels = image.read(Box(y, x, y + side, x + side).clip(Box(0, 0, *image.shape)))
            except ImageReadError as error:
                if isinstance(error.__cause__, RemoteError):
                    raise
                failed = error
            else:
                read += 1
                yield pixels
    if failed is not None and not read:
        raise failed


def _seen(pixels: NDArray[Any], image: Image, channels: Sequence[int]) -> list[NDArray[Any]]:
    """The values of each channel that count."""
    alpha = None if image.alpha in channels else image.alpha
    hidden = hidden_pixels(pixels, channels, alpha, image.nodata)
    values = [pixels[i].ravel() if hidden is None else pixels[i][~hidden] for i in channels]
    return [one[np.isfinite(one)] if one.dtype.kind == "f" else one for one in values]


def _limits(parts: Sequence[NDArray[Any]], percentiles: tuple[float, float]) -> tuple[float, float]:
    values = np.concatenate(parts).astype(np.float64)
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, percentiles)
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)
