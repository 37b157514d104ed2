"""Boxes as napari shows them: rectangles of a Shapes layer, as many as it can take.

Knows tables of boxes and one kind of layer; must not know predictions, viewers or Qt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.plugin.boxes.density import score_colors
from napari_xt.plugin.boxes.table import BoxTable, ColorBy

LayerData = tuple[Any, dict[str, Any], str]
Colors = NDArray[np.float64]  # (n, 4), red to alpha, 0..1

AT_ONCE = 60  # rectangles that are added while a user may be moving the picture: 20 to 30 ms
SHAPES_UP_TO = 2000  # of more boxes those in view are drawn alone: Shapes are slow
COLOR, LINE = "#00e5ff", 3


def boxes_layer(table: BoxTable) -> LayerData:
    """The layer of the boxes that the run's threshold keeps, in level-0 pixels as napari counts them.

    It is empty where they are more than `SHAPES_UP_TO`: what is in view is drawn once it is in a viewer.
    """
    rows = np.flatnonzero(table.kept())
    rows = rows if len(rows) <= SHAPES_UP_TO else rows[:0]
    color = box_colors(table, rows, color_by(table)) if len(rows) else None
    style = outlines(COLOR) | ({} if color is None else {"edge_color": color})
    return table.rectangles(rows), {**style, "features": table.features(rows), "opacity": 1.0, "ndim": 2}, "shapes"


def color_by(table: BoxTable) -> ColorBy:
    """What the colour of boxes tells unless something else is wanted: the class, where there are several."""
    return "class" if len(table.names) > 1 else "one"


def box_colors(table: BoxTable, rows: NDArray[np.int64], by: ColorBy) -> Colors | None:
    """The colours of some boxes; None where it is the layer's own."""
    if by == "one":
        return None
    if by == "class":
        colors: Colors = table.colors[table.codes[rows]]
        return colors
    scores = np.nan_to_num(table.scores[rows], nan=1.0)  # somebody is sure
    return np.concatenate([score_colors(scores), np.ones((len(rows), 1))], axis=1)


def outlines(color: str) -> dict[str, Any]:
    """Layer arguments of rectangles that are drawn as lines."""
    return {"shape_type": "rectangle", "edge_width": LINE, "edge_color": color, "face_color": "transparent"}


def set_boxes(layer: Any, table: BoxTable, rows: NDArray[np.int64], by: ColorBy, *, all: bool) -> bool:
    """Show some boxes in a layer that `boxes_layer` described and take away what is gone.

    Drawing all again would take a hundred times as long.

    Returns whether all is done: a portion of it is unless ``all`` is set, one that no user feels.
    """
    there, wanted = layer.features["id"].to_numpy(np.int64), table.ids[rows]
    lacking = rows[~np.isin(wanted, there)]
    gone = np.flatnonzero(~np.isin(there, wanted))
    new = lacking if all else lacking[: 0 if len(gone) else AT_ONCE]
    if len(gone) or len(new):
        exchange(layer, gone.tolist(), table.rectangles(new), box_colors(table, new, by))
        order = np.concatenate([there[np.isin(there, wanted)], table.ids[new]])
        layer.features = table.features(rows[pd.Index(wanted).get_indexer(pd.Index(order))])
    return len(new) == len(lacking)


def redraw(layer: Any, table: BoxTable, ids: NDArray[np.int64], by: ColorBy) -> None:
    """Draw those of some boxes anew that a layer shows, as the table has them now; what is no box of it goes."""
    there = layer.features["id"].to_numpy(np.int64)
    stays = np.isin(there, table.ids[table.rows(there)]) & ~np.isin(there, ids)
    if not stays.all():
        again = table.rows(there[~stays])
        exchange(layer, np.flatnonzero(~stays).tolist(), table.rectangles(again), box_colors(table, again, by))
        layer.features = table.features(np.concatenate([table.rows(there[stays]), again]))


def exchange(layer: Any, gone: Iterable[int], new: Any, colors: Colors | None = None) -> None:
    """Take some rectangles away by index and draw new ones, corners ``(n, 4, 2)``, in the layer's style.

    Their ``colors`` are the layer's unless they are given.
    """
    style = line_style(layer)
    if there := set(gone):
        layer.selected_data = there
        layer.remove_selected()
        for name, value in style.items():  # napari has taken the style of the selected ones for the next one's
            setattr(layer, f"current_{name}", value)
    if len(new):
        layer.add_rectangles(new, **style | ({} if colors is None else {"edge_color": colors}))


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
