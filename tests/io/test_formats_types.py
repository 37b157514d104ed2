"""Every number type in every container, and pyramids whose levels do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_xt.errors import ImageFormatError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image

HEIGHT, WIDTH = 2100, 90  # tall enough for a level that is computed
WHOLE = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
REAL = ("f2", "f4", "f8")


def values(dtype: np.dtype[Any]) -> np.ndarray:
    """Noise over the whole range, with the odd values of its kind."""
    rng = np.random.default_rng(0)
    if dtype.kind == "b":
        return rng.random((HEIGHT, WIDTH)) > 0.5
    if dtype.kind == "f":
        data = rng.normal(size=(HEIGHT, WIDTH)).astype(dtype)
        data[0, :3] = np.nan, np.inf, -np.inf
        return data
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (HEIGHT, WIDTH), dtype.newbyteorder("="), endpoint=True).astype(dtype)


def zarr3(path: Path, data: np.ndarray) -> None:
    codec = zarr.codecs.BytesCodec(endian="big" if data.dtype.byteorder == ">" else "little")
    native = data.astype(data.dtype.newbyteorder("="))
    stored = zarr.create_array(
        str(path), shape=data.shape, chunks=(512, 64), dtype=native.dtype, serializer=codec, zarr_format=3
    )
    stored[...] = native


def zarr2(path: Path, data: np.ndarray) -> None:
    stored = zarr.create_array(str(path), shape=data.shape, chunks=(512, 64), dtype=data.dtype, zarr_format=2)
    stored[...] = data


def npy(path: Path, data: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, data)


def tiff(path: Path, data: np.ndarray, **options: Any) -> None:
    order: Any = ">" if data.dtype.byteorder == ">" else "<"
    tifffile.imwrite(path, data, byteorder=order, metadata=None, **options)


def tiled(path: Path, data: np.ndarray) -> None:
    tiff(path, data, tile=(256, 64), compression="zlib", bigtiff=True)


CONTAINERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "zarr2": zarr2,
    "zarr3": zarr3,
    "strips": tiff,
    "tiles": tiled,
    "npy": npy,
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["?", *WHOLE, *REAL])
@pytest.mark.parametrize("container", CONTAINERS)
def test_number_types(tmp_path: Path, container: str, dtype: str, order: str) -> None:
    if np.dtype(dtype).itemsize == 1 and order == ">":
        return
    data = values(np.dtype(order + dtype))
    CONTAINERS[container](tmp_path / "a", data)
    with open_image(tmp_path / "a") as image:
        assert image.dtype == np.dtype(dtype)
        box = Box(0, 0, HEIGHT, WIDTH)
        np.testing.assert_array_equal(image.read(box)[0], data)
        coarse = image.read(Box(0, 0, HEIGHT // 2, WIDTH // 2), 1)
        assert coarse.dtype == image.dtype
        means = data.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).astype("f8").mean(axis=(1, 3))
        if dtype in ("?", "u1", "i1", "u2", "i2"):
            np.testing.assert_array_equal(coarse[0], np.floor(means + 0.5).astype(dtype))
        else:
            np.testing.assert_allclose(coarse[0].astype("f8"), means, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)], ids=["444", "420"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_jpeg_tiles_in_ycbcr(tmp_path: Path, subsampling: tuple[int, int], bigtiff: bool) -> None:
    smooth = np.indices((512, 512)).sum(axis=0) / 4
    data = np.dstack([smooth, 200 - smooth / 2, smooth * 0 + 90]).astype("u1")
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "tile": (256, 256), "metadata": None}
    options |= {"subsampling": subsampling, "compressionargs": {"level": 95, "outcolorspace": "ycbcr"}}
    with tifffile.TiffWriter(tmp_path / "a.svs", bigtiff=bigtiff) as writer:
        for step in (1, 2):
            writer.write(data[::step, ::step], description="Aperio Image Library|MPP = 0.5", **options)
    with open_image(tmp_path / "a.svs") as image:
        assert (image.rgb, image.scale_um) == (True, (0.5, 0.5))
        for level, step in enumerate((1, 2)):
            wanted = np.moveaxis(data[::step, ::step], -1, 0).astype(int)
            assert abs(image.read(Box(0, 0, *wanted.shape[1:]), level) - wanted).max() <= 6


def reduced(path: Path, shapes: list[tuple[int, ...]], dtypes: str = "u1") -> None:
    with tifffile.TiffWriter(path) as writer:
        for level, shape in enumerate(shapes):
            dtype = dtypes if level == 0 else "u1"
            kind = "rgb" if shape[-1] == 3 else "minisblack"
            writer.write(
                np.full(shape, level, dtype), photometric=kind, subfiletype=int(level > 0), tile=(64, 64), metadata=None
            )


def group(path: Path, shapes: list[tuple[int, ...]], scales: list[float]) -> None:
    root = zarr.open_group(str(path), mode="w")
    datasets = []
    for level, (shape, scale) in enumerate(zip(shapes, scales, strict=True)):
        root.create_array(str(level), data=np.full(shape, level, "u1"), chunks=(64, 64))
        steps = [{"type": "scale", "scale": [scale, scale]}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": a, "type": "space"} for a in "yx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


BASE = (400, 600)
ODD_LEVELS = {
    "other-aspect": [BASE, (200, 200)],
    "same-size": [BASE, BASE],
    "not-smaller-than-the-one-before": [BASE, (100, 150), (200, 300)],
    "other-channels": [(*BASE, 3), (200, 300)],
}


@pytest.mark.parametrize("shapes", ODD_LEVELS.values(), ids=ODD_LEVELS)
def test_levels_of_a_tiff_that_do_not_fit_are_left_out(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    reduced(tmp_path / "a.tif", shapes)
    with open_image(tmp_path / "a.tif") as image:
        assert image.shape == BASE
        for level, (height, width) in enumerate(image.level_shapes):
            assert (BASE[0] / height, BASE[1] / width) == pytest.approx((BASE[0] / height,) * 2, rel=0.02)
            assert image.read(Box(0, 0, height, width), level).dtype == np.uint8


@pytest.mark.parametrize(
    ("shapes", "scales", "levels"),
    [
        ([BASE, (200, 300), (100, 150)], [1, 2, 4], 3),
        ([BASE, (200, 200)], [1, 2], 1),
        ([BASE, (200, 300)], [1, 3], 1),
        ([BASE, (133, 200)], [1, 3], 2),
        ([BASE, (200, 300), (150, 150)], [1, 2, 4], 2),
        ([BASE, (0, 300)], [1, 2], None),
        ([BASE, (800, 1200)], [1, 0.5], None),
    ],
    ids=["fits", "aspect", "scale-lies", "thirds", "last", "no-pixels", "upside-down"],
)
def test_levels_of_an_ome_zarr_that_do_not_fit(
    tmp_path: Path, shapes: list[tuple[int, ...]], scales: list[float], levels: int | None
) -> None:
    group(tmp_path / "a.zarr", shapes, scales)
    if levels is None:
        with pytest.raises(ImageFormatError):
            open_image(tmp_path / "a.zarr")
    else:
        assert len(open_image(tmp_path / "a.zarr").level_shapes) == levels


@pytest.mark.parametrize(
    ("stated", "dtype", "nothing"),
    [
        ("-9999", "f4", -9999.0),
        ("-9999", ">f4", -9999.0),
        ("-3.4028234663852886e+38", "f4", np.finfo("f4").min),
        ("-9999", "f8", -9999.0),
        ("-3.4028234663852886e+38", "f2", -np.inf),
        ("nan", "f4", np.nan),
        ("-9999", "i2", None),
        ("a", "f4", None),
        ("", "f4", None),
    ],
)
def test_no_data_of_a_geotiff_is_never_a_number(tmp_path: Path, stated: str, dtype: str, nothing: float | None) -> None:
    data = np.ones((2100, 64), dtype)
    data[:700] = -9999 if nothing is None else nothing
    order: Any = ">" if dtype.startswith(">") else "<"
    extra: list[Any] = [(42113, "s", 0, stated, True)]
    tifffile.imwrite(tmp_path / "a.tif", data, tile=(64, 64), byteorder=order, extratags=extra, metadata=None)
    with open_image(tmp_path / "a.tif") as image:
        pixels = image.read(Box(0, 0, *image.shape))[0]
        assert pixels.dtype == image.dtype
        assert np.isnan(pixels[:700]).all() == (nothing is not None)
        assert (pixels[700:] == 1).all()
        coarse = image.read(Box(0, 0, 1050, 32), 1)[0]
        assert set(np.unique(coarse[np.isfinite(coarse)])) <= {-9999.0, 1.0}
