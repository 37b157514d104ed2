"""How the layers of a run are looked at: written down while they are there, and restored when they come back.

Knows a viewer's camera and layers; must not know predictions' arrays, threads or Qt.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.overlays import FINAL, TAG
from napari_xt.plugin.runs.reopen import keep_view

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_xt.io.stores.layout import Header

KEEP_AFTER_S = 1.0  # a view that moves is written down at most so often
STYLE = ("visible", "opacity")

_kept: WeakKeyDictionary[Viewer, list[_Looks]] = WeakKeyDictionary()


def keep_looks(viewer: Viewer, header: Header, layers: Mapping[Any, Layer]) -> None:
    """Write down how a run's ``layers``, by role, are looked at, from now on until they are gone."""
    kept = _kept.setdefault(viewer, [])
    for earlier in [one for one in kept if one.shares(layers)]:
        earlier.end()
    kept.append(_Looks(viewer, header, layers))


def restore(viewer: Viewer, view: Mapping[str, Any], layers: Mapping[str, Layer], *, alone: bool) -> None:
    """Show a prediction as it was seen last; the camera moves only where nothing else is there to be seen."""
    with suppress(TypeError, ValueError, KeyError, AttributeError):
        for role, style in view.get("layers", {}).items():
            for name in STYLE if role in layers else ():
                setattr(_seen(viewer, layers[role]), name, style[name])
        for role, threshold in view.get("thresholds", {}).items():
            _set_threshold(viewer, layers[role], float(threshold))
        if alone and "camera" in view:
            camera = viewer.scene.camera
            camera.center, camera.zoom = tuple(map(float, view["camera"]["center"])), float(view["camera"]["zoom"])


class _Looks:
    """How a run's layers are looked at, written down a moment after it changes and when they go."""

    def __init__(self, viewer: Viewer, header: Header, layers: Mapping[str, Layer]) -> None:
        self._viewer, self._header, self._layers = weakref.ref(viewer), header, dict(layers)
        self._asked, self._view, self._written = False, dict[str, Any](), dict[str, Any]()
        self._changes: list[Any] = [viewer.scene.camera.events, moved.thresholds]
        self._changes += [getattr(layer.events, name) for layer in layers.values() for name in (*STYLE, "set_data")]
        for change in self._changes:
            change.connect(self._note)
        viewer.layers.events.removed.connect(self._gone)

    def shares(self, layers: Mapping[str, Layer]) -> bool:
        """Whether any of ``layers`` is looked after."""
        return any(layer in self._layers.values() for layer in layers.values())

    def end(self) -> None:
        """Write down what it was at last, and nothing any more."""
        self._keep()
        viewer = self._viewer()
        for change in self._changes:
            change.disconnect(self._note)
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._gone)
            _kept[viewer].remove(self)

    def _note(self) -> None:
        viewer = self._viewer()
        there = {} if viewer is None else {r: layer for r, layer in self._layers.items() if layer in viewer.layers}
        if viewer is None or not there:
            return
        camera = viewer.scene.camera
        centre, zoom = [float(value) for value in camera.center], float(camera.zoom)
        seen = {role: _seen(viewer, layer) for role, layer in there.items()}
        layers = {role: {name: getattr(layer, name) for name in STYLE} for role, layer in seen.items()}
        camera_there = {"center": centre, "zoom": zoom}
        told: dict[str, Mapping[str, Any]] = {
            "layers": layers,
            "thresholds": _thresholds(there),
        }  # of layers that have gone as they were last
        kept = {name: {**self._view.get(name, {}), **found} for name, found in told.items()}
        self._view = {"camera": camera_there, **kept}
        self._ask()

    def _ask(self) -> None:
        if not self._asked:
            from napari_xt.plugin._loop import on_viewer_thread

            self._asked = True
            on_viewer_thread(self._keep, KEEP_AFTER_S)

    def _keep(self) -> None:
        if not self._asked:
            return
        self._asked = False
        if self._view != self._written:
            self._written = self._view
            keep_view(self._header, self._view)

    def _gone(self) -> None:
        viewer = self._viewer()
        if viewer is not None and not any(layer in viewer.layers for layer in self._layers.values()):
            self.end()


def _seen(viewer: Viewer, layer: Layer) -> Layer:
    """The layer itself, or the corrected mask that is seen in its place."""
    tag = layer.metadata.get(TAG, {})
    if tag.get("role") != "mask":
        return layer
    wanted = {"role": FINAL, "store": tag.get("store")}
    tags = ((one, one.metadata.get(TAG, {})) for one in viewer.layers)
    return next((one for one, tag in tags if {name: tag.get(name) for name in wanted} == wanted), layer)


def _thresholds(layers: Mapping[str, Layer]) -> dict[str, float]:
    """Those at which mask and boxes are shown, by role."""
    from napari_xt.plugin.boxes.in_view import boxes_in_view
    from napari_xt.plugin.layers.hover import overlay_of

    overlay = overlay_of(layers["mask"]) if "mask" in layers else None
    drawn = boxes_in_view(layers["boxes"]) if "boxes" in layers else None
    found = {"mask": overlay.composed.threshold if overlay is not None and overlay.composed is not None else None}
    found["boxes"] = drawn.threshold if drawn is not None else None
    return {role: float(value) for role, value in found.items() if value is not None}


def _set_threshold(viewer: Viewer, layer: Layer, threshold: float) -> None:
    from napari_xt.plugin.layers.shown import shown_runs

    for run in shown_runs(viewer):
        if run.layers.get("mask") is layer and _thresholds({"mask": layer}).get("mask") != threshold:
            run.move(threshold)
        elif run.layers.get("boxes") is layer and run.boxes is not None:
            run.boxes.show(threshold=threshold)
