"""Decompresses chunks that may be damaged or hostile: never into more bytes than a chunk may have.

Knows the formats of compressed bytes; knows no array and no file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import imagecodecs
import numcodecs  # type: ignore[import-untyped]

Inflate = Callable[[memoryview, int, int], bytes]
"""From a chunk and the least and most bytes that it may hold to these bytes; raises where there are more."""


def inflater(name: str, settings: Mapping[str, Any]) -> Inflate | None:
    """Return how chunks of a codec are decompressed safely, None where decoding can't make much out of little.

    Parameters
    ----------
    name
        The codec's id in numcodecs.
    settings
        Its configuration; only LZMA needs it to decode.
    """
    if name == "lzma":
        return partial(_unlzma, form=settings.get("format", lzma.FORMAT_XZ), filters=settings.get("filters"))
    return _INFLATERS.get(name)


def check_blosc(chunk: bytes | memoryview, low: int, high: int) -> None:
    """Check the 16-byte header of a blosc chunk: stored size = bytes there, decoded size within ``low..high``.

    Raises
    ------
    ValueError
        Where the chunk must not be given to blosc.
    """
    if len(chunk) < 16:
        raise ValueError(f"blosc chunk of {len(chunk)} bytes is cut short")
    nbytes, blocksize, cbytes = struct.unpack_from("<III", chunk, 4)
    if cbytes != len(chunk):
        raise ValueError(f"blosc chunk has {len(chunk)} of its {cbytes} bytes")
    if not low <= nbytes <= high:
        raise ValueError(f"blosc chunk declares {nbytes} bytes of pixels, expected {high}")
    if nbytes and not 0 < blocksize <= max(nbytes, 1):
        raise ValueError(f"blosc chunk declares blocks of {blocksize} bytes")


def zstd_size(chunk: bytes | memoryview) -> int | None:
    """Return the bytes that the first frame of a zstd chunk declares (RFC 8878, 3.1.1.1), None where it does not.

    Raises
    ------
    ValueError
        Where it is no zstd chunk.
    """
    if len(chunk) < 6 or bytes(chunk[:4]) != b"\x28\xb5\x2f\xfd":
        raise ValueError("zstd chunk is cut short or damaged")
    flags = chunk[4]
    single, size_flag = flags >> 5 & 1, flags >> 6
    length = (1 if single else 0, 2, 4, 8)[size_flag]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    declared = int.from_bytes(bytes(chunk[start : start + length]), "little") + (256 if length == 2 else 0)
    return declared if length else None


def _unblosc(chunk: memoryview, low: int, high: int) -> bytes:
    check_blosc(chunk, low, high)
    return bytes(numcodecs.Blosc().decode(chunk))


def _unzstd(chunk: memoryview, _: int, high: int) -> bytes:
    declared = zstd_size(chunk)
    if declared is None:
        return bytes(imagecodecs.zstd_decode(bytes(chunk), out=high))
    _check_declared("zstd", declared, high)
    return bytes(numcodecs.Zstd().decode(chunk))


def _unlz4(chunk: memoryview, _: int, high: int) -> bytes:
    _check_declared("lz4", int.from_bytes(chunk[:4], "little"), high)
    return bytes(numcodecs.LZ4().decode(chunk))


def _check_declared(name: str, declared: int, high: int) -> None:
    if declared > high:
        raise ValueError(f"{name} chunk declares {declared} bytes of pixels, expected {high}")


def _unzlib(chunk: memoryview, _: int, high: int) -> bytes:
    engine = zlib.decompressobj()
    pixels = _at_most(engine.decompress(chunk, high + 1), high)
    if not engine.eof:
        raise ValueError("zlib chunk is cut short")
    return pixels


def _ungzip(chunk: memoryview, _: int, high: int) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(chunk)) as file:
        return _read(file, high)


def _unbz2(chunk: memoryview, _: int, high: int) -> bytes:
    with bz2.BZ2File(io.BytesIO(chunk)) as file:
        return _read(file, high)


def _unlzma(chunk: memoryview, _: int, high: int, *, form: int, filters: Any) -> bytes:
    with lzma.LZMAFile(io.BytesIO(chunk), format=form, filters=filters) as file:
        return _read(file, high)


def _read(file: io.BufferedIOBase, high: int) -> bytes:
    return _at_most(file.read(high + 1), high)


def _at_most(pixels: bytes, high: int) -> bytes:
    if len(pixels) > high:
        raise ValueError(f"chunk holds more than the expected {high} bytes of pixels")
    return pixels


_INFLATERS: Mapping[str, Inflate] = {
    "blosc": _unblosc,
    "bz2": _unbz2,
    "gzip": _ungzip,
    "lz4": _unlz4,
    "zlib": _unzlib,
    "zstd": _unzstd,
}
