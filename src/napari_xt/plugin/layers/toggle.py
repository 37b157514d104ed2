"""One key that hides all layers of runs and shows them again. Knows a viewer's layers and keys; must not know Qt."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.plugin.layers.overlays import TAG

KEY = "T"
ROLES = ("scores", "preview", "mask", "final", "boxes")
_hidden: WeakKeyDictionary[Viewer, list[Layer]] = WeakKeyDictionary()


def bind_toggle(viewer: Viewer) -> None:
    """Let `KEY` hide and show the layers of runs, once for each viewer."""
    if viewer not in _hidden:
        _hidden[viewer] = []
        viewer.bind_key(KEY, toggle_runs, overwrite=True)


def toggle_runs(viewer: Viewer) -> None:
    """Hide the layers of runs that are visible; where none is, show those again that were hidden, else all."""
    own = [layer for layer in viewer.layers if layer.metadata.get(TAG, {}).get("role") in ROLES]
    visible = [layer for layer in own if layer.visible]
    again = [layer for layer in own if layer in _hidden.get(viewer, [])] or own
    for layer in visible or again:
        layer.visible = not visible
    _hidden[viewer] = visible
