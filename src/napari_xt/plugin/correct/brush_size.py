"""A brush that stays as large on the screen when the camera zooms. Knows a camera and a layer; must not know Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.viewer import Viewer

from napari_xt.plugin.view import plain

SIZE_PX = 20.0  # at first


class ScreenBrush:
    """Keeps the brush of a layer at one size on the screen, which changes when the user changes the brush's.

    Attributes
    ----------
    px
        The diameter, in pixels of the screen.
    """

    def __init__(self, viewer: Viewer, layer: Labels) -> None:
        self.px = SIZE_PX
        self._camera, self._layer, self._own = plain(viewer).scene.camera, layer, False
        self._camera.events.zoom.connect(self._zoomed)
        layer.events.brush_size.connect(self._sized)
        self._zoomed()

    def resize(self, px: float) -> None:
        """Make it so many pixels of the screen wide."""
        self.px = px
        self._zoomed()

    def end(self) -> None:
        """Let the camera go."""
        self._camera.events.zoom.disconnect(self._zoomed)
        self._layer.events.brush_size.disconnect(self._sized)

    @property
    def _scale(self) -> float:
        """Screen pixels along a pixel of the layer."""
        return float(self._camera.zoom * np.min(np.abs(self._layer.scale[-2:])))

    def _zoomed(self, _event: Any = None) -> None:
        size = max(1, round(self.px / self._scale))
        if size != self._layer.brush_size:
            self._own = True
            self._layer.brush_size = size
            self._own = False

    def _sized(self, _event: Any = None) -> None:
        if not self._own:
            self.px = self._layer.brush_size * self._scale
