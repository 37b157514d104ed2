"""Which part of an image is on the screen. Knows a viewer's camera and canvas; must not know runs or Qt."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.geometry import Box


def plain(viewer: Viewer) -> Viewer:
    """The viewer itself, where napari hands a plugin a proxy of it.

    The proxy warns at private names. Two are needed, as napari has no public way to ask: the canvas for its size, the
    window for its end.
    """
    unproxied: Viewer = getattr(viewer, "__wrapped__", viewer)
    return unproxied


def visible_box(viewer: Viewer, layer: Layer) -> Box | None:
    """The part of an image layer that the canvas shows, in its level-0 pixels; None where it shows nothing of it."""
    height, width = viewer.window._qt_viewer.canvas.size  # noqa: SLF001 - see `plain`
    half = np.array([height, width]) / viewer.scene.camera.zoom / 2
    centre = np.asarray(viewer.scene.camera.center)[-2:]
    corners = itertools.product(*np.stack([centre - half, centre + half]).T)
    data = np.array([_to_data(viewer, layer, corner) for corner in corners]) + 0.5  # napari counts from pixels' middles
    first, last = np.floor(data.min(axis=0)), np.ceil(data.max(axis=0))
    box = Box(int(first[0]), int(first[1]), int(last[0]), int(last[1])).clip(Box(0, 0, *_shape(layer)))
    return None if box.empty else box


def plane_in_view(viewer: Viewer, layer: Layer, axes: str) -> dict[str, int]:
    """The index that the sliders show along each of ``axes`` that is not y, x or channel; empty for a flat layer."""
    spatial = axes.removesuffix("c") if getattr(layer, "rgb", False) else axes
    if len(spatial) != layer.ndim:
        return {}
    point = np.rint(layer.world_to_data(viewer.dims.point[-layer.ndim :])).astype(int)
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    return {axis: int(np.clip(point[i], 0, shape[i] - 1)) for i, axis in enumerate(spatial) if axis not in "cyx"}


def _to_data(viewer: Viewer, layer: Layer, corner: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    world = np.array(viewer.dims.point, float)
    world[-2:] = corner
    return np.asarray(layer.world_to_data(world[-layer.ndim :]))[-2:]


def _shape(layer: Any) -> tuple[int, int]:
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    height, width = shape[:-1][-2:] if layer.rgb else shape[-2:]
    return int(height), int(width)
