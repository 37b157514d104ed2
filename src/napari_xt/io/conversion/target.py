"""What a converted image is: its axes in the order of the standard, its levels and arrays, and what describes them.

Knows OME-Zarr's metadata and codecs; must not read pixels and knows no folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from napari_xt.errors import SettingsError
from napari_xt.io.images.guard import MAX_DECODED_BYTES
from napari_xt.io.images.pyramid import COARSEST_PX
from napari_xt.io.stores.ngff import LENGTHS

Version = Literal["0.4", "0.5"]
Compressor = Literal["zstd", "blosc", "gzip", "none"]
ORDER = "tczyx"
LEAST_CHUNK = 16
KINDS = {"t": "time", "c": "channel"}
TIMES = frozenset({"second", "millisecond", "microsecond", "nanosecond", "minute", "hour", "day"})


@dataclass(frozen=True, slots=True)
class Target:
    """The arrays of an OME-Zarr image.

    Parameters
    ----------
    version
        Of OME-Zarr: 0.4 is Zarr v2, 0.5 is Zarr v3.
    axes
        Some letters of ``tczyx``, in this order.
    shape, dtype
        Of level 0; the type is in native byte order.
    channels_in_chunk
        How many channels lie in a chunk.
    chunks, shards
        Pixels along a chunk and, where there are shards, along one of these.
    compressor
        Of the chunks.
    """

    version: Version
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_in_chunk: int
    chunks: int
    shards: int | None
    compressor: Compressor

    def __post_init__(self) -> None:
        _check(self.version in get_args(Version), f"version = {self.version!r}", "choose 0.5 or 0.4")
        _check(
            self.compressor in get_args(Compressor),
            f"compressor = {self.compressor!r}",
            "choose zstd, blosc, gzip or none",
        )
        even = _multiple(self.chunks, 2, LEAST_CHUNK)
        _check(even, f"chunks = {self.chunks}", f"choose an even number of pixels, {LEAST_CHUNK} or more")
        if self.shards is not None:
            _check(self.version != "0.4", f"shards = {self.shards}", "OME-Zarr 0.4 has none: choose version 0.5")
            whole = _multiple(self.shards, self.chunks, self.chunks)
            _check(whole, f"shards = {self.shards}", f"choose a multiple of the chunk's {self.chunks} px")
        nbytes = self.side**2 * self.channels_in_chunk * self.dtype.itemsize
        what = f"a chunk or shard of {nbytes / 2**30:.1f} GiB"
        _check(nbytes <= MAX_DECODED_BYTES // 4, what, "choose smaller chunks or shards")

    @property
    def side(self) -> int:
        """Rows that are written at once: of a chunk, or of a shard."""
        return self.shards or self.chunks

    @property
    def least(self) -> tuple[int, ...]:
        """How many planes lie in a chunk along each axis before y and x."""
        return tuple(self.channels_in_chunk if axis == "c" else 1 for axis in self.axes[:-2])

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each level, finest first: halved until no side is above 2048 px."""
        shapes = [self.shape]
        while max(shapes[-1][-2:]) > COARSEST_PX:
            *lead, height, width = shapes[-1]
            shapes.append((*lead, -(-height // 2), -(-width // 2)))
        return tuple(shapes)

    def create(self, store: Store) -> None:
        """Make the root, empty, and the empty arrays."""
        zarr.create_group(store, zarr_format=self._format)
        for level, shape in enumerate(self.shapes):
            self._create_array(store, str(level), shape)

    def _create_array(self, store: Store, path: str, shape: Sequence[int]) -> None:
        """Make the empty array of a level."""
        plane = tuple(self.chunks if self.shards else min(self.chunks, size) for size in shape[-2:])
        v3 = self._format == 3
        zarr.create_array(
            store,
            name=path,
            shape=tuple(shape),
            chunks=(*self.least, *plane),
            shards=(*self.least, self.shards, self.shards) if self.shards else None,
            dtype=self.dtype,
            fill_value=0,
            zarr_format=self._format,
            compressors=_codec_v3(self.compressor, self.dtype) if v3 else _codec_v2(self.compressor),
            dimension_names=tuple(self.axes) if v3 else None,
            chunk_key_encoding={"name": "default" if v3 else "v2", "separator": "/"},
        )

    def open(self, store: Store) -> list[zarr.Array[Any]]:
        """The arrays, finest first."""
        return [
            zarr.open_array(store, path=str(k), mode="r+", zarr_format=self._format) for k in range(len(self.shapes))
        ]

    def describe(self, store: Store, metadata: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> None:
        """Write the OME-Zarr's ``metadata`` into the root, and what stands ``beside`` it."""
        group = zarr.open_group(store, mode="r+", zarr_format=self._format)
        ome = {"ome": {"version": self.version, **metadata}} if self._format == 3 else dict(metadata)
        group.attrs.update({**ome, **(beside or {})})

    def multiscale(
        self, name: str, scale: Mapping[str, float], units: Mapping[str, str], kind: str, *, middle: bool = True
    ) -> dict[str, Any]:
        """One entry of ``multiscales``: where each level lies; ``middle``: its pixels are means around their centre."""
        axes = [self._axis(axis, units.get(axis)) for axis in self.axes]
        datasets = [self._dataset(level, scale, middle) for level in range(len(self.shapes))]
        entry: dict[str, Any] = {"name": name, "axes": axes, "datasets": datasets, "type": kind}
        return entry if self._format == 3 else {"version": self.version, **entry}

    def _axis(self, axis: str, unit: str | None) -> dict[str, str]:
        kind = KINDS.get(axis, "space")
        known = {"space": LENGTHS, "time": TIMES}.get(kind, frozenset())
        return {"name": axis, "type": kind} | ({"unit": unit} if unit in known else {})

    def _dataset(self, level: int, scale: Mapping[str, float], middle: bool) -> dict[str, Any]:
        steps = [scale.get(axis, 1.0) * (2**level if axis in "yx" else 1) for axis in self.axes]
        shift = [scale.get(axis, 1.0) * (2**level - 1) / 2 if axis in "yx" else 0.0 for axis in self.axes]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": steps}]
        if level and middle:
            transforms.append({"type": "translation", "translation": shift})
        return {"path": str(level), "coordinateTransformations": transforms}

    @property
    def _format(self) -> Literal[2, 3]:
        return 3 if self.version == "0.5" else 2


def target_axes(name: str, axes: str) -> dict[str, str]:
    """Which letter of ``tczyx`` each axis of a source becomes; what it does not know takes the first free one.

    Raises
    ------
    SettingsError
        Where there are more axes than the standard has.
    """
    found = {axis: axis for axis in axes if axis in ORDER}
    free = [letter for letter in "ztc" if letter not in found]
    for axis in axes:
        if axis not in found:
            if not free:
                raise SettingsError(f"the axes {axes} of {name}", "OME-Zarr holds t, c, z, y and x", "slice it first")
            found[axis] = free.pop(0)
    return found


def _multiple(value: object, of: int, least: int) -> bool:
    return isinstance(value, int) and value >= least and value % of == 0


def _check(good: object, what: str, do: str) -> None:
    if not good:
        raise SettingsError(what, "can't be written", do)


def _codec_v3(compressor: Compressor, dtype: np.dtype[Any]) -> Any:
    return {
        "zstd": ZstdCodec(level=1, checksum=True),
        "blosc": BloscCodec(typesize=dtype.itemsize, cname="zstd", clevel=3, shuffle="shuffle"),
        "gzip": GzipCodec(level=4),
        "none": None,
    }[compressor]


def _codec_v2(compressor: Compressor) -> Any:
    return {
        "zstd": numcodecs.Zstd(level=1, checksum=True),
        "blosc": numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.SHUFFLE),
        "gzip": numcodecs.GZip(level=4),
        "none": None,
    }[compressor]
