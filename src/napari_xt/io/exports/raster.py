"""Predictions as rasters on the grid of their image: OME-TIFF, GeoTIFF (COG) and OME-Zarr labels.

Knows these formats; must not know how the file gets its name, and reads pixels through `grid`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_xt.errors import MissingDependencyError, SettingsError, printable
from napari_xt.geometry import Box
from napari_xt.io.conversion.sweep import Column, Lead, every_other
from napari_xt.io.conversion.target import Target
from napari_xt.io.exports.cog import arrange
from napari_xt.io.exports.grid import NOT_COMPUTED, Raster
from napari_xt.io.exports.maps import INSTALL
from napari_xt.io.exports.wanted import Wanted, provenance
from napari_xt.io.images.geo import Georeference
from napari_xt.io.images.source import UNITS_UM
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores import ngff

TILE = 512
READ_BYTES = 64 << 20
CLASSIC_BYTES = 2**32 - 2**25  # of a TIFF whose offsets have 32 bits, with room for what describes it
UNKNOWN_NAME = "not computed"
PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEYS, METADATA, NO_DATA = 33550, 33922, 34264, 34735, 42112, 42113
GEOGRAPHIC = frozenset({4326, 4258, 4269, 4979})
PROJECTED = frozenset({3857, *range(32601, 32661), *range(32701, 32761)})
MOST_EPSG = 65535


def write_ome_tiff(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """The mask as a tiled, pyramidal OME-TIFF; class names and what it is of lie in its annotations.

    uint8: the value of a class, 255 where nothing was computed.
    """
    raster = Raster(prediction, "mask")
    metadata: dict[str, Any] = {"axes": "YX", "Name": printable(path.name.split(".")[0])}
    scale = _micrometres(prediction)
    if scale is not None:
        metadata |= {"PhysicalSizeY": scale[0], "PhysicalSizeX": scale[1]}
        metadata |= {"PhysicalSizeYUnit": "\u00b5m", "PhysicalSizeXUnit": "\u00b5m"}
    said = {
        name: printable(value if isinstance(value, str) else json.dumps(value))
        for name, value in _said(raster, wanted).items()
    }
    metadata["MapAnnotation"] = {"Namespace": "napari-xt/mask", "Value": said}
    centimetre = None if scale is None else (1e4 / scale[1], 1e4 / scale[0])
    with tifffile.TiffWriter(path, bigtiff=_is_big(raster), ome=True) as tif:
        options = _options(raster) | {"photometric": "minisblack"}
        if centimetre is not None:
            options |= {"resolution": centimetre, "resolutionunit": "CENTIMETER"}
        for level, shape in enumerate(raster.shapes):
            first = {"metadata": metadata, "subifds": len(raster.shapes) - 1} if level == 0 else {"subfiletype": 1}
            tif.write(_tiles(raster, level, wanted), shape=shape, **options, **first)


def write_geotiff(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """The mask, the probabilities or the region scores as a Cloud Optimized GeoTIFF on the image's grid.

    The mask is uint8 with a colour for each class, no data 255; the others are float32, a band for each class, 0..1, no
    data NaN.

    Raises
    ------
    SettingsError
        Where the image does not say where it lies on the Earth.
    MissingDependencyError
        Where pyproj is needed to tell what kind of reference system it has.
    """
    (what,) = wanted.what
    raster = Raster(prediction, what)
    if not raster.bands:
        raise SettingsError(f"what = {what!r}", "the prediction has no scores", "choose another output")
    tags = [*_place_tags(_georeference(prediction)), _text_tag(METADATA, _gdal_metadata(raster, wanted))]
    nothing = _text_tag(NO_DATA, "nan" if raster.what != "mask" else str(NOT_COMPUTED))
    begun = path.with_name(f"{path.name}.levels")
    with tifffile.TiffWriter(begun, bigtiff=_is_big(raster), byteorder="<") as tif:
        for level, (height, width) in enumerate(raster.shapes):
            shape = (height, width) if raster.bands == 1 else (height, width, raster.bands)
            extra = {"extratags": [nothing] if level else [*tags, nothing], "subfiletype": 1 if level else 0}
            options = _options(raster) | _colours(raster) | extra
            tif.write(_tiles(raster, level, wanted), shape=shape, metadata=None, **options)
    arrange(begun, path)
    begun.unlink()


def write_ome_zarr(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """The mask as ``labels/mask`` of an OME-Zarr 0.5 whose image is the run's small picture of the source.

    uint8: the value of a class, 255 where nothing was computed; each level is every second pixel of the one before.
    """
    layout, raster = prediction.layout, Raster(prediction, "mask")
    root = LocalStore(path)
    said = {"ome": ngff.image_metadata(path.name.split(".")[0], layout), "napari_xt_export": _said(raster, wanted)}
    zarr.create_group(root, attributes=json.loads(json.dumps(said)))
    zarr.create_group(root, path="labels", attributes={"ome": ngff.labels_metadata(["mask"])})
    _copy_overview(prediction, root)
    store = LocalStore(path / "labels" / "mask")
    target = Target("0.5", "yx", raster.shapes[0], raster.dtype, 1, TILE, None, "zstd")
    target.create(store)
    rows = _MaskRows(raster)
    column = Column(rows, target.open(store), TILE, ((), 0, rows.shape[1]), reduce=every_other)
    for done in column.write():
        wanted.tell(done, column.strips)
    unit = {} if layout.frame.unit == "pixel" else dict.fromkeys("yx", layout.frame.unit)
    scale = dict(zip("yx", layout.frame.scale, strict=True))
    multiscale = target.multiscale("mask", scale, unit, "nearest", middle=False)
    target.describe(store, {"multiscales": [multiscale], "image-label": _label(raster)})


def _copy_overview(prediction: Prediction, root: LocalStore) -> None:
    picture = np.asarray(prediction.overview[...])
    chunks = (*picture.shape[:-2], *(min(size, TILE) for size in picture.shape[-2:]))
    zarr.create_array(root, name="0", data=picture, chunks=chunks, dimension_names=ngff.axis_names(picture.ndim))


class _MaskRows:
    """The mask on the grid of level 0, as what strips come from."""

    def __init__(self, raster: Raster) -> None:
        self._raster = raster
        self.shape: tuple[int, ...] = raster.shapes[0]
        self.dtype = raster.dtype
        self.chunks: tuple[int, ...] = (TILE, TILE)

    def read(self, _lead: Lead, box: Box) -> NDArray[Any]:
        """The mask of a box; it has no planes."""
        return self._raster.read(0, box)[..., 0]


def _said(raster: Raster, wanted: Wanted) -> dict[str, Any]:
    """What the file says of itself."""
    classes: dict[str, str] = {str(value): name for value, name in enumerate(raster.names)}
    if raster.what == "mask":
        classes[str(NOT_COMPUTED)] = UNKNOWN_NAME
    return {"what": raster.what, "classes": classes, **provenance(raster.prediction, wanted)}


def _label(raster: Raster) -> dict[str, Any]:
    values = range(len(raster.names))
    rgba = raster.prediction.layout.rgba
    colors = [{"label-value": value, "rgba": list(rgba(value))} for value in values]
    properties = [{"label-value": value, "class": raster.names[value]} for value in values]
    colors.append({"label-value": NOT_COMPUTED, "rgba": [0, 0, 0, 0]})
    properties.append({"label-value": NOT_COMPUTED, "class": UNKNOWN_NAME})
    return {"colors": colors, "properties": properties, "source": {"image": "../../"}}


def _options(raster: Raster) -> dict[str, Any]:
    """What every level of a TIFF has in common."""
    predictor = 3 if raster.dtype.kind == "f" else None
    return {"dtype": raster.dtype, "tile": (TILE, TILE), "compression": "adobe_deflate", "predictor": predictor}


def _colours(raster: Raster) -> dict[str, Any]:
    if raster.what != "mask":
        extra = {} if raster.bands == 1 else {"planarconfig": "contig", "extrasamples": [0] * (raster.bands - 1)}
        return {"photometric": "minisblack", **extra}
    colours = np.zeros((3, 256), np.uint16)
    for value in range(len(raster.names)):
        colours[:, value] = np.array(raster.prediction.layout.rgba(value)[:3]) * 257
    return {"photometric": "palette", "colormap": colours}


def _tiles(raster: Raster, level: int, wanted: Wanted) -> Iterator[NDArray[Any]]:
    counts = [-(-height // TILE) * -(-width // TILE) for height, width in raster.shapes]
    done = sum(counts[:level])
    for number, tile in enumerate(raster.tiles(level, TILE, READ_BYTES), start=1):
        wanted.tell(done + number, sum(counts))
        yield tile[..., 0] if raster.bands == 1 else tile


def _is_big(raster: Raster) -> bool:
    """Whether the file could be too long for offsets of 32 bits, were nothing compressed."""
    pixels = sum((height + TILE) * (width + TILE) for height, width in raster.shapes)
    return pixels * raster.bands * raster.dtype.itemsize > CLASSIC_BYTES


def _micrometres(prediction: Prediction) -> tuple[float, float] | None:
    (y, x), factor = prediction.layout.frame.scale, UNITS_UM.get(prediction.layout.frame.unit)
    return None if factor is None else (y * factor, x * factor)


def _georeference(prediction: Prediction) -> Georeference:
    found = Georeference.from_json(prediction.header.notes.get("georeference"))
    if found is None:
        why = "its image does not say where it lies on the Earth, which a GeoTIFF needs"
        raise SettingsError(prediction.path, why, "export it as .ome.tif or .ome.zarr")
    return found


def _place_tags(place: Georeference) -> list[tuple[Any, ...]]:
    """The tags that say where the grid lies: scale and tie point where north is up, else all of the transform."""
    a, b, c, d, e, f = place.transform
    keys = [(1025, 0, 1, 1)]  # a pixel is an area
    if place.epsg is not None:
        geographic = _is_geographic(place.epsg)
        keys = [(1024, 0, 1, 2 if geographic else 1), *keys, (2048 if geographic else 3072, 0, 1, place.epsg)]
    directory = [number for key in ((1, 1, 0, len(keys)), *keys) for number in key]
    if b == d == 0 and a > 0 > e:
        where = [_numbers_tag(PIXEL_SCALE, (a, -e, 0.0)), _numbers_tag(TIEPOINT, (0.0, 0.0, 0.0, c, f, 0.0))]
    else:
        matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        where = [_numbers_tag(TRANSFORMATION, matrix)]
    return [*where, (KEYS, "H", len(directory), directory, True)]


def _is_geographic(epsg: int) -> bool:
    """Whether the reference system counts in degrees."""
    if epsg in PROJECTED or epsg in GEOGRAPHIC:
        return epsg in GEOGRAPHIC
    if epsg > MOST_EPSG:
        raise SettingsError(f"EPSG:{epsg}", "has no place in a GeoTIFF", "export it as .ome.tif or .ome.zarr")
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise MissingDependencyError("maps", "pyproj is not installed", INSTALL) from error
    try:
        return bool(CRS.from_epsg(epsg).is_geographic)
    except CRSError as error:
        raise SettingsError(f"EPSG:{epsg}", "is no known reference system", "export it as .ome.tif") from error


def _gdal_metadata(raster: Raster, wanted: Wanted) -> str:
    said = _said(raster, wanted)
    names = raster.names if raster.what != "mask" else ("mask",)
    items = [_item(name, value) for name, value in said.items()]
    items += [_item("DESCRIPTION", name, f' sample="{i}" role="description"') for i, name in enumerate(names)]
    return f"<GDALMetadata>{''.join(items)}</GDALMetadata>"


def _item(name: str, value: object, more: str = "") -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return f'<Item name="{name}"{more}>{escape(escape(text))}</Item>'  # GDAL writes and reads it escaped twice


def _text_tag(code: int, text: str) -> tuple[Any, ...]:
    data = text.encode("utf-8") + b"\0"
    return code, "s", len(data), data, True


def _numbers_tag(code: int, numbers: Sequence[float]) -> tuple[Any, ...]:
    return code, "d", len(numbers), numbers, True
