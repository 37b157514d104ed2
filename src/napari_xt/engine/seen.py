"""One region of an image as a model would see it, as a picture for people. Reads pixels; imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.engine.plan import Plan
from napari_xt.engine.reading import read_patch
from napari_xt.geometry import Box
from napari_xt.io.image import Image
from napari_xt.model.intensity import normalised


def seen_region(image: Image, plan: Plan, at: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """A region with its channels chosen, resampled and scaled to 0..1 as for the network, in colours.

    Parameters
    ----------
    image
        That was planned for.
    at
        A place in it, ``(y, x)`` in level-0 px; default: the middle of what is run.

    Returns
    -------
    ndarray
        ``(Y, X, 3)``, red, green and blue the model's first three channels; grey where it has one.

    Raises
    ------
    ImageReadError
        The image is damaged there.
    """
    grid, side = plan.grid, plan.grid.region_px
    box = Box(int(at[0]), int(at[1]), int(at[0]) + 1, int(at[1]) + 1) if at else None
    run = plan.frame.to_run(box) if box else plan.roi_run
    middle = (run.y0 + run.y1) // 2, (run.x0 + run.x1) // 2
    row, col = (min(max(m // side, 0), n - 1) for m, n in zip(middle, grid.shape, strict=True))
    patch = read_patch(image, plan, grid.region(row, col).inner.clip(grid.bounds))
    limits = plan.limits or (None,) * len(plan.channels)
    planes = [_shown(patch.pixels[c], ends) for c, ends in zip(plan.channels, limits, strict=True)][:3]
    if len(planes) == 1:
        planes *= 3
    planes += [np.zeros_like(planes[0])] * (3 - len(planes))
    return np.stack(planes, axis=-1)


def _shown(plane: NDArray[Any], ends: tuple[float, float] | None) -> NDArray[np.uint8]:
    """A channel, 0..1 as 0..255: mean and standard deviation, which the network's input has besides, left out."""
    values: NDArray[np.uint8] = (normalised(plane, 0, 1, ends).clip(0, 1) * 255).round().astype(np.uint8)
    return values
