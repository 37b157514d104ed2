"""What the tags of a TIFF say of its pixels: their size, their colours, the names of the channels.

Knows OME-XML, ImageJ and the metadata of slide scanners; reads no pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile, TiffPage

from napari_xt.io.images.geo import scale_of_tags
from napari_xt.io.images.source import UNITS_UM, UNKNOWN, PixelSize, Window, pixel_size, positive, window

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _XMP = 282, 283, 296, 700
_RESOLUTION_UNITS = {2: "inch", 3: "centimeter"}
_FINER_THAN_PRINT_UM = 20.0
_MOST_XMP = 2**20
_RGB, _YCBCR = 2, 6
_ALPHA = (1, 2)


def is_rgb(page: TiffPage) -> bool:
    """Return whether the samples are red, green, blue and perhaps alpha."""
    extra = tuple(page.extrasamples or ())
    return int(page.photometric or 0) in (_RGB, _YCBCR) and (not extra or extra[0] in _ALPHA)


def is_stitched(tif: TiffFile) -> bool:
    """Whether the tiles overlap (Ventana), so that they are no picture side by side."""
    return bool(tif.is_bif) and "<iScan" in _xmp(tif)


def pixel_of(tif: TiffFile, page: TiffPage, on_ground: tuple[PixelSize, str] | None = None) -> tuple[PixelSize, str]:
    """Return the pixel size and what states it; `UNKNOWN` and "" where nothing does that can be believed.

    What a microscope's or scanner's own metadata says comes first, then the map, then the resolution tags.

    Parameters
    ----------
    tif, page
        The file and the first page of the image.
    on_ground
        What the georeference says, and where it was found, if there is one.
    """
    stated = [*_by_writer(tif, page), on_ground or (scale_of_tags(page), "geotiff")]
    stated.append((resolution(page, trusted=bool(tif.is_ndpi or tif.is_qpi)), "resolution tags"))
    return next((one for one in stated if one[0] != UNKNOWN), (UNKNOWN, ""))


def _by_writer(tif: TiffFile, page: TiffPage) -> Iterator[tuple[PixelSize, str]]:
    """What formats of one maker say: none of them is asked for a file of another kind."""
    if tif.is_ome:
        yield _ome_pixel(tif), "ome-xml"
    elif tif.is_imagej:
        yield _imagej_pixel(tif, page), "imagej"
    elif tif.is_svs:
        yield _um(re.search(r"\bMPP\s*=\s*([\d.]+)", page.description)), "svs"
    elif tif.is_scn:
        yield _scn_pixel(tif, page), "scn"
    elif tif.is_philips:
        yield _philips_pixel(tif), "philips"


def _um(found: re.Match[str] | None) -> PixelSize:
    return pixel_size(found[1], found[1], "um") if found else UNKNOWN


def _scn_pixel(tif: TiffFile, page: TiffPage) -> PixelSize:
    """Leica: an image's view is stated in nanometres and in pixels."""
    for image in _elements(tif.scn_metadata, "image"):
        view = next((part for part in image if part.tag.endswith("}view")), None)
        pixels = next((part for part in image if part.tag.endswith("}pixels")), None)
        if view is None or pixels is None or pixels.get("sizeX") != str(page.imagewidth):
            continue
        wide, high = positive(view.get("sizeX")), positive(view.get("sizeY"))
        if wide and high:
            return pixel_size(high / page.imagelength / 1000, wide / page.imagewidth / 1000, "um")
    return UNKNOWN


def _philips_pixel(tif: TiffFile) -> PixelSize:
    """Philips: millimetres from row to row and from column to column, the finest of all that are stated."""
    text = tif.philips_metadata or ""
    spacings = re.findall(r'DICOM_PIXEL_SPACING"[^>]*>\s*(?:"|&quot;)([\d.]+)(?:"|&quot;) (?:"|&quot;)([\d.]+)', text)
    return min((pixel_size(y, x, "mm") for y, x in spacings), default=UNKNOWN)


def _xmp(tif: TiffFile) -> str:
    value = tif.pages.first.tags.valueof(_XMP)
    return value[:_MOST_XMP].decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")[:_MOST_XMP]


def resolution(page: TiffPage, *, trusted: bool) -> PixelSize:
    """Return the pixel size in the resolution tags where it can be believed.

    Most programs write 72, 96, 100, 150, 200, 300, 600 or 1200 dots an inch (or 1) without knowing: how large the
    picture is to be printed, not how large the thing was. So the tags count only where they state a unit and pixels of
    at most 20 micrometres, finer than any printer's 1270 dots an inch, that are no more than twice as long as wide.

    Parameters
    ----------
    page
        A page of a TIFF.
    trusted
        The file is of a scanner that is known to write true ones.
    """
    stated = page.tags.valueof(_RESOLUTION_UNIT)
    unit = _RESOLUTION_UNITS.get(stated) if isinstance(stated, int) else None
    (x, y) = (_ratio(page, code) for code in (_X_RESOLUTION, _Y_RESOLUTION))
    if unit is None or not x or not y:
        return UNKNOWN
    pixel = pixel_size(1 / y, 1 / x, unit)
    sizes = [size * UNITS_UM.get(pixel[1], 0.0) for size in pixel[0]]
    believed = trusted or (max(sizes) <= _FINER_THAN_PRINT_UM and max(sizes) <= 2 * min(sizes))
    return pixel_size(sizes[0], sizes[1], "um") if believed and pixel != UNKNOWN else UNKNOWN


def _ratio(page: TiffPage, code: int) -> float:
    """A rational tag, 0 where there is none."""
    value = page.tags.valueof(code)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value):
        return float(value[0] / value[1])
    return 0.0


def _elements(xml: str | None, name: str) -> list[ElementTree.Element]:
    """The elements of that name, none where it is no XML."""
    try:
        root = ElementTree.fromstring(xml or "")  # noqa: S314 - entities were refused before
    except ElementTree.ParseError:
        return []
    return [element for element in root.iter() if element.tag.endswith(f"}}{name}")]


def _ome_pixels(tif: TiffFile) -> ElementTree.Element | None:
    return next(iter(_elements(tif.ome_metadata, "Pixels")), None)


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


def channel_names(tif: TiffFile) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML, or nothing."""
    return tuple(channel.get("Name") or f"channel {i}" for i, channel in enumerate(_ome_channels(tif)))


def channel_colors(tif: TiffFile) -> tuple[str, ...]:
    """Return ``"#rrggbb"`` for each channel in OME-XML ("" where it says none) or of ImageJ's tables, or nothing."""
    if tif.is_ome:
        return tuple(_rgba(channel.get("Color")) for channel in _ome_channels(tif))
    tables = [np.asarray(table, np.uint8) for table in (tif.imagej_metadata or {}).get("LUTs") or ()]
    return tuple("#" + bytes(table[:3, -1].tolist()).hex() if table.ndim == 2 else "" for table in tables)


def channel_windows(tif: TiffFile) -> tuple[Window | None, ...]:
    """Return what ImageJ shows of each channel, or nothing."""
    ranges = (tif.imagej_metadata or {}).get("Ranges") or ()
    return tuple(window(low, high) for low, high in zip(ranges[::2], ranges[1::2], strict=False))


def _ome_channels(tif: TiffFile) -> list[ElementTree.Element]:
    pixels = _ome_pixels(tif) if tif.is_ome else None
    return [] if pixels is None else [element for element in pixels if element.tag.endswith("}Channel")]


def _rgba(stated: str | None) -> str:
    """OME's colour: red, green, blue and alpha as one signed number of 32 bits."""
    if stated is None or not re.fullmatch(r"-?\d{1,10}", stated):
        return ""
    return f"#{(int(stated) & 0xFFFFFFFF) >> 8:06x}"
