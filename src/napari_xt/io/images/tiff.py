"""Opens TIFF: OME-TIFF, pyramids, GeoTIFF, ImageJ, SVS, plain tiles and strips.

Knows TIFF tags; reads no pixels when it opens and never follows a file to another one.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from tifffile import TIFF, TiffFile, TiffPageSeries

from napari_xt.errors import ImageFormatError
from napari_xt.io.images.bands import check_declared
from napari_xt.io.images.cached import LARGE_PX, cached_levels
from napari_xt.io.images.geo import placed_by_tags, placed_by_world_file
from napari_xt.io.images.guard import MAX_DECODED_BYTES, check_array, check_size, consistent_levels, level_fits
from napari_xt.io.images.mapped import MappedArray
from napari_xt.io.images.nodata import whole_nodata, without_data
from napari_xt.io.images.pyramid import MAX_GUESSED_CHANNELS
from napari_xt.io.images.segments import guard_segments
from napari_xt.io.images.slides import SlideError
from napari_xt.io.images.source import ArrayLike, Source
from napari_xt.io.images.tifftags import channel_colors, channel_names, channel_windows, is_rgb, is_stitched, pixel_of
from napari_xt.io.images.tiles import TiledPage, one_tiled_page
from napari_xt.io.images.turned import turned

_CUT = re.compile(
    r"invalid page offset|invalid value offset|corrupted tag list|missing data|Counts tag|invalid SubIFDs"
)
_MAPPED_FROM_BYTES = 2**20
_ORIENTATION, _GDAL_NODATA = 274, 42113
_GREY, _RGB, _YCBCR = 1, 2, 6  # photometric interpretations
_IN_ROWS = frozenset({5, 7, 8, 32773, 32946})  # LZW, JPEG, deflate, PackBits
_TYPES_IN_ROWS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_HUGE_STRIP = 2**26  # bytes


def open_tiff(path: str, name: str) -> Source:
    """Open the first image of a TIFF file.

    Parameters
    ----------
    path
        Absolute path of a file that starts as a TIFF does.
    name
        Name of the image.

    Raises
    ------
    ImageFormatError
        Where the file is damaged, cut short, spread over several files or uses something that is not understood.
    """
    with _listening() as complaints:
        tif = _parse(path)
        try:
            source = _checked(path, name, tif)
            _check_complaints(path, complaints)
        except BaseException:
            tif.close()
            raise
    return source


def _checked(path: str, name: str, tif: TiffFile) -> Source:
    try:
        _check_xml(path, tif)
        if is_stitched(tif):
            raise SlideError(path, "is a Ventana BIF, whose tiles overlap", "convert it to OME-Zarr")  # noqa: TRY301
        return _source(path, name, tif, _main(tif))
    except (ImageFormatError, PermissionError):
        raise
    except Exception as error:  # damaged tags raise almost anything
        raise _damaged(path, error) from error


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what tifffile logs in this thread: that is the only place where it tells of damage."""
    complaints: list[str] = []
    thread = threading.get_ident()

    def listen(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        complaints.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(listen)
    try:
        yield complaints
    finally:
        logger.removeFilter(listen)


def _parse(path: str) -> TiffFile:
    try:
        # a private switch, but the only one that keeps OME-XML from opening other files
        return TiffFile(path, _multifile=False)
    except PermissionError:
        raise
    except Exception as error:  # damaged tags raise almost anything
        raise _damaged(path, error) from error


def _damaged(path: str, error: object) -> ImageFormatError:
    why = (str(error).splitlines() or [""])[0][:80] or type(error).__name__
    return ImageFormatError(path, f"the TIFF is damaged or cut short ({why})", "copy or export it again")


def _check_complaints(path: str, complaints: list[str]) -> None:
    cut = next((found[0] for text in complaints if (found := _CUT.search(text))), None)
    if cut is not None:
        raise _damaged(path, cut)


def _check_xml(path: str, tif: TiffFile) -> None:
    xml = tif.ome_metadata or ""
    first = tif.pages.first.description
    if any(mark in text for text in (xml, first) for mark in ("<!DOCTYPE", "<!ENTITY")):
        raise ImageFormatError(path, "its XML declares entities, which are not allowed", "export it again")
    # a renamed single file names its old self, so the names are counted, not compared
    if len(set(re.findall(r'FileName="([^"]*)"', xml))) > 1:
        raise ImageFormatError(path, "the image is spread over several files", "convert it to one file or OME-Zarr")


def _source(path: str, name: str, tif: TiffFile, series: TiffPageSeries) -> Source:
    axes = _axes(series)
    page = series.keyframe
    parts = [level for level in _levels(tif, series, axes) if level.axes == series.axes]
    nodata = page.tags.valueof(_GDAL_NODATA)
    in_rows = len(parts) == 1 and nodata is None and not tif.is_ndpi and _in_rows(series)
    for level in parts:
        _check_level(path, tif, level, in_rows=in_rows)
    let_go: Callable[[], None] = tif.close
    if in_rows:
        levels, let_go = cached_levels(path, "TIFF", int(page.index))
    else:
        levels = consistent_levels(path, axes, [without_data(_array(path, level), nodata) for level in parts])
    by_tags = placed_by_tags(page)
    placed = by_tags or placed_by_world_file(path)
    y, x = (int(levels[0].shape[axes.index(axis)]) for axis in "yx")
    pixel, stated_by = pixel_of(
        tif, page, None if placed is None else (placed.pixel((y, x)), "geotiff" if by_tags else "world file")
    )
    stored = Source(
        name=name,
        path=path,
        axes=axes,
        levels=levels,
        pixel=pixel,
        stated_by=stated_by,
        georeference=None if placed is None else placed.georeference,
        nodata=whole_nodata(np.dtype(page.dtype), nodata),
        channel_names=channel_names(tif),
        channel_colors=channel_colors(tif),
        channel_windows=channel_windows(tif),
        rgb=is_rgb(page),
        close=let_go,
    )
    upright = turned(stored, page.tags.valueof(_ORIENTATION))
    if in_rows:
        tif.close()
    return upright


def _main(tif: TiffFile) -> TiffPageSeries:
    """The first image; in a Leica SCN the largest one, since the first shows the glass."""
    return max(tif.series, key=lambda series: series.size) if tif.is_scn else tif.series[0]


def _axes(series: TiffPageSeries) -> str:
    """One lower-case letter for each axis: samples are channels, an unnamed short first axis too."""
    axes = series.axes.upper()
    if "S" in axes:
        axes = axes.replace("C", "I" if "I" not in axes else "R").replace("S", "C")
    elif axes == "QYX" and series.shape[0] <= MAX_GUESSED_CHANNELS and series.shape[0] < min(series.shape[1:]):
        axes = "CYX"
    return axes.lower()


def _levels(tif: TiffFile, series: TiffPageSeries, axes: str) -> list[TiffPageSeries]:
    """The series' own levels, or later series that are halvings of it, as some writers store pyramids."""
    if len(series.levels) > 1:
        return list(series.levels)
    return [series, *(other for other in tif.series[1:] if _is_level(axes, series, other))]


def _is_level(axes: str, series: TiffPageSeries, other: TiffPageSeries) -> bool:
    if other.axes != series.axes or not level_fits(axes, series, other):
        return False
    factor = math.log2(max(series.shape) / max(other.shape))
    return bool(other.keyframe.is_reduced) or abs(factor - round(factor)) < 0.02


def _in_rows(series: TiffPageSeries) -> bool:
    """Whether it is one large picture in huge strips, which only rows fit into the memory."""
    page = series.keyframe
    plain = page.compression in _IN_ROWS and page.photometric in (_GREY, _RGB, _YCBCR) and page.planarconfig == 1
    known = series.axes in ("YX", "YXS") and page.dtype in _TYPES_IN_ROWS and page.fillorder == 1
    known = known and page.samplesperpixel in (1, 3, 4)
    huge = not page.is_tiled and math.prod(page.chunks) * series.dtype.itemsize > _HUGE_STRIP
    light = max(page.databytecounts, default=0) <= MAX_DECODED_BYTES // 2
    return plain and known and huge and light and page.imagelength * page.imagewidth > LARGE_PX


def _check_level(path: str, tif: TiffFile, level: TiffPageSeries, *, in_rows: bool) -> None:
    page = level.keyframe
    if page.dtype is None or not {"Y", "X"} <= set(level.axes):
        raise ImageFormatError(path, f"a TIFF with axes {level.axes} and {page.bitspersample} bits is not understood")
    if page.compression not in TIFF.DECOMPRESSORS:
        raise ImageFormatError(path, f"TIFF compression {page.compression} is not supported", "save it another way")
    check_array(path, level)
    _check_segments(path, level, tif.filehandle.size)
    if in_rows:
        check_declared(path, page.imagelength, page.imagewidth, level.nbytes, tif.filehandle.size)
    elif not page.is_memmappable:
        nbytes = math.prod(page.chunks) * level.dtype.itemsize
        if tif.is_ndpi and nbytes > MAX_DECODED_BYTES:
            raise SlideError(path, "is an NDPI slide without tiles", "convert it to OME-Zarr")
        check_size(path, "one of its tiles or strips", nbytes)
        guard_segments(page)


def _check_segments(path: str, level: TiffPageSeries, size: int) -> None:
    """Refuse a level whose tiles or strips lie beyond the end of the file; absent ones (0 bytes) are empty."""
    if level.dataoffset is not None:
        end, count = level.dataoffset + level.nbytes, 1
    else:
        pages = [page for page in (level.pages[0], level.pages[-1]) if page is not None]
        end = max((_end(page) for page in pages), default=0)
        count = min((len(page.dataoffsets) for page in pages), default=0)
    if end > size or level.is_truncated:
        raise ImageFormatError(path, f"the TIFF is cut short: it has {size} of {end} bytes", "copy or export it again")
    if level.dataoffset is None and count < math.prod(level.keyframe.chunked):
        raise _damaged(path, f"{count} of {math.prod(level.keyframe.chunked)} tiles or strips")


def _end(page: Any) -> int:
    """The last byte of a page or frame."""
    return max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), default=0)


def _array(path: str, level: TiffPageSeries) -> ArrayLike:
    page = level.keyframe
    big_strips = page.is_memmappable and math.prod(page.chunks) * level.dtype.itemsize > _MAPPED_FROM_BYTES
    if level.dataoffset is not None and big_strips:
        dtype = np.dtype(page.parent.byteorder + level.dtype.char)
        return MappedArray(path, level.dataoffset, tuple(level.shape), dtype)
    if (one := one_tiled_page(level)) is not None:
        return TiledPage(one)
    # two workers: decode in threads, not in the one that runs zarr's event loop
    store = level.aszarr(level=0, maxworkers=2)
    return zarr.open_array(store, mode="r", zarr_format=2)
