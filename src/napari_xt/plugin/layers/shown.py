"""What is shown of one run and how: classes, their colours, thresholds, which scores. For the panel, without a screen.

Knows layers of a run and what they show; must not know widgets or Qt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.io.thresholds import RUN_THRESHOLD
from napari_xt.plugin.boxes.in_view import BoxesInView, boxes_in_view
from napari_xt.plugin.layers.hover import overlay_of
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.overlays import TAG, Overlay, Role
from napari_xt.plugin.layers.thresholds import move_threshold
from napari_xt.plugin.tables.seen import Thresholds

BOX_COLOR = (0.0, 0.9, 1.0, 1.0)
DIGITS = 6
Rgba = tuple[float, float, float, float]


class Class(NamedTuple):
    """A class of a run: its value in the mask (None where only boxes have it), colour, whether it is shown."""

    name: str
    value: int | None
    color: Rgba
    visible: bool


class ShownRun:
    """The layers of one run, and what can be changed about them.

    Parameters
    ----------
    overlay
        What they show.
    layers
        By role.
    """

    def __init__(self, overlay: Overlay, layers: dict[Role, Layer]) -> None:
        self.overlay, self.layers = overlay, layers
        self._colors: dict[int, Rgba] = {}  # of hidden classes

    @property
    def boxes(self) -> BoxesInView | None:
        """What draws the boxes."""
        return boxes_in_view(self.layers["boxes"]) if "boxes" in self.layers else None

    @property
    def classes(self) -> list[Class]:
        """The classes of the mask but the background, and those that boxes alone have."""
        layout = self.overlay.prediction.layout
        names = (layout.mask or ())[1:]
        hidden = self.boxes.hidden if self.boxes else frozenset()
        found = (
            [self._of_mask(name, value) for value, name in enumerate(names, start=1)] if "mask" in self.layers else []
        )
        there = {one.name for one in found}
        more = [name for name in layout.boxes or () if name not in there and self.boxes is not None]
        return found + [Class(name, None, BOX_COLOR, name not in hidden) for name in more]

    @property
    def counts(self) -> dict[str, str]:
        """How much there is of each class at these thresholds: its share of what is known, and its boxes."""
        names = self.overlay.prediction.layout.mask or ()
        words: dict[str, list[str]] = {}
        if self.overlay.composed is not None and "mask" in self.layers:
            shares = self.overlay.composed.shares()
            words = {name: [f"{100 * shares[value]:.1f} %"] for value, name in enumerate(names)}
        for name, count in (self.boxes.counts() if self.boxes else {}).items():
            words.setdefault(name, []).append(f"{count:,} box{'es' if count != 1 else ''}")
        return {name: ", ".join(parts) for name, parts in words.items()}

    def show_class(self, one: Class, *, visible: bool) -> None:
        """Show a class or hide it, in the mask and among the boxes."""
        if one.value is not None:
            color = _color(self.layers["mask"], one.value)
            if not visible and color[3] > 0:
                self._colors[one.value] = color
            back = self._colors.get(one.value, (*color[:3], 1.0))
            self._paint({one.value: back if visible else (*color[:3], 0.0)})
        if self.boxes is not None:
            names = self.boxes.hidden - {one.name} if visible else self.boxes.hidden | {one.name}
            self.boxes.show(hidden=names)

    def color_class(self, one: Class, color: Sequence[float]) -> None:
        """Give a class of the mask another colour, ``(r, g, b)`` in 0..1."""
        if one.value is not None:
            red, green, blue = map(float, color[:3])
            self._colors[one.value] = (red, green, blue, 1.0)
            self._paint({one.value: (red, green, blue, 1.0 if one.visible else 0.0)})

    def move(self, threshold: float) -> None:
        """Show the mask at another threshold, see `ComposedMask`."""
        if self.overlay.composed is not None and "mask" in self.layers:
            move_threshold(self.overlay, threshold, self._drawn)
            self.layers["mask"].refresh(extent=False)  # finer levels follow at once
            moved.thresholds.emit()

    def choose_scores(self, name: str) -> None:
        """Show how likely each region is of another class."""
        self.overlay.choose(name)
        self.layers["scores"].refresh(extent=False)

    def _drawn(self) -> None:
        self.layers["mask"].refresh(extent=False)

    def _of_mask(self, name: str, value: int) -> Class:
        color = _color(self.layers["mask"], value)
        visible = color[3] > 0
        back = self._colors.get(value, color)
        return Class(name, value, (*back[:3], 1.0), visible)

    def _paint(self, colors: dict[int, Rgba]) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        layer: Any = self.layers["mask"]
        layer.colormap = DirectLabelColormap(color_dict={**layer.colormap.color_dict, **colors})


def thresholds_in(viewer: Viewer, store: str) -> Thresholds:
    """The thresholds with which a viewer shows the prediction in ``store``; the run's where it does not."""
    for run in shown_runs(viewer):
        if any(layer.metadata[TAG].get("store") == store for layer in run.layers.values()):
            composed, boxes = run.overlay.composed, run.boxes
            mask = None if composed is None or composed.threshold == RUN_THRESHOLD else composed.threshold
            return Thresholds(_rounded(mask), _rounded(None if boxes is None else boxes.threshold))
    return Thresholds()


def boxes_of_store(viewer: Viewer, store: str | None) -> BoxesInView | None:
    """What draws the boxes of the prediction in ``store`` in a viewer; None where nothing does."""
    tags = [(layer, layer.metadata.get(TAG, {})) for layer in viewer.layers]
    found = (layer for layer, tag in tags if tag.get("store") == store and tag.get("role") == "boxes")
    layer = next(found, None)
    return None if layer is None else boxes_in_view(layer)


def shown_runs(viewer: Viewer) -> Iterator[ShownRun]:
    """What is shown of each prediction in a viewer, in the order of its layers."""
    found: dict[int, tuple[Overlay, dict[Role, Layer]]] = {}
    for layer in viewer.layers:
        overlay, role = overlay_of(layer), layer.metadata.get(TAG, {}).get("role")
        if overlay is not None and role in overlay.roles:
            found.setdefault(id(overlay), (overlay, {}))[1][role] = layer
    return (ShownRun(overlay, layers) for overlay, layers in found.values())


def _rounded(threshold: float | None) -> float | None:
    """As a user would write what a slider says."""
    return None if threshold is None else round(threshold, DIGITS)


def _color(layer: Any, value: int) -> Rgba:
    colors = layer.colormap.color_dict
    red, green, blue, alpha = map(float, np.asarray(colors.get(value, colors[None])))
    return red, green, blue, alpha
