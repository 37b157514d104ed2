"""What a prediction found, thing by thing: areas of the mask, boxes and regions, outlined in level-0 pixels.

Knows predictions; must not know the formats that the things are written in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import MissingDependencyError, StoreError
from napari_xt.io.exports.polygons import Area, trace
from napari_xt.io.exports.wanted import SYMBOLS, Wanted, job_digest
from napari_xt.io.prediction import Prediction
from napari_xt.io.seen import known_classes
from napari_xt.io.stores.layout import Layout

Points = NDArray[Any]  # float64, or int64 where all are whole
Kind = Literal["area", "box", "region"]

SPACE = UUID("7e3c1b57-9a55-5d8e-8a3e-0f5d1c6f9b21").bytes  # of the package's identifiers
ROWS = 10_000  # of a table that become things together
MANY_RINGS = 1 << 12  # of an area that has more, rings are made one by one
DIGITS = 3  # after the point, of boxes and of scaled pixels: thousandths of a pixel


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One area, box or region.

    Parameters
    ----------
    kind, uid
        What it is, and a name for it that is the same at every export of the run.
    name, color
        Its class and the colour of that, ``(r, g, b)`` in 0..255; of a region the likeliest, None where it has none.
    rings
        ``(n, 2)`` each, ``x, y`` in level-0 px, closed; the exterior first, which runs clockwise as seen with y down,
        then the holes, which run the other way.
    numbers
        What was measured, by name: never NaN.
    status
        Of a region: ``done``, ``skipped``, ``failed``; else "".
    """

    kind: Kind
    uid: str
    name: str | None
    color: tuple[int, int, int]
    rings: Sequence[Points]
    numbers: Mapping[str, float]
    status: str = ""


def things(prediction: Prediction, wanted: Wanted) -> Iterator[Thing]:
    """All that is wanted, areas first: they hold the others."""
    run = job_digest(prediction)
    if "mask" in wanted.what:
        yield from _areas(prediction, wanted, run)
    if "boxes" in wanted.what:
        yield from _boxes(prediction, wanted, run)
    if "regions" in wanted.what:
        yield from _regions(prediction, wanted, run)


def measures(prediction: Prediction) -> dict[Kind, list[str]]:
    """The names of the numbers that things of each kind may have."""
    classes = [f"p:{name}" for name in prediction.layout.scores or ()]
    area = list(_sized(prediction.layout, 0.0))
    return {"area": area, "box": ["score"], "region": ["score", "entropy", *classes]}


def mask_areas(prediction: Prediction, wanted: Wanted) -> Iterator[Area]:
    """The connected areas of the mask, in its own pixels, read in strips of its chunks."""
    if prediction.mask:
        yield from trace(_strips(prediction, wanted), prediction.layout.shape[1])


def identifier(name: str) -> str:
    """The UUID of a name (version 5, RFC 9562): what ``uuid.uuid5`` makes, at a fifth of its time."""
    h = hashlib.sha1(SPACE + name.encode(), usedforsecurity=False).hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:32]}"


def class_color(layout: Layout, name: str | None, index: int) -> tuple[int, int, int]:
    """The colour of a class: the mask's where it has one of that name, else by its number."""
    names = layout.mask or ()
    return layout.rgba(names.index(name) if name in names else index + 1)[:3]


def _strips(prediction: Prediction, wanted: Wanted) -> Iterator[NDArray[np.uint8]]:
    mask = prediction.mask[0]
    height, side = mask.shape[0], mask.chunks[0]
    for top in range(0, height, side):
        wanted.tell(top, height)
        try:
            yield known_classes(np.asarray(mask[top : top + side]), len(prediction.layout.mask or ()))
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(prediction.path, f"its mask can't be read: {error}", "run it again") from error
    wanted.tell(height, height)


def _areas(prediction: Prediction, wanted: Wanted, run: str) -> Iterator[Thing]:
    layout = prediction.layout
    names, scale = layout.mask or (), layout.frame.px_per_run
    for area in mask_areas(prediction, wanted):
        x, y = area.exterior[0].tolist()
        rings: Sequence[Points] = _Level0(area, scale)
        if wanted.simplify:
            rings = simplified(rings, wanted.simplify)
        elif len(rings) <= MANY_RINGS:
            rings = tuple(rings)
        numbers = _sized(layout, area.px * scale[0] * scale[1])
        uid = identifier(f"{run}/area/{area.value}/{y}/{x}")
        yield Thing("area", uid, names[area.value], layout.rgba(area.value)[:3], rings, numbers)


def simplified(rings: Sequence[Points], tolerance: float) -> tuple[Points, ...]:
    """The rings with fewer corners, about ``tolerance`` from where they were at most; still a valid polygon.

    Raises
    ------
    MissingDependencyError
        Without shapely, of the extra ``export``.
    """
    try:
        import shapely
    except ImportError as error:
        do = 'pip install "napari-xt[export]"'
        raise MissingDependencyError("simplified polygons", "shapely is not installed", do) from error
    exterior, *holes = rings
    polygon = shapely.Polygon(exterior, holes).simplify(tolerance, preserve_topology=True)
    return tuple(shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors))


class _Level0(Sequence[Any]):
    """The rings of an area in level-0 px, made one by one: there may be millions of holes."""

    def __init__(self, area: Area, scale: tuple[float, float]) -> None:
        self._area, self._scale = area, scale

    def __len__(self) -> int:
        return 1 + len(self._area.holes)

    def __getitem__(self, index: Any) -> Any:
        return _level0(self._area.exterior if index == 0 else self._area.holes[index - 1], self._scale)

    def __iter__(self) -> Iterator[Points]:
        yield self[0]
        for hole in self._area.holes:
            yield _level0(hole, self._scale)


def _level0(ring: NDArray[np.int64], scale: tuple[float, float]) -> Points:
    """A closed ring in level-0 px; ``scale`` is that of y and x."""
    closed = np.concatenate([ring, ring[:1]])
    return closed if scale == (1.0, 1.0) else np.round(closed * (scale[1], scale[0]), DIGITS)


def _boxes(prediction: Prediction, wanted: Wanted, run: str) -> Iterator[Thing]:
    layout, rows = prediction.layout, prediction.boxes
    colors = {name: class_color(layout, name, index) for index, name in enumerate(layout.boxes or ())}
    for part, corners in _parts(rows, wanted):
        columns = (part[name].tolist() for name in ("id", "class", "score"))
        for ident, name, score, ring in zip(*columns, corners, strict=True):
            numbers = {"score": round(score, 6)} if score == score else {}  # none where somebody corrected it
            yield Thing("box", identifier(f"{run}/box/{ident}"), name, colors[name], (ring,), numbers)


def _regions(prediction: Prediction, wanted: Wanted, run: str) -> Iterator[Thing]:
    layout, rows = prediction.layout, prediction.scores
    named = measures(prediction)["region"]
    colors = {name: class_color(layout, name, index) for index, name in enumerate(layout.scores or ())}
    for part, corners in _parts(rows, wanted):
        values = part[named].to_numpy(np.float64).tolist()
        columns = (part[name].tolist() for name in ("region_row", "region_col", "class", "status"))
        for row, col, name, status, numbers, ring in zip(*columns, values, corners, strict=True):
            found = {key: round(value, 6) for key, value in zip(named, numbers, strict=True) if value == value}
            known = name if isinstance(name, str) else None
            color = colors.get(known or "", (128, 128, 128))
            yield Thing("region", identifier(f"{run}/region/{row}/{col}"), known, color, (ring,), found, status)


def _parts(rows: pd.DataFrame, wanted: Wanted) -> Iterator[tuple[pd.DataFrame, NDArray[Any]]]:
    """Some rows at a time, and their outlines ``(n, 5, 2)``."""
    for first in range(0, len(rows), ROWS):
        wanted.tell(first, len(rows))
        part = rows.iloc[first : first + ROWS]
        x0, y0, x1, y1 = (part[edge].to_numpy(np.float64) for edge in ("x0", "y0", "x1", "y1"))
        around = np.stack([x0, y0, x1, y0, x1, y1, x0, y1, x0, y0], axis=1).reshape(-1, 5, 2)
        yield part, np.round(around, DIGITS)
    wanted.tell(len(rows), len(rows))


def _sized(layout: Layout, px: float) -> dict[str, float]:
    """An area as numbers: in pixels, and in units where the size of a pixel is known."""
    (sy, sx), unit = layout.frame.scale, layout.frame.unit
    found = {"area_px": round(px, DIGITS)}
    return found if unit == "pixel" else found | {f"area_{SYMBOLS.get(unit, unit)}2": px * sy * sx}
