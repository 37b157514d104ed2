"""Where an image lies on the Earth: GeoTIFF tags and world files become one affine transform and an EPSG code.

Knows map metadata; knows no pixels, reprojects nothing and needs no map library.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tifffile import TiffPage

from napari_xt.io.images.source import UNITS_UM, UNKNOWN, PixelSize, pixel_size

Transform = tuple[float, float, float, float, float, float]

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORMATION, _DIRECTORY = 33550, 33922, 34264, 34735
_MODEL_TYPE, _RASTER_TYPE, _GEOGRAPHIC_CODE, _ANGULAR_UNIT = 1024, 1025, 2048, 2054
_PROJECTED_CODE, _LINEAR_UNIT = 3072, 3076
_GEOGRAPHIC, _PIXEL_IS_POINT, _USER_DEFINED = 2, 2, 32767
_LENGTHS = {0: "meter", 9001: "meter", 9002: "foot", 9003: "us_survey_foot", 9036: "kilometer"}
_ANGLES = {0: "degree", 9101: "radian", 9102: "degree", 9122: "degree"}
_RADIANS = {"degree": math.pi / 180, "radian": 1.0}
_WEB_MERCATOR = frozenset({3857, 3785, 900913, 102100, 102113})
_A, _F = 6_378_137.0, 1 / 298.257223563  # WGS 84: half the equator's diameter in metres, flattening
_MOST = 1e30  # metres or degrees
_MOST_BYTES = 2**16  # of a text file beside the image


@dataclass(frozen=True, slots=True)
class Georeference:
    """How level-0 pixels lie in a coordinate reference system.

    Parameters
    ----------
    transform
        ``(a, b, c, d, e, f)``: ``X = a x + b y + c``, ``Y = d x + e y + f`` for pixel corners ``(x, y)``, so that
        (0, 0) is the outer corner of the first pixel and (0.5, 0.5) its centre.
    epsg
        Code of the reference system, None where the file does not name one.
    """

    transform: Transform
    epsg: int | None = None

    def to_json(self) -> dict[str, object]:
        """The georeference as values of JSON."""
        return {"transform": list(self.transform), "epsg": self.epsg}

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Return what `to_json` made, None where ``value`` is nothing of that kind."""
        transform = _affine(value.get("transform")) if isinstance(value, Mapping) else None
        if transform is None or not isinstance(value, Mapping):
            return None
        return cls(transform, _epsg(value.get("epsg")))

    def to_attributes(self) -> dict[str, object]:
        """The georeference as attributes of a Zarr group, by the names that GeoZarr gives."""
        code = {} if self.epsg is None else {"proj:code": f"EPSG:{self.epsg}"}
        return {**code, "spatial:dimensions": ["y", "x"], "spatial:transform": list(self.transform)}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, object]) -> Self | None:
        """Return what `to_attributes` made, None where the attributes of a group hold nothing of that kind."""
        code = re.fullmatch(r"EPSG:(\d{1,9})", str(attributes.get("proj:code")))
        told = {"transform": attributes.get("spatial:transform"), "epsg": int(code[1]) if code else None}
        return cls.from_json(told) if attributes.get("spatial:dimensions") == ["y", "x"] else None

    def place(self, x: float, y: float) -> tuple[float, float]:
        """``(X, Y)`` in the reference system of the pixel corner ``(x, y)``."""
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f


@dataclass(frozen=True, slots=True)
class Placed:
    """A georeference with the name of its unit: a length, an angle, or "" where nothing says it."""

    georeference: Georeference
    unit: str

    def pixel(self, shape: tuple[int, int]) -> PixelSize:
        """Size of a level-0 pixel on the ground, true to rotation and shear.

        Degrees, and the stretched metres of Web Mercator, become metres by the radii of curvature of the WGS 84
        ellipsoid at the latitude of the middle of the image (Snyder, Map projections: a working manual, 1987, eq.
        4-18 to 4-21).

        Parameters
        ----------
        shape
            ``(height, width)`` of level 0.
        """
        a, b, _, d, e, _ = self.georeference.transform
        stretch = self._stretch(shape)
        if stretch is None:
            return pixel_size(math.hypot(b, e), math.hypot(a, d), self.unit)
        east, north = stretch
        return pixel_size(math.hypot(b * east, e * north), math.hypot(a * east, d * north), "meter")

    def _stretch(self, shape: tuple[int, int]) -> tuple[float, float] | None:
        """Metres to the east and north of one unit in the middle of the image, None where the unit is a length."""
        _, middle = self.georeference.place(shape[1] / 2, shape[0] / 2)
        if self.georeference.epsg in _WEB_MERCATOR and self.unit == "meter":
            latitude = math.atan(math.sinh(max(-10.0, min(10.0, middle / _A))))
            east, north = _metres_of_radian(latitude)
            return east / _A, north * math.cos(latitude) / _A
        if self.unit not in _RADIANS:
            return None
        radian = _RADIANS[self.unit]
        if abs(middle * radian) > math.pi / 2:
            return math.nan, math.nan  # no latitude: then the size is unknown
        east, north = _metres_of_radian(middle * radian)
        return east * radian, north * radian


def _metres_of_radian(latitude: float) -> tuple[float, float]:
    """Length of a radian of longitude and of one of latitude on WGS 84."""
    squared = _F * (2 - _F)
    wide = 1 - squared * math.sin(latitude) ** 2
    return _A / math.sqrt(wide) * math.cos(latitude), _A * (1 - squared) / wide**1.5


def placed_by_tags(page: TiffPage) -> Placed | None:
    """Return where the tags of a GeoTIFF put it, None where they do not say, or say what makes no sense.

    ModelTransformation, else ModelPixelScale with the first of ModelTiepoint; points of pixels are turned into corners.
    """
    transform = _of_tags(page)
    if transform is None:
        return None
    keys = _keys(page)
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:
        transform = _from_centre(transform)
    if keys.get(_MODEL_TYPE) == _GEOGRAPHIC:
        code, unit = keys.get(_GEOGRAPHIC_CODE), _ANGLES.get(keys.get(_ANGULAR_UNIT, 0), "")
    else:
        code, unit = keys.get(_PROJECTED_CODE), _LENGTHS.get(keys.get(_LINEAR_UNIT, 0), "")
    return Placed(Georeference(transform, _epsg(code)), unit)


def scale_of_tags(page: TiffPage) -> PixelSize:
    """Return the size in ModelPixelScale of a file that does not say where it lies."""
    scale, keys = _numbers(page, _PIXEL_SCALE), _keys(page)
    if len(scale) < 2 or keys.get(_MODEL_TYPE) == _GEOGRAPHIC:
        return UNKNOWN
    return pixel_size(scale[1], scale[0], _LENGTHS.get(keys.get(_LINEAR_UNIT, 0)))


def _of_tags(page: TiffPage) -> Transform | None:
    matrix = _numbers(page, _TRANSFORMATION)
    if len(matrix) == 16:
        return _affine([matrix[i] for i in (0, 1, 3, 4, 5, 7)])
    scale, tie = _numbers(page, _PIXEL_SCALE), _numbers(page, _TIEPOINTS)
    if len(scale) < 2 or len(tie) < 6:
        return None
    x, y, east, north = tie[0], tie[1], tie[3], tie[4]
    return _affine([scale[0], 0.0, east - x * scale[0], 0.0, -scale[1], north + y * scale[1]])


def _numbers(page: TiffPage, code: int) -> Sequence[float]:
    tag = page.tags.get(code)
    value = () if tag is None else tag.value
    return value if isinstance(value, tuple) else ()


def _affine(values: object) -> Transform | None:
    """Six numbers of a size that maps have, whose transform can be undone; else None."""
    if not isinstance(values, Sequence) or len(values) != 6:
        return None
    try:
        a, b, c, d, e, f = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    sane = all(abs(value) < _MOST for value in (a, b, c, d, e, f))  # NaN is not
    return (a, b, c, d, e, f) if sane and a * e - b * d != 0 else None


def _from_centre(transform: Transform) -> Transform:
    """The transform of corners, from one that counts from the centre of the first pixel."""
    a, b, c, d, e, f = transform
    return a, b, c - (a + b) / 2, d, e, f - (d + e) / 2


def _keys(page: TiffPage) -> dict[int, int]:
    """The keys of the GeoTIFF directory that are whole numbers; those that are texts or real numbers lie elsewhere."""
    directory = [value for value in _numbers(page, _DIRECTORY) if isinstance(value, int)]
    entries = zip(*(directory[start::4] for start in (4, 5, 7)), strict=False)
    return {key: value for key, place, value in entries if place == 0}


def _epsg(code: object) -> int | None:
    return code if isinstance(code, int) and 0 < code < 2**31 and code != _USER_DEFINED else None


def placed_by_world_file(path: str) -> Placed | None:
    """Return where a world file beside the image puts it: ``.tfw``, ``.tifw`` or ``.wld`` for ``.tif``, and so on.

    Its six numbers count from the centre of the first pixel. A ``.prj`` file (well-known text) beside it says the
    reference system and its unit; without one the unit is not known.
    """
    stem, suffix = os.path.splitext(path)
    short = suffix[1:2] + suffix[-1:] + "w"
    text = next(filter(None, (_text(stem + end) for end in _cases(f".{short}", f"{suffix}w", ".wld"))), "")
    lines = text.split()
    transform = _affine([lines[i] for i in (0, 2, 4, 1, 3, 5)]) if len(lines) == 6 else None
    if transform is None:
        return None
    epsg, unit = _of_wkt(next(filter(None, (_text(stem + end) for end in _cases(".prj"))), ""))
    return Placed(Georeference(_from_centre(transform), epsg), unit)


def _cases(*suffixes: str) -> list[str]:
    return [case for suffix in suffixes for case in dict.fromkeys((suffix, suffix.lower(), suffix.upper()))]


def _text(path: str) -> str:
    """The text of a small regular file, "" where there is none."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MOST_BYTES:
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return ""


def _of_wkt(text: str) -> tuple[int | None, str]:
    """EPSG code and unit of a reference system in well-known text: both are the last of their kind in it."""
    codes = re.findall(r'(?:AUTHORITY|ID)\s*\[\s*"EPSG"\s*,\s*"?(\d{1,9})"?\s*\]\s*\]\s*$', text)
    if re.match(r"\s*(GEOGCS|GEOGCRS|GEODCRS)\b", text):
        return _epsg(int(codes[-1])) if codes else None, "degree"
    if not re.match(r"\s*(PROJCS|PROJCRS)\b", text):
        return None, ""
    units = re.findall(r'\b(?:UNIT|LENGTHUNIT)\s*\[\s*"[^"]*"\s*,\s*([\d.eE+-]+)', text)
    return _epsg(int(codes[-1])) if codes else None, _length(units[-1]) if units else ""


def _length(metres: str) -> str:
    """The name of the unit that is so many metres long, "" where it has none."""
    try:
        um = float(metres) * 1e6
    except ValueError:
        return ""
    return next((name for name, size in UNITS_UM.items() if math.isclose(um, size, rel_tol=1e-9)), "")
