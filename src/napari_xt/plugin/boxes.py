"""Boxes as napari shows them: rectangles of a Shapes layer, or squares of a Points layer where they are many.

Knows tables of boxes and two kinds of layers; must not know predictions, viewers or Qt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LayerData = tuple[Any, dict[str, Any], str]

AT_ONCE = 200  # rectangles that are added while a user may be moving the picture: 40 ms
SHAPES_UP_TO = 2000  # more boxes than these are points: Shapes are slow
COLOR, LINE = "#00e5ff", 3
COLORED_BY = {"shapes": "edge_color", "points": "border_color"}  # by kind of layer
COLUMNS = ["id", "class", "score"]


def boxes_layer(boxes: pd.DataFrame) -> LayerData:
    """The layer of ``boxes`` (columns of ``prediction.boxes``), in level-0 pixels as napari counts them."""
    common = {"features": _features(boxes), "opacity": 1.0, "ndim": 2}
    if kind_for(boxes) == "shapes":
        return rectangles(boxes), {**outlines(COLOR), **common}, "shapes"
    style = {"symbol": "square", "border_width": 0.1, "border_color": COLOR, "face_color": "transparent"}
    return centres(boxes), {**style, **common, "size": sides(boxes)}, "points"


def kind_for(boxes: pd.DataFrame) -> str:
    """The kind of layer that ``boxes`` are shown in."""
    return "shapes" if len(boxes) <= SHAPES_UP_TO else "points"


def outlines(color: str) -> dict[str, Any]:
    """Layer arguments of rectangles that are drawn as lines."""
    return {"shape_type": "rectangle", "edge_width": LINE, "edge_color": color, "face_color": "transparent"}


def in_color_of(old: Any, data: LayerData) -> LayerData:
    """What `boxes_layer` described, in the colour of a layer of boxes of either kind."""
    boxes, style, kind = data
    if type(old).__name__ == "Points":
        color = next(iter(old.border_color), old.current_border_color)
    else:
        color = line_style(old)["edge_color"]
    return boxes, {**style, COLORED_BY[kind]: color}, kind


def set_boxes(layer: Any, boxes: pd.DataFrame, *, all: bool) -> bool:
    """Show ``boxes`` in a layer that `boxes_layer` described, in the style that it has now.

    Returns whether all are shown: many new rectangles come in portions unless ``all`` is set.
    """
    if type(layer).__name__ == "Points":
        _set_points(layer, boxes)
        return True
    return _set_shapes(layer, boxes, len(boxes) if all else AT_ONCE)


def exchange(layer: Any, gone: Iterable[int], new: Any) -> None:
    """Take some rectangles away by index and draw new ones, corners ``(n, 4, 2)``, in the layer's style."""
    style = line_style(layer)
    if there := set(gone):
        layer.selected_data = there
        layer.remove_selected()
        for name, value in style.items():  # napari has taken the style of the selected ones for the next one's
            setattr(layer, f"current_{name}", value)
    if len(new):
        layer.add_rectangles(new, **style)


def line_style(layer: Any) -> dict[str, Any]:
    """How a layer draws new rectangles: like those there where the user gave these a style, else like its next."""
    from napari.utils.colormaps.standardize_color import transform_color

    style = {}
    for name, ours in (("edge_color", COLOR), ("face_color", "transparent"), ("edge_width", LINE)):
        drawn = np.unique(np.atleast_1d(getattr(layer, name)), axis=0)
        changed = len(drawn) == 1 and not np.allclose(drawn[0], transform_color(ours)[0] if "color" in name else ours)
        style[name] = drawn[0] if changed else getattr(layer, f"current_{name}")
    return style


def rectangles(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """Corners ``(n, 4, 2)`` of boxes (level-0 px, half-open) as napari counts: from the middle of the first pixel."""
    y0, x0, y1, x1 = (boxes[name].to_numpy(np.float64) - 0.5 for name in ("y0", "x0", "y1", "x1"))
    corners = [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def centres(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """Centres ``(n, 2)`` of boxes, as napari counts."""
    middle: NDArray[np.float64] = rectangles(boxes).mean(axis=1)
    return middle


def sides(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """Side ``(n,)`` of the square of each box's area, level-0 px."""
    height, width = (boxes["y1"] - boxes["y0"]).to_numpy(), (boxes["x1"] - boxes["x0"]).to_numpy()
    return np.sqrt(np.asarray(height * width, np.float64))


def _features(boxes: pd.DataFrame) -> pd.DataFrame:
    return boxes[COLUMNS].reset_index(drop=True)


def _set_points(layer: Any, boxes: pd.DataFrame) -> None:
    layer.selected_data = set()
    layer.data = centres(boxes)
    layer.features = _features(boxes)
    layer.size = sides(boxes)


def _set_shapes(layer: Any, boxes: pd.DataFrame, portion: int) -> bool:
    """Take away what is gone and add what is new: drawing all again would take a hundred times as long."""
    there, wanted = layer.features["id"].to_numpy(), boxes["id"].to_numpy()
    lacking = boxes[~np.isin(wanted, there)]
    new = lacking[:portion]
    gone = np.flatnonzero(~np.isin(there, wanted))
    if len(gone) or len(new):
        exchange(layer, gone.tolist(), rectangles(new))
    kept = boxes.set_index("id", drop=False).loc[np.concatenate([there[np.isin(there, wanted)], new["id"].to_numpy()])]
    layer.features = _features(kept)
    return len(new) == len(lacking)
