"""GeoJSON, feature by feature: for QuPath in level-0 pixels, or for maps in longitude and latitude.

Knows the two flavours, which are never mixed in a file; must not know how the things were found.

QuPath shows a slide that OpenSlide reads without the empty margin around what was scanned, and counts pixels from there
(qupath#820). So where the run noted such a margin (``bounds_offset``), the ``qupath`` flavour counts from its corner,
and says so in the file: what is opened in QuPath then lies where it was seen, as long as the slide is not imported
with ``--no-crop``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, tee
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from napari_xt.io.exports.maps import Projection, counter_clockwise
from napari_xt.io.exports.things import MANY_RINGS, Points, Thing, things
from napari_xt.io.exports.wanted import Wanted, provenance
from napari_xt.io.prediction import Prediction

_ENCODE = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode
_OBJECTS = {"area": "annotation", "box": "detection", "region": "tile"}
_NO_RINGS = b'"coordinates":[]'
_Feature: TypeAlias = tuple[dict[str, Any], Iterable[list[list[float]]]]  # without its rings, and these
_BATCH = 1000  # rings that are reprojected together
_DEGREE_DIGITS = 9  # a tenth of a millimetre
_LEVEL = 5  # of gzip


def write_geojson(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """Write a ``FeatureCollection``, compressed where the name ends with ``.gz``.

    Its member ``napari_xt``, before the features, says what the file is of. A feature's ``id`` is a UUID that the same
    thing has at every export. In the ``qupath`` flavour areas are annotations, boxes detections and regions tiles, with
    what was measured as ``measurements``; in the ``map`` flavour the properties are flat, and a georeference is needed.
    """
    told = provenance(prediction, wanted) | {"flavour": wanted.flavour}
    if wanted.flavour == "map":
        features = _map_features(things(prediction, wanted), Projection(prediction))
    else:
        told["bounds_offset"] = list(_offset(prediction))
        features = _qupath_features(things(prediction, wanted), _offset(prediction))
    with _lines(path) as file:
        file.write(b'{"type": "FeatureCollection",\n"napari_xt": ' + _json(told) + b',\n"features": [')
        for number, (feature, rings) in enumerate(features):
            file.write(b",\n" if number else b"\n")
            for piece in _pieces(feature, iter(rings)):
                file.write(piece)
        file.write(b"\n]}\n")


def _qupath_features(found: Iterable[Thing], offset: tuple[float, float]) -> Iterator[_Feature]:
    back = np.array(offset[::-1])
    moved = any(offset)
    for thing in found:
        rings = ((ring - back if moved else ring).tolist() for ring in thing.rings)
        properties: dict[str, Any] = {"objectType": _OBJECTS[thing.kind]}
        if thing.name is not None:
            properties["classification"] = {"name": thing.name, "color": list(thing.color)}
        if thing.status:
            properties["metadata"] = {"status": thing.status}
        properties["measurements"] = thing.numbers
        yield _feature(thing, properties), rings


def _map_features(found: Iterable[Thing], projection: Projection) -> Iterator[_Feature]:
    told, ahead = tee(found)
    placed = _placed((ring for thing in ahead for ring in thing.rings), projection)
    for thing in told:
        rings = (_turned(ring, hole=number > 0) for number, ring in enumerate(islice(placed, len(thing.rings))))
        properties = {"kind": thing.kind, "class": thing.name, "color": "#{:02x}{:02x}{:02x}".format(*thing.color)}
        status = {"status": thing.status} if thing.status else {}
        yield _feature(thing, properties | status | dict(thing.numbers)), rings


def _placed(rings: Iterator[Points], projection: Projection) -> Iterator[Points]:
    """Rings in degrees, some at a time."""
    while some := list(islice(rings, _BATCH)):
        yield from np.split(projection.degrees(np.concatenate(some)), np.cumsum([len(ring) for ring in some])[:-1])


def _turned(ring: Points, *, hole: bool) -> list[list[float]]:
    """A ring by the right-hand rule: the exterior counter-clockwise, holes clockwise."""
    kept = ring if counter_clockwise(ring) != hole else ring[::-1]
    rounded: list[list[float]] = np.round(kept, _DEGREE_DIGITS).tolist()
    return rounded


def _pieces(feature: dict[str, Any], rings: Iterator[list[list[float]]]) -> Iterator[bytes]:
    """A feature as JSON with its rings: never all of them in memory."""
    before, after = _json(feature).split(_NO_RINGS, 1)
    before += _NO_RINGS[:-1]
    while some := list(islice(rings, MANY_RINGS)):
        yield before + _json(some)[1:-1]
        before = b","
    yield _NO_RINGS[-1:] + after


def _feature(thing: Thing, properties: dict[str, Any]) -> dict[str, Any]:
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": []}
    return {"type": "Feature", "id": thing.uid, "geometry": geometry, "properties": properties}


def _offset(prediction: Prediction) -> tuple[float, float]:
    """``(y, x)`` in level-0 px of the corner that QuPath counts from."""
    noted = prediction.header.notes.get("bounds_offset")
    if not isinstance(noted, list | tuple) or len(noted) != 2:
        return 0.0, 0.0
    return noted[0], noted[1]


def _json(value: object) -> bytes:
    return _ENCODE(value).encode()


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with path.open("wb") as file:
        if not path.name.lower().endswith(".gz"):
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed:
            yield packed
