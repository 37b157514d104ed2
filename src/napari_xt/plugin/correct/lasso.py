"""A polygon that is drawn once around things on the canvas, freehand. Knows a viewer; must not know what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Layer, Shapes
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_xt.plugin._loop import on_viewer_thread
from napari_xt.plugin.layers.overlays import TAG, Place

NAME, ROLE = "xT lasso", "lasso"
COLOR = "#ff2bd6"
CORNERS = 3  # of a polygon, at least


class Lasso:
    """A layer that is there until something is drawn in it, or it is removed.

    Parameters
    ----------
    viewer
        Where.
    place
        Where level-0 pixels lie.
    back
        The layer that is active afterwards.
    done
        Called with the corners ``(n, 2)``, ``y, x`` in level-0 px; with none where nothing was drawn.
    """

    def __init__(self, viewer: Viewer, place: Place, back: Layer, done: Callable[[NDArray[np.float64]], None]) -> None:
        self._viewer, self._back, self._done = viewer, back, done
        style = {"edge_color": COLOR, "face_color": "transparent", "edge_width": 0.0, "opacity": 1.0}
        about = {"name": NAME, "metadata": {TAG: {"role": ROLE, "run_id": ""}}}
        self.layer = Shapes(ndim=2, **style, **about, **place.cells(1, 1))
        self.layer.current_edge_width = 2 / (viewer.scene.camera.zoom * float(np.abs(self.layer.scale).min()))
        viewer.layers.append(self.layer)
        viewer.layers.selection.active = self.layer
        self.layer.mode = "add_polygon_lasso"
        self.layer.events.data.connect(self._drawn)
        viewer.layers.events.removed.connect(self._removed)

    def end(self) -> None:
        """Take the layer away."""
        if self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def _drawn(self, event: Any) -> None:
        if str(event.action) == "added":
            on_viewer_thread(self.end)  # napari still draws

    def _removed(self, event: Any) -> None:
        if event.value is not self.layer:
            return
        self._viewer.layers.events.removed.disconnect(self._removed)
        self.layer.events.data.disconnect(self._drawn)
        if self._back in self._viewer.layers:
            self._viewer.layers.selection.active = self._back
        shapes = [np.asarray(shape, float)[:, -2:] + 0.5 for shape in self.layer.data]
        self._done(shapes[-1] if shapes and len(shapes[-1]) >= CORNERS else np.zeros((0, 2)))
