"""Shapes that a user has drawn, in the pixels of the image that they lie over.

Knows layers and their transforms; must not know predictions, Qt or viewers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray

from napari_xt.plugin.layers.overlays import Place


@dataclass(frozen=True, slots=True)
class Drawn:
    """What `measure` reads of a Shapes layer: ``data`` is ``(n, 2)`` each, in level-0 px as napari counts."""

    data: list[NDArray[np.float64]]
    shape_type: list[str]


def drawn_over(layer: Any, place: Place) -> Drawn:
    """The shapes of a layer over an image that lies at ``place``, wherever the layer itself lies."""
    image = Shapes(ndim=2, **place.cells(1, 1))
    # both ways are affine: three points tell all of it
    first, down, right = (
        np.asarray(image.world_to_data(np.asarray(layer.data_to_world(point))[-2:]))
        for point in np.vstack([np.zeros(layer.ndim), np.eye(layer.ndim)[-2:]])
    )
    matrix = np.stack([down - first, right - first])
    return Drawn([np.asarray(one, float)[:, -2:] @ matrix + first for one in layer.data], list(layer.shape_type))
