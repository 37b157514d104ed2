"""What is drawn in a Shapes layer as a file of areas in the pixels of an image layer: what a run takes for ``roi``.

Knows layers and GeoJSON; must not know Qt, models or runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import platformdirs
from napari.layers import Layer, Shapes
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.stores.durable import write_file, writing
from napari_xt.plugin.live import is_run_layer

ROUND = 64  # corners of an ellipse
HEAD = {"type": "FeatureCollection", "napari_xt": {"flavour": "qupath"}}

Floats = NDArray[np.float64]


def drawn_layers(viewer: Viewer) -> list[Layer]:
    """The Shapes layers of a viewer that are the user's own."""
    return [layer for layer in viewer.layers if isinstance(layer, Shapes) and not is_run_layer(layer)]


def areas_file(drawn: Layer, image: Layer) -> str:
    """Write the shapes of a layer to a GeoJSON file of the user's cache and return its path: the same for the same.

    Raises
    ------
    SettingsError
        Nothing is drawn.
    StoreError
        The file can't be written.
    """
    rings = [ring for ring in outlines(drawn, image) if len(ring) > 1]
    if not rings:
        raise SettingsError(f"shapes {drawn.name}", "nothing is drawn in it", "draw shapes, or choose the whole image")
    features = [_feature(ring) for ring in rings]
    text = json.dumps({**HEAD, "features": features}).encode()
    path = platformdirs.user_cache_path("napari-xt") / "areas" / f"{hashlib.sha256(text).hexdigest()[:16]}.geojson"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_file(path, text)
    return str(path)


def outlines(drawn: Any, image: Any) -> Iterator[Floats]:
    """The outline ``(n, 2)``, ``y, x``, of each shape, in level-0 pixels of an image layer, edges at whole numbers."""
    for corners, kind in zip(drawn.data, drawn.shape_type, strict=True):
        points = _ellipse(np.asarray(corners, float)) if kind == "ellipse" else np.asarray(corners, float)
        world = np.array([drawn.data_to_world(point)[-2:] for point in points])
        yield _in_image(world, image) + 0.5  # napari counts from pixels' middles


def _in_image(world: Floats, image: Any) -> Floats:
    """World ``(n, 2)`` as data of an image layer, whatever further axes it has."""
    further = np.zeros((len(world), image.ndim - 2))
    return np.array([image.world_to_data(point)[-2:] for point in np.concatenate([further, world], axis=1)])


def _ellipse(corners: Floats) -> Floats:
    """The outline of the ellipse in a box of four corners."""
    angles = np.linspace(0, 2 * np.pi, ROUND, endpoint=False)[:, None]
    middle, first, second = corners.mean(axis=0), corners[1] - corners[0], corners[2] - corners[1]
    outline: Floats = middle + (np.cos(angles) * first + np.sin(angles) * second) / 2
    return outline


def _feature(ring: Floats) -> dict[str, Any]:
    closed = np.concatenate([ring, ring[:1]])[:, ::-1].round(3).tolist()
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [closed]}}
