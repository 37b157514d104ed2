"""Images of one scene joined to one: the same pixels in every box and level, and nothing else joined."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from napari_xt.engine.run import predict
from napari_xt.errors import ImageFormatError, SettingsError
from napari_xt.geometry import Box
from napari_xt.io.image import Image, open_image
from small_model import small_model

if TYPE_CHECKING:
    from pathlib import Path

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 60_000, (4, 5, 300, 400), np.uint16)  # (c, z, y, x)


def layer(pixels: Any, name: str = "a", **style: Any) -> Any:
    """Return what has the attributes of a napari layer that count here."""
    scale = np.ones((pixels[0] if isinstance(pixels, list) else pixels).ndim - bool(style.get("rgb")))
    plain = {"data": pixels, "name": name, "multiscale": isinstance(pixels, list), "rgb": False, "scale": scale}
    return SimpleNamespace(**plain | {"units": ("pixel",) * len(scale)} | style)


def test_channels_are_those_of_the_layers() -> None:
    image = open_image([layer(PIXELS[0, 0], "DAPI"), layer(PIXELS[1, 0], "GFP")])
    assert (image.channels, image.channel_names, image.shape) == (2, ("DAPI", "GFP"), (300, 400))
    box = Box(13, 7, 200, 399)
    np.testing.assert_array_equal(image.read(box), PIXELS[:2, 0, 13:200, 7:399])
    np.testing.assert_array_equal(image.levels[0][1], PIXELS[1, 0])
    np.testing.assert_array_equal(image.levels[0][..., 5], PIXELS[:2, 0, :, 5])
    np.testing.assert_array_equal(image.levels[0][1:1], PIXELS[1:1, 0])


@pytest.mark.parametrize("make", [np.asarray, lambda a: da.from_array(a, chunks=(1, 64, 64))], ids=["numpy", "dask"])
def test_plane_is_that_of_all(make: Any) -> None:
    layers = [layer(make(PIXELS[i]), str(i), axis_labels=("z", "y", "x")) for i in range(4)]
    image = open_image(layers, plane={"z": 3})
    assert (image.axes, dict(image.plane)) == ("czyx", {"z": 3})
    np.testing.assert_array_equal(image.read(Box(0, 0, 300, 400)), PIXELS[:, 3])


def test_coarse_levels_are_stored_or_computed_as_of_one_array() -> None:
    large = RANDOM.integers(0, 255, (2, 2500, 300), np.uint8)
    joined, one = open_image([layer(large[0], "0"), layer(large[1], "1")]), open_image(large)
    assert joined.level_shapes == one.level_shapes
    np.testing.assert_array_equal(joined.read(Box(0, 0, 1250, 150), 1), one.read(Box(0, 0, 1250, 150), 1))
    levels = [layer([plane, plane[::2, ::2]], str(i)) for i, plane in enumerate(large)]
    np.testing.assert_array_equal(open_image(levels).read(Box(0, 0, 1250, 150), 1), large[:, ::2, ::2])


def test_colour_and_alpha_lie_beside_single_channels() -> None:
    colour, nir = np.moveaxis(PIXELS[:, 0], 0, -1), PIXELS[0, 1]
    image = open_image([open_image(layer(colour, "photo", rgb=True)), open_image(layer(nir, "NIR"))])
    assert image.channel_names == ("photo: red", "photo: green", "photo: blue", "NIR", "alpha")
    assert image.alpha == 4
    expected = np.concatenate([PIXELS[:3, 0], PIXELS[:1, 1], PIXELS[3:, 0]])
    np.testing.assert_array_equal(image.read(Box(0, 0, 300, 400)), expected)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (layer(PIXELS[0, 0, :-1]), "y 299 x x 400"),
        (layer(PIXELS[0, 0].astype(np.uint8)), "types uint8 and uint16"),
        (layer(PIXELS[0, 0], scale=(0.5, 0.5), units=("um", "um")), "pixels of 0.5 x 0.5 micrometer"),
        (layer(PIXELS[0], axis_labels=("z", "y", "x")), "z 5"),
    ],
    ids=["shape", "type", "scale", "axes"],
)
def test_what_does_not_fit_is_refused(other: Any, why: str) -> None:
    with pytest.raises(ImageFormatError, match=why):
        open_image([layer(PIXELS[0, 0]), other])


def test_joined_images_stay_open_and_keep_what_was_set() -> None:
    layers = [layer(PIXELS[i], str(i), axis_labels=("z", "y", "x")) for i in range(2)]
    images = [open_image(one, pixel_size="2 um", plane={"z": 4}) for one in layers]
    with open_image(images) as joined:
        assert isinstance(joined, Image)
        assert (joined.scale, joined.scale_source, dict(joined.plane)) == ((2.0, 2.0), "set by user", {"z": 4})
        assert dict(open_image(images, plane={"z": 1}).plane) == {"z": 1}
        assert open_image(images[:1]).identity() == images[0].identity()
    images[0].read(Box(0, 0, 1, 1))
    with pytest.raises(SettingsError, match="has no z = 9"):
        open_image(images, plane={"z": 9})
    with pytest.raises(ImageFormatError):
        open_image([])


def test_run_over_layers_is_the_run_over_their_array(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 255, (3, 150, 200), np.uint8)
    layers = [layer(plane, name) for plane, name in zip(pixels, ("r", "g", "b"), strict=True)]
    joined = predict(layers, small_model(), out=tmp_path / "layers.xt.zarr")
    whole = predict(pixels, small_model(), out=tmp_path / "array.xt.zarr")
    assert joined.boxes.equals(whole.boxes)
    np.testing.assert_array_equal(joined.mask[0][:], whole.mask[0][:])
    assert joined.header.job == whole.header.job
