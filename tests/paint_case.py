"""A mouse on a viewer's canvas, for tests of painting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.qt import get_qapp
from vispy.util import keys

Point = tuple[float, float]
SIDE = 100


def look_at(viewer: Any, layer: Any, pixel: Point, zoom: float) -> None:
    """Centre the camera on a pixel of a layer, so many pixels of the screen for each of the layer's."""
    viewer.scene.camera.center = (0, *layer.data_to_world(pixel)[-2:])
    viewer.scene.camera.zoom = zoom / np.min(np.abs(layer.scale[-2:]))
    drawn(viewer)


def drawn(viewer: Any) -> None:
    """Let the canvas draw, so that napari chooses the level."""
    viewer.window._qt_viewer.canvas.on_draw(None)


def on_canvas(viewer: Any, layer: Any, pixel: Point) -> np.ndarray:
    """``x, y`` on the canvas of a pixel of a layer."""
    canvas = viewer.window._qt_viewer.canvas
    box, _ = canvas._get_viewbox_at((SIDE, SIDE))
    first, last = (np.array(canvas._map_canvas2world((side, side), box)[-2:]) for side in (0, SIDE))
    y, x = (np.asarray(layer.data_to_world(pixel))[-2:] - first) / (last - first) * SIDE
    return np.rint([x, y]).astype(int)


def drag(viewer: Any, layer: Any, pixels: Sequence[Point], button: int = 1) -> None:
    """Press at the first pixel of a layer, move to the others and release."""
    events = viewer.window._qt_viewer.canvas._scene_canvas.events
    places = [on_canvas(viewer, layer, pixel) for pixel in pixels]
    about: dict[str, Any] = {"button": button, "modifiers": (), "handled": False}
    press = events.mouse_press(pos=places[0], **about)
    for place in places[1:]:
        events.mouse_move(pos=place, press_event=press, **about)
        breathe()
    events.mouse_release(pos=places[-1], press_event=press, **about)


def hover(viewer: Any, layer: Any, pixels: Sequence[Point]) -> None:
    """Move without a button."""
    for pixel in pixels:
        place = on_canvas(viewer, layer, pixel)
        viewer.window._qt_viewer.canvas._scene_canvas.events.mouse_move(pos=place, modifiers=(), handled=False)
        breathe()


def breathe() -> None:
    """Let the moves of the mouse through that napari holds back for 5 ms."""
    time.sleep(0.006)
    get_qapp().processEvents()


def click(viewer: Any, layer: Any, pixel: Point) -> None:
    """Press and release."""
    drag(viewer, layer, [pixel])


def press_key(viewer: Any, name: str, *, shift: bool = False) -> None:
    """Press Ctrl and a key, and release them."""
    events = viewer.window._qt_viewer.canvas._scene_canvas.events
    held = [keys.CONTROL, keys.SHIFT] if shift else [keys.CONTROL]
    events.key_press(key=keys.Key(name), modifiers=held)
    events.key_release(key=keys.Key(name), modifiers=held)
