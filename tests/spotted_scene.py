"""A scene that is easy to see through: white squares on black, and their boxes."""

from __future__ import annotations

import numpy as np

from napari_xt.train.scenes import Scene


def spots(shape: tuple[int, int] = (300, 260)) -> Scene:
    """White squares on black, and their boxes."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((3, *shape), np.uint8)
    boxes = []
    for y in range(20, shape[0] - 40, 60):
        for x in range(20, shape[1] - 40, 60):
            h, w = rng.integers(16, 32, 2)
            pixels[:, y : y + h, x : x + w] = 255
            boxes.append((y, x, y + h, x + w))
    return Scene("spots", pixels, np.array(boxes, np.float64))
