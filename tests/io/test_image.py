"""The image's door: boxes, planes, pixel sizes, identity, threads, closing, lazy pyramids."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import psutil
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.errors import ImageFormatError, ImageReadError, SettingsError
from napari_xt.geometry import Box
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.pyramid import halve, lazy_pyramid

STACK = np.random.default_rng(0).integers(0, 60_000, (3, 4, 90, 70)).astype("u2")


def test_arrays_of_each_shape() -> None:
    for shape, axes, rgb in [
        ((90, 70), "yx", False),
        ((90, 70, 3), "yxc", True),
        ((90, 70, 4), "yxc", True),
        ((2, 90, 70), "cyx", False),
        ((3, 90, 70), "cyx", False),
    ]:
        image = open_image(np.zeros(shape, "u1"))
        assert (image.axes, image.rgb, image.name, image.source) == (axes, rgb, "image", None)
        assert image.read(Box(0, 0, 90, 70)).shape == (image.channels, 90, 70)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(5),
        np.zeros((20, 30, 40)),
        np.zeros((2, 3, 40, 50)),
        np.zeros((0, 5)),
        np.zeros((5, 5), object),
        np.zeros((5, 5), "c8"),
        [],
        [[1, 2], [3, 4]],
        7,
        None,
        [np.zeros((50, 50)), np.zeros((100, 100))],
    ],
    ids=[
        "1d",
        "no-channels",
        "4d",
        "no-pixels",
        "objects",
        "complex",
        "no-levels",
        "numbers",
        "int",
        "none",
        "upside-down",
    ],
)
def test_things_that_are_no_image(bad: Any) -> None:
    with pytest.raises(ImageFormatError):
        open_image(bad)


@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_kinds_of_arrays(kind: str) -> None:
    data = STACK[0, 0]
    made: dict[str, Any] = {"numpy": data, "zarr": zarr.array(data), "dask": da.from_array(data, chunks=32)}
    image = open_image(made[kind])
    assert image.levels[0] is made[kind]
    np.testing.assert_array_equal(image.read(Box(5, 6, 80, 50))[0], data[5:80, 6:50])


def test_read_gives_the_source_type_and_a_copy() -> None:
    data = np.array([[1.5, np.nan], [np.inf, -2]], ">f4")
    image = open_image(data)
    got = image.read(Box(0, 0, 2, 2))
    assert got.dtype == image.dtype == np.dtype("f4")
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got[0], data)
    got[:] = 0
    np.testing.assert_array_equal(image.read(Box(0, 0, 2, 2))[0], data)


@pytest.mark.parametrize(
    ("box", "level"),
    [(Box(0, 0, 91, 70), 0), (Box(-1, 0, 5, 5), 0), (Box(5, 5, 5, 9), 0), (Box(0, 0, 5, 5), 1), (Box(0, 0, 5, 5), -1)],
    ids=["too-tall", "negative", "empty", "no-such-level", "negative-level"],
)
def test_boxes_outside(box: Box, level: int) -> None:
    with pytest.raises(SettingsError):
        open_image(STACK[0, 0]).read(box, level)


@pytest.fixture
def stack(tmp_path: Path) -> Image:
    zarr.create_array(str(tmp_path / "stack.zarr"), data=STACK, chunks=(1, 1, 32, 32), dimension_names=tuple("tzyx"))
    return open_image(tmp_path / "stack.zarr")


def test_planes(stack: Image) -> None:
    assert (stack.axes, dict(stack.plane), stack.sizes["z"]) == ("tzyx", {"t": 0, "z": 0}, 4)
    box = Box(3, 4, 60, 70)
    for plane, wanted in [({}, STACK[0, 0]), ({"t": 2}, STACK[2, 0]), ({"z": 3, "t": 1}, STACK[1, 3])]:
        np.testing.assert_array_equal(stack.with_plane(plane).read(box)[0], wanted[box.slices])
    assert dict(stack.with_plane({"t": 2}).with_plane(None).plane) == {"t": 0, "z": 0}
    assert dict(open_image(stack.source, plane={"t": 2}).plane) == {"t": 2, "z": 0}


@pytest.mark.parametrize("plane", [{"t": 3}, {"t": -1}, {"q": 0}, {"y": 0}, {"t": 1.5}, {"t": "1"}])
def test_planes_that_are_not_there(stack: Image, plane: Any) -> None:
    with pytest.raises(SettingsError, match=r"t \(0 to 2\), z \(0 to 3\)"):
        stack.with_plane(plane)
    with pytest.raises(SettingsError):
        open_image(stack.source, plane=plane)


@pytest.mark.parametrize(
    ("given_size", "scale", "unit", "um"),
    [
        ("0.5 um", (0.5, 0.5), "micrometer", 0.5),
        ("0.5µm", (0.5, 0.5), "micrometer", 0.5),
        ("10 cm", (10, 10), "centimeter", 1e5),
        ("1e-1 m", (0.1, 0.1), "meter", 1e5),
        ("250 nanometers", (250, 250), "nanometer", 0.25),
        ("2", (2, 2), "micrometer", 2),
        (0.25, (0.25, 0.25), "micrometer", 0.25),
        ((0.5, 0.25), (0.5, 0.25), "micrometer", 0.5),
    ],
)
def test_pixel_size(given_size: Any, scale: tuple[float, float], unit: str, um: float) -> None:
    image = open_image(STACK[0, 0], pixel_size=given_size)
    assert (image.scale, image.unit) == (scale, unit)
    assert image.scale_um is not None
    assert image.scale_um[0] == pytest.approx(um)


@pytest.mark.parametrize("bad", ["", "um", "0 um", "-1 cm", "5 parsecs", "nan", 0, -1, float("inf"), (1, 2, 3), (1, 0)])
def test_pixel_sizes_that_make_no_sense(bad: Any) -> None:
    with pytest.raises(SettingsError, match="pixel_size"):
        open_image(STACK[0, 0], pixel_size=bad)


def test_an_image_is_returned_as_it_is() -> None:
    image = open_image(STACK[0, 0], pixel_size=2)
    assert open_image(image) is image
    assert open_image(image, pixel_size=3).scale == (3.0, 3.0)


def test_repr_is_one_line(stack: Image) -> None:
    assert repr(stack) == "<Image 'stack': 70 x 90 px, 1 x uint16, 1 levels, tzyx, unknown scale>"


def test_identity(stack: Image) -> None:
    assert stack.identity() == open_image(stack.source).identity()
    assert len(stack.identity()) == 32 * 8
    assert stack.identity() != stack.with_plane({"t": 1}).identity()
    big = np.random.default_rng(0).integers(0, 9, (1000, 900)).astype("u1")
    changed = big.copy()
    changed[::50, ::50] += 1
    ids = {open_image(data).identity() for data in (big, changed, big.astype("u2"), big[:999], big[None])}
    assert len(ids) == 5
    assert open_image(big).identity() == open_image(da.from_array(big, chunks=100)).identity()


def test_identity_of_a_damaged_image(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=STACK[0, 0], chunks=(90, 70))
    (tmp_path / "a.zarr" / "c" / "0" / "0").write_bytes(b"no")
    image = open_image(tmp_path / "a.zarr")
    assert image.identity() == image.identity() != open_image(STACK[0, 0]).identity()


def write_tiff(path: Path) -> np.ndarray:
    data = np.random.default_rng(0).integers(0, 250, (700, 900, 3)).astype("u1")
    tifffile.imwrite(path, data, tile=(128, 128), compression="zlib")
    return data


def test_closing_leaves_no_handle(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        plane = image.with_plane({})
        image.read(Box(0, 0, 200, 200))
    assert not [file for file in psutil.Process().open_files() if "a.tif" in file.path]
    for closed in (image, plane):
        with pytest.raises(ImageReadError, match="closed"):
            closed.read(Box(0, 0, 5, 5))
    with pytest.raises(ImageReadError, match="closed"):
        image.identity()
    image.close()
    assert not [file for file in psutil.Process().open_files() if "a.tif" in file.path]


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_reading_from_many_threads(tmp_path: Path, kind: str) -> None:
    data = write_tiff(tmp_path / "a.tif")
    if kind == "zarr":
        zarr.create_array(str(tmp_path / "a.zarr"), data=data, chunks=(128, 128, 3))
    boxes = [Box(y, x, y + 150, x + 170) for y in range(0, 550, 90) for x in range(0, 730, 110)]
    with open_image(tmp_path / ("a.tif" if kind == "tiff" else "a.zarr")) as image, ThreadPoolExecutor(8) as pool:
        for box, got in zip(boxes, pool.map(image.read, boxes), strict=True):
            np.testing.assert_array_equal(got, np.moveaxis(data[box.slices], -1, 0))


def test_a_big_image_without_a_pyramid_gets_a_lazy_one(tmp_path: Path) -> None:
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(5001, 4100), chunks=(300, 300), dtype="u1", fill_value=9
    )
    stored[4800:] = 100
    image = open_image(tmp_path / "a.zarr")
    assert image.level_shapes == ((5001, 4100), (2501, 2050), (1251, 1025))
    assert isinstance(image.levels[0], zarr.Array)
    np.testing.assert_array_equal(image.read(Box(2399, 0, 2402, 9), 1)[0, :, 0], [9, 100, 100])
    assert image.read(Box(1250, 0, 1251, 5), 2).tolist() == [[[100] * 5]]


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["u1", "u2", "i2", "i4", "u8", "f2", "f4", "f8"]),
    st.sampled_from(["yx", "cyx", "yxc"]),
    st.integers(1, 17),
    st.integers(3, 12),
)
def test_lazy_levels_are_means(shape: tuple[int, int], dtype: str, axes: str, chunk: int, coarsest: int) -> None:
    full = {"yx": shape, "cyx": (2, *shape), "yxc": (*shape, 3)}[axes]
    data = np.random.default_rng(0).integers(0, 120, full).astype(dtype)
    chunks = tuple(chunk if a in "yx" else -1 for a in axes)
    levels = lazy_pyramid(da.from_array(data, chunks=chunks), axes, coarsest)
    y, x = axes.index("y"), axes.index("x")
    wanted = data
    for level in levels[1:]:
        wanted = halve(wanted, y, x)
        assert level.dtype == data.dtype
        np.testing.assert_array_equal(np.asarray(level), wanted)
    assert max(wanted.shape[y], wanted.shape[x]) <= coarsest


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["u1", "i2", "f4", "u4"]))
def test_halve(height: int, width: int, dtype: str) -> None:
    data = np.random.default_rng(1).integers(0, 250, (height, width)).astype(dtype)
    got = halve(data, 0, 1)
    for (row, col), value in np.ndenumerate(got):
        mean = data[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].astype("f8").mean()
        assert value == (mean if dtype == "f4" else np.floor(mean + 0.5))


def test_halve_keeps_extremes() -> None:
    for dtype in ("u1", "i1", "u2", "i2", "u4", "i4"):
        info = np.iinfo(dtype)
        for value in (info.min, info.max):
            assert (halve(np.full((4, 4), value, dtype), 0, 1) == value).all()
    assert halve(np.array([[True, True], [True, False]]), 0, 1).dtype == bool
    assert np.isnan(halve(np.array([[np.nan, 1.0]]), 0, 1)).all()


def test_a_failed_read_leaves_nothing_on_stderr(tmp_path: Path) -> None:
    stored = zarr.create_array(str(tmp_path / "a.zarr"), shape=(512, 512), chunks=(32, 32), dtype="u1")
    stored[...] = 1
    (tmp_path / "a.zarr" / "c" / "3" / "5").write_bytes(b"damaged")
    code = """
import sys
from napari_xt.geometry import Box
from napari_xt.io.image import open_image
try:
    open_image(sys.argv[1]).read(Box(0, 0, 512, 512))
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "chunk at y=96, x=160 of level 0 can't be read" in done.stdout
    assert done.stderr == ""


def test_io_loads_no_torch_and_no_napari() -> None:
    code = "import sys, napari_xt.io.image; sys.exit(any(name in sys.modules for name in ('torch', 'napari', 'qtpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
