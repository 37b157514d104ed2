"""GeoPackage: areas, boxes and regions as layers in the image's own reference system.

Knows the format; must not know how the things were found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from napari_xt.errors import MissingDependencyError
from napari_xt.io.exports.maps import INSTALL, Projection
from napari_xt.io.exports.things import Kind, Thing, measures, things
from napari_xt.io.exports.wanted import Wanted, provenance
from napari_xt.io.prediction import Prediction

LAYERS: dict[Kind, str] = {"area": "areas", "box": "boxes", "region": "regions"}
_KINDS: dict[str, Kind] = {"mask": "area", "boxes": "box", "regions": "region"}
_BATCH = 20_000  # things that are written together


def write_geopackage(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """Write a layer of polygons for each kind that is wanted: ``uid``, ``class``, ``status`` and what was measured.

    The metadata item ``napari_xt`` says what the file is of.

    Raises
    ------
    SettingsError
        Where the image has no coordinate reference system.
    MissingDependencyError
        Without pyogrio and shapely, of the extra ``geo``.
    """
    try:
        import pyogrio.raw
        import shapely  # noqa: F401 - what writes needs both
    except ImportError as error:
        raise MissingDependencyError("GeoPackage", "pyogrio or shapely is not installed", INSTALL) from error
    projection, names = Projection(prediction), measures(prediction)
    about = {"napari_xt": json.dumps(provenance(prediction, wanted))}
    for kind, batch, append in _batches(prediction, wanted):
        pyogrio.raw.write(
            str(path),
            _polygons(batch, projection),
            _columns(batch, names[kind]),
            fields=["uid", "class", "status", *names[kind]],
            layer=LAYERS[kind],
            driver="GPKG",
            geometry_type="Polygon",
            crs=f"EPSG:{projection.epsg}",
            append=append,
            dataset_metadata=None if append else about,
        )


def _batches(prediction: Prediction, wanted: Wanted) -> Iterator[tuple[Kind, list[Thing], bool]]:
    """Things of one kind at a time, and whether the layer is there; a kind that has none comes once, empty."""
    seen: set[Kind] = set()
    for kind, found in groupby(things(prediction, wanted), key=lambda thing: thing.kind):
        while batch := list(islice(found, _BATCH)):
            yield kind, batch, kind in seen
            seen.add(kind)
    for what in wanted.what:
        if _KINDS[what] not in seen:
            yield _KINDS[what], [], False


def _polygons(batch: Sequence[Thing], projection: Projection) -> Any:
    """The outlines as well-known binary, ``(n,)`` of bytes."""
    import shapely

    placed = [[projection.place(ring) for ring in thing.rings] for thing in batch]
    return np.array(shapely.to_wkb([shapely.Polygon(rings[0], rings[1:]) for rings in placed]), dtype=object)


def _columns(batch: Sequence[Thing], names: Sequence[str]) -> list[Any]:
    texts = [[thing.uid, thing.name, thing.status or None] for thing in batch]
    columns = [np.array([row[index] for row in texts], dtype=object) for index in range(3)]
    numbers = [np.array([thing.numbers.get(name, np.nan) for thing in batch], np.float64) for name in names]
    return columns + numbers
