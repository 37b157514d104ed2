"""The bundled scene mirrored to any size: its pixels against a plain way of mirroring, its levels, its identity."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.io.image import open_image

HEIGHT, WIDTH = 25_000, 29_000
CUT = 16  # five levels: sides of the scene are multiples of it
PLACES = {
    "corner": Box(0, 0, 70, 50),
    "first mirror": Box(2400, 2200, 2520, 2330),
    "several images": Box(2000, 100, 7600, 180),
    "last pixels": Box(HEIGHT - 30, WIDTH - 40, HEIGHT, WIDTH),
    "one pixel": Box(12_345, 23_456, 12_346, 23_457),
}


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    with open_image(str(files("napari_xt") / "samples/yellowstone.ome.tif")) as image:
        height, width = (side // CUT * CUT for side in image.shape)
        return image.read(Box(0, 0, height, width))


@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_pixels_are_the_mirrored_scenes(box: Box, scene: np.ndarray) -> None:
    rows, cols = (
        np.pad(np.arange(n), (0, size - n), mode="symmetric")
        for n, size in zip(scene.shape[1:], (HEIGHT, WIDTH), strict=True)
    )
    with mirrored_scene(HEIGHT, WIDTH) as image:
        expected = scene[:, rows[box.slices[0], None], cols[box.slices[1]]]
        np.testing.assert_array_equal(image.read(box), expected)


def test_levels_are_means_of_the_finest() -> None:
    box = Box(150, 140, 160, 150)  # the scene's edge on level 4 lies in it
    with mirrored_scene(HEIGHT, WIDTH) as image:
        assert image.level_shapes[-1] == (1563, 1813)
        whole = image.read(box.scale(16, 16)).astype(float)
        means = whole.reshape(3, 10, 16, 10, 16).mean(axis=(2, 4))
        assert abs(image.read(box, level=4) - means).max() <= 2  # each level is rounded


def test_it_has_the_scenes_scale_and_a_name_and_identity_by_its_size() -> None:
    with mirrored_scene(600, 700) as image, mirrored_scene(600, 700) as again, mirrored_scene(601, 700) as other:
        assert (image.name, image.source, image.unit, image.scale) == ("yellowstone-700x600", None, "meter", (0.1, 0.1))
        assert (image.shape, image.channels, image.rgb) == ((600, 700), 3, True)
        assert image.identity() == again.identity() != other.identity()


@pytest.mark.parametrize("shape", [(0, 10), (10, 2**20 + 1)], ids=str)
def test_a_size_that_makes_no_sense_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="must be 1 to"):
        mirrored_scene(*shape)
