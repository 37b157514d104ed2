"""A context map as a layer over the image: what speaks for a class in one colour, what speaks against in another.

Knows what a context map holds and what layers take; must not know networks, threads or widgets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer

from napari_xt.geometry import Frame, Grid
from napari_xt.plugin.layers.overlays import SCORE_CELLS, SCORE_SPLIT, TAG, Place
from napari_xt.plugin.layers.pointer import add_quietly

if TYPE_CHECKING:
    from napari_xt.engine.context_map import ContextMap

ROLE = "context"
COLORS = ("#2166ac", "#67a9cf80", "#f7f7f700", "#ef8a6280", "#b2182b")  # against, nothing, for


def context_layer(found: ContextMap, grid: Grid, frame: Frame, place: Place, store: str) -> Image:
    """The layer of a map; blank outside of its window, and where a region adds nothing.

    Parameters
    ----------
    found
        What it shows.
    grid, frame
        Of the prediction.
    place
        Where level-0 pixels lie.
    store
        The prediction's, told in the layer's metadata.
    """
    from napari.utils.colormaps import Colormap

    split = max(1, min(SCORE_SPLIT, SCORE_CELLS // max(grid.shape)))  # so that it ends where the image ends
    side = grid.region_px / split
    values = found.values.repeat(split, axis=0).repeat(split, axis=1)
    values = values[: int(np.ceil(grid.height / side)), : int(np.ceil(grid.width / side))]
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    fy, fx = (side * f for f in frame.px_per_run)
    return Image(
        values,
        name=f"{found.name} at {found.region[0]}, {found.region[1]} - xT context",
        colormap=Colormap(COLORS, name="xT context", high_color=COLORS[-1], nan_color="#00000000"),
        contrast_limits=(-limit, limit),
        blending="translucent",
        opacity=0.8,
        interpolation2d="nearest",
        metadata={TAG: {"role": ROLE, "run_id": "", "store": store, "region": found.region, "class": found.name}},
        **place.cells(fy, fx),
    )


def show_map(viewer: Viewer, layer: Image) -> None:
    """Show a map in the place of an earlier one."""
    hide_map(viewer)
    add_quietly(viewer, layer)


def hide_map(viewer: Viewer) -> bool:
    """Take the map away; whether there was one."""
    there = map_shown(viewer)
    if there is not None:
        viewer.layers.remove(there)
    return there is not None


def map_shown(viewer: Viewer) -> Image | None:
    """The map that is shown."""
    return next((layer for layer in viewer.layers if layer.metadata.get(TAG, {}).get("role") == ROLE), None)
