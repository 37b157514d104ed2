"""Damaged, hostile and wrong files: one clear error that names the file, never a crash, a hang or a wrong picture."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Pillow

from napari_xt.errors import ImageFormatError, ImageNotFoundError, ImageReadError, XTError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image
from napari_xt.io.images import inflate

RGB = np.random.default_rng(0).integers(0, 250, (300, 420, 3)).astype("u1")
GREY = RGB[..., 0].copy()


def text(path: Path) -> None:
    path.write_text("y,x,label\n1,2,tree\n")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def zipped(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


def other_file_in_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("no image")


def broken_json(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": ')


def group(path: Path, attributes: dict[str, Any], version: Any = 3) -> None:
    node = zarr.open_group(str(path), mode="w", zarr_format=version)
    node.create_array("0", data=GREY)
    node.attrs.update(attributes)


def multiscales(path: Path, **changes: Any) -> None:
    base = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}
    group(path, {"ome": {"version": "0.5", "multiscales": [base | changes]}})


def unrelated_arrays(path: Path) -> None:
    node = zarr.open_group(str(path), mode="w")
    node.create_array("image", data=GREY)
    node.create_array("labels", data=GREY)


def many_axes(path: Path) -> None:
    zarr.create_array(str(path), shape=(2, 40, 50, 60), dtype="u1")


def tiny(path: Path, **options: Any) -> None:
    zarr.create_array(str(path), **({"shape": (64, 64), "chunks": (32, 32), "dtype": "u1"} | options))


def pickle_codec(path: Path) -> None:
    tiny(path, zarr_format=2, filters=None, compressors=None)
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(metadata | {"filters": [{"id": "pickle"}]}))


def tiff_with_entities(path: Path) -> None:
    xml = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaa">]><OME>&a;</OME>'
    tifffile.imwrite(path, GREY, description=xml, metadata=None)


def tiff_of_many_files(path: Path) -> None:
    xml = '<OME xmlns="x"><TiffData><UUID FileName="a.tif"/></TiffData><UUID FileName="b.tif"/></OME>'
    tifffile.imwrite(path, GREY, description=xml, metadata=None)


def tiff_of_complex_numbers(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((64, 64), "c8"))


def tiff_bomb(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16), "u1"), compression="zlib", rowsperstrip=16, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages[0].tags[name].overwrite(60_000)


def tiff_of_flat_tiles(path: Path) -> None:
    tifffile.imwrite(path, GREY, tile=(64, 64))
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["TileLength"].overwrite(0)


def png_bomb(path: Path) -> None:
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", body), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "text.tif": (text, "text file"),
    "empty.tif": (Path.touch, "0 bytes"),
    "noise.png": (noise, "no image"),
    "zipped.zarr": (zipped, "unpacked"),
    "empty-folder": (Path.mkdir, "folder is empty"),
    "other-folder": (other_file_in_folder, "no zarr image"),
    "pipe.tif": (os.mkfifo, "regular file"),
    "broken.zarr": (broken_json, "no zarr that can be read"),
    "empty-group.zarr": (lambda path: zarr.open_group(str(path), mode="w"), "holds no image"),
    "plate.zarr": (lambda path: group(path, {"plate": {}}, 2), "several images"),
    "odd-attributes.zarr": (lambda path: group(path, {"ome": {"multiscales": {"a": 1}}}), "metadata is damaged"),
    "no-datasets.zarr": (partial(multiscales, datasets=[]), "metadata is damaged"),
    "missing-level.zarr": (partial(multiscales, datasets=[{"path": "7"}]), "is missing"),
    "outside.zarr": (partial(multiscales, datasets=[{"path": "../../etc"}]), "outside"),
    "absolute.zarr": (partial(multiscales, datasets=[{"path": "/etc"}]), "outside"),
    "few-axes.zarr": (partial(multiscales, axes=[{"name": "y"}]), "axes"),
    "odd-axes.zarr": (partial(multiscales, axes=["q", "x"]), "axes"),
    "unrelated.zarr": (unrelated_arrays, "no pyramid"),
    "many-axes.zarr": (many_axes, "(C, Y, X)"),
    "complex.zarr": (partial(tiny, dtype="c8"), "complex64"),
    "no-pixels.zarr": (partial(tiny, shape=(0, 64)), "no pixels"),
    "huge-chunk.zarr": (partial(tiny, shape=(10**6, 10**6), chunks=(10**5, 10**5)), "GiB"),
    "pickle.zarr": (pickle_codec, "'pickle'"),
    "entities.tif": (tiff_with_entities, "entities"),
    "many-files.tif": (tiff_of_many_files, "several files"),
    "complex.tif": (tiff_of_complex_numbers, "complex64"),
    "flat-tiles.tif": (tiff_of_flat_tiles, "damaged"),
    "bomb.tif": (tiff_bomb, "more than its"),
    "bomb.png": (png_bomb, "more than its"),
}


def check(error: XTError, path: Path) -> None:
    message = str(error)
    assert path.name in message
    assert len(message) <= 280
    assert "\n" not in message


@pytest.mark.parametrize(("name", "write", "says"), [(n, *value) for n, value in BAD.items()], ids=BAD)
def test_bad_input(tmp_path: Path, name: str, write: Callable[[Path], object], says: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(ImageFormatError) as caught:
        open_image(path)
    check(caught.value, path)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["missing.tif", "missing/in.zarr", "a" * 300, "nul\0"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageNotFoundError, match="no such file"):
        open_image(tmp_path / name)


def test_empty_path() -> None:
    with pytest.raises(ImageNotFoundError):
        open_image("")


@pytest.mark.parametrize("name", ["a.png", "a.zarr"])
def test_no_permission(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(GREY).save(tmp_path / "a.png")
    zarr.create_array(str(tmp_path / "a.zarr"), data=GREY)
    path = tmp_path / name
    secret = path if path.is_file() else path / "zarr.json"
    secret.chmod(0)
    if os.access(secret, os.R_OK):  # root reads everything

        def deny(*args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("napari_xt.io.images.formats.open_picture", deny)
        monkeypatch.setattr("zarr.open", deny)
    with pytest.raises(ImageReadError, match="permission denied") as caught:
        open_image(path)
    check(caught.value, path)


def tiff_pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(RGB, subifds=1, tile=(64, 64), compression="zlib", metadata={"axes": "YXS"})
        writer.write(RGB[::2, ::2], subfiletype=1, tile=(64, 64))


WHOLE: dict[str, Callable[[Path], object]] = {
    "pyramid.ome.tif": tiff_pyramid,
    "tiles.tif": lambda path: tifffile.imwrite(path, RGB, tile=(64, 64), compression="zlib"),
    "strips.tif": lambda path: tifffile.imwrite(path, RGB, rowsperstrip=10, compression="lzw"),
    "raw.tif": lambda path: tifffile.imwrite(path, RGB),
    "stack.tif": lambda path: tifffile.imwrite(path, np.stack([GREY] * 5)),
    "imagej.tif": lambda path: tifffile.imwrite(path, np.stack([GREY] * 5), imagej=True),
    "a.png": lambda path: Pillow.fromarray(RGB).save(path),
    "a.jpg": lambda path: Pillow.fromarray(RGB).save(path),
}


@pytest.mark.parametrize("part", [0.001, 0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(("name", "write"), WHOLE.items(), ids=WHOLE)
def test_truncated(tmp_path: Path, name: str, write: Callable[[Path], object], part: float) -> None:
    path = tmp_path / name
    write(path)
    with open_image(path):
        pass
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageFormatError) as caught:
        open_image(path)
    check(caught.value, path)


def test_no_handle_stays_open_after_an_error(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    for name, write in WHOLE.items():
        path = tmp_path / name
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageFormatError):
            open_image(path)
    assert not [file for file in psutil.Process().open_files() if str(tmp_path) in file.path]


COMPRESSORS: dict[str, tuple[Any, Any]] = {
    "v2-blosc": (2, numcodecs.Blosc()),
    "v2-zstd": (2, numcodecs.Zstd()),
    "v2-zlib": (2, numcodecs.Zlib()),
    "v2-raw": (2, None),
    "v3-blosc": (3, zarr.codecs.BloscCodec()),
    "v3-zstd": (3, zarr.codecs.ZstdCodec()),
    "v3-gzip": (3, zarr.codecs.GzipCodec()),
    "v3-raw": (3, None),
}


def damaged_zarr(path: Path, version: Any, compressor: Any, damage: Callable[[bytes], bytes], **options: Any) -> Path:
    """Write 4 x 4 chunks of 64 px and damage the one at y=64, x=128."""
    data = np.random.default_rng(1).integers(0, 99, (256, 256)).astype("u2")
    array = zarr.create_array(
        str(path), shape=data.shape, chunks=(64, 64), dtype="u2", zarr_format=version, compressors=compressor, **options
    )
    array[...] = data
    chunk = path / ("1.2" if version == 2 else "c/1/2")
    chunk.write_bytes(damage(chunk.read_bytes()))
    return path


def forged(data: bytes) -> bytes:
    """A blosc chunk of 64 bytes that declares 64 MB: it kills a process that trusts it."""
    return data[:4] + struct.pack("<III", 2**26, 2**26, 64) + bytes(48)


@pytest.mark.parametrize(("version", "compressor"), COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:7], lambda _: b"\0" * 99],
    ids=["half", "7", "zeros"],
)
def test_damaged_chunk(tmp_path: Path, version: int, compressor: Any, damage: Callable[[bytes], bytes]) -> None:
    path = damaged_zarr(tmp_path / "a.zarr", version, compressor, damage)
    image = open_image(path)
    with pytest.raises(ImageReadError, match=r"chunk at y=64, x=128 of level 0 can't be read") as caught:
        image.read(Box(10, 10, 250, 250))
    check(caught.value, path)
    assert image.read(Box(0, 0, 64, 256)).shape == (1, 64, 256)


@pytest.mark.parametrize("version", [2, 3])
def test_forged_blosc_chunk(tmp_path: Path, version: int) -> None:
    compressor = numcodecs.Blosc() if version == 2 else zarr.codecs.BloscCodec()
    image = open_image(damaged_zarr(tmp_path / "a.zarr", version, compressor, forged))
    with pytest.raises(ImageReadError, match="declares 67108864 bytes"):
        image.read(Box(0, 0, 256, 256))


@pytest.mark.parametrize("version", [2, 3])
def test_zstd_bomb(tmp_path: Path, version: int) -> None:
    compressor = numcodecs.Zstd() if version == 2 else zarr.codecs.ZstdCodec()
    bomb = numcodecs.Zstd().encode(bytes(2**27))
    image = open_image(damaged_zarr(tmp_path / "a.zarr", version, compressor, lambda _: bomb))
    with pytest.raises(ImageReadError, match="declares 134217728 bytes"):
        image.read(Box(0, 0, 256, 256))


def test_blosc_inside_a_shard_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        str(path), shape=(64, 64), chunks=(32, 32), shards=(64, 64), dtype="u1", compressors=zarr.codecs.BloscCodec()
    )
    array[...] = GREY[:64, :64]
    shard = path / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[4:8] = struct.pack("<I", 2**28)
    shard.write_bytes(data)
    with pytest.raises(ImageReadError, match="declares 268435456 bytes"):
        open_image(path).read(Box(0, 0, 32, 32))


def test_damaged_tile_of_a_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, tile=(128, 128), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 1000)
    with open_image(path) as image:
        with pytest.raises(ImageReadError, match="chunk at y=128, x=128 of level 0") as caught:
            image.read(Box(0, 0, 300, 420))
        check(caught.value, path)
        np.testing.assert_array_equal(image.read(Box(0, 0, 100, 100)), np.moveaxis(RGB[:100, :100], -1, 0))


def pyramid(path: Path, *shapes: tuple[int, int], scales: list[float] | None = None) -> None:
    node = zarr.open_group(str(path), mode="w")
    datasets = []
    for level, shape in enumerate(shapes):
        node.create_array(str(level), shape=shape, dtype="u1")
        factor = scales[level] if scales else shapes[0][0] / shape[0]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [factor, factor]}]}
        )
    axes = [{"name": name, "type": "space"} for name in "yx"]
    node.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


@pytest.mark.parametrize(
    ("shapes", "scales", "kept"),
    [
        ([(301, 421), (151, 211), (76, 106)], None, 3),
        ([(301, 421), (150, 210), (75, 105)], None, 3),
        ([(300, 420), (150, 420), (75, 105)], None, 2),
        ([(300, 420), (100, 210), (75, 105)], None, 2),
        ([(300, 420), (300, 420), (75, 105)], None, 2),
        ([(300, 420), (150, 210), (75, 105)], [1, 3, 4], 2),
        ([(300, 420), (150, 210), (75, 105)], [1, 2, 4], 3),
    ],
    ids=["ceil", "floor", "one-side", "aspect", "twice", "lying-scale", "true-scale"],
)
def test_levels_that_do_not_fit_are_ignored(
    tmp_path: Path, shapes: list[tuple[int, int]], scales: list[float] | None, kept: int
) -> None:
    pyramid(tmp_path / "a.zarr", *shapes, scales=scales)
    assert len(open_image(tmp_path / "a.zarr").level_shapes) == kept


def test_coarse_first_is_an_error(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.zarr", (75, 105), (150, 210))
    with pytest.raises(ImageFormatError, match="fine to coarse"):
        open_image(tmp_path / "a.zarr")


def test_a_missing_coarse_level_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pyramid(tmp_path / "a.zarr", (300, 420), (150, 210))
    (tmp_path / "a.zarr" / "1" / "zarr.json").unlink()
    assert open_image(tmp_path / "a.zarr").level_shapes == ((300, 420),)
    assert "ignored" in caplog.text


@pytest.mark.parametrize(
    "chunk", [b"", bytes(15), b"\2\1\1\2" + struct.pack("<III", 8, 0, 16), b"\2\1\1\2" + struct.pack("<III", 8, 9, 16)]
)
def test_blosc_headers_that_lie(chunk: bytes) -> None:
    with pytest.raises(ValueError, match="blosc"):
        inflate.check_blosc(chunk, 8, 8)
