"""Which part of an image is on the screen. Knows a viewer's camera and canvas, and a focus; must not know Qt."""

from __future__ import annotations

import itertools
from time import monotonic
from typing import Any

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.engine.focus import Focus
from napari_xt.geometry import Box

FLAT = 2  # dimensions that are displayed
FOLLOW_S = 0.1  # a view that moves is looked at so often


def plain(viewer: Viewer) -> Viewer:
    """The viewer itself, where napari hands a plugin a proxy of it.

    The proxy warns at private names. Two are needed, as napari has no public way to ask: the canvas for its size, the
    window for its end.
    """
    unproxied: Viewer = getattr(viewer, "__wrapped__", viewer)
    return unproxied


def visible_box(viewer: Viewer, layer: Layer) -> Box | None:
    """The part of an image layer that the canvas shows, in its level-0 pixels; None where it shows nothing of it."""
    box = seen(viewer, layer).clip(Box(0, 0, *_shape(layer)))
    return None if box.empty else box


def seen(viewer: Viewer, layer: Layer) -> Box:
    """What the canvas shows, in the pixels of any layer and beyond them."""
    height, width = viewer.window._qt_viewer.canvas.size  # noqa: SLF001 - see `plain`
    half = np.array([height, width]) / viewer.scene.camera.zoom / 2
    centre = np.asarray(viewer.scene.camera.center)[-2:]
    corners = itertools.product(*np.stack([centre - half, centre + half]).T)
    data = np.array([_to_data(viewer, layer, corner) for corner in corners]) + 0.5  # napari counts from pixels' middles
    first, last = np.floor(data.min(axis=0)), np.ceil(data.max(axis=0))
    return Box(int(first[0]), int(first[1]), int(last[0]), int(last[1]))


class Follower:
    """Keeps a focus on the part of an image layer that the canvas shows; on nothing where that is all of it or none.

    Parameters
    ----------
    viewer, layer
        Where, and what is looked at.
    focus
        Whose box is set while the view moves, until `end`.
    """

    def __init__(self, viewer: Viewer, layer: Layer, focus: Focus) -> None:
        self._viewer, self._layer, self._focus = viewer, layer, focus
        self._moved, self._next = True, 0.0
        self._events = viewer.scene.camera.events, viewer.dims.events
        for events in self._events:
            events.connect(self._move)
        self.look()

    def look(self) -> None:
        """Set the focus where the view has moved, unless that was done a moment ago: then when it is called again."""
        if not self._moved or monotonic() < self._next:
            return
        box, whole = visible_box(self._viewer, self._layer), Box(0, 0, *_shape(self._layer))
        self._focus.box = None if box == whole or self._viewer.dims.ndisplay != FLAT else box
        self._moved, self._next = False, monotonic() + FOLLOW_S

    def end(self) -> None:
        """Let the view go."""
        for events in self._events:
            events.disconnect(self._move)

    def _move(self) -> None:
        self._moved = True
        self.look()


def plane_in_view(viewer: Viewer, layer: Layer, axes: str) -> dict[str, int]:
    """The index that the sliders show along each of a layer's ``axes`` but y, x and channel; empty for a flat layer."""
    if len(axes) != layer.ndim:
        return {}
    point = np.rint(layer.world_to_data(viewer.dims.point[-layer.ndim :])).astype(int)
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    return {axis: int(np.clip(point[i], 0, shape[i] - 1)) for i, axis in enumerate(axes) if axis not in "cyx"}


def _to_data(viewer: Viewer, layer: Layer, corner: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    world = np.array(viewer.dims.point, float)
    world[-2:] = corner
    return np.asarray(layer.world_to_data(world[-layer.ndim :]))[-2:]


def _shape(layer: Any) -> tuple[int, int]:
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    height, width = shape[:-1][-2:] if layer.rgb else shape[-2:]
    return int(height), int(width)
