"""Areas that were drawn elsewhere: GeoJSON of QuPath or of maps, as polygons in level-0 pixels.

Knows what features mean and georeferences; must not know models, runs or screens. What a file says is data: it is
checked before it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import AnnotationError, MissingDependencyError
from napari_xt.io.features import DO, features
from napari_xt.io.images.geo import Georeference

if TYPE_CHECKING:
    from napari_xt.io.image import Image

Ring: TypeAlias = NDArray[np.float64]  # (n, 2), y and x in level-0 px, closed or not
Color: TypeAlias = tuple[int, int, int]

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")
MOST_AREAS = 2**20
MOST_PX = 1e9  # from the image's corner
WGS84 = 4326


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """An area with what was said of it.

    Parameters
    ----------
    polygons
        One or more, each of rings ``(n, 2)``, ``y, x`` in level-0 px: the exterior, then its holes.
    label, color
        Its class and the colour of that, ``(r, g, b)`` in 0..255, where the file says them.
    name
        What it is called, "" where the file does not say.
    """

    polygons: tuple[tuple[Ring, ...], ...]
    label: str = ""
    color: Color | None = None
    name: str = ""


@dataclass(slots=True)
class _Found:
    """What a file holds, as it stands there."""

    head: dict[str, Any] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)  # x, y as stated
    qupath: bool = False


def read_annotations(path: str | os.PathLike[str], image: Image | None = None) -> list[Annotation]:
    """Read the areas of a GeoJSON file, in level-0 pixels; points and lines are left out.

    A ``FeatureCollection``, a list of features, or one, perhaps gzipped. Coordinates are taken for pixels, as QuPath
    writes them, unless the file says that it is a map, or ``image`` lies on the Earth and nothing in the file is
    QuPath's. Those of a slide with an empty margin count from the corner of what was scanned, as in QuPath.

    Parameters
    ----------
    path
        Of the file.
    image
        Whose pixels are meant: needed for maps, and for the margin of a slide.

    Raises
    ------
    AnnotationError
        Where there is no such file, it is no GeoJSON, or it is a map and the image has no place on the Earth.
    MissingDependencyError
        For a map, without pyproj, of the extra ``geo``.
    """
    place = Path(path)
    found = _read(place)
    georeference = None if image is None else image.georeference
    if not _is_map(found, georeference):
        return _moved(place, found, _offset(found.head, image))
    if georeference is None or georeference.epsg is None:
        do = "open its image, or export pixels"
        raise AnnotationError(place, "is a map, and no image with a reference system says where its pixels lie", do)
    return _from_map(place, found, georeference)


def stated_scale(path: str | os.PathLike[str]) -> tuple[tuple[float, float], str] | None:
    """Size of a level-0 pixel ``(y, x)`` and its unit, where an export of this package says it."""
    head: dict[str, Any] = {}
    next(features(Path(path), head), None)
    told = _mapping(head.get("napari_xt"))
    size, unit = told.get("pixel_size"), told.get("unit")
    if not isinstance(unit, str) or unit == "pixel" or not _numbers(size, 2) or min(size) <= 0:
        return None
    return (float(size[0]), float(size[1])), unit


def _read(path: Path) -> _Found:
    found = _Found()
    for feature in features(path, found.head):
        try:
            _take(found, feature)
        except (ValueError, TypeError, OverflowError) as error:
            raise AnnotationError(path, f"it is no GeoJSON that is understood: {error}", DO) from error
        if len(found.annotations) > MOST_AREAS:
            raise AnnotationError(path, f"it holds more than {MOST_AREAS} areas", "split it")
    return found


def _take(found: _Found, feature: object) -> None:
    if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
        raise ValueError("it holds something that is no feature")
    told = _mapping(feature.get("properties"))
    found.qupath |= "objectType" in told or "object_type" in told
    if polygons := _polygons(feature.get("geometry")):
        kind = _mapping(told.get("classification"))
        label = kind.get("name") or told.get("class") or ": ".join(map(str, _list(kind.get("names"))))
        color = _color(kind.get("color", kind.get("colorRGB", told.get("color"))))
        found.annotations.append(Annotation(polygons, _word(label), color, _word(told.get("name"))))


def _polygons(geometry: object) -> tuple[tuple[Ring, ...], ...]:
    """The polygons of a geometry as they are stated, none of one that has no area."""
    told = _mapping(geometry)
    kind, parts = told.get("type"), told.get("coordinates")
    if kind == "GeometryCollection":
        return tuple(polygon for part in _list(told.get("geometries")) for polygon in _polygons(part))
    if kind not in ("Polygon", "MultiPolygon"):
        return ()
    found = (tuple(map(_ring, _list(polygon))) for polygon in ([parts] if kind == "Polygon" else _list(parts)))
    return tuple(polygon for polygon in found if polygon)


def _ring(points: object) -> Ring:
    """One ring, ``(n, 2)`` as it is stated; heights are left out."""
    found = np.array(_list(points))
    if found.ndim != 2 or len(found) < 3 or found.shape[1] < 2 or found.dtype.kind not in "iuf":
        raise ValueError("a polygon's ring is no list of three points or more")
    ring = np.ascontiguousarray(found[:, :2], np.float64)
    if not (np.abs(ring) <= MOST_PX).all():  # NaN is not
        raise ValueError("a polygon has a corner that is nowhere")
    return ring


def _color(value: object) -> Color | None:
    """Three numbers, ``#rrggbb``, or one number as QuPath packed them once."""
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        value = int(value[1:], 16)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if not _numbers(value, 3):
        return None
    red, green, blue = (max(0, min(255, round(part))) for part in value)
    return red, green, blue


def _is_map(found: _Found, georeference: Georeference | None) -> bool:
    flavour = _mapping(found.head.get("napari_xt")).get("flavour")
    if flavour in ("qupath", "map"):
        return bool(flavour == "map")
    return not found.qupath and ("crs" in found.head or georeference is not None)


def _offset(head: Mapping[str, Any], image: Image | None) -> tuple[float, float]:
    """``(y, x)`` in level-0 px of the corner that the file counts from."""
    told = _mapping(head.get("napari_xt"))
    if "flavour" in told:
        stated = told.get("bounds_offset")
        return (float(stated[0]), float(stated[1])) if _numbers(stated, 2) else (0.0, 0.0)
    return (0.0, 0.0) if image is None or image.bounds_offset is None else image.bounds_offset


def _moved(path: Path, found: _Found, offset: tuple[float, float]) -> list[Annotation]:
    return [_with(path, one, lambda ring: ring[:, ::-1] + offset) for one in found.annotations]


def _from_map(path: Path, found: _Found, georeference: Georeference) -> list[Annotation]:
    """Longitudes and latitudes, or what an old ``crs`` member says they are, as pixels."""
    try:
        from pyproj import Transformer
        from pyproj.exceptions import CRSError
    except ImportError as error:
        do = 'pip install "napari-xt[geo]"'
        raise MissingDependencyError("maps", "pyproj is not installed", do) from error
    try:
        there = Transformer.from_crs(_epsg(found.head), georeference.epsg, always_xy=True)
    except CRSError as error:
        raise AnnotationError(path, "its reference system, or the image's, is not known", "export pixels") from error
    a, b, c, d, e, f = georeference.transform
    back = np.linalg.inv([[a, b], [d, e]])

    def pixels(ring: Ring) -> Ring:
        x, y = there.transform(*ring.T)
        if not np.isfinite([x, y]).all():
            do = 'state pixels with a member "napari_xt": {"flavour": "qupath"}'
            raise AnnotationError(path, "its coordinates are no longitudes and latitudes", do)
        return np.stack([np.asarray(x) - c, np.asarray(y) - f], axis=1) @ back.T[:, ::-1]

    return [_with(path, one, pixels) for one in found.annotations]


def _epsg(head: Mapping[str, Any]) -> int:
    """The code of the ``crs`` member of older files: ``urn:ogc:def:crs:EPSG::32612``, ``EPSG:32612``; else WGS 84."""
    name = _mapping(_mapping(head.get("crs")).get("properties")).get("name")
    code = re.search(r"EPSG:[\d.]*:?(\d{1,9})$", name) if isinstance(name, str) else None
    return int(code[1]) if code else WGS84


def _with(path: Path, annotation: Annotation, place: Callable[[Ring], Ring]) -> Annotation:
    polygons = tuple(tuple(map(place, polygon)) for polygon in annotation.polygons)
    if not all((np.abs(ring) <= MOST_PX).all() for polygon in polygons for ring in polygon):
        raise AnnotationError(path, "it lies where the image can't", "check that it is of this image")
    return Annotation(polygons, annotation.label, annotation.color, annotation.name)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _numbers(value: object, count: int) -> TypeGuard[list[float]]:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(isinstance(part, int | float) and abs(part) < MOST_PX for part in value)
