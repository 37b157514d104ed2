"""Boxes corrected by hand: drawn, moved, resized, deleted, accepted, given a class; what was done is a stroke.

Joins a layer of boxes and corrections; must not know widgets or Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from napari.layers import Layer
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from psygnal import Signal

from napari_xt.errors import SettingsError, XTError
from napari_xt.geometry import Box
from napari_xt.io.corrections.marks import DELETED, Record
from napari_xt.plugin._loop import on_viewer_thread, weak
from napari_xt.plugin.boxes.in_view import BoxesInView
from napari_xt.plugin.boxes.table import EDGES, BoxTable
from napari_xt.plugin.correct.correcting import Correcting, told
from napari_xt.plugin.correct.gestures import Edges, Gestures
from napari_xt.plugin.correct.lasso import Lasso
from napari_xt.plugin.correct.long_stroke import LongStroke
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.overlays import TAG, box_table
from napari_xt.plugin.layers.shown import boxes_of_store

Ids = NDArray[np.int64]

WAIT_S = 0.1  # for the boxes to be in the viewer
EMPTY: Final = np.array([], np.int64)
KEYS: Final = {
    "Shift-D": "draw boxes",
    "Shift-E": "select, move and resize boxes",
    "Shift-F": "select boxes with a lasso",
    "Shift-A": "accept the selected boxes, or the one under the mouse",
    "Shift-C": "give them the class that is chosen for boxes",
    "Shift-X": "delete them",
}


class EditBoxes:
    """Makes the boxes of what is corrected editable, and all that is done to them strokes.

    Parameters
    ----------
    correcting
        What is corrected; its boxes are followed.

    Attributes
    ----------
    changed
        Emitted when boxes, the selection or whether they can be edited has changed.
    class_name
        Of boxes that are drawn or get a class; one of `classes`.
    working
        How many boxes of very many were corrected until now; 0 where that is over.
    drawn
        What draws the boxes, None where there are none to edit.
    """

    changed = Signal()

    def __init__(self, correcting: Correcting) -> None:
        self._correcting = correcting
        self.class_name = ""
        self.drawn: BoxesInView | None = None
        self._store = ""
        self._records: dict[int, Record] = {}  # as they are drawn
        self._gestures: Gestures | None = None
        self._lasso: Lasso | None = None
        self._long: LongStroke | None = None
        self.working = 0
        self._undo: dict[str, Any] = {}
        calls: list[Callable[[], object]] = [self.draw, self.move, self.lasso, self.accept, self.reclass, self.delete]
        for (key, text), call in zip(KEYS.items(), calls, strict=True):
            correcting.bind(key, text, call)
        correcting.chosen.connect(self._follow)
        correcting.changed.connect(self._corrected)
        correcting.viewer.layers.events.removed.connect(self._gone)
        self._follow()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that boxes may have: the model's, and those that somebody added."""
        known = self._correcting.corrections
        if known is None or self.drawn is None:
            return ()
        own = known.layout.boxes or ()
        return tuple(dict.fromkeys((*own, *(one.name for one in known.classes if one.added), *self.drawn.table.names)))

    @property
    def counts(self) -> dict[str, int]:
        """How many boxes were added, changed, accepted and deleted."""
        states = [record["state"] for record in self._records.values()]
        return {state: states.count(state) for state in ("added", "changed", "accepted", "deleted")}

    @property
    def selected(self) -> Ids:
        """The ids of the selected boxes, whether they are drawn or not."""
        return EMPTY if self.drawn is None else self.drawn.selected

    @property
    def editable(self) -> bool:
        """Whether boxes can be drawn and moved: not where they are a picture, or somebody else corrects."""
        return self.drawn is not None and not self.drawn.many and not self._correcting.read_only

    # Tools

    def draw(self) -> None:
        """Draw boxes with the mouse."""
        self._begin("add_rectangle")

    def move(self) -> None:
        """Select, move and resize boxes with the mouse."""
        self._begin("select")

    def lasso(self) -> None:
        """Select boxes, all that are shown, by drawing around their middles."""
        drawn = self._drawn()
        if self._lasso is None:
            viewer = self._correcting.viewer
            self._lasso = Lasso(viewer, self._correcting.place, drawn.layer, self._encircled)

    def select(self, ids: Any) -> None:
        """Select boxes by id."""
        self._drawn().select(ids)

    # What is done to the selected boxes, or to the one under the mouse; one stroke each

    def accept(self, ids: Sequence[int] | Ids | None = None) -> int:
        """Say that boxes are right; how many."""
        return self._each("accept boxes", "box_accept", ids)

    def reclass(self, ids: Sequence[int] | Ids | None = None) -> int:
        """Give boxes the class ``class_name``; how many."""
        return self._each("class of boxes", "box_class", ids, self.class_name)

    def delete(self, ids: Sequence[int] | Ids | None = None) -> int:
        """Take boxes away; how many."""
        return self._each("delete boxes", "box_delete", ids)

    def end(self) -> None:
        """Let the layer go."""
        self._detach()
        self._correcting.chosen.disconnect(self._follow)
        self._correcting.changed.disconnect(self._corrected)
        self._correcting.viewer.layers.events.removed.disconnect(self._gone)

    def _drawn(self) -> BoxesInView:
        if self.drawn is None:
            raise SettingsError("boxes", "there are none to edit", "choose a prediction that has boxes")
        return self.drawn

    def _begin(self, mode: str) -> None:
        drawn = self._drawn()
        if not self.editable:
            why = "too many are in view" if drawn.many else self._correcting.read_only
            raise SettingsError("boxes", why, "zoom in" if drawn.many else "take another prediction, or wait")
        self._end_lasso()
        drawn.layer.visible = True
        self._correcting.viewer.layers.selection.active = drawn.layer
        drawn.layer.mode = mode

    def _each(self, tool: str, what: str, ids: Sequence[int] | Ids | None, *more: str) -> int:
        """Do something to boxes, as one stroke; those that are no more are left out."""
        drawn = self._drawn()
        chosen = self._chosen() if ids is None else np.asarray(ids, np.int64)
        chosen = drawn.table.ids[np.isin(drawn.table.ids, chosen)]
        if len(chosen) and not self.working:
            self._do(tool, what, [(key, *more) for key in chosen.tolist()], chosen)
            return len(chosen)
        return 0

    def _do(self, tool: str, what: str, calls: Sequence[tuple[Any, ...]], outdated: Ids) -> list[Any]:
        """Make one stroke of several calls; what they returned, until one was refused."""
        known = self._correcting.corrections
        found: list[Any] = []
        assert known is not None
        steps = [lambda stroke, call=call: found.append(getattr(stroke, what)(*call)) for call in calls]

        def over(done: int, error: XTError | None) -> None:
            self.working = 0
            if error is not None:
                self._again(outdated)  # the canvas shows what is
                show_error(str(error))
            if done:
                more = f"  # and {done - 1:,} more" if done > 1 else ""
                values = ", ".join(map(repr, calls[0]))
                self._correcting.did.emit(f"with corrections.stroke({tool!r}) as stroke: stroke.{what}({values}){more}")

        try:
            stroke = LongStroke(known, tool, steps, self._worked, over)
        except XTError as error:
            over(0, error)
        else:
            self._long = stroke if stroke.goes_on else self._long
        return found

    def _worked(self, done: int) -> None:
        self.working = done
        self.changed.emit()

    def _chosen(self) -> Ids:
        """The selected boxes; where there are none, the smallest under the mouse."""
        drawn = self._drawn()
        if len(selected := drawn.selected):
            return selected
        y, x = np.floor(self._under_mouse(drawn.layer)).astype(int)
        rows = drawn.table.within(Box(int(y), int(x), int(y) + 1, int(x) + 1), drawn.kept)
        y0, x0, y1, x1 = drawn.table.edges[:, rows]
        return drawn.table.ids[rows[np.argsort((y1 - y0) * (x1 - x0))[:1]]]

    def _under_mouse(self, layer: Layer) -> NDArray[np.float64]:
        """``y, x`` in level-0 px."""
        return np.asarray(layer.world_to_data(self._correcting.viewer.cursor.position[-2:]), float) + 0.5

    # The layer

    def _follow(self) -> None:
        """Edit the boxes of what is open now, once they are there."""
        self._detach()
        known, self._store = self._correcting.corrections, self._correcting.store
        if known is None:
            self.changed.emit()
            return
        drawn = boxes_of_store(self._correcting.viewer, self._store)
        if drawn is not None:
            self._attach(drawn)
        elif any(map(self._is_ours, self._correcting.viewer.layers)):
            on_viewer_thread(weak(self._follow_late), WAIT_S)
        self.class_name = self.class_name if self.class_name in self.classes else (*self.classes, "")[0]
        self.changed.emit()

    def _follow_late(self) -> None:
        if self._store and self.drawn is None:
            self._follow()

    def _is_ours(self, layer: Layer) -> bool:
        tag = layer.metadata.get(TAG, {})
        return bool(tag.get("store") == self._store and tag.get("role") == "boxes")

    def _attach(self, drawn: BoxesInView) -> None:
        self.drawn, layer = drawn, drawn.layer
        self._gestures = Gestures(self._correcting.viewer, drawn, self._added, self._moved, self._removed)
        drawn.changed.connect(self._looked)
        for key, call in (("Control-Z", self._correcting.undo), ("Control-Shift-Z", self._correcting.redo)):
            self._undo[key] = layer.bind_key(key, lambda _layer, call=call: told(call), overwrite=True)
        self._records = {}
        self._again(EMPTY)

    def _detach(self) -> None:
        drawn, self.drawn = self.drawn, None
        if self._long is not None:
            self._long.stop()
            self._long = None
        self._end_lasso()
        self._store = ""
        if drawn is None:
            return
        layer, touched = drawn.layer, self._touched()
        self._records = {}
        if self._gestures is not None:
            self._gestures.end()
        drawn.changed.disconnect(self._looked)
        for key in list(self._undo):
            layer.bind_key(key, self._undo.pop(key), overwrite=True)
        if layer.mode != "pan_zoom":
            layer.mode = "pan_zoom"
        layer.editable = True
        drawn.correct(None, touched)

    def _corrected(self, _where: Box) -> None:
        """Somebody corrected something: draw the boxes anew that are other ones now."""
        known = self._correcting.corrections
        if self.drawn is None or known is None or known.marks.boxes == self._records:
            return
        now = known.marks.boxes
        differ = [key for key in {**self._records, **now} if self._records.get(key) != now.get(key)]
        self._again(np.array(differ, np.int64))
        moved.tables.emit(self._store)
        self.changed.emit()

    def _again(self, ids: Ids) -> None:
        """Show the boxes as they are corrected now, and draw some of them anew."""
        known = self._correcting.corrections
        if self.drawn is not None and known is not None:
            self._records = dict(known.marks.boxes)
            self.drawn.correct(self._final, ids)

    def _touched(self) -> Ids:
        return np.array(list(self._records), np.int64)

    def _final(self, table: BoxTable) -> BoxTable:
        """Boxes as predicted with the corrected ones in their place."""
        known = self._correcting.corrections
        if known is None or self.drawn is None or not self._is_ours(self.drawn.layer) or not self._records:
            return table
        there = {key: record for key, record in self._records.items() if record["state"] != DELETED}
        columns = {edge: np.array([record[edge] for record in there.values()], float) for edge in EDGES}
        classes = {"class": [record["class"] for record in there.values()], "score": np.float32(np.nan)}
        corrected = pd.DataFrame({"id": np.array([*there], np.int64), **columns, **classes})
        return table.with_others(box_table(known.final, corrected), self._touched())

    def _gone(self, event: Any) -> None:
        if self.drawn is not None and event.value is self.drawn.layer:
            self._detach()
            self.changed.emit()

    def _looked(self) -> None:
        """What is drawn may have changed."""
        drawn = self.drawn
        if drawn is None:
            return
        if not self._is_ours(drawn.layer):
            self._detach()
            return
        if drawn.layer.editable != self.editable:
            drawn.layer.editable = self.editable
        self.changed.emit()

    # What napari's tools did

    def _added(self, around: list[Edges]) -> list[int]:
        """Boxes were drawn; their ids, -1 where one was refused."""
        found = self._do("draw boxes", "box_add", [(*edges, self.class_name) for edges in around], EMPTY)
        return [*found, *[-1] * (len(around) - len(found))]

    def _moved(self, ids: Ids, around: list[Edges]) -> None:
        """Boxes were moved or resized."""
        calls = [(key, *edges) for key, edges in zip(ids.tolist(), around, strict=True)]
        self._do("move boxes", "box_move", calls, ids)

    def _removed(self, ids: Ids) -> None:
        """Boxes were deleted: all that are selected where one of them was."""
        selected = self.selected
        self.delete(selected if np.isin(selected, ids).any() else ids)

    # The lasso

    def _encircled(self, points: NDArray[np.float64]) -> None:
        self._lasso = None
        drawn = self.drawn
        if drawn is None or not len(points):
            return
        around = shapely.Polygon(points[:, ::-1])
        x0, y0, x1, y1 = (int(edge) for edge in around.bounds)
        rows = drawn.table.within(Box(y0, x0, y1 + 1, x1 + 1), drawn.kept)
        top, left, bottom, right = drawn.table.edges[:, rows]
        inside = shapely.contains_xy(around.buffer(0), (left + right) / 2, (top + bottom) / 2)
        drawn.layer.visible = True
        if self.editable:
            drawn.layer.mode = "select"
        self.select(drawn.table.ids[rows[inside]])

    def _end_lasso(self) -> None:
        lasso, self._lasso = self._lasso, None
        if lasso is not None:
            lasso.end()
