"""What the mouse points at, in napari's status bar: the state and class scores of the region under it.

Knows a viewer's status, cursor and layers, and overlays; must not know Qt, stores or runs.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.plugin.layers.overlays import TAG, Overlay

_telling: WeakSet[Viewer] = WeakSet()


def tell_regions(viewer: Viewer) -> None:
    """Let the status bar of ``viewer`` tell of the regions under the mouse, whichever layer is selected."""
    if viewer not in _telling:
        _telling.add(viewer)
        viewer.events.status.connect(_add)


def overlay_of(layer: Layer) -> Overlay | None:
    """What a layer of a run shows; None for others."""
    tag = layer.metadata.get(TAG)
    found = tag.get("overlay") if isinstance(tag, dict) else None
    return found if isinstance(found, Overlay) else None


def told(viewer: Viewer) -> str:
    """What is known of the region under the mouse, of the uppermost layer that is shown; else nothing."""
    for layer in reversed(viewer.layers):
        overlay = overlay_of(layer)
        if overlay is None or not layer.visible or layer.metadata[TAG]["role"] not in overlay.roles:
            continue
        y, x = np.asarray(layer.world_to_data(viewer.cursor.position[-layer.ndim :]))[-2:] + 0.5
        fy, fx = overlay.px_per_cell(layer.metadata[TAG]["role"])
        if text := overlay.regions.told(y * fy, x * fx):
            return text
    return ""


def _add(event: Any) -> None:
    """Add to napari's status what is known; it is a text, or a mapping whose coordinates come last."""
    viewer: Viewer = event.source
    if not viewer.mouse_over_canvas or not (text := told(viewer)):
        return
    status = viewer.status
    said = str(status.get("coordinates", "")) if isinstance(status, dict) else status
    if said.endswith(text):  # a change of the status here is told as well, and later
        return
    more = f"{said}; {text}" if said else text
    viewer.status = {**status, "coordinates": more} if isinstance(status, dict) else more
