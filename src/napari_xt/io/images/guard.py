"""What turns hostile and damaged images into one clear error before they can hang, crash or mislead.

Knows the traps of zarr chunks and of pyramids; opens no file itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from napari_xt.errors import ImageFormatError
from napari_xt.io.images.inflate import Inflate, inflater
from napari_xt.io.images.source import ArrayLike

logger = logging.getLogger(__name__)

MAX_DECODED_BYTES = 2**30
"""The most that one file, chunk or strip may take in memory once decoded."""

MOST_SIDE, MOST_VALUES = 2**31 - 1, 2**48
"""The longest axis and the most values of an array; what declares more is no image."""

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
    """Refuse arrays without pixels or of impossible size, and pixels that are no numbers."""
    if 0 in array.shape:
        raise ImageFormatError(file, f"the image has no pixels, its shape is {tuple(array.shape)}")
    if max(array.shape, default=0) > MOST_SIDE or math.prod(array.shape) > MOST_VALUES:
        shape = str(tuple(array.shape))[:80]
        raise ImageFormatError(file, f"no image can have the shape {shape} that it declares", "write it again")
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
    """Return ``array`` with codecs that decode no more of a chunk than it may hold.

    A damaged blosc chunk can otherwise kill the process (numcodecs#228), and a small one of another kind fill the
    memory.

    Raises
    ------
    ImageFormatError
        Where the array has no pixels, pixels that are no numbers, huge chunks or a codec that is not known to be safe.
    """
    check_array(file, array)
    if min(array.chunks, default=0) < 1:
        raise ImageFormatError(file, f"its chunks have the shape {tuple(array.chunks)}, so no pixels", "write it again")
    check_size(file, "one of its chunks", math.prod(array.chunks) * array.dtype.itemsize)
    metadata = array.metadata
    safe = _guard_v2(file, metadata) if isinstance(metadata, ArrayV2Metadata) else _guard_v3(file, metadata)
    return zarr.Array(zarr.AsyncArray(metadata=safe, store_path=array.store_path))


def _guard_v2(file: str, metadata: ArrayV2Metadata) -> ArrayV2Metadata:
    codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else [])]
    _check_names(file, (codec.get_config()["id"] for codec in codecs))
    nbytes = math.prod(metadata.chunks) * metadata.dtype.to_native_dtype().itemsize
    # filters may store another number type, of up to eight times the size
    low, most = (0, min(nbytes * 8, MAX_DECODED_BYTES)) if metadata.filters else (nbytes, nbytes)
    high = _with_room(most)
    filters = tuple(_guard_codec_v2(codec, 0, high) for codec in metadata.filters or ()) or None
    compressor = metadata.compressor and _guard_codec_v2(metadata.compressor, low, high)
    return dataclasses.replace(metadata, filters=filters, compressor=compressor)


def _guard_codec_v2(codec: Any, low: int, high: int) -> Any:
    config = codec.get_config()
    inflate = inflater(config["id"], config)
    return codec if inflate is None else _CheckedV2(codec, inflate, (low, high))


def _with_room(nbytes: int) -> int:
    """With what a codec inside may add to bytes that it can't compress: a header and less than one in 128."""
    return nbytes + nbytes // 128 + 1024


def _guard_v3(file: str, metadata: ArrayV3Metadata) -> ArrayV3Metadata:
    return dataclasses.replace(metadata, codecs=_guard_codecs(file, metadata.codecs))


def _guard_codecs(file: str, codecs: Iterable[Codec]) -> tuple[Any, ...]:
    codecs = tuple(codecs)
    _check_names(file, map(_codec_id, codecs))
    return tuple(_guard_codec(file, codec) for codec in codecs)


def _codec_id(codec: Codec) -> str:
    return str(codec.to_dict()["name"]).removeprefix("numcodecs.")


def _guard_codec(file: str, codec: Codec) -> Codec:
    if isinstance(codec, ShardingCodec):
        inner, index = (_guard_codecs(file, codecs) for codecs in (codec.codecs, codec.index_codecs))
        return dataclasses.replace(codec, codecs=inner, index_codecs=index)
    settings = codec.to_dict().get("configuration")
    inflate = inflater(_codec_id(codec), settings if isinstance(settings, dict) else {})
    return _CheckedV3(codec, inflate) if inflate and isinstance(codec, BytesBytesCodec) else codec


def _check_names(file: str, names: Iterator[str]) -> None:
    bad = next((name for name in names if name not in _SAFE_CODECS and not name.startswith(_SAFE_PREFIXES)), None)
    if bad is not None:
        raise ImageFormatError(file, f"its chunks use the codec {bad!r}, which is not allowed", "convert the image")


def _bytes(data: object) -> memoryview:
    return np.ascontiguousarray(np.asarray(data)).reshape(-1).view(np.uint8).data


class _CheckedV2:
    """A codec of Zarr v2 (numcodecs) that decodes safely."""

    codec_id: str = "checked"

    def __init__(self, inner: Any, inflate: Inflate, nbytes: tuple[int, int]) -> None:
        self.inner, self.inflate, self.nbytes, self.codec_id = inner, inflate, nbytes, inner.codec_id

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
        """Decode, into ``out`` where it is given."""
        pixels = self.inflate(_bytes(buf), *self.nbytes)
        if out is None:
            return pixels
        _bytes(out)[:] = pixels
        return out


@dataclasses.dataclass(frozen=True)
class _CheckedV3(BytesBytesCodec):
    """A codec of Zarr v3 that decodes safely."""

    is_fixed_size = False
    inner: BytesBytesCodec
    inflate: Inflate

    def to_dict(self) -> dict[str, Any]:
        """The metadata of the codec inside."""
        return self.inner.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """As the codec inside does."""
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        # a codec inside may make it larger or much smaller
        high = _with_room(math.prod(chunk_spec.shape) * int(chunk_spec.dtype.to_native_dtype().itemsize))
        pixels = await asyncio.to_thread(self.inflate, _bytes(chunk_data.as_numpy_array()), 0, high)
        return chunk_spec.prototype.buffer.from_bytes(pixels)

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return next(iter(await self.inner.encode([(chunk_data, chunk_spec)])))
