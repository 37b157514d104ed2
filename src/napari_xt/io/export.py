"""Predictions as files that other tools read: one door, a table of writers, and files that are whole or not there.

Knows predictions and the names of formats; must not know models, runs or screens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from napari_xt.errors import SettingsError
from napari_xt.io.corrections.corrections import Source, with_corrections
from napari_xt.io.exports import coco, geojson, geopackage, raster, tables
from napari_xt.io.exports.wanted import Flavour, Progress, Wanted, What, available
from napari_xt.io.prediction import Prediction, seen_at
from napari_xt.io.stores.durable import appearing

Writer = Callable[[Prediction, Path, Wanted], None]


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file.

    Parameters
    ----------
    suffixes
        What its names end with.
    holds
        What of a prediction it can hold.
    write
        Writes it to a path where nothing is yet; the door gives it its name, on the disk, when it is whole.
    one
        It holds one thing at a time: the first that the prediction has, where nothing is chosen.
    flavours
        Those that it has.
    polygons
        Whether areas are outlined in it, so that ``simplify`` means something.
    """

    suffixes: tuple[str, ...]
    holds: tuple[What, ...]
    write: Writer
    one: bool = False
    flavours: tuple[Flavour, ...] = ("qupath",)
    polygons: bool = False


_WRITERS: dict[str, Format] = {
    "csv": Format((".csv",), ("boxes", "regions", "mask"), tables.write_csv, one=True),
    "parquet": Format((".parquet",), ("boxes", "regions", "mask"), tables.write_parquet, one=True),
    "geojson": Format(
        (".geojson", ".geojson.gz"),
        ("mask", "boxes", "regions"),
        geojson.write_geojson,
        flavours=("qupath", "map"),
        polygons=True,
    ),
    "coco": Format((".coco.json",), ("mask", "boxes"), coco.write_coco),
    "geopackage": Format((".gpkg",), ("mask", "boxes", "regions"), geopackage.write_geopackage, polygons=True),
    "ome-tiff": Format((".ome.tif", ".ome.tiff"), ("mask",), raster.write_ome_tiff),
    "geotiff": Format((".tif", ".tiff"), ("mask", "probability", "regions"), raster.write_geotiff, one=True),
    "ome-zarr": Format((".ome.zarr",), ("mask",), raster.write_ome_zarr),
}


def export(
    prediction: Prediction | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    source: Source = "final",
    what: What | Sequence[What] | None = None,
    mask_threshold: float | None = None,
    box_threshold: float | None = None,
    flavour: Flavour = "qupath",
    simplify: float = 0.0,
    progress: Progress | None = None,
) -> Path:
    """Write a prediction to a file that other tools read, and return the file's path.

    The file appears when it is whole; an error or a stop leaves what was there before. Coordinates are level-0 px.

    Parameters
    ----------
    prediction
        A prediction, or the path of its store.
    path
        The file to write; one that is there is replaced.
    format
        One of ``formats()``; default: by the end of ``path``.
    source
        ``"final"``: with corrections applied; ``"prediction"``: as the model said it. The file says which.
    what
        Of ``"boxes"``, ``"mask"``, ``"regions"``, ``"probability"``; default: all that the prediction has and the
        format holds, or the first of them where it holds one at a time.
    mask_threshold, box_threshold
        What is seen of the mask and of the boxes, as `Prediction.at` has it; default: the prediction's.
    flavour
        Of GeoJSON: ``"qupath"``, pixels of level 0 with y down, or ``"map"``, RFC 7946: longitude and latitude.
    simplify
        How far polygons may leave the mask's edge, about, in level-0 px; 0 traces it exactly. Refused where the format
        has none.
    progress
        Called with ``(done, total)``.

    Raises
    ------
    SettingsError
        Where a choice is unknown, or the prediction or the format has no such thing.
    StoreError
        Where the store can't be read or the file can't be written.
    MissingDependencyError
        Where the format needs an extra that is not installed.
    """
    prediction = seen_at(prediction, mask_threshold, box_threshold)
    prediction, strokes = with_corrections(prediction) if source == "final" else (prediction, 0)
    place = Path(os.path.abspath(path))
    kind = _format(place, format)
    _check(prediction, place, source, flavour, simplify)
    if flavour not in kind.flavours:
        raise SettingsError(f"flavour = {flavour!r}", "is one of GeoJSON alone", "leave it out, or export .geojson")
    if simplify and not kind.polygons:
        do = "leave it out, or export GeoJSON or GeoPackage"
        raise SettingsError(f"simplify = {simplify:g}", "is for polygons, which this format has not", do)
    wanted = Wanted(_chosen(prediction, kind, what), source, flavour, float(simplify), progress, strokes)
    with appearing(place) as aside:
        kind.write(prediction, aside, wanted)
    return place


def formats() -> dict[str, tuple[str, ...]]:
    """The formats that can be written, each with what its files' names end with."""
    return {name: kind.suffixes for name, kind in _WRITERS.items()}


def _format(path: Path, name: str | None) -> Format:
    if name is not None:
        if name not in _WRITERS:
            raise SettingsError(f"format = {name!r}", "is not known", f"choose of {', '.join(_WRITERS)}")
        return _WRITERS[name]
    ends = {suffix: kind for kind in _WRITERS.values() for suffix in kind.suffixes}
    fitting = [suffix for suffix in ends if path.name.lower().endswith(suffix)]
    if not fitting:
        raise SettingsError(path, "its name does not say which format it is", f"end it with one of {', '.join(ends)}")
    return ends[max(fitting, key=len)]


def _check(prediction: Prediction, path: Path, source: str, flavour: str, simplify: float) -> None:
    for name, value, known in (("source", source, get_args(Source)), ("flavour", flavour, get_args(Flavour))):
        if value not in known:
            raise SettingsError(f"{name} = {value!r}", "is not known", f"choose of {', '.join(known)}")
    if not 0 <= simplify < float("inf"):
        raise SettingsError(f"simplify = {simplify}", "is no tolerance", "give 0 or a number of pixels")
    if path.resolve().is_relative_to(prediction.path.resolve()):
        raise SettingsError(path, "lies in the prediction that is exported", "give another path")
    if path.is_dir():
        raise SettingsError(path, "there is a folder of this name", "remove it or give another path")
    if not path.parent.is_dir():
        raise SettingsError(path, "its folder is not there", "make the folder or give another path")


def _chosen(prediction: Prediction, kind: Format, what: What | Sequence[What] | None) -> tuple[What, ...]:
    has = [name for name in kind.holds if name in available(prediction)]
    if what is None:
        if not has:
            raise SettingsError(prediction.path, f"has none of {', '.join(kind.holds)}", "choose another format")
        told = [name for name in has if name != "regions" or prediction.layout.scores is not None] or has
        return tuple(told[:1] if kind.one else told)
    names: tuple[What, ...] = (what,) if isinstance(what, str) else tuple(what)
    for name in names:
        if name not in has:
            why = "the prediction has none" if name in kind.holds else "the format can't hold it"
            raise SettingsError(f"what = {name!r}", why, f"choose of {', '.join(has)}")
    if not names or (kind.one and len(names) > 1):
        raise SettingsError(
            f"what = {', '.join(names) or 'nothing'}", "the file holds one thing", "write one file each"
        )
    return tuple(name for name in kind.holds if name in names)
