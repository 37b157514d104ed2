"""A made-up fluorescence field with its truth: stained nuclei, some of which touch, over a dim uneven background.

Knows pixels and chance; knows no file, no model and no viewer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIDE_PX = 1024
PIXEL_UM = 0.5
NUCLEI = 220
SEED = 20240917
RADII_PX = (9.0, 17.0)
CROWDED = 0.35  # this share of the nuclei lies beside another one
BACKGROUND, STAIN, GAIN = 180.0, 2400.0, 3.0
BLUR_PX = 1.6


@lru_cache(maxsize=1)
def nuclei() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Make the field, the same one always.

    Returns
    -------
    tuple of numpy.ndarray
        The picture, uint16 ``(y, x)`` of `SIDE_PX` pixels along a side, each `PIXEL_UM` micrometres; and its nuclei,
        uint16 ``(y, x)``: 0 is background, each nucleus has a number from 1 on.
    """
    chance = np.random.default_rng(SEED)
    truth, light = np.zeros((SIDE_PX, SIDE_PX), np.uint16), np.zeros((SIDE_PX, SIDE_PX), np.float32)
    texture = ndimage.gaussian_filter(chance.normal(size=truth.shape).astype(np.float32), 3) * 5
    for number, (y, x) in enumerate(_centres(chance), 1):
        _add(truth, light, number, (y, x), chance)
    uneven = 1 + 0.3 * np.cos(np.linspace(0, 3, SIDE_PX))[:, None] * np.cos(np.linspace(-1, 2, SIDE_PX))
    seen = ndimage.gaussian_filter(light * (1 + 0.35 * texture.clip(-2, 2)), BLUR_PX) + BACKGROUND * uneven
    picture = chance.poisson(seen.clip(0) / GAIN) * GAIN + chance.normal(0, 12, truth.shape)
    return picture.clip(0, 65535).astype(np.uint16), truth


def _centres(chance: np.random.Generator) -> NDArray[np.float64]:
    centres = chance.uniform(0, SIDE_PX, (NUCLEI, 2))
    beside = np.flatnonzero(chance.uniform(size=NUCLEI) < CROWDED)
    angle, other = chance.uniform(0, 2 * np.pi, len(beside)), chance.integers(0, NUCLEI, len(beside))
    centres[beside] = centres[other] + 2 * RADII_PX[0] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return centres


def _add(
    truth: NDArray[np.uint16],
    light: NDArray[np.float32],
    number: int,
    centre: tuple[float, float],
    chance: np.random.Generator,
) -> None:
    """Draw a nucleus where there is none yet: an ellipse with an uneven edge, brighter in its middle."""
    (first, second), turn = chance.uniform(*RADII_PX, 2), chance.uniform(0, np.pi)
    waves, strength = chance.uniform(0, 2 * np.pi, 3), chance.lognormal(0, 0.3)
    reach = int(RADII_PX[1] * 1.3) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = (y * np.sin(turn) + x * np.cos(turn)) / first, (y * np.cos(turn) - x * np.sin(turn)) / second
    angle = np.arctan2(along, across)
    edge = 1 + sum(0.06 * np.cos(k * angle + wave) for k, wave in enumerate(waves, 2))
    far = np.hypot(along, across) / edge
    rows, cols = y + int(centre[0]), x + int(centre[1])
    inside = (far < 1) & (rows >= 0) & (cols >= 0) & (rows < SIDE_PX) & (cols < SIDE_PX)
    rows, cols, far = rows[inside], cols[inside], far[inside]
    free = truth[rows, cols] == 0
    rows, cols = rows[free], cols[free]
    truth[rows, cols] = number
    light[rows, cols] = STAIN * strength * (1 - 0.4 * far[free] ** 2)
