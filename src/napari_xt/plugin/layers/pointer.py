"""Points at one thing of a prediction in a viewer: moves the camera there, draws a frame, and says where was clicked.

Knows layers and a viewer's camera; must not know tables, Qt or models.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Image, Layer, Shapes
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_xt.geometry import Frame
from napari_xt.plugin.layers.overlays import TAG, Place

FRAME = "xT selected"
ROLE = "selected"
COLOR = "#ff2bd6"  # on bright slides and dark fields
LINE = 1 / 16  # of the longer side
LINE_PX = 3  # on the screen, at least
SHARE = 0.2  # of the canvas that the thing takes at least, once it is pointed at
THICKER = 1.25  # a line that is off by this is drawn anew
STILL_PX = 3  # on the screen; a mouse that moves farther drags


@dataclass(frozen=True, slots=True)
class Shown:
    """One prediction of a viewer: its store, and how a user would call it."""

    store: str
    name: str


def shown_predictions(viewer: Viewer) -> list[Shown]:
    """The predictions whose layers are in a viewer, in the order of these."""
    found: dict[str, Shown] = {}
    for layer in viewer.layers:
        tag = layer.metadata.get(TAG, {})
        if tag.get("store") and tag.get("role") in ("mask", "boxes", "scores"):
            found.setdefault(tag["store"], Shown(tag["store"], layer.name.split(" - xT ")[0]))
    return list(found.values())


def place_in(viewer: Viewer, store: str, frame: Frame) -> Place:
    """Where level-0 pixels of a prediction lie: where its image does; as its file says where that is not open."""
    tags = [layer.metadata.get(TAG, {}) for layer in viewer.layers]
    images = {tag.get("image") for tag in tags if tag.get("store") == store}
    image = next((layer for layer in viewer.layers if str(layer.unique_id) in images), None)
    return Place.of_frame(frame) if image is None else Place.of_layer(image)


def add_quietly(viewer: Viewer, layer: Layer) -> None:
    """Put a layer above all; what the user has selected stays selected."""
    selection = viewer.layers.selection
    active = selection.active
    with selection.events.active.blocker():
        viewer.layers.append(layer)
        selection.active = active


class Pointer:
    """Points at things of one prediction.

    Parameters
    ----------
    viewer
        Where.
    clicked
        Called with ``y, x`` in level-0 px when the canvas is clicked while a layer of the prediction, or its image, is
        active and the mouse moves the view.
    name
        Of the frame's layer.
    line
        How thick the frame is, of its longer side; on the screen at least ``LINE_PX``.
    """

    def __init__(
        self, viewer: Viewer, clicked: Callable[[float, float], None], *, name: str = FRAME, line: float = LINE
    ) -> None:
        self._viewer, self._clicked, self._name, self._line = viewer, clicked, name, line
        self._store, self._place, self._size = "", Place(), 1.0
        self._frame = self._new_frame()
        viewer.mouse_drag_callbacks.append(self._pressed)
        viewer.scene.camera.events.zoom.connect(self._thicken)

    @property
    def place(self) -> Place:
        """Where level-0 pixels lie."""
        return self._place

    def follow(self, store: str, place: Place) -> None:
        """Point at things of another prediction from now on; at none of them yet."""
        self.clear()
        self._store, self._place = store, place
        self._frame = self._new_frame()

    def point(self, edges: NDArray[np.float64], *, move: bool = True) -> None:
        """Frame ``y0, x0, y1, x1`` (level-0 px); the camera centres on it, and comes near where it would be tiny."""
        y0, x0, y1, x1 = edges - 0.5
        corners = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])
        self._frame.data = [corners]
        self._size = max(y1 - y0, x1 - x0)
        if self._frame not in self._viewer.layers:
            add_quietly(self._viewer, self._frame)
        if move:
            self._move(np.array([self._frame.data_to_world(corner) for corner in corners]))
        self._thicken()

    def clear(self) -> None:
        """Point at nothing."""
        if self._frame in self._viewer.layers:
            self._viewer.layers.remove(self._frame)

    def end(self) -> None:
        """Let the mouse go."""
        if self._pressed in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._pressed)
            self._viewer.scene.camera.events.zoom.disconnect(self._thicken)

    def _new_frame(self) -> Shapes:
        style = {"edge_color": COLOR, "face_color": "transparent", "shape_type": "rectangle", "opacity": 1.0}
        about = {"name": self._name, "metadata": {TAG: {"role": ROLE, "run_id": ""}}}
        return Shapes(ndim=2, **style, **about, **self._place.cells(1, 1))

    def _move(self, corners: NDArray[np.float64]) -> None:
        camera = self._viewer.scene.camera
        centre = corners.mean(axis=0)
        camera.center = (*camera.center[:-2], *centre)
        size = max(np.ptp(corners, axis=0).max(), np.finfo(float).tiny)
        canvas = min(self._viewer.window._qt_viewer.canvas.size)  # noqa: SLF001 - see `view.plain`
        if size * camera.zoom < SHARE * canvas / 4 or size * camera.zoom > canvas:
            camera.zoom = SHARE * canvas / size

    def _thicken(self, _event: Any = None) -> None:
        """Draw the frame so that it is seen from afar, and hides nothing from near."""
        if self._frame not in self._viewer.layers:
            return
        px = 1 / (self._viewer.scene.camera.zoom * float(np.mean(self._frame.scale)))
        wanted = max(self._line * self._size, LINE_PX * px)
        if not 1 / THICKER <= wanted / self._frame.edge_width[0] <= THICKER:
            self._frame.edge_width = wanted
            self._frame.refresh(extent=False)  # napari alone draws the new line at the next change

    def _pressed(self, _viewer: Viewer, event: Any) -> Generator[None, None, None]:
        """A press that becomes a click, unless the mouse drags."""
        start = np.asarray(event.pos, float)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos, float) - start).max() <= STILL_PX and self._is_ours(event):
            y, x = np.asarray(self._frame.world_to_data(np.asarray(event.position)[-2:])) + 0.5
            self._clicked(float(y), float(x))

    def _is_ours(self, event: Any) -> bool:
        """Whether the click means the prediction: not while something is drawn, or another layer is active."""
        layer = self._viewer.layers.selection.active
        if layer is None or event.button != 1 or self._viewer.dims.ndisplay != 2:
            return False
        tag: Mapping[str, Any] = layer.metadata.get(TAG, {})
        own = tag.get("store") == self._store or tag.get("role") == ROLE or (isinstance(layer, Image) and not tag)
        return own and str(layer.mode) in ("pan_zoom", "transform")
