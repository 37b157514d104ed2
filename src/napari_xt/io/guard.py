"""What turns hostile and damaged images into one clear error before they can hang, crash or mislead.

Knows the traps of zarr chunks and of pyramids; opens no file itself.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, ShardingCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from napari_xt.errors import ImageFormatError
from napari_xt.io.source import ArrayLike

logger = logging.getLogger(__name__)

MAX_DECODED_BYTES = 2**30
"""The most that one file, chunk or strip may take in memory once decoded."""

_COMPRESSORS = frozenset({"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "zfpy", "pcodec", "packbits"})
_FILTERS = frozenset({"delta", "fixedscaleoffset", "quantize", "astype", "bitround", "shuffle"})
_CHECKSUMS = frozenset({"crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"})
_SAFE_CODECS = _COMPRESSORS | _FILTERS | _CHECKSUMS | {"bytes", "endian", "transpose", "sharding_indexed"}
_SAFE_PREFIXES = ("imagecodecs_",)


def check_size(file: str, what: str, nbytes: int) -> None:
    """Refuse what would take more than `MAX_DECODED_BYTES` in one piece."""
    if nbytes > MAX_DECODED_BYTES:
        raise ImageFormatError(
            file,
            f"{what} takes {nbytes / 2**30:.1f} GiB in memory, more than {MAX_DECODED_BYTES / 2**30:.0f} GiB",
            "convert it to OME-Zarr or tiled TIFF with small chunks",
        )


def check_array(file: str, array: ArrayLike) -> None:
    """Refuse arrays without pixels and pixels that are no numbers."""
    if 0 in array.shape:
        raise ImageFormatError(file, f"the image has no pixels, its shape is {tuple(array.shape)}")
    if np.dtype(array.dtype).kind not in "buif":
        raise ImageFormatError(
            file, f"pixels of type {array.dtype} are not understood", "convert them to integers or real numbers"
        )


def consistent_levels(file: str, axes: str, levels: Sequence[ArrayLike]) -> tuple[ArrayLike, ...]:
    """Return the levels that show the same picture as the first one; the others are dropped with a log message.

    Raises
    ------
    ImageFormatError
        Where a level is larger than the first one: then it is unclear which one to trust.
    """
    first, kept = levels[0], [levels[0]]
    for level in levels[1:]:
        if len(level.shape) == len(first.shape) and _larger(_yx(axes, level), _yx(axes, first)):
            raise ImageFormatError(file, "its levels are not ordered from fine to coarse", "write the pyramid again")
        if level_fits(axes, kept[-1], level) and level_fits(axes, first, level):
            kept.append(level)
        else:
            logger.warning("%s: a level of shape %s does not fit the first one and is ignored", file, level.shape)
    return tuple(kept)


def level_fits(axes: str, fine: ArrayLike, coarse: ArrayLike) -> bool:
    """Whether ``coarse`` can be ``fine`` shrunk by one factor, up to rounding of its height and width."""
    if len(fine.shape) != len(coarse.shape) or fine.dtype != coarse.dtype:
        return False
    others = all(a == b for name, a, b in zip(axes, fine.shape, coarse.shape, strict=True) if name not in "yx")
    return others and _same_aspect(_yx(axes, fine), _yx(axes, coarse))


def _yx(axes: str, array: ArrayLike) -> tuple[int, int]:
    return array.shape[axes.index("y")], array.shape[axes.index("x")]


def _larger(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] > other[0] or one[1] > other[1]


def _same_aspect(fine: tuple[int, int], coarse: tuple[int, int]) -> bool:
    """Rounding moves each side by at most a pixel a halving, so by less than two in all."""
    long, short = (0, 1) if fine[0] >= fine[1] else (1, 0)
    if coarse[long] >= fine[long] or coarse[short] > fine[short]:
        return False
    factor = fine[long] / coarse[long]
    return abs(coarse[short] - fine[short] / factor) < 2


def guarded(file: str, array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return ``array`` with codecs that check every chunk's header before they decode it.

    A damaged blosc chunk can otherwise kill the process, a forged zstd chunk fill the memory (numcodecs#228).

    Raises
    ------
    ImageFormatError
        Where the array has no pixels, pixels that are no numbers, huge chunks or a codec that is not known to be safe.
    """
    check_array(file, array)
    check_size(file, "one of its chunks", math.prod(array.chunks) * array.dtype.itemsize)
    metadata = array.metadata
    safe = _guard_v2(file, metadata) if isinstance(metadata, ArrayV2Metadata) else _guard_v3(file, metadata)
    return zarr.Array(zarr.AsyncArray(metadata=safe, store_path=array.store_path))


def _guard_v2(file: str, metadata: ArrayV2Metadata) -> ArrayV2Metadata:
    codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else [])]
    _check_names(file, (codec.get_config()["id"] for codec in codecs))
    compressor = metadata.compressor
    check = None if compressor is None else _check_v2(metadata, compressor.get_config()["id"])
    if compressor is None or check is None:
        return metadata
    return dataclasses.replace(metadata, compressor=_CheckedV2(compressor, check))


def _check_v2(metadata: ArrayV2Metadata, codec_id: str) -> Callable[[memoryview], None] | None:
    nbytes = math.prod(metadata.chunks) * metadata.dtype.to_native_dtype().itemsize
    # filters may store another number type, of an eighth to eight times the size
    low, high = (nbytes // 8, nbytes * 8) if metadata.filters else (nbytes, nbytes)
    checks = {"blosc": partial(check_blosc, low=low, high=high), "zstd": partial(check_zstd, high=high)}
    return checks.get(codec_id)


def _guard_v3(file: str, metadata: ArrayV3Metadata) -> ArrayV3Metadata:
    return dataclasses.replace(metadata, codecs=_guard_codecs(file, metadata.codecs))


def _guard_codecs(file: str, codecs: Iterable[Codec]) -> tuple[Any, ...]:
    codecs = tuple(codecs)
    _check_names(file, (str(codec.to_dict()["name"]).removeprefix("numcodecs.") for codec in codecs))
    return tuple(_guard_codec(file, codec) for codec in codecs)


def _guard_codec(file: str, codec: Codec) -> Codec:
    if isinstance(codec, ShardingCodec):
        return dataclasses.replace(codec, codecs=_guard_codecs(file, codec.codecs))
    if type(codec) is BloscCodec:
        return _BloscV3(**{f.name: getattr(codec, f.name) for f in dataclasses.fields(codec) if f.init})
    return _ZstdV3(level=codec.level, checksum=codec.checksum) if type(codec) is ZstdCodec else codec


def _check_names(file: str, names: Iterator[str]) -> None:
    bad = next((name for name in names if name not in _SAFE_CODECS and not name.startswith(_SAFE_PREFIXES)), None)
    if bad is not None:
        raise ImageFormatError(file, f"its chunks use the codec {bad!r}, which is not allowed", "convert the image")


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


def check_zstd(chunk: bytes | memoryview, high: int) -> None:
    """Check that the first frame of a zstd chunk declares at most ``high`` bytes (RFC 8878, 3.1.1.1)."""
    if len(chunk) < 6 or bytes(chunk[:4]) != b"\x28\xb5\x2f\xfd":
        raise ValueError("zstd chunk is cut short or damaged")
    flags = chunk[4]
    single, size_flag = flags >> 5 & 1, flags >> 6
    length = (1 if single else 0, 2, 4, 8)[size_flag]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    declared = int.from_bytes(bytes(chunk[start : start + length]), "little") + (256 if length == 2 else 0)
    if declared > high:
        raise ValueError(f"zstd chunk declares {declared} bytes of pixels, expected {high}")


def _bytes(data: object) -> memoryview:
    return np.ascontiguousarray(np.asarray(data)).reshape(-1).view(np.uint8).data


class _CheckedV2:
    """A codec of Zarr v2 (numcodecs) that looks at the chunk before it decodes it."""

    codec_id: str = "checked"

    def __init__(self, inner: Any, check: Callable[[memoryview], None]) -> None:
        self.inner, self.check, self.codec_id = inner, check, inner.codec_id

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _CheckedV2:
        """Refuse: the check is no part of the metadata."""
        raise TypeError(f"{config}: a checked codec is made from a codec")

    def get_config(self) -> dict[str, Any]:
        """The metadata of the codec inside."""
        return dict(self.inner.get_config())

    def encode(self, buf: Any) -> Any:
        """Encode as the codec inside does."""
        return self.inner.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Check, then decode."""
        self.check(_bytes(buf))
        return self.inner.decode(buf, out)


def _spec_bytes(spec: ArraySpec) -> int:
    return math.prod(spec.shape) * int(spec.dtype.to_native_dtype().itemsize)


_Pairs = Iterable[tuple[Buffer | None, ArraySpec]]


class _BloscV3(BloscCodec):
    async def decode(self, chunks_and_specs: _Pairs) -> Iterable[Buffer | None]:
        pairs = list(chunks_and_specs)
        for chunk, spec in pairs:
            if chunk is not None:
                nbytes = _spec_bytes(spec)
                check_blosc(_bytes(chunk.as_numpy_array()), nbytes, nbytes + 4)  # + 4: a checksum inside
        return await super().decode(pairs)


class _ZstdV3(ZstdCodec):
    async def decode(self, chunks_and_specs: _Pairs) -> Iterable[Buffer | None]:
        pairs = list(chunks_and_specs)
        for chunk, spec in pairs:
            if chunk is not None:
                check_zstd(_bytes(chunk.as_numpy_array()), _spec_bytes(spec) + 1024)  # + 1024: a codec's header inside
        return await super().decode(pairs)
