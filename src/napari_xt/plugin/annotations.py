"""GeoJSON files of areas as a napari layer: polygons with classes, names and colours, over the image that is open.

Knows what napari's layers take; must not know Qt, models, runs or what GeoJSON looks like.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import AnnotationError
from napari_xt.io.annotations import Annotation, Ring, read_annotations, stated_scale
from napari_xt.io.image import Image
from napari_xt.plugin.boxes.layer import COLOR, LINE, SHAPES_UP_TO, LayerData
from napari_xt.plugin.reader import shown_image

SUFFIXES = (".geojson", ".geojson.gz")
FILL = 0.2  # opacity of an area under its line


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads ``path`` (or each of several), None where it is not for this reader."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    return read_paths if all(os.fspath(p).lower().endswith(SUFFIXES) for p in paths) else None


def read_paths(path: str | Sequence[str]) -> list[LayerData]:
    """Read what `get_reader` accepted."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    return [annotations_layer(p) for p in paths]


def annotations_layer(path: str | os.PathLike[str]) -> LayerData:
    """The areas of a file as Shapes, or where they are many as Points in their middles.

    They lie where the image layer that is selected lies, or the topmost one, unless the file says how large its pixels
    are.

    Raises
    ------
    AnnotationError
        The file can't be read, holds no area, or is a map while no image that lies on the Earth is open.
    """
    image = _open_image()
    source = None if image is None else shown_image(image)
    found = read_annotations(path, source if isinstance(source, Image) else None)
    if not found:
        raise AnnotationError(path, "it holds no areas", "open a GeoJSON file of polygons")
    parts = [(one, polygon) for one in found for polygon in one.polygons]
    told = pd.DataFrame([(one.label, one.name) for one, _ in parts], columns=["class", "name"])
    about = {"name": Path(path).name.split(".")[0], "features": told, "ndim": 2, **_place(path, image)}
    lines = np.array([_rgba(one) for one, _ in parts])
    if len(parts) > SHAPES_UP_TO:
        style = {"symbol": "disc", "size": 3 * LINE, "border_color": lines, "face_color": lines}
        return np.array([polygon[0].mean(axis=0) - 0.5 for _, polygon in parts]), {**about, **style}, "points"
    style = {"shape_type": "polygon", "edge_width": LINE, "edge_color": lines, "face_color": lines * (1, 1, 1, FILL)}
    return [one_outline(polygon) - 0.5 for _, polygon in parts], {**about, **style}, "shapes"  # from a pixel's middle


def one_outline(rings: Sequence[Ring]) -> Ring:
    """A polygon with holes as one outline: a cut leads to each hole and back, which napari draws as none.

    Parameters
    ----------
    rings
        The exterior, then the holes, ``(n, 2)`` each, closed or not.
    """
    closed = [_closed(ring) for ring in rings]
    back = [closed[0][:1]] * (len(closed) - 1)
    return np.concatenate([closed[0], *chain.from_iterable(zip(closed[1:], back, strict=True))])


def _closed(ring: Ring) -> Ring:
    return ring if np.array_equal(ring[0], ring[-1]) else np.concatenate([ring, ring[:1]])


def _rgba(annotation: Annotation) -> NDArray[np.float64]:
    color = annotation.color or tuple(bytes.fromhex(COLOR[1:]))
    return np.array([*color, 255]) / 255


def _open_image() -> Any | None:
    """The image layer of the viewer that is in front: the selected one, else the topmost."""
    from napari import current_viewer

    viewer = current_viewer()
    layers = [] if viewer is None else [viewer.layers.selection.active, *reversed(viewer.layers)]
    return next((layer for layer in layers if type(layer).__name__ == "Image"), None)


def _place(path: str | os.PathLike[str], image: Any | None) -> dict[str, Any]:
    """Layer arguments that put level-0 pixels where they are seen."""
    if stated := stated_scale(path):
        return {"scale": stated[0], "units": (stated[1], stated[1])}
    if image is None:
        return {}
    return {"scale": image.scale[-2:], "translate": image.translate[-2:], "units": image.units[-2:]}
