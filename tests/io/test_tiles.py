"""A tiled page read directly is what tifffile's own array says it is, whatever is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import napari_xt as xt
from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.images.tiles import TiledPage

KINDS = {
    "jpeg": ("jpeg", "u1", (150, 201, 3), False, "<"),
    "jpeg grey": ("jpeg", "u1", (150, 201), False, "<"),
    "big-endian, differences": ("deflate", "u2", (150, 201), True, ">"),
    "plain real numbers": (None, "f4", (150, 201), False, ">"),
    "four channels": ("lzw", "u1", (150, 201, 4), True, "<"),
    "smaller than a tile": ("zstd", "i2", (30, 20, 3), False, "<"),
    "yes and no": (None, "?", (150, 201), False, "<"),
}


def written(path: Path, kind: str) -> np.ndarray:
    compression, dtype, shape, predictor, order = KINDS[kind]
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    style = {"tile": (64, 48), "compression": compression, "predictor": predictor, "byteorder": order}
    tifffile.imwrite(path, pixels, photometric=photometric, metadata=None, **style)
    return tifffile.imread(path)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_tifffile_reads(kind: str, tmp_path: Path) -> None:
    wanted = written(tmp_path / "a.tif", kind)
    with xt.open_image(tmp_path / "a.tif") as image:
        level = image.levels[0]
        assert isinstance(level, TiledPage)
        assert (level.shape, level.dtype, level.nbytes) == (wanted.shape, wanted.dtype, wanted.nbytes)
        np.testing.assert_array_equal(np.asarray(level), wanted)


@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_is_what_numpy_takes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "part.tif"
    if not path.exists():
        written(path, "four channels")
    wanted = tifffile.imread(path)
    key = data.draw(arrays.basic_indices(wanted.shape, allow_newaxis=False))
    with xt.open_image(path) as image:
        np.testing.assert_array_equal(image.levels[0][key], wanted[key])


def test_levels_may_be_read_at_once(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 2):
            coarse = np.ascontiguousarray(pixels[::step, ::step])
            file.write(coarse, tile=(32, 32), compression="deflate", subfiletype=step - 1, metadata=None)
    with xt.open_image(tmp_path / "a.tif") as image, ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda k: np.asarray(image.levels[k % 2]), range(4)))
            for k, part in enumerate(found):
                np.testing.assert_array_equal(part, pixels[:: 1 + k % 2, :: 1 + k % 2])


def test_absent_tiles_are_empty_and_damaged_ones_are_errors(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", "jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        page = tif.pages.first
        offset, place = page.dataoffsets[1], page.tags["TileByteCounts"].valueoffset
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(place)
        file.write(b"\0\0")
        file.seek(offset)
        file.write(b"\xff\xd8" + b"\0" * 40)
    with xt.open_image(tmp_path / "a.tif") as image:
        assert not image.read(Box(0, 0, 64, 48)).any()
        with pytest.raises(ImageReadError, match="x=48"):
            image.read(Box(0, 0, 64, 96))
        assert image.read(Box(64, 0, 128, 201)).any()
