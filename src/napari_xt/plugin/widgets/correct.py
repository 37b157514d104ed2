"""The dock widget *Correct and refine*: what is corrected, by whom, and below it the folds that do it.

Knows a `Correcting` and its folds; must not know stores, models or how things are drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import napari.viewer
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_xt.errors import XTError
from napari_xt.geometry import Box
from napari_xt.plugin.correct.correcting import Correcting, predictions_in
from napari_xt.plugin.run import session_of
from napari_xt.plugin.view import plain
from napari_xt.plugin.widgets.column import Column
from napari_xt.plugin.widgets.correct_boxes import BoxesPanel
from napari_xt.plugin.widgets.correct_classes import ClassesPanel
from napari_xt.plugin.widgets.correct_log import LogPanel
from napari_xt.plugin.widgets.fold import Fold
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.refine_bar import RefineBar
from napari_xt.plugin.widgets.review_bar import ReviewBar

AFTER_MS = 150  # the last change
EMPTY: Final = "Run a model, or open a prediction (NAME.xt.zarr): here its result is corrected."


class CorrectWidget(QWidget):
    """Corrects a prediction of the viewer that it is docked in.

    Parameters
    ----------
    viewer
        Given by napari, which looks for this very annotation.

    Attributes
    ----------
    correcting
        What is corrected.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = plain(viewer)
        self.correcting = Correcting(self._viewer)
        self.predictions, self.author, self.status, self.line = QComboBox(), QLineEdit(), QLabel(EMPTY), QLineEdit()
        self.classes, self.boxes = ClassesPanel(self.correcting), BoxesPanel(self.correcting)
        self.review, self.refine = ReviewBar(self.correcting), RefineBar(self.correcting)
        self.log = LogPanel(self.correcting)
        self.folds: dict[str, Fold] = {}
        self._soon = QTimer(self)
        self._arrange()
        self._connect()
        self._follow()

    def _arrange(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        panels = {"Classes and tools": self.classes, "Boxes and regions": self.boxes, "Review": self.review}
        for name, panel in {**panels, "Refine": self.refine, "Log": self.log}.items():
            self.folds[name] = Fold(name, panel)
            column.addWidget(self.folds[name])
            column.addWidget(panel)
        column.addStretch()
        scroll = Column()
        scroll.setWidget(inside)
        head = QFormLayout()
        head.addRow("Prediction", self.predictions)
        head.addRow("Author", self.author)
        whole = QVBoxLayout(self)
        whole.addLayout(head)
        whole.addWidget(self.status)
        whole.addWidget(scroll, 1)
        whole.addWidget(self.line)
        self.line.setReadOnly(True)
        self.status.setWordWrap(True)
        self.status.setTextFormat(Qt.TextFormat.PlainText)

    def _connect(self) -> None:
        self._soon.setSingleShot(True)
        self._soon.setInterval(AFTER_MS)
        self._soon.timeout.connect(self._refresh)
        self.correcting.changed.connect(self._changed)
        self.correcting.chosen.connect(self._refresh)
        self.correcting.did.connect(self.line.setText)
        self.predictions.currentIndexChanged.connect(self._choose)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._follow)
        session_of(self._viewer).changed.connect(self._follow)
        self.destroyed.connect(self.correcting.close)

    def _changed(self, _box: Box) -> None:
        if alive(self):
            self._soon.start()

    def _refresh(self) -> None:
        if alive(self):
            self.status.setText("" if self.correcting.corrections is not None else EMPTY)
            for panel in (self.classes, self.boxes, self.review, self.refine, self.log):
                panel.refresh()

    def _follow(self, _event: Any = None) -> None:
        """Offer the predictions as they are now and keep the choice."""
        if not alive(self):
            return
        combo, now = self.predictions, predictions_in(self._viewer)
        chosen = combo.currentData()
        if [combo.itemData(i) for i in range(combo.count())] == [store for store, _ in now]:
            return
        combo.blockSignals(True)
        combo.clear()
        for store, name in now:
            combo.addItem(f"{name}: {Path(store).name}", store)
        kept = combo.findData(chosen) if chosen is not None else -1
        combo.setCurrentIndex(kept if kept >= 0 else 0)
        combo.blockSignals(False)
        if kept < 0:
            self._choose()

    def _choose(self) -> None:
        try:
            self.correcting.choose(self.predictions.currentData())
        except XTError as error:
            show_error(str(error))
            self.status.setText(str(error))
