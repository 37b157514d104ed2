"""What napari's own tools do to the rectangles of a layer, told as boxes that were drawn, moved or deleted.

Knows one layer and what draws it; must not know corrections, widgets or Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_xt.plugin.boxes.in_view import BoxesInView

SMALLEST_PX = 3  # of the screen; what is smaller was a click
DECIMALS = 2  # of a pixel

Edges = tuple[float, float, float, float]
Ids = NDArray[np.int64]


class Gestures:
    """Listens to a layer until `end`; whatever shape is made of a rectangle is told as the box around it.

    Parameters
    ----------
    viewer, drawn
        Where, and what draws the layer.
    added
        Called with the edges ``y0, x0, y1, x1`` (level-0 px) of what was drawn; returns ids, -1 for none.
    moved
        Called with ids and edges.
    removed
        Called with ids before their rectangles go.
    """

    def __init__(
        self,
        viewer: Viewer,
        drawn: BoxesInView,
        added: Callable[[list[Edges]], list[int]],
        moved: Callable[[Ids, list[Edges]], None],
        removed: Callable[[Ids], None],
    ) -> None:
        self._viewer, self._drawn = viewer, drawn
        self._added, self._moved, self._removed = added, moved, removed
        self._ids: Ids = self._shown()
        self._pressed = False
        drawn.changed.connect(self._looked)
        drawn.layer.events.data.connect(self._edited)
        drawn.layer.events.features.connect(self._pasted)
        drawn.layer.mouse_drag_callbacks.insert(0, self._dragged)  # before the tools' own

    def end(self) -> None:
        """Listen no more."""
        layer = self._drawn.layer
        self._drawn.changed.disconnect(self._looked)
        layer.events.data.disconnect(self._edited)
        layer.events.features.disconnect(self._pasted)
        if self._dragged in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._dragged)
        self._drawn.hold(False)

    def _shown(self) -> Ids:
        ids: Ids = self._drawn.layer.features["id"].to_numpy(np.int64)
        return ids

    def _looked(self) -> None:
        if len(self._drawn.layer.features) == len(self._drawn.layer.data):
            self._ids = self._shown()

    def _dragged(self, _layer: Layer, event: Any) -> Iterator[None]:
        """A press until its release."""
        self._pressed = True
        self._drawn.hold(True)
        yield
        while event.type == "mouse_move":
            yield
        self._pressed = False
        self._drawn.hold(False)

    def _edited(self, event: Any) -> None:
        if self._drawn.drawing:
            return
        action = str(getattr(event, "action", ""))
        known = [index for index in event.data_indices if 0 <= index < len(self._ids)]
        if action == "removing":
            self._removed(self._ids[known])
        elif action == "removed":
            self._ids = np.delete(self._ids, known)
        elif action == "added":
            self._take_new()
        elif action == "changed" and known:
            self._take_moved(known)

    def _pasted(self, _event: Any) -> None:
        """Shapes may have come from napari's clipboard, which tells nothing else."""
        layer = self._drawn.layer
        if not self._drawn.drawing and not self._pressed and len(layer.features) == len(layer.data) > len(self._ids):
            self._take_new()

    def _take_new(self) -> None:
        """Shapes were drawn; those too small to be meant go."""
        layer = self._drawn.layer
        around = [_around(shape) for shape in layer.data[len(self._ids) :]]
        px = 1 / (self._viewer.scene.camera.zoom * float(np.abs(layer.scale).min()))
        meant = [min(y1 - y0, x1 - x0) >= SMALLEST_PX * px for y0, x0, y1, x1 in around]
        if not around:
            return
        found = iter(self._added([edges for edges, wanted in zip(around, meant, strict=True) if wanted]))
        new = np.array([next(found) if wanted else -1 for wanted in meant], np.int64)
        self._ids = np.concatenate([self._ids, new])
        layer.features = layer.features.assign(id=self._ids)
        self._drawn.again(new)
        self._drawn.select(new[new >= 0])

    def _take_moved(self, known: list[int]) -> None:
        ids, layer, table = self._ids[known], self._drawn.layer, self._drawn.table
        around = [_around(layer.data[index]) for index in known]
        rows = table.rows(ids)
        if len(rows) == len(ids) and np.allclose(table.edges[:, rows].T, around, atol=10**-DECIMALS):
            self._drawn.again(ids)  # where it was; its corners may be others
        else:
            self._moved(ids, around)


def _around(shape: Any) -> Edges:
    """The box around a shape, in level-0 px: napari counts from the middles of pixels."""
    corners = np.round(np.asarray(shape, float)[:, -2:] + 0.5, DECIMALS)
    (y0, x0), (y1, x1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return y0, x0, y1, x1
