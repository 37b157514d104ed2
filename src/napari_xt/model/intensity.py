"""Pixel values as a network sees them: scaled to 0..1, normalised, finite.

Knows one channel at a time; must not know where limits come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Limits = tuple[float, float]
"""The values of a channel that become 0 and 1."""


def normalised(plane: NDArray[Any], mean: float, std: float, limits: Limits | None = None) -> NDArray[np.float32]:
    """One channel ``(Y, X)``, scaled to 0..1, less ``mean``, over ``std``; what is not finite becomes the mean.

    Without ``limits`` integers are scaled by their dtype's range and other types are taken as they are. In numpy,
    because it divides the same way whatever the number of threads.
    """
    integer = plane.dtype.kind in "iu"
    if limits is None:
        values = plane.astype(np.float32)
        if integer:
            values /= np.iinfo(plane.dtype).max
    else:
        values = between(plane, limits)
    values -= np.float32(mean)
    values /= np.float32(std)
    if limits is not None or not integer:
        values[~np.isfinite(values)] = 0
    return values


def between(pixels: NDArray[Any], limits: Limits) -> NDArray[np.float32]:
    """Pixels of a channel on the way from the low limit, 0, to the high one, 1; NaN where they are not finite.

    What lies beyond a limit is taken to be there: a speck of dust that is a hundred times as bright would be far from
    all that a network has ever seen, and with contrast limits it sees what a viewer shows. Where both limits are one
    number, all that is above it is 1. Limits that are further apart than a number can say are of no use: NaN.
    """
    exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.array(limits, np.float32 if exact else np.float64)
        values = pixels.astype(low.dtype)
        if pixels.dtype.kind == "f":
            values[~np.isfinite(values)] = np.nan
        values -= low
        span = high - low
        if span > 0:
            values /= span
        else:
            np.sign(values, out=values)
    return np.clip(values, 0, 1, out=values).astype(np.float32, copy=False)
