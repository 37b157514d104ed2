"""What the tags of a TIFF say of its pixels: their size, their colours, the names of the channels.

Knows OME-XML, ImageJ, SVS and GeoTIFF metadata; reads no pixels.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from napari_xt.io.source import UNKNOWN, PixelSize, pixel_size

_LINEAR_UNITS = {9001: "meter", 9002: "foot", 9003: "us_survey_foot", 9036: "kilometer"}
_GEOGRAPHIC = 2
_RGB, _YCBCR = 2, 6
_ALPHA = (1, 2)


def is_rgb(page: TiffPage) -> bool:
    """Return whether the samples are red, green, blue and perhaps alpha."""
    extra = tuple(page.extrasamples or ())
    return int(page.photometric or 0) in (_RGB, _YCBCR) and (not extra or extra[0] in _ALPHA)


def pixel_of(tif: TiffFile, page: TiffPage) -> PixelSize:
    """Return the pixel size where a microscope or a map says it; resolution tags alone often lie."""
    if tif.is_ome:
        return _ome_pixel(tif)
    if tif.is_imagej:
        return _imagej_pixel(tif, page)
    if tif.is_svs:
        match = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description)
        return pixel_size(match[1], match[1], "um") if match else UNKNOWN
    return _map_pixel(page)


def _ome_pixels(tif: TiffFile) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")  # noqa: S314 - entities were refused before
    except ElementTree.ParseError:
        return None
    return next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)


def _ome_pixel(tif: TiffFile) -> PixelSize:
    pixels = _ome_pixels(tif)
    if pixels is None:
        return UNKNOWN
    y, x = pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeX")
    return pixel_size(y, x, pixels.get("PhysicalSizeYUnit", "um"), pixels.get("PhysicalSizeXUnit", "um"))


def _imagej_pixel(tif: TiffFile, page: TiffPage) -> PixelSize:
    unit = (tif.imagej_metadata or {}).get("unit")
    if page.tags.get("XResolution") is None or page.tags.get("YResolution") is None:
        return UNKNOWN
    per_x, per_y = page.get_resolution()
    return pixel_size(1 / per_y if per_y else None, 1 / per_x if per_x else None, unit)


def _map_pixel(page: TiffPage) -> PixelSize:
    tag = page.tags.get(33550)  # ModelPixelScale
    if tag is None:
        return UNKNOWN
    keys = (page.geotiff_tags if page.is_geotiff else None) or {}
    if _code(keys.get("GTModelTypeGeoKey")) == _GEOGRAPHIC:
        return UNKNOWN
    unit = _LINEAR_UNITS.get(_code(keys.get("ProjLinearUnitsGeoKey")), "meter")
    return pixel_size(tag.value[1], tag.value[0], unit) if len(tag.value) >= 2 else UNKNOWN


def _code(key: object) -> int:
    return int(key) if isinstance(key, int) else 0


def channel_names(tif: TiffFile) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML, or nothing."""
    pixels = _ome_pixels(tif) if tif.is_ome else None
    channels = [] if pixels is None else [element for element in pixels if element.tag.endswith("}Channel")]
    return tuple(channel.get("Name") or f"channel {i}" for i, channel in enumerate(channels))
