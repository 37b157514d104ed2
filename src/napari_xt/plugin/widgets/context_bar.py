"""A button and a key that show which other regions the chosen one hangs on. Must not know how that is found out."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from napari.viewer import Viewer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QWidget

from napari_xt.plugin.layers.context_layer import context_layer, hide_map, map_shown, show_map
from napari_xt.plugin.layers.overlays import Place
from napari_xt.plugin.run import RunHandle
from napari_xt.plugin.tables.opened import Opened
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.task import Task

if TYPE_CHECKING:
    from napari_xt.engine.context_map import ContextMap

KEY = "K"
LIKELIEST = "most likely class"
TIP = f"Show which other regions this one's class hangs on: red speaks for it, blue against it ({KEY})."
NO_TOKENS = "The run has kept no tokens: run again with keep='tokens'."
NO_CLASSES = "The model has no classes of regions or of the image."
CHOOSE = "Choose a region first: a row of the table, or a click on the canvas."


class ContextBar(QWidget):
    """Asks for a context map of the chosen region, and takes it away.

    Attributes
    ----------
    region
        ``(row, col)`` of the region that is asked about.
    runs
        Those of the viewer, which know the models that were no bundled ones.
    told
        Emitted with what the user should read.
    """

    told = Signal(str)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.region: tuple[int, int] | None = None
        self.place = Place()
        self.runs: list[RunHandle] = []
        self.button, self.class_name = QPushButton("Context map"), QComboBox()
        self.task = Task(viewer, self)
        self._viewer = viewer
        self._opened: Opened | None = None
        self.button.setCheckable(True)
        self.class_name.setToolTip("The class that the map is about.")
        self.class_name.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button)
        row.addWidget(self.class_name, 1)
        self.button.clicked.connect(self.toggle)
        viewer.layers.events.removed.connect(self._follow)
        self.task.changed.connect(self._follow)
        me = weakref.ref(self)
        viewer.bind_key(KEY, lambda _viewer: _press(me()), overwrite=True)
        self.offer(None)

    def offer(self, opened: Opened | None) -> None:
        """Ask about another prediction, or the same one read again."""
        same = self._opened is not None and opened is not None
        same = same and self._opened.prediction.path == opened.prediction.path  # type: ignore[union-attr]
        self._opened = opened
        if not same:
            self.region = None
            self.class_name.clear()
            for text in (LIKELIEST, *(opened.classes if opened else ())):
                self.class_name.addItem(text)
        possible = opened is not None and opened.has_tokens
        self.button.setEnabled(possible)
        why = NO_TOKENS if opened is not None and opened.classes else NO_CLASSES
        self.button.setToolTip(TIP if possible or opened is None else why)
        self._follow()

    def toggle(self) -> None:
        """Show the map of the region, or take it away."""
        opened, region = self._opened, self.region
        if hide_map(self._viewer) or self.task.busy:
            self.task.stop()
        elif opened is None or not opened.has_tokens:
            self.told.emit(self.button.toolTip())
        elif region is None:
            self.told.emit(CHOOSE)
        else:
            name = self.class_name.currentText() if self.class_name.currentIndex() > 0 else None
            model = self._model(str(opened.prediction.path))
            self.told.emit(f"Finding out what region {region[0]}, {region[1]} hangs on")
            call = lambda _tell: _found(opened, region, name, model)  # noqa: E731 - it would read no better
            self.task.do(call, lambda found: self._show(opened, found), self.told.emit)
        self._follow()

    def _model(self, store: str) -> Any:
        """The model of a run of this viewer, None where it was another one's."""
        made = [run for run in self.runs if os.path.abspath(run.state.out or "") == store]
        return made[-1].job.model if made else None

    def _show(self, opened: Opened, found: ContextMap) -> None:
        prediction = opened.prediction
        layout = prediction.layout
        show_map(self._viewer, context_layer(found, layout.grid, layout.frame, self.place, str(prediction.path)))
        at = f"{found.region[0]}, {found.region[1]}"
        self.told.emit(f"Region {at} is {found.name} with {found.score:.2f}: red speaks for it, blue against it.")

    def _follow(self, _event: Any = None) -> None:
        if alive(self):
            self.button.setChecked(self.task.busy or map_shown(self._viewer) is not None)


def _press(bar: ContextBar | None) -> None:
    if bar is not None and alive(bar):
        bar.toggle()


def _found(opened: Opened, region: tuple[int, int], name: str | None, model: Any) -> ContextMap:
    from napari_xt.engine.context_map import context_map  # imports torch: in the thread

    return context_map(opened.prediction, region, name, model)
