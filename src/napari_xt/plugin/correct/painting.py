"""From a mask in a viewer to one that can be painted on, and back; the layer of corrections, on demand.

Joins layers of runs, corrections and a viewer; must not know Qt or how corrections are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from napari.layers import Labels
from napari.viewer import Viewer

from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.plugin.correct.brush_size import ScreenBrush
from napari_xt.plugin.correct.edit_window import EditWindow
from napari_xt.plugin.correct.levels import NO_CORRECTION, ShownLevels
from napari_xt.plugin.correct.pyramid_labels import Color, PyramidLabels
from napari_xt.plugin.correct.selftest import paintable
from napari_xt.plugin.layers.overlays import FINAL, TAG, Overlay, Place, class_colors
from napari_xt.plugin.view import seen

CORRECTIONS: Final = "corrections"
CLEAR, WHITE = (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)


class Painting:
    """The corrected mask of a prediction in the place of the predicted one, until `end`.

    Where this napari's tools can't paint on a pyramid, `layer` covers what is in view and `commit` writes it back.

    Parameters
    ----------
    viewer
        Where.
    mask
        The layer of the predicted mask, as a run or a reader made it; hidden meanwhile.
    corrections
        Of that prediction.

    Attributes
    ----------
    layer
        What is painted on.
    brush
        Its size on the screen.
    """

    def __init__(self, viewer: Viewer, mask: Labels, corrections: Corrections) -> None:
        self._viewer, self._mask, self._corrections = viewer, mask, corrections
        self._overlay: Overlay = mask.metadata[TAG]["overlay"]
        self._levels: dict[str, ShownLevels] = {}
        self._diff: Labels | None = None
        self._window: EditWindow | None = None
        self.layer = self._pyramid() if paintable() else self._flat()
        layers = viewer.layers
        layers.insert(layers.index(mask) + 1, self.layer)
        self._was_visible, mask.visible = mask.visible, False
        self.update_classes()
        self.brush = ScreenBrush(viewer, self.layer)
        self._overlay.followers.append(self._arrived)
        layers.selection.active = self.layer
        layers.events.removed.connect(self._removed)
        mask.events.opacity.connect(self._fade)

    def commit(self) -> int:
        """Write back what was painted, where that does not happen at once; how many pixels that were."""
        return 0 if self._window is None else self._window.commit()

    def update_classes(self) -> None:
        """Show classes that were added, renamed, recoloured, hidden or locked."""
        classes, colors = list(self._corrections.classes), self.colors()
        hidden, locked = ({one.value for one in classes if getattr(one, what)} for what in ("hidden", "locked"))
        if isinstance(self.layer, PyramidLabels):
            self.layer.show_classes({one.value: one.name for one in classes}, colors, hidden, locked)
        elif self._window is not None:
            self.layer.colormap = colors | {None: CLEAR} | dict.fromkeys(hidden, CLEAR)
            self._window.rules = replace(self._window.rules, locked=frozenset(locked))
        if self._diff is not None:
            self._diff.colormap = colors | {0: WHITE, NO_CORRECTION: CLEAR, None: CLEAR}

    @property
    def shows_corrections(self) -> bool:
        """Whether the layer of corrections is in the viewer."""
        return self._diff is not None

    def show_corrections(self, show: bool = True) -> None:
        """Add the layer of what was corrected, in the classes' colours, or remove it."""
        if show and self._diff is None:
            levels = self._levels[CORRECTIONS] = ShownLevels(self._corrections.diff)
            self._diff = Labels(**levels.as_data(), **self._style(CORRECTIONS))
            self._diff.editable = False
            self._diff.opacity = 1.0
            self.update_classes()
            self._corrections.changed.append(self._corrected)
            active = self._viewer.layers.selection.active
            self._viewer.layers.insert(self._viewer.layers.index(self.layer) + 1, self._diff)
            self._viewer.layers.selection.active = active
        elif not show and self._diff is not None:
            self._viewer.layers.remove(self._diff)

    def end(self) -> None:
        """Take the layers away; the predicted mask is seen again."""
        for layer in (self._diff, self.layer):
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _pyramid(self) -> PyramidLabels:
        side = self._overlay.prediction.layout.grid.region_px
        hatch = None if self._overlay.composed is None else (self._overlay.composed, side, self._corrections.diff)
        levels = self._levels[FINAL] = ShownLevels(self._corrections.mask, hatch)
        layer = PyramidLabels(self._corrections, levels, view=self._view, **self._style(FINAL))
        layer.opacity = self._mask.opacity
        return layer

    def _flat(self) -> Labels:
        view, place = self._view(), Place.of_layer(self._mask)
        self._window = EditWindow(self._corrections, view, place, **self._style(FINAL))
        return self._window.layer

    def _style(self, role: str) -> dict[str, Any]:
        """Name, tag and place of one of the layers; no image in the tag: they are not the next run's to replace."""
        tag, mask = self._mask.metadata[TAG], self._mask
        name = mask.name.replace("xT mask", f"xT {role}") if "xT mask" in mask.name else f"{mask.name} - {role}"
        place = {key: getattr(mask, key) for key in ("scale", "translate", "rotate", "shear", "affine", "units")}
        return {"name": name, "metadata": {TAG: {**_kept(tag), "role": role}}, **place}

    def colors(self) -> dict[int, Color]:
        """Those of the predicted mask by value, but where somebody chose another."""
        layout = self._overlay.prediction.layout
        colors = {one.value: one.color for one in self._corrections.classes}
        known = dict(enumerate(class_colors(layout)))
        colors |= {value: color for value, color in known.items() if colors[value] == layout.rgba(value)}
        return {value: (r / 255, g / 255, b / 255, a / 255) for value, (r, g, b, a) in colors.items()}

    def _view(self) -> Box:
        return seen(self._viewer, self._mask)

    def _arrived(self, part: tuple[slice, slice]) -> None:
        """A run wrote a part of the coarsest level; from its thread. The live layers refresh what shows it."""
        if FINAL in self._levels:
            self._levels[FINAL].update(part)

    def _corrected(self, box: Box) -> None:
        self._levels[CORRECTIONS].follow(box)
        if self._diff is not None:
            self._diff.refresh(extent=False, thumbnail=False)

    def _removed(self, event: Any) -> None:
        if event.value is self._diff:
            self._diff = None
            self._corrections.changed.remove(self._corrected)
        elif event.value is self._mask:
            self.end()
        elif event.value is self.layer:
            self.end()
            self._let_go()

    def _fade(self) -> None:
        """As faint as the predicted mask is made."""
        self.layer.opacity = self._mask.opacity

    def _let_go(self) -> None:
        self._mask.events.opacity.disconnect(self._fade)
        self._viewer.layers.events.removed.disconnect(self._removed)
        self.brush.end()
        self._overlay.followers.remove(self._arrived)
        if isinstance(self.layer, PyramidLabels):
            self.layer.close()
        self._mask.visible = self._was_visible


def _kept(tag: dict[str, Any]) -> dict[str, Any]:
    return {key: tag[key] for key in ("run_id", "store") if key in tag}
