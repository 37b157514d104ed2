"""Every format that `open_image` reads, on files made here: pixels, axes, levels, scale, names."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Pillow

from napari_xt.geometry import Box
from napari_xt.io.image import open_image

HEIGHT, WIDTH = 300, 420


def pixels(*shape: int, dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


RGB = pixels(HEIGHT, WIDTH, 3)
GREY = pixels(HEIGHT, WIDTH, dtype="u2")


def write_omezarr(
    path: Path,
    data: np.ndarray,
    axes: str,
    version: str,
    levels: int = 3,
    unit: str | None = "micrometer",
    **array: Any,
) -> Path:
    """Write an OME-Zarr pyramid by hand, with a scale of 0.5 x 0.25 at level 0."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    steps = {"y": 0.5, "x": 0.25}
    datasets = []
    for level in range(levels):
        part = data[tuple(slice(None, None, 2**level if a in "yx" else 1) for a in axes)]
        chunks = tuple(min(n, 128) if a in "yx" else 1 for a, n in zip(axes, part.shape, strict=True))
        stored = group.create_array(str(level), shape=part.shape, chunks=chunks, dtype=part.dtype, **array)
        stored[...] = part
        scale = [steps.get(a, 1.0) * (2**level if a in "yx" else 1) for a in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"t": "time", "c": "channel"}
    entries = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for entry in entries:
        if unit and entry["name"] in "yx":
            entry["unit"] = unit
    multiscales = [{"axes": entries, "datasets": datasets, "version": version}]
    omero = {"channels": [{"label": f"dye {i}"} for i in range(data.shape[axes.index("c")])]} if "c" in axes else {}
    content = {"multiscales": multiscales, "omero": omero}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": version, **content}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx", "yxc", "zyx"])
def test_omezarr(tmp_path: Path, version: str, axes: str) -> None:
    sizes = {"t": 2, "c": 3, "z": 4, "y": HEIGHT, "x": WIDTH}
    data = pixels(*(sizes[a] for a in axes), dtype="u2")
    path = write_omezarr(tmp_path / "scene.ome.zarr", data, axes, version)
    with open_image(path) as image:
        assert (image.name, image.source, image.axes) == ("scene", str(path), axes)
        assert image.level_shapes == ((300, 420), (150, 210), (75, 105))
        assert (image.scale, image.unit, image.scale_um) == ((0.5, 0.25), "micrometer", (0.5, 0.25))
        assert image.channels == (sizes["c"] if "c" in axes else 1)
        assert image.channel_names == (("dye 0", "dye 1", "dye 2") if "c" in axes else ("channel 0",))
        plane = {axis: sizes[axis] - 1 for axis in axes if axis in "tz"}
        wanted = data[tuple(plane.get(a, slice(None)) for a in axes)]
        wanted = np.moveaxis(wanted, -1, 0) if axes == "yxc" else wanted.reshape(-1, HEIGHT, WIDTH)
        box = Box(100, 50, 290, 400)
        np.testing.assert_array_equal(image.with_plane(plane).read(box), wanted[:, *box.slices])


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": zarr.codecs.BloscCodec()},
        {"compressors": zarr.codecs.ZstdCodec()},
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": None},
        {"compressors": zarr.codecs.BloscCodec(), "shards": (256, 256)},
    ],
    ids=["blosc", "zstd", "gzip", "raw", "sharded"],
)
def test_omezarr_codecs(tmp_path: Path, options: dict[str, Any]) -> None:
    image = open_image(write_omezarr(tmp_path / "a.zarr", GREY, "yx", "0.5", levels=1, **options))
    np.testing.assert_array_equal(image.read(Box(0, 0, *GREY.shape))[0], GREY)


@pytest.mark.parametrize(
    "compressor", [numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.Zlib(), None], ids=["blosc", "zstd", "zlib", "raw"]
)
@pytest.mark.parametrize("filters", [None, [numcodecs.Delta(dtype="<u2")]], ids=["plain", "delta"])
def test_zarr_v2_codecs(tmp_path: Path, compressor: Any, filters: Any) -> None:
    path = tmp_path / "a.zarr"
    stored = zarr.create_array(
        str(path),
        shape=GREY.shape,
        chunks=(128, 128),
        dtype="u2",
        zarr_format=2,
        compressors=compressor,
        filters=filters,
    )
    stored[...] = GREY
    np.testing.assert_array_equal(open_image(path).read(Box(0, 0, *GREY.shape))[0], GREY)


def test_omezarr_without_a_unit_has_no_scale(tmp_path: Path) -> None:
    image = open_image(write_omezarr(tmp_path / "a.zarr", GREY, "yx", "0.5", unit=None))
    assert (image.scale, image.unit, image.scale_um) == ((1.0, 1.0), "pixel", None)


def test_missing_chunks_are_fill_value(tmp_path: Path) -> None:
    stored = zarr.create_array(str(tmp_path / "a.zarr"), shape=(64, 64), chunks=(32, 32), dtype="u1", fill_value=7)
    stored[:32, :32] = 1
    image = open_image(tmp_path / "a.zarr")
    assert image.read(Box(0, 0, 64, 64)).sum() == 32 * 32 * (1 + 3 * 7)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_group_is_a_pyramid(tmp_path: Path, zarr_format: Any) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=zarr_format)
    for level in range(3):
        group.create_array(f"s{level}", data=RGB[:: 2**level, :: 2**level])
    image = open_image(tmp_path / "a.zarr")
    assert image.rgb
    assert len(image.level_shapes) == 3
    np.testing.assert_array_equal(image.read(Box(0, 0, 150, 210), level=1), np.moveaxis(RGB[::2, ::2], -1, 0))


def test_dimension_names_are_axes(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=pixels(40, 50, 60), dimension_names=("z", "y", "x"))
    assert open_image(tmp_path / "a.zarr").axes == "zyx"


def test_metadata_file_stands_for_its_folder(tmp_path: Path) -> None:
    path = write_omezarr(tmp_path / "scene.zarr", GREY, "yx", "0.5")
    assert open_image(path / "zarr.json").name == "scene"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_omezarr_behind_a_url(tmp_path: Path, served: str) -> None:
    write_omezarr(tmp_path / "scene.ome.zarr", GREY, "yx", "0.5")
    image = open_image(f"{served}/scene.ome.zarr")
    assert (image.name, image.source) == ("scene", f"{served}/scene.ome.zarr")
    np.testing.assert_array_equal(image.read(Box(0, 0, *GREY.shape))[0], GREY)


def subifds(path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500}
    metadata |= {"PhysicalSizeYUnit": "nm", "Channel": {"Name": ["colour"]}}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(RGB, subifds=2, tile=(128, 128), compression="zlib", metadata=metadata)
        writer.write(RGB[::2, ::2], subfiletype=1, tile=(128, 128))
        writer.write(RGB[::4, ::4], subfiletype=1, tile=(128, 128))


def pages(path: Path, *, flag: int) -> None:
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            writer.write(RGB[::step, ::step], subfiletype=flag if step > 1 else 0, tile=(64, 64), metadata=None)


@pytest.mark.parametrize(
    "write", [subifds, partial(pages, flag=1), partial(pages, flag=0)], ids=["subifds", "reduced-pages", "plain-pages"]
)
def test_tiff_pyramid(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "scene.ome.tif"
    write(path)
    with open_image(path) as image:
        assert (image.name, image.axes, image.rgb) == ("scene", "yxc", True)
        assert image.level_shapes == ((300, 420), (150, 210), (75, 105))
        for level, step in enumerate((1, 2, 4)):
            part = np.moveaxis(RGB[::step, ::step], -1, 0)
            np.testing.assert_array_equal(image.read(Box(0, 0, *part.shape[1:]), level), part)


def test_ome_tiff_scale_in_two_units(tmp_path: Path) -> None:
    subifds(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert (image.scale, image.unit) == ((0.5, 0.25), "micrometer")


TIFFS = {
    "tiles": {"tile": (128, 128), "compression": "zlib", "predictor": True},
    "jpeg": {"tile": (128, 128), "compression": "jpeg", "compressionargs": {"level": 100}},
    "raw-tiles": {"tile": (128, 128)},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "raw-strips": {"rowsperstrip": 7},
    "one-strip": {},
    "one-packed-strip": {"rowsperstrip": 300, "compression": "zstd"},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "planar": {"planarconfig": "separate", "photometric": "rgb"},
}


@pytest.mark.parametrize(
    ("options", "data"),
    [
        pytest.param(options, data, id=f"{name}-{data.dtype}")
        for name, options in TIFFS.items()
        for data in (RGB, GREY)
        if data is RGB or name not in ("planar", "jpeg")
    ],
)
def test_tiff_layouts(tmp_path: Path, data: np.ndarray, options: dict[str, Any]) -> None:
    planar, jpeg = "planarconfig" in options, options.get("compression") == "jpeg"
    wanted = np.moveaxis(data, -1, 0) if data.ndim == 3 else data[None]
    photometric = {} if data is GREY else {"photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", wanted if planar else data, **(photometric | options))
    if jpeg:
        wanted = np.moveaxis(tifffile.imread(tmp_path / "a.tif"), -1, 0)
    with open_image(tmp_path / "a.tif") as image:
        assert (image.axes, image.unit) == ("cyx" if planar else "yxc" if data is RGB else "yx", "pixel")
        assert image.dtype == data.dtype
        box = Box(3, 5, 290, 400)
        np.testing.assert_array_equal(image.read(box), wanted[:, *box.slices])


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_single_strip_is_read_in_parts(tmp_path: Path, order: Any) -> None:
    data = pixels(1200, 1000, dtype="u2")
    tifffile.imwrite(tmp_path / "a.tif", data, byteorder=order)
    with open_image(tmp_path / "a.tif") as image:
        assert type(image.levels[0]).__name__ == "MappedArray"
        np.testing.assert_array_equal(image.read(Box(1000, 10, 1200, 999))[0], data[1000:, 10:999])


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((5, 64, 96), {}, "cyx"),
        ((40, 64, 96), {}, "qyx"),
        ((5, 2, 64, 96), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "zcyx"),
        ((3, 2, 64, 96), {"ome": True, "metadata": {"axes": "TCYX"}}, "tcyx"),
        ((2, 64, 96, 3), {"ome": True, "metadata": {"axes": "CYXS"}, "photometric": "rgb"}, "iyxc"),
    ],
    ids=["unnamed-short", "unnamed-long", "imagej", "ome", "channels-of-colours"],
)
def test_tiff_axes(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], axes: str) -> None:
    data = pixels(*shape, dtype="u1")
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    with open_image(tmp_path / "a.tif") as image:
        assert image.axes == axes
        first = {axis: 1 for axis in axes if axis not in "cyx"}
        wanted = data[tuple(first.get(axis, slice(None)) for axis in axes)]
        wanted = np.moveaxis(wanted, -1, 0) if axes.endswith("c") else wanted.reshape(-1, 64, 96)
        np.testing.assert_array_equal(image.with_plane(first).read(Box(0, 0, 64, 96)), wanted)


def geotiff(path: Path, model: int, unit: int | None = None) -> None:
    keys = [1024, 0, 1, model] + ([3076, 0, 1, unit] if unit else [])
    directory = [1, 1, 0, len(keys) // 4, *keys]
    extra = [(33550, "d", 3, (0.2, 0.1, 0.0), True), (34735, "H", len(directory), directory, True)]
    tifffile.imwrite(path, RGB, extratags=extra, tile=(128, 128))


@pytest.mark.parametrize(
    ("write", "scale", "unit"),
    [
        (partial(geotiff, model=1), (0.1, 0.2), "meter"),
        (partial(geotiff, model=1, unit=9002), (0.1, 0.2), "foot"),
        (partial(geotiff, model=2), (1.0, 1.0), "pixel"),
        (
            lambda path: tifffile.imwrite(path, RGB, extratags=[(33550, "d", 3, (0.2, 0.1, 0), True)]),
            (0.1, 0.2),
            "meter",
        ),
        (lambda path: tifffile.imwrite(path, RGB, resolution=(72, 72), resolutionunit="INCH"), (1.0, 1.0), "pixel"),
        (
            lambda path: tifffile.imwrite(path, GREY, imagej=True, resolution=(4, 2), metadata={"unit": "um"}),
            (0.5, 0.25),
            "micrometer",
        ),
        (
            lambda path: tifffile.imwrite(
                path,
                RGB,
                tile=(128, 128),
                description="Aperio Image Library v1\n1x1|AppMag = 20|MPP = 0.4990",
                metadata=None,
            ),
            (0.499, 0.499),
            "micrometer",
        ),
    ],
    ids=["geo-metres", "geo-feet", "geographic", "geo-scale-alone", "72-dpi", "imagej", "svs"],
)
def test_tiff_pixel_size(tmp_path: Path, write: Callable[[Path], None], scale: tuple[float, float], unit: str) -> None:
    write(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert image.scale == pytest.approx(scale)
        assert image.unit == unit


def test_near_infrared_is_no_alpha(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(64, 64, 4), photometric="rgb", extrasamples=["UNSPECIFIED"])
    with open_image(tmp_path / "a.tif") as image:
        assert not image.rgb
        assert image.channels == 4


def test_ome_xml_never_leads_to_another_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.tif", GREY)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.ome.tif"
    tifffile.imwrite(path, np.zeros_like(GREY), ome=True)
    xml = (
        tifffile.tiffcomment(path)
        .replace("<TiffData ", '<TiffData FirstZ="0" ')
        .replace("</TiffData>", '<UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData>')
    )
    if "UUID FileName" not in xml:
        xml = xml.replace("/></Pixels>", '><UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData></Pixels>')
    assert "secret.tif" in xml
    tifffile.tiffcomment(path, xml.encode())
    with open_image(path) as image:
        assert not image.read(Box(0, 0, *image.shape)).any()


@pytest.mark.parametrize(
    ("name", "picture", "wanted"),
    [
        ("a.png", Pillow.fromarray(RGB), RGB),
        ("a.png", Pillow.fromarray(RGB[..., 0]), RGB[..., 0]),
        ("a.png", Pillow.fromarray(GREY), GREY),
        ("a.png", Pillow.fromarray(RGB).convert("RGBA"), np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, "u1")])),
        ("a.png", Pillow.fromarray(RGB).quantize(8), np.asarray(Pillow.fromarray(RGB).quantize(8).convert("RGB"))),
        ("a.png", Pillow.fromarray(RGB[..., 0] > 99), ((RGB[..., 0] > 99) * 255).astype("u1")),
        (
            "a.png",
            Pillow.fromarray(RGB[..., 0]).convert("LA"),
            np.dstack([RGB[..., [0, 0, 0]], np.full_like(RGB[..., :1], 255)]),
        ),
    ],
    ids=["rgb", "grey", "16-bit", "rgba", "palette", "1-bit", "grey-alpha"],
)
def test_png(tmp_path: Path, name: str, picture: Pillow.Image, wanted: np.ndarray) -> None:
    picture.save(tmp_path / name, dpi=(72, 72))
    image = open_image(tmp_path / name)
    assert (image.name, image.unit, image.rgb) == ("a", "pixel", wanted.ndim == 3)
    got = image.read(Box(0, 0, HEIGHT, WIDTH))
    np.testing.assert_array_equal(got, np.moveaxis(wanted, -1, 0) if wanted.ndim == 3 else wanted[None])


def test_png_of_16_bit_colours_keeps_them(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    data = pixels(64, 80, 3, dtype="u2") * 257
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(data))
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").read(Box(0, 0, 64, 80)), np.moveaxis(data, -1, 0))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    Pillow.fromarray(np.full((64, 96, 3), 100, "u1")).convert(mode).save(tmp_path / "a.jpg", quality=95)
    got = open_image(tmp_path / "a.jpg").read(Box(0, 0, 64, 96))
    assert got.shape == (1 if mode == "L" else 3, 64, 96)
    assert abs(got.astype(int) - 100).max() <= 3


def test_suffix_decides_nothing(tmp_path: Path) -> None:
    Pillow.fromarray(RGB).save(tmp_path / "a.tif", format="PNG")
    tifffile.imwrite(tmp_path / "b.png", RGB)
    for name in ("a.tif", "b.png"):
        with open_image(tmp_path / name) as image:
            np.testing.assert_array_equal(image.read(Box(0, 0, HEIGHT, WIDTH)), np.moveaxis(RGB, -1, 0))


def layer(**values: Any) -> SimpleNamespace:
    base = {"multiscale": False, "scale": (1.0, 1.0), "units": ("pixel", "pixel"), "rgb": False, "name": "my layer"}
    return SimpleNamespace(**(base | values))


@pytest.mark.parametrize(
    ("given", "axes", "rgb", "scale_um"),
    [
        (layer(data=GREY), "yx", False, None),
        (layer(data=RGB, rgb=True, scale=(0.5, 0.5), units=("um", "um")), "yxc", True, (0.5, 0.5)),
        (layer(data=[RGB, RGB[::2, ::2]], multiscale=True, rgb=True), "yxc", True, None),
        (layer(data=pixels(3, 64, 64), scale=(1, 2, 3), units=("nm",) * 3), "cyx", False, (0.002, 0.003)),
        (layer(data=pixels(30, 64, 64), scale=(1, 1, 1), units=("pixel",) * 3), "zyx", False, None),
        (layer(data=pixels(2, 3, 64, 64), axis_labels=("t", "c", "y", "x")), "tcyx", False, None),
        (layer(data=da.from_array(GREY, chunks=100)), "yx", False, None),
    ],
    ids=["grey", "rgb", "pyramid", "channels", "stack", "named", "dask"],
)
def test_layers(given: Any, axes: str, rgb: bool, scale_um: tuple[float, float] | None) -> None:
    image = open_image(given)
    assert (image.name, image.source, image.axes, image.rgb) == ("my layer", None, axes, rgb)
    assert image.scale_um == (None if scale_um is None else pytest.approx(scale_um))


def test_real_napari_layer() -> None:
    layers = pytest.importorskip("napari.layers")
    image = open_image(layers.Image([RGB, RGB[::2, ::2]], name="scene", scale=(2, 3), units=("um", "um"), rgb=True))
    assert (image.axes, image.level_shapes[1], image.scale_um) == ("yxc", (150, 210), (2.0, 3.0))
    np.testing.assert_array_equal(image.read(Box(0, 0, 150, 210), 1), np.moveaxis(RGB[::2, ::2], -1, 0))
