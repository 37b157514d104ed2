"""Any image that opens, as an OME-Zarr: all planes, with a pyramid, in bounded memory, whole or not there.

Knows folders and what was begun in them; must not know how strips are made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_xt.io.conversion.facts import beside, is_colour, omero, steps_of
from napari_xt.io.conversion.place import Place
from napari_xt.io.conversion.rows import ImageRows
from napari_xt.io.conversion.sweep import area_mean
from napari_xt.io.conversion.target import Compressor, Target, Version
from napari_xt.io.conversion.work import Part, Progress, parts_of, write
from napari_xt.io.image import Image, open_image
from napari_xt.io.stores.durable import DurableStore, writing


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    version: Version = "0.5",
    chunks: int = 512,
    shards: int | None = None,
    compressor: Compressor = "zstd",
    pixel_size: str | float | tuple[float, float] | None = None,
    progress: Progress | None = None,
    restart: bool = False,
) -> Path:
    """Write an image as OME-Zarr.

    All planes (t, c, z) go along, with scales, units, names and colours as far as they are known. The pyramid is made
    of means over 2 x 2 pixels, until no side is above 2048 px: exact for integers (half is rounded up); of real
    numbers over those that are finite, of whole ones over those that are not the file's no-data, so that it stays where
    it is. Labels in the source do not go along.

    What is begun lies in ``OUT.partial``, beside ``out``, until it is whole; the same call goes on where one was
    stopped or killed, and ends in the same bytes. A process that converts 29,000 x 29,000 px in colour takes 400 MiB.

    Parameters
    ----------
    source
        What `open_image` opens.
    out
        Folder to make, as ``NAME.ome.zarr``.
    version
        Of OME-Zarr: 0.5 (Zarr v3) or 0.4 (Zarr v2).
    chunks
        Pixels along a side of a chunk, even.
    shards
        Pixels along a side of a shard, a file of several chunks (0.5 only); None: each chunk is a file.
    compressor
        "zstd", "blosc" (zstd after a shuffle: smaller for more than 8 bits), "gzip" or "none".
    pixel_size
        As of `open_image`.
    progress
        Called with how many strips are written, and of how many; what it raises stops the conversion.
    restart
        Begin anew, and replace the Zarr that lies at ``out``, which goes when the new one is whole.

    Returns
    -------
    Path
        ``out``, absolute.

    Raises
    ------
    ImageNotFoundError, ImageFormatError, ImageReadError
        Where the source can't be opened or read.
    SettingsError
        Where a setting makes no sense.
    StoreError
        Where something lies at ``out``, or it can't be written; StoreLockedError where another process does.
    StoreMismatchError
        Where another conversion was begun there.
    """
    opened = open_image(source, pixel_size=pixel_size)
    with nullcontext(opened) if isinstance(source, Image) else closing(opened) as image:
        rows = ImageRows.of(image)
        target = Target(
            version,
            rows.axes,
            rows.shape,
            rows.dtype,
            image.channels if is_colour(image) else 1,
            chunks,
            shards,
            compressor,
        )
        parts = parts_of(rows, target, partial(area_mean, nodata=image.nodata))
        place = Place(Path(os.path.abspath(out)), _job(image, target, parts))
        place.check_source(image.source)
        with writing(place.out):
            if not place.finished(restart):
                place.check_out(restart)
                write(rows, target, parts, place, partial(_describe, image, target), progress, restart)
        return place.out


def _describe(image: Image, target: Target, store: DurableStore) -> None:
    steps = steps_of(image)
    metadata: dict[str, Any] = {"multiscales": [target.multiscale(image.name, steps.scale, steps.units, "mean")]}
    if "c" in target.axes and "c" in image.axes:
        metadata |= {"omero": omero(image, _by_channel(target.open(store)[-1], target.axes))}
    target.describe(store, metadata, beside(image))


def _by_channel(array: zarr.Array[Any], axes: str) -> NDArray[Any]:
    """The coarsest level, channels first; of many planes the one in the middle."""
    index = tuple(slice(None) if axis in "cyx" else size // 2 for axis, size in zip(axes, array.shape, strict=True))
    return np.asarray(array[index])


def _job(image: Image, target: Target, parts: Sequence[Part]) -> dict[str, Any]:
    """What decides the bytes, and the order in which they are written."""
    settings = {name: getattr(target, name) for name in ("version", "axes", "chunks", "shards", "compressor")}
    facts = {"shape": list(target.shape), "dtype": target.dtype.str, "scale": list(image.scale), "unit": image.unit}
    nodata = {} if image.nodata is None else {"nodata": image.nodata}
    order = [list(sweep) for sweep in dict.fromkeys(astuple(part.sweep) for part in parts)]
    plain: dict[str, Any] = json.loads(json.dumps({"name": image.name, **settings, **facts, **nodata, "sweeps": order}))
    return {"image": image.identity(), **plain}
