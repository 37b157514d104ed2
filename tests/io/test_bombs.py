"""Small files that would fill the memory: refused before they unpack, while honest ones of the same kind are read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import numcodecs as in_v3

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image
from napari_xt.io.images import segments
from napari_xt.io.images.inflate import inflater, zstd_size

PIXELS = np.random.default_rng(0).integers(0, 9, (128, 192)).astype("u2")
RGB = np.random.default_rng(0).integers(0, 250, (256, 384, 3)).astype("u1")
BOMB = 2**27


def undeclared(frame: bytes) -> bytes:
    """A zstd frame without the size of its content, and with a window of 128 MB (RFC 8878, 3.1.1.1)."""
    flags = frame[4]
    single, length = flags >> 5 & 1, (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    start = 5 + (not single)
    return frame[:4] + bytes([flags & 0b100, 17 << 3]) + frame[start + length :]


def zstd(data: bytes) -> bytes:
    return bytes(numcodecs.Zstd().encode(data))


PACK: dict[str, tuple[Any, Callable[[bytes], bytes]]] = {
    "gzip": (numcodecs.GZip(), gzip.compress),
    "zlib": (numcodecs.Zlib(), zlib.compress),
    "bz2": (numcodecs.BZ2(), bz2.compress),
    "lzma": (numcodecs.LZMA(), lzma.compress),
    "lz4": (numcodecs.LZ4(), lambda data: bytes(numcodecs.LZ4().encode(data))),
    "zstd": (numcodecs.Zstd(), zstd),
    "zstd-undeclared": (numcodecs.Zstd(), lambda data: undeclared(zstd(data))),
    "zstd-undeclared-later": (numcodecs.Zstd(), lambda data: undeclared(zstd(data[:9])) + undeclared(zstd(data[9:]))),
    "gzip-members": (numcodecs.GZip(), lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "blosc": (numcodecs.Blosc(), lambda data: bytes(numcodecs.Blosc().encode(data))),
}
V3: dict[str, Callable[[], Any]] = {
    "gzip": zarr.codecs.GzipCodec,
    "zstd": zarr.codecs.ZstdCodec,
    "blosc": zarr.codecs.BloscCodec,
    "zlib": in_v3.Zlib,
    "bz2": in_v3.BZ2,
    "lzma": in_v3.LZMA,
    "lz4": in_v3.LZ4,
}


def stored(path: Path, version: Any, compressors: Any, chunk: Callable[[bytes], bytes], **options: Any) -> Path:
    """Write 2 x 3 chunks of 64 px; the one at y=64, x=64 is what ``chunk`` makes of its pixels."""
    array = zarr.create_array(
        str(path),
        shape=PIXELS.shape,
        chunks=(64, 64),
        dtype="u2",
        zarr_format=version,
        compressors=compressors,
        **options,
    )
    array[...] = PIXELS
    file = path / ("1.1" if version == 2 else "c/1/1")
    file.write_bytes(chunk(PIXELS[64:128, 64:128].tobytes()))
    return path


def refused(path: Path, words: str = "chunk at y=64, x=64 of level 0 can't be read") -> None:
    """Read and fail, in little memory."""
    tracemalloc.start()
    try:
        with open_image(path) as image, pytest.raises(ImageReadError, match=words) as caught:
            image.read(Box(0, 0, *image.shape))
        assert tracemalloc.get_traced_memory()[1] < 2**26  # of 2**27; lzma takes 8 MiB a decoder, of several
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) <= 280


@pytest.mark.parametrize(("compressor", "pack"), PACK.values(), ids=PACK)
def test_honest_chunks_of_v2(tmp_path: Path, compressor: Any, pack: Callable[[bytes], bytes]) -> None:
    with open_image(stored(tmp_path / "a.zarr", 2, compressor, pack)) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 128, 192))[0], PIXELS)


@pytest.mark.parametrize(("compressor", "pack"), PACK.values(), ids=PACK)
def test_bombs_in_v2(tmp_path: Path, compressor: Any, pack: Callable[[bytes], bytes]) -> None:
    refused(stored(tmp_path / "a.zarr", 2, compressor, lambda _: pack(bytes(BOMB))))


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning", "ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("bomb", [False, True], ids=["honest", "bomb"])
def test_v3(tmp_path: Path, name: str, bomb: bool) -> None:
    pack = PACK[name][1]
    codec = V3[name.partition("-")[0]]()
    path = stored(tmp_path / "a.zarr", 3, codec, lambda data: pack(bytes(BOMB) if bomb else data))
    if bomb:
        refused(path)
    else:
        with open_image(path) as image:
            np.testing.assert_array_equal(image.read(Box(0, 0, 128, 192))[0], PIXELS)


def test_bombs_among_the_filters_of_v2(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    filters = [numcodecs.Delta("u2"), numcodecs.Zlib()]
    with open_image(stored(path, 2, numcodecs.GZip(), lambda data: data, filters=filters)) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 64, 192))[0], PIXELS[:64])
    (path / "1.1").write_bytes(gzip.compress(zlib.compress(bytes(BOMB))))
    refused(path)


def test_compressors_one_in_another(tmp_path: Path) -> None:
    compressors = [zarr.codecs.GzipCodec(), zarr.codecs.BloscCodec(), zarr.codecs.ZstdCodec()]
    path = stored(tmp_path / "a.zarr", 3, compressors, lambda data: data)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 64, 192))[0], PIXELS[:64])


def test_a_bomb_in_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        str(path), shape=(64, 64), chunks=(32, 32), shards=(64, 64), dtype="u1", compressors=zarr.codecs.GzipCodec()
    )
    array[...] = 1
    bomb = gzip.compress(bytes(BOMB))
    entries = struct.pack("<8Q", 0, len(bomb), *[2**64 - 1] * 6)
    index = entries + struct.pack("<I", crc32c(entries))
    (path / "c" / "0" / "0").write_bytes(bomb + index)
    refused(path, "chunk at y=0, x=0 of level 0 can't be read: chunk holds more than")


def crc32c(data: bytes) -> int:
    encoded = numcodecs.registry.get_codec({"id": "crc32c"}).encode(data)
    return int(np.frombuffer(encoded, "<u4")[-1])


@pytest.mark.parametrize(
    ("data", "size"),
    [(zstd(bytes(9)), 9), (zstd(bytes(300)), 300), (zstd(bytes(70_000)), 70_000), (undeclared(zstd(bytes(300))), None)],
)
def test_what_zstd_declares(data: bytes, size: int | None) -> None:
    assert zstd_size(data) == size


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "lzma", "zstd", "lz4", "blosc"])
def test_the_limit_is_exact(name: str) -> None:
    pack, inflate = PACK[name][1], inflater(name, {})
    assert inflate is not None
    assert inflate(memoryview(pack(bytes(100))), 0, 100) == bytes(100)
    with pytest.raises(ValueError, match=r"100 bytes|99 bytes|too small"):
        inflate(memoryview(pack(bytes(100))), 0, 99)
    for cut in (pack(PIXELS.tobytes())[:-9], b"\0" * 40):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each has its own kind
            inflate(memoryview(cut), 0, PIXELS.nbytes)


def jpeg_that_says(data: bytes, rows: int, columns: int, samples: int | None = None) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    tail = data[at + 4 :] if samples is None else bytes([samples]) + data[at + 5 :]
    return data[:at] + struct.pack(">HH", rows, columns) + tail


def j2k_that_says(data: bytes, rows: int, columns: int, samples: int = 3) -> bytes:
    at = data.index(b"\xff\x4f\xff\x51") + 8
    head = struct.pack(">8IH", columns, rows, 0, 0, columns, rows, 0, 0, samples)
    return data[:at] + head + data[at + len(head) :]


def png_that_says(data: bytes, rows: int, columns: int) -> bytes:
    head = b"IHDR" + struct.pack(">II", columns, rows) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def tiled(
    path: Path, compression: str, lie: Callable[[bytes], bytes], data: NDArray[Any] = RGB, **options: Any
) -> Path:
    """Write a TIFF of 2 x 3 tiles of 128 px a page and replace tile 4 of the last page."""
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None} | options
    tifffile.imwrite(path, data, compression=compression, **options)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[-1]
        start, length = page.dataoffsets[4], page.databytecounts[4]
        entry = page.tags["TileByteCounts"].valueoffset + 4 * 4
    content = path.read_bytes()
    lying = lie(content[start : start + length])
    assert len(lying) == length
    assert struct.unpack_from("<I", content, entry) == (length,)
    path.write_bytes(content[:start] + lying + content[start + length :])
    return path


LIES = {"huge": (65_000, 65_000), "larger": (256, 256), "turned": (64, 256), "taller": (256, 64), "wide": (1, 65_000)}
SAYS: dict[str, Callable[..., bytes]] = {"jpeg": jpeg_that_says, "jpeg2000": j2k_that_says, "png": png_that_says}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("compression", SAYS)
def test_tiles_that_lie_about_their_size(tmp_path: Path, compression: str, lie: tuple[int, int]) -> None:
    path = tiled(tmp_path / "a.tif", compression, lambda data: SAYS[compression](data, *lie))
    said = f"it says it has {lie[1]} x {lie[0]} px"
    refused(path, f"chunk at y=128, x=128 of level 0 can't be read: {said}")
    with open_image(path) as image:
        other = image.read(Box(0, 0, 128, 384))
    if compression == "png":
        np.testing.assert_array_equal(other, np.moveaxis(RGB[:128], -1, 0))


@pytest.mark.parametrize(
    "lie",
    [
        partial(jpeg_that_says, rows=0, columns=128),
        partial(jpeg_that_says, rows=100, columns=100),
        partial(jpeg_that_says, rows=128, columns=128, samples=1),
        partial(jpeg_that_says, rows=128, columns=128, samples=255),
        lambda data: data[:2] + b"\xff\xda" + data[4:],
        lambda data: data[:2] + bytes(len(data) - 2),
        lambda data: data[:-9] + b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff",
    ],
    ids=["no-rows", "smaller", "one-sample", "255-samples", "no-frame", "zeros", "two-frames"],
)
def test_other_lies_of_jpeg_tiles(tmp_path: Path, lie: Callable[[bytes], bytes]) -> None:
    path = tiled(tmp_path / "a.tif", "jpeg", lie)
    with open_image(path) as image:
        try:
            assert image.read(Box(0, 0, 256, 384)).shape == (3, 256, 384)
        except ImageReadError as error:
            assert "chunk at y=128, x=128 of level 0" in str(error)  # noqa: PT017 - both are fine, nothing else is


@pytest.mark.parametrize("options", [{}, {"metadata": {"axes": "ZYXS"}}, {"ome": True, "metadata": {"axes": "ZYXS"}}])
def test_tiles_of_later_pages_are_checked_too(tmp_path: Path, options: dict[str, Any]) -> None:
    stack = np.stack([RGB, RGB, RGB])
    path = tiled(tmp_path / "a.ome.tif", "jpeg", lambda data: jpeg_that_says(data, 64, 256), stack, **options)
    with open_image(path) as image:
        (axis,) = image.plane
        assert image.read(Box(0, 0, 256, 384)).shape == (3, 256, 384)
        with pytest.raises(ImageReadError, match="says it has 256 x 64 px"):
            image.with_plane({axis: 2}).read(Box(0, 0, 256, 384))


@pytest.mark.parametrize("compression", [*SAYS, "webp", "jpegxl"])
@pytest.mark.parametrize("form", ["tiles", "edges", "strips", "grey"])
def test_honest_tiles(tmp_path: Path, compression: str, form: str) -> None:
    data = RGB[:200, :300, 0] if form == "grey" else RGB[:200, :300]
    layout: dict[str, Any] = {"rowsperstrip": 48} if form == "strips" else {"tile": (64, 64)}
    photometric = "minisblack" if form == "grey" else "rgb"
    args = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    if (compression, form) == ("webp", "grey"):
        pytest.skip("WebP has no grey")
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, photometric=photometric, **layout, **args)
    with open_image(tmp_path / "a.tif") as image:
        read = np.moveaxis(image.read(Box(0, 0, 200, 300)), 0, -1).squeeze()
    expected = tifffile.imread(tmp_path / "a.tif")
    np.testing.assert_array_equal(read, expected)


def test_raw_tiles_may_look_like_pictures(tmp_path: Path) -> None:
    grey = RGB[..., 0].copy()
    grey[0, :2] = 0xFF, 0xD8
    tifffile.imwrite(tmp_path / "a.tif", grey, tile=(128, 128))
    with open_image(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 256, 384))[0], grey)


def test_stated_sizes() -> None:
    tile = RGB[:100, :70]
    for name in ("jpeg8", "jpeg2k", "png"):
        assert segments.stated_size(getattr(imagecodecs, f"{name}_encode")(tile))[:2] == (100, 70)  # type: ignore[index]
    raw = imagecodecs.jpeg2k_encode(tile, codecformat="j2k")
    assert segments.stated_size(raw) == (100, 70, 3)
    assert segments.stated_size(b"something else") is None


@given(
    head=st.sampled_from([b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\x89PNG\r\n\x1a\n"]),
    rest=st.lists(st.one_of(st.binary(max_size=9), st.sampled_from([b"\xff\xc0", b"\xff", b"\0\0\0\1jp2c"]))),
)
def test_heads_of_noise(head: bytes, rest: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        assert len(segments.stated_size(head + b"".join(rest)) or ()) == 3
