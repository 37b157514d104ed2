"""Pyramids of files that end at a large level are made longer; the others stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from napari_xt.geometry import Box
from napari_xt.io.image import open_image


@pytest.mark.parametrize(
    ("height", "levels", "wanted"),
    [
        (16400, 2, [16400, 8200, 4100, 2050, 1025]),
        (16000, 2, [16000, 8000, 4000, 2000]),
        (16000, 3, [16000, 8000, 4000]),
        (4000, 1, [4000, 2000]),
        (2000, 1, [2000]),
    ],
    ids=str,
)
def test_level_shapes(height: int, levels: int, wanted: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (height, 40), np.uint8)
    image = open_image([pixels[:: 2**k, :: 2**k] for k in range(levels)])
    assert [shape[0] for shape in image.level_shapes] == wanted
    last = levels - 1
    if len(wanted) > levels:
        fine = image.read(Box(0, 0, 20, 8), last)[0].astype(int)
        means = (fine.reshape(10, 2, 4, 2).sum((1, 3)) + 2) >> 2
        np.testing.assert_array_equal(image.read(Box(0, 0, 10, 4), levels)[0], means)
