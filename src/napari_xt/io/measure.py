"""What a prediction found, counted and sized by class: in the whole image, and in each shape that was drawn.

Knows predictions and polygons; must not know models, runs or screens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.annotations import Annotation, read_annotations
from napari_xt.io.corrections.corrections import Source, of_source
from napari_xt.io.images.source import UNITS_UM
from napari_xt.io.measures.inside import bounds, pixels_inside, points_inside
from napari_xt.io.objects import Progress, objects
from napari_xt.io.prediction import EDGES, Prediction, seen_at

BAND_PX = 1 << 22  # pixels that are counted at once
WHOLE = "whole image"

Ring = NDArray[np.float64]  # (n, 2), y and x in level-0 px


def measure(
    prediction: Prediction | str | os.PathLike[str],
    within: Any = None,
    *,
    mask_threshold: float | None = None,
    box_threshold: float | None = None,
    source: Source = "final",
    found: pd.DataFrame | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Count and size what was found, by class: in the whole image, and in each shape.

    Parameters
    ----------
    prediction
        A prediction, or its path.
    within
        A GeoJSON file, a list of `Annotation`, a napari Shapes layer over the image, or a list of polygons ``(n, 2)``,
        ``y, x`` in level-0 px.
    mask_threshold, box_threshold
        What is seen of the mask and of the boxes, as `Prediction.at` has it; default: the prediction's.
    source
        ``"final"``: with corrections applied; ``"prediction"``: as the model said it.
    found
        What `objects` returned for the prediction as it is seen, where that is known already.
    progress
        As for `objects`.

    Returns
    -------
    DataFrame
        A row for each class of mask and boxes in the image and in each shape: ``shape``, ``kind`` (``"mask"`` or
        ``"boxes"``), ``class``, ``count`` (objects whose centroid, boxes whose centre lies inside), ``area_px``
        (level-0 pixels of the class whose middle lies inside; of boxes their own), ``share`` of what was run there, and
        ``area_mm2, per_mm2`` where the size of a pixel is known.

    Raises
    ------
    XTError
        As `objects` and `read_annotations` do, or ``within`` is none of these.
    """
    known = of_source(seen_at(prediction, mask_threshold, box_threshold), source)
    table = objects(known, source=source, progress=progress) if found is None else found
    rows = _summary(known, WHOLE, None, table)
    for name, rings in _shapes(within):
        rows += _summary(known, name, rings, table)
    return pd.DataFrame(rows)


def _shapes(within: Any) -> list[tuple[str, list[Ring]]]:
    """Names and rings of shapes, whatever they were given as."""
    if within is None:
        return []
    if isinstance(within, (str, os.PathLike)):
        within = read_annotations(within)
    if hasattr(within, "shape_type"):
        return [(f"shape {i + 1}", [_outline(within, i)]) for i in range(len(within.data))]
    named = []
    for i, shape in enumerate(within):
        if isinstance(shape, Annotation):
            rings = [ring for polygon in shape.polygons for ring in polygon]
            named.append((shape.name or shape.label or f"shape {i + 1}", rings))
        else:
            named.append((f"shape {i + 1}", [_corners(shape)]))
    return named


def _outline(layer: Any, index: int) -> NDArray[np.float64]:
    """The corners of a shape of a Shapes layer: napari counts from the middle of the first pixel."""
    kind, data = layer.shape_type[index], np.asarray(layer.data[index], float)[:, -2:] + 0.5
    if kind == "ellipse":
        turn = np.linspace(0, 2 * np.pi, 128, endpoint=False)[:, None]
        centre, a, b = data.mean(axis=0), (data[1] - data[0]) / 2, (data[3] - data[0]) / 2
        around: Ring = centre + np.cos(turn) * a + np.sin(turn) * b
        return around
    if kind in ("line", "path"):
        raise SettingsError(
            f"shape {index + 1}", f"a {kind} has no inside", "draw a polygon, a rectangle or an ellipse"
        )
    return _corners(data)


def _corners(points: Any) -> NDArray[np.float64]:
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise SettingsError("within", "is no polygon", "give corners (n, 2), y and x in level-0 px, at least three")
    return corners


def _summary(
    prediction: Prediction, shape: str, rings: Sequence[Ring] | None, table: pd.DataFrame
) -> list[dict[str, object]]:
    """The rows of one shape, or of the whole image."""
    layout, boxes = prediction.layout, prediction.boxes
    areas, ran = _areas(prediction, rings)
    rows: list[dict[str, object]] = []
    for value, name in enumerate(layout.mask or ()):
        if value:
            count = _inside(table.loc[table["class"] == name, ["y", "x"]].to_numpy(float), rings)
            rows.append({"kind": "mask", "class": name, "count": int(count.sum()), "area_px": areas[value]})
    for name in layout.boxes or ():
        own = boxes.loc[boxes["class"] == name, list(EDGES)].to_numpy(float)
        inside = _inside((own[:, :2] + own[:, 2:]) / 2, rings)
        px = float((own[inside, 2:] - own[inside, :2]).prod(axis=1).sum())
        rows.append({"kind": "boxes", "class": name, "count": int(inside.sum()), "area_px": px})
    factor = UNITS_UM.get(layout.frame.unit)
    px_mm2 = None if factor is None else float(np.prod(layout.frame.scale)) * factor**2 * 1e-6
    for row in rows:
        row["share"] = row["area_px"] / ran if ran else np.nan  # type: ignore[operator]
        if px_mm2 is not None:
            row["area_mm2"] = row["area_px"] * px_mm2  # type: ignore[operator]
            row["per_mm2"] = row["count"] / (ran * px_mm2) if ran else np.nan  # type: ignore[operator]
    return [{"shape": shape, **row} for row in rows]


def _areas(prediction: Prediction, rings: Sequence[Ring] | None) -> tuple[NDArray[np.float64], float]:
    """Level-0 pixels of each class of the mask, and of what was run, in the image or in a shape."""
    layout, settled = prediction.layout, prediction.settled
    names, (fy, fx) = layout.mask or (), layout.frame.px_per_run
    if rings is None:
        areas, table = prediction.area(), prediction.scores
        known = table[settled[table["region_row"], table["region_col"]]]
        ran = float(((known["y1"] - known["y0"]) * (known["x1"] - known["x0"])).sum())
        return np.array([float(areas[name]) for name in names]), ran
    scaled = [ring / (fy, fx) for ring in rings]
    part, side = bounds(scaled).clip(layout.grid.bounds), layout.grid.region_px
    counts, ran = np.zeros(256), 0.0
    for top in range(part.y0, part.y1, rows := max(1, BAND_PX // max(1, part.width))):
        box = Box(top, part.x0, min(top + rows, part.y1), part.x1)
        run = settled[np.arange(box.y0, box.y1) // side][:, np.arange(box.x0, box.x1) // side]
        inside = pixels_inside(scaled, box) & run
        ran += float(inside.sum())
        if names:
            counts += np.bincount(np.asarray(prediction.mask[0][box.slices])[inside], minlength=256)
    return counts[: len(names)] * fy * fx, ran * fy * fx


def _inside(points: NDArray[np.float64], rings: Sequence[Ring] | None) -> NDArray[np.bool_]:
    return np.ones(len(points), np.bool_) if rings is None else points_inside(points, rings)
