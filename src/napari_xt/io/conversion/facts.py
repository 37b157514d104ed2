"""What an image says of itself that goes along when it is converted: scales, units, names, colours, windows.

Knows images and the metadata of OME files; reads no pixels but those of the coarsest level.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_xt.io.image import Image
from napari_xt.io.images.nodata import nodata_attributes
from napari_xt.io.images.source import RGB_NAMES, Window, positive, unit_name
from napari_xt.io.stores.ngff import LENGTHS

MOST_BYTES = 16 << 20  # of a file of metadata
PRIMARIES = ("FF0000", "00FF00", "0000FF", "FFFFFF")
DYES = ("00FFFF", "FF00FF", "FFFF00", "FF0000", "00FF00", "0000FF")
SECONDS = {
    "s": "second",
    "ms": "millisecond",
    "\u00b5s": "microsecond",
    "ns": "nanosecond",
    "min": "minute",
    "h": "hour",
}


@dataclass(frozen=True, slots=True)
class Steps:
    """How far it is from one pixel to the next along each axis, by its letter, and the name of the unit."""

    scale: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def steps_of(image: Image) -> Steps:
    """What ``image`` says of y and x, and the file that it was opened from of z and t."""
    told = _of_file(Path(image.source)) if image.source and "://" not in image.source else Steps()
    size, unit = image.scale, image.unit
    if unit not in LENGTHS and image.scale_um is not None:
        size, unit = image.scale_um, "micrometer"
    known = {} if unit == "pixel" else {"y": unit, "x": unit}
    units = {axis: name for axis, name in told.units.items() if axis not in "yx"}
    return Steps(told.scale | dict(zip("yx", size, strict=True)), units | known)


def beside(image: Image) -> dict[str, object]:
    """What stands beside the standard's metadata: where the image lies on the Earth, and its number for no-data."""
    place = {} if image.georeference is None else image.georeference.to_attributes()
    return place | ({} if image.nodata is None else nodata_attributes(image.nodata))


def is_colour(image: Image) -> bool:
    """Whether the channels are red, green, blue and perhaps alpha, in 8 or 16 bits."""
    named = image.channels in (3, 4) and image.channel_names == RGB_NAMES[: image.channels]
    return image.rgb or (named and image.dtype in (np.dtype("u1"), np.dtype("u2")))


def omero(image: Image, coarsest: NDArray[Any]) -> dict[str, Any]:
    """The value of ``omero``: name, colour and contrast limits of each channel.

    Limits that the source does not state are those of the pixels in ``coarsest``, ``(c, ...)``, and all of the type for
    a colour picture in 8 bits.
    """
    colour = is_colour(image)
    channels = []
    for i, (name, color) in enumerate(zip(image.channel_names, _colors(image), strict=True)):
        window = _window(coarsest[i], image.channel_windows[i], full=colour and coarsest.dtype == np.uint8)
        channels.append({"label": name, "color": color, "active": not (colour and i == 3), "window": window})
    return {"channels": channels}


def _window(values: NDArray[Any], stated: Window | None, *, full: bool) -> dict[str, float | int]:
    finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 1)
    if values.dtype.kind == "b":
        low, high = 0, 1
    whole = values.dtype.kind in "ui"
    least, most = (np.iinfo(values.dtype).min, np.iinfo(values.dtype).max) if whole else (low, high)
    start, end = stated or ((least, most) if full else (low, high))
    return {"min": least, "max": most, "start": start, "end": end if end > start else start + 1}


def _colors(image: Image) -> tuple[str, ...]:
    """Six hexadecimal digits for each channel: as stated, else chosen."""
    if is_colour(image):
        chosen = PRIMARIES[: image.channels]
    else:
        count = image.channels
        chosen = ("FFFFFF",) if count == 1 else tuple(DYES[i % len(DYES)] for i in range(count))
    stated = (color.lstrip("#").upper() for color in image.channel_colors)
    return tuple(color or other for color, other in zip(stated, chosen, strict=True))


def _of_file(path: Path) -> Steps:
    """Nothing where the file's metadata makes no sense: the image opened all the same."""
    try:
        return _of_zarr(path) if path.is_dir() else _of_tiff(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return Steps()


def _of_zarr(path: Path) -> Steps:
    file = next(file for file in (path / "zarr.json", path / ".zattrs") if file.is_file())
    if file.stat().st_size > MOST_BYTES:
        return Steps()
    found = json.loads(file.read_bytes())
    attributes = found.get("attributes", {}) if file.name == "zarr.json" else found
    ome = attributes.get("ome", attributes)
    multiscale = ome["multiscales"][0]
    axes = [axis for axis in multiscale["axes"] if isinstance(axis, Mapping)]
    scales = [
        next((step["scale"] for step in steps or () if step.get("type") == "scale"), [1.0] * len(axes))
        for steps in (
            multiscale.get("coordinateTransformations"),
            multiscale["datasets"][0]["coordinateTransformations"],
        )
    ]
    steps = {axis["name"]: positive(math.prod(pair)) for axis, *pair in zip(axes, *scales, strict=True)}
    return Steps(
        {name: step for name, step in steps.items() if step and name in "tz"},
        {axis["name"]: str(axis["unit"]) for axis in axes if axis.get("unit")},
    )


def _of_tiff(path: Path) -> Steps:
    with tifffile.TiffFile(path, _multifile=False) as tif:
        xml = tif.ome_metadata
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels")), None) if xml else None  # noqa: S314 - entities were refused when the image was opened
    if pixels is None:
        return Steps()
    steps = {"z": positive(pixels.get("PhysicalSizeZ")), "t": positive(pixels.get("TimeIncrement"))}
    units = {
        "z": unit_name(pixels.get("PhysicalSizeZUnit", "um")),
        "t": SECONDS.get(pixels.get("TimeIncrementUnit", "s")),
    }
    return Steps(
        {axis: step for axis, step in steps.items() if step},
        {axis: unit for axis, unit in units.items() if unit and steps[axis]},
    )
