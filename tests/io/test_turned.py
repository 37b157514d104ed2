"""EXIF orientation: honoured once, for PNG, JPEG and TIFF, with the pixel size and the map turned along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, ImageOps
from PIL import Image as Pillow

from napari_xt.geometry import Box
from napari_xt.io.image import open_image

HEIGHT, WIDTH = 90, 130
COARSE = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype("u1")
RGB = COARSE.repeat(10, 0).repeat(10, 1)
ALL = range(1, 9)


def exif(orientation: int) -> Pillow.Exif:
    made = Pillow.Exif()
    made[ExifTags.Base.Orientation] = orientation
    return made


def upright(orientation: int, pixels: np.ndarray = RGB) -> np.ndarray:
    """As Pillow turns it, ``(c, y, x)``."""
    picture = Pillow.fromarray(pixels)
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return np.moveaxis(np.asarray(ImageOps.exif_transpose(picture)), -1, 0)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_pictures(tmp_path: Path, format: str, orientation: int) -> None:
    path = tmp_path / f"a.{format}"
    Pillow.fromarray(RGB).save(path, exif=exif(orientation), **({"quality": 100} if format == "jpeg" else {}))
    wanted = upright(orientation, np.asarray(Pillow.open(path)))
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, *image.shape)), wanted)
        part = Box(5, 7, 80, 60)
        np.testing.assert_array_equal(image.read(part), wanted[:, *part.slices])


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("options", [{"tile": (32, 32), "compression": "zlib"}, {}], ids=["tiles", "strip"])
def test_tiff(tmp_path: Path, options: dict[str, Any], orientation: int) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        extra: list[Any] = [(274, "H", 1, orientation, True)]
        for step in (1, 2):
            part = RGB[::step, ::step]
            writer.write(part, photometric="rgb", subfiletype=step - 1, extratags=extra, metadata=None, **options)
    with open_image(tmp_path / "a.tif") as image:
        for level, step in enumerate((1, 2)):
            wanted = upright(orientation, RGB[::step, ::step])
            assert image.level_shapes[level] == wanted.shape[1:]
            np.testing.assert_array_equal(image.read(Box(0, 0, *wanted.shape[1:]), level), wanted)
        array = image.levels[0]
        wanted = np.moveaxis(upright(orientation), 0, -1)
        for key in [(slice(3, 80, 7), slice(10, 60), slice(None)), (4, slice(None)), (slice(5, 5),), (-3, ..., 1), ...]:
            np.testing.assert_array_equal(array[key], wanted[key])


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_orientations_that_are_none(tmp_path: Path, value: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, extratags=[(274, "H", 1, value, True)], metadata=None)
    with open_image(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, HEIGHT, WIDTH)), np.moveaxis(RGB, -1, 0))


@pytest.mark.parametrize("orientation", ALL)
def test_the_map_turns_with_the_pixels(tmp_path: Path, orientation: int) -> None:
    """A pixel is found at the same place of the map, whichever way it was stored."""
    Pillow.fromarray(RGB).save(tmp_path / "a.png", exif=exif(orientation))
    (tmp_path / "a.pgw").write_text("0.5\n0.1\n0.2\n-0.25\n100\n200\n")
    with open_image(tmp_path / "a.png") as image:
        assert image.georeference is not None
        numbered = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        turned = upright(orientation, np.dstack([numbered // 256, numbered % 256, numbered * 0]).astype("u1"))
        for y, x in ((0, 0), (3, 50), (80, 7)):
            row, col = divmod(int(turned[0, y, x]) * 256 + int(turned[1, y, x]), WIDTH)
            place = 0.5 * col + 0.2 * row + 100, 0.1 * col - 0.25 * row + 200
            assert image.georeference.place(x + 0.5, y + 0.5) == pytest.approx(place)


def test_the_pixel_size_turns_with_the_pixels(tmp_path: Path) -> None:
    options: dict[str, Any] = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", RGB, extratags=[(274, "H", 1, 6, True)], **options)
    with open_image(tmp_path / "a.tif") as image:
        assert image.shape == (WIDTH, HEIGHT)
        assert image.scale_um == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("key", [(0, 0, 0, 0), (HEIGHT,), (-HEIGHT - 1, ...), (..., 3), "a", (1.5,), (..., 0, ...)])
def test_keys_that_make_no_sense(tmp_path: Path, key: Any) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, extratags=[(274, "H", 1, 4, True)], metadata=None)
    with open_image(tmp_path / "a.tif") as image, pytest.raises((IndexError, TypeError)):
        image.levels[0][key]
