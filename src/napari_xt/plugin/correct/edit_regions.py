"""Regions corrected by hand: the class of the one under the mouse, and what is known of it.

Joins a viewer's cursor and corrections; must not know layers, widgets or Qt.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from napari.viewer import Viewer
from psygnal import Signal

from napari_xt.io.corrections.marks import Record
from napari_xt.plugin.correct.correcting import Correcting, told
from napari_xt.plugin.layers.hover import overlay_of
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.pointer import STILL_PX

KEY: Final = "Shift-R"
DIGITS: Final = range(1, 10)
Cell = tuple[int, int]


class EditRegions:
    """Gives regions a class, one stroke each.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    changed
        Emitted when the mouse is over another region, or a region was corrected.
    class_name
        What a region gets, one of `classes`.
    cell
        Row and column of the region that the mouse was over last, None where it was outside.
    """

    changed = Signal()

    def __init__(self, correcting: Correcting) -> None:
        self._correcting = correcting
        self.class_name = ""
        self.cell: Cell | None = None
        self._store = ""
        self._records: dict[Cell, Record] = {}
        correcting.bind(KEY, "give the region under the mouse the class that is chosen for regions", self.set_class)
        for digit in DIGITS:
            text = "give the region under the mouse the first class, Alt-2 to Alt-9 the others" if digit == 1 else ""
            correcting.bind(f"Alt-{digit}", text, partial(self.set_nth, digit))
        correcting.bind("Alt-0", "let the region under the mouse have the predicted class", self.clear)
        correcting.chosen.connect(self._follow)
        correcting.changed.connect(self._corrected)
        correcting.viewer.mouse_move_callbacks.append(self._hover)
        self._follow()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that a region may have: those that are scored, else the mask's."""
        known = self._correcting.corrections
        if known is None:
            return ()
        return known.final.layout.scores or known.classes.names

    def set_class(self) -> None:
        """Give the region under the mouse the chosen class."""
        if self.class_name:
            self._set(self.class_name)

    def set_nth(self, place: int) -> None:
        """Give it the class of this place, the first is 1; where there are fewer nothing happens."""
        if place <= len(self.classes):
            self._set(self.classes[place - 1])

    def clear(self) -> None:
        """Let it have the predicted class."""
        self._set(None)

    def told(self) -> str:
        """What somebody said of the region under the mouse, in words; nothing where it is outside."""
        known, cell = self._correcting.corrections, self.cell
        if known is None or cell is None:
            return ""
        record = known.marks.regions.get(cell) or {}
        parts = [record[name] for name in ("state", "class") if record.get(name)]
        return f"region {cell[0]}, {cell[1]}: {', '.join(parts) or 'as predicted'}"

    @property
    def clicks(self) -> bool:
        """Whether a click on the canvas gives a region the chosen class."""
        return self._pressed in self._correcting.viewer.mouse_drag_callbacks

    @clicks.setter
    def clicks(self, wanted: bool) -> None:
        viewer = self._correcting.viewer
        if wanted and not self.clicks:
            viewer.mouse_drag_callbacks.append(self._pressed)
            active = viewer.layers.selection.active
            if active is not None:
                active.mode = "pan_zoom"  # so that the click does nothing else
        elif not wanted and self.clicks:
            viewer.mouse_drag_callbacks.remove(self._pressed)

    def end(self) -> None:
        """Let the mouse go."""
        self.clicks = False
        if self._hover in self._correcting.viewer.mouse_move_callbacks:
            self._correcting.viewer.mouse_move_callbacks.remove(self._hover)
        self._correcting.chosen.disconnect(self._follow)
        self._correcting.changed.disconnect(self._corrected)

    def at(self, point: Sequence[float]) -> Cell | None:
        """The region at a point of the world."""
        return self._correcting.region_at(point)

    def _set(self, name: str | None) -> None:
        """Set the class of the region under the mouse; its state stays."""
        known, cell = self._correcting.corrections, self.at(self._correcting.viewer.cursor.position)
        if known is None or cell is None:
            return
        record: Record = known.marks.regions.get(cell) or {}
        state = record.get("state")
        with known.stroke(tool="class of a region") as stroke:
            stroke.region(*cell, state, name)
        arguments = ", ".join(map(repr, (*cell, state, name)))
        self._correcting.did.emit(f"with corrections.stroke() as stroke: stroke.region({arguments})")
        self.cell = cell
        self.changed.emit()

    def _follow(self) -> None:
        known, before = self._correcting.corrections, self._store
        self._store = self._correcting.store
        if before and before != self._store:
            self._show(before, {})
        self._records = {} if known is None else dict(known.marks.regions)
        if self._store:
            self._show(self._store, self._records)
        self.cell, self.clicks = None, False
        if self.class_name not in self.classes:
            self.class_name = (*self.classes, "")[0]
        self.changed.emit()

    def _corrected(self, _where: object) -> None:
        known = self._correcting.corrections
        if known is not None and known.marks.regions != self._records:
            self._records = dict(known.marks.regions)
            self._show(self._correcting.store, self._records)
            moved.tables.emit(self._correcting.store)
            self.changed.emit()

    def _show(self, store: str, records: dict[Cell, Record]) -> None:
        """Let the status bar and the layer of scores tell what was corrected."""
        for layer in self._correcting.viewer.layers:
            overlay, tag = overlay_of(layer), layer.metadata.get(TAG, {})
            if overlay is not None and tag.get("store") == store:
                overlay.regions.corrected = records
                if tag["role"] == "scores":
                    overlay.choose(overlay.score_class)
                    layer.refresh(extent=False)

    def _pressed(self, viewer: Viewer, event: Any) -> Generator[None, None, None]:
        """A press that becomes a click, unless the mouse drags or draws."""
        start = np.asarray(event.pos, float)
        yield
        while event.type == "mouse_move":
            yield
        active = viewer.layers.selection.active
        still = np.abs(np.asarray(event.pos, float) - start).max() <= STILL_PX
        if still and event.button == 1 and (active is None or str(active.mode) == "pan_zoom"):
            told(self.set_class)

    def _hover(self, _viewer: object, event: object) -> None:
        cell = self.at(event.position)  # type: ignore[attr-defined]
        if cell != self.cell:
            self.cell = cell
            self.changed.emit()
