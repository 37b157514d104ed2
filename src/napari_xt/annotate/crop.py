"""A part of an image as an OME-Zarr of its own, with labels beside its pixels.

Knows images and the metadata of OME-Zarr; must not know predictions, corrections or other files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_xt.geometry import Box
from napari_xt.io.conversion.facts import beside, is_colour, omero, steps_of
from napari_xt.io.conversion.sweep import area_mean, every_other
from napari_xt.io.conversion.target import Target
from napari_xt.io.image import Image
from napari_xt.io.images.geo import Georeference
from napari_xt.io.images.source import PixelSize
from napari_xt.io.stores.layout import Rgba
from napari_xt.io.stores.ngff import labels_metadata

CHUNK = 512
UNKNOWN_NAME = "unknown"


@dataclass(frozen=True, slots=True)
class LabelClass:
    """What a value of labels means."""

    value: int
    name: str
    color: Rgba


def cropped(image: Image, box: Box, name: str, pixel: PixelSize) -> Image:
    """A part of an image, read now, as an image of its own: channels, size of pixels and place on the Earth stay.

    Parameters
    ----------
    image
        Of which a plane is chosen.
    box
        In level-0 px.
    name
        Of the part.
    pixel
        Size of a pixel and its unit.
    """
    stated = replace(
        image.stated,
        name=name,
        path=None,
        axes="cyx",
        levels=(image.read(box),),
        pixel=pixel,
        channel_names=image.channel_names,
        channel_colors=image.channel_colors,
        channel_windows=image.channel_windows,
        georeference=None if image.georeference is None else _moved(image.georeference, box),
        bounds_offset=None,
    )
    return Image(stated)


def write_crop(
    path: Path, image: Image, labels: NDArray[np.uint8], classes: Sequence[LabelClass], said: Mapping[str, Any]
) -> None:
    """Write a part as OME-Zarr 0.5: its pixels as they are, ``labels/mask`` beside them, both with a pyramid.

    Parameters
    ----------
    path
        Where nothing is.
    image
        What `cropped` gave.
    labels
        uint8 ``(y, x)`` of the image's shape: a value of ``classes``, 255 where nothing is known.
    classes
        What values of ``labels`` mean.
    said
        JSON values that the root's attribute ``napari_xt_crop`` says.
    """
    pixels = image.read(Box(0, 0, *image.shape))
    pixels = pixels[0] if image.channels == 1 else pixels
    steps, mean = steps_of(image), _mean(image)
    colour = image.channels if is_colour(image) else 1
    target = Target("0.5", "cyx"[-pixels.ndim :], pixels.shape, pixels.dtype, colour, CHUNK, None, "zstd")
    store = LocalStore(path)
    coarsest = _fill(target, store, pixels, mean)
    metadata: dict[str, Any] = {"multiscales": [target.multiscale(image.name, steps.scale, steps.units, "mean")]}
    metadata |= {"omero": omero(image, coarsest)} if pixels.ndim == 3 else {}
    target.describe(store, metadata, beside(image) | {"napari_xt_crop": dict(said)})
    zarr.create_group(store, path="labels", attributes={"ome": labels_metadata(["mask"])})
    inner = LocalStore(path / "labels" / "mask")
    flat = Target("0.5", "yx", labels.shape, labels.dtype, 1, CHUNK, None, "zstd")
    _fill(flat, inner, labels, every_other)
    multiscale = flat.multiscale("mask", steps.scale, steps.units, "nearest", middle=False)
    flat.describe(inner, {"multiscales": [multiscale], "image-label": _meaning(classes)})


def _fill(target: Target, store: LocalStore, pixels: NDArray[Any], coarser: Any) -> NDArray[Any]:
    """Write all levels; the coarsest one."""
    target.create(store)
    for level, array in enumerate(target.open(store)):
        pixels = coarser(pixels) if level else pixels
        array[...] = pixels
    return pixels


def _mean(image: Image) -> Any:
    return lambda pixels: area_mean(pixels, nodata=image.nodata)


def _meaning(classes: Sequence[LabelClass]) -> dict[str, Any]:
    known = [*classes, LabelClass(255, UNKNOWN_NAME, (0, 0, 0, 0))]
    colors = [{"label-value": one.value, "rgba": list(one.color)} for one in known]
    properties = [{"label-value": one.value, "class": one.name} for one in known]
    return {"colors": colors, "properties": properties, "source": {"image": "../../"}}


def _moved(place: Georeference, box: Box) -> Georeference:
    a, b, _, d, e, _ = place.transform
    x, y = place.place(box.x0, box.y0)
    return replace(place, transform=(a, b, x, d, e, y))
