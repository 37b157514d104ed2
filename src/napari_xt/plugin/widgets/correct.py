"""The dock widget *Correct and refine*: what is corrected, by whom, and below it the folds that do it.

Knows a `Correcting` and its folds; must not know stores, models or how things are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import napari.viewer
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QComboBox,
    QDockWidget,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_xt.errors import XTError
from napari_xt.geometry import Box
from napari_xt.io.corrections.holding import user
from napari_xt.io.html import html_table
from napari_xt.plugin.correct.correcting import Correcting, predictions_in
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.preferences import author, remember_author
from napari_xt.plugin.run import session_of
from napari_xt.plugin.view import plain
from napari_xt.plugin.widgets.column import Column
from napari_xt.plugin.widgets.correct_boxes import BoxesPanel
from napari_xt.plugin.widgets.correct_classes import TOOL_KEYS, ClassesPanel
from napari_xt.plugin.widgets.correct_log import LogPanel
from napari_xt.plugin.widgets.fold import Fold
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.refine_bar import RefineBar
from napari_xt.plugin.widgets.review_bar import ReviewBar

AFTER_MS = 150  # the last change
MOVED_MS = 300  # after the last move of a threshold
POLL_MS = 2000  # others are asked for so often
BUSY: Final = "A refined model runs over the image: see Refine."
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
        self.correcting = Correcting(self._viewer, author())
        self.predictions, self.author, self.status = QComboBox(), QLineEdit(self.correcting.author), QLabel(EMPTY)
        self.undo_button, self.redo_button = QPushButton("Undo"), QPushButton("Redo")
        self.line, self.copy_button = QLineEdit(), QPushButton("Copy")
        self.classes, self.boxes = ClassesPanel(self.correcting), BoxesPanel(self.correcting)
        self.review, self.refine = ReviewBar(self.correcting), RefineBar(self.correcting)
        self.log, self.keys = LogPanel(self.correcting), QLabel()
        self.folds: dict[str, Fold] = {}
        self._lines: list[str] = []
        self._failed = ""  # what could not be opened
        self._docked = False
        self._soon, self._poll, self._rest = QTimer(self), QTimer(self), QTimer(self)
        self._arrange()
        self._connect()
        self._follow()

    def _arrange(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        for name, panel in self._panels().items():
            self.folds[name] = Fold(name, panel)
            column.addWidget(self.folds[name])
            column.addWidget(panel)
        column.addStretch()
        self.folds["Classes and tools"].setChecked(True)
        scroll = Column()
        scroll.setWidget(inside)
        whole = QVBoxLayout(self)
        whole.addLayout(self._head())
        whole.addWidget(self.status)
        whole.addWidget(scroll, 1)
        below = QHBoxLayout()
        below.addWidget(self.line, 1)
        below.addWidget(self.copy_button)
        whole.addLayout(below)
        self.line.setReadOnly(True)
        self.line.setPlaceholderText("what is done here, in Python")
        self.line.setToolTip("What was done last, as a line for napari's console (import napari_xt as xt).")
        self.copy_button.setToolTip("Copy all that was done here as Python.")
        for label in (self.status, self.keys):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
        self.keys.setTextFormat(Qt.TextFormat.RichText)
        self.keys.setText(html_table([*TOOL_KEYS, *self.correcting.keys()]))

    def _head(self) -> QFormLayout:
        combo = self.predictions
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(12)
        combo.setToolTip("The prediction that is corrected, the newest first.")
        self.author.setPlaceholderText(user() or "your name")
        self.author.setToolTip("Who corrects: stands beside every stroke in the log, and is kept in Preferences.")
        steps = QHBoxLayout()
        for button, tip in ((self.undo_button, "Take back the last stroke"), (self.redo_button, "Make it again")):
            button.setToolTip(f"{tip}, of whatever tool.")
            steps.addWidget(button)
        head = QFormLayout()
        head.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        head.addRow("Prediction", combo)
        head.addRow("Author", self.author)
        head.addRow(steps)
        return head

    def _panels(self) -> dict[str, QWidget]:
        panels = {"Classes and tools": self.classes, "Boxes and regions": self.boxes, "Review": self.review}
        return {**panels, "Refine": self.refine, "Log": self.log, "Keys": self.keys}

    def _connect(self) -> None:
        for timer, ms, call in ((self._soon, AFTER_MS, self._refresh), (self._rest, MOVED_MS, self._see)):
            timer.setSingleShot(True)
            timer.setInterval(ms)
            timer.timeout.connect(call)
        moved.thresholds.connect(self._moved)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._look)
        self._poll.start()
        self.correcting.changed.connect(self._changed)
        self.correcting.chosen.connect(self._refresh)
        self.correcting.did.connect(self._tell)
        self.predictions.activated.connect(self._choose)
        self.author.editingFinished.connect(self._name)
        self.undo_button.clicked.connect(lambda: self._do(self.correcting.undo))
        self.redo_button.clicked.connect(lambda: self._do(self.correcting.redo))
        self.copy_button.clicked.connect(self.copy)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._follow)
        session_of(self._viewer).changed.connect(self._follow)
        self.destroyed.connect(self.correcting.close)

    def copy(self) -> None:
        """Put all that was done here on the clipboard, as Python."""
        if (clipboard := QGuiApplication.clipboard()) is not None:
            clipboard.setText("\n".join(["import napari_xt as xt", *self._lines, ""]))

    def _changed(self, _box: Box) -> None:
        if alive(self):
            self._soon.start()

    def _moved(self) -> None:
        """A threshold has moved: what is corrected follows when it has come to rest."""
        if alive(self):
            self._rest.start()

    def _see(self) -> None:
        self._do(self.correcting.see)

    def _tell(self, line: str) -> None:
        if alive(self):
            self._lines.append(line)
            self.line.setText(line)
            self.line.setCursorPosition(0)

    def _refresh(self) -> None:
        if not alive(self):
            return
        if (row := self.predictions.findData(self.correcting.store)) >= 0:
            self.predictions.setCurrentIndex(row)
        why = self.correcting.read_only
        nothing = BUSY if self.correcting.held else EMPTY
        self.status.setText(why if self.correcting.corrections is not None else nothing)
        self.status.setVisible(bool(why))
        for button in (self.undo_button, self.redo_button):
            button.setEnabled(not why)
        for panel in (self.classes, self.boxes, self.review, self.refine, self.log):
            panel.refresh()

    def _look(self) -> None:
        """See what others wrote, and whether they still do."""
        if self._let_go():
            return
        why = self.correcting.read_only
        self._do(self.correcting.follow)
        if self.correcting.corrections is not None and why != self.status.text():
            self._refresh()

    def hideEvent(self, event: Any) -> None:
        """Let go where the dock was closed, which does not delete what was in it."""
        super().hideEvent(event)
        QTimer.singleShot(0, self._let_go)

    def showEvent(self, event: Any) -> None:
        """Take it up again, docked anew."""
        super().showEvent(event)
        self._poll.start()
        QTimer.singleShot(0, self._follow)

    def _let_go(self) -> bool:
        """Whether this was docked and is in no window any more; then nothing is corrected."""
        if not alive(self):
            return True
        docked, was = isinstance(self.window(), (QDockWidget, QMainWindow)), self._docked
        self._docked = docked or was
        if docked or not was:
            return False
        self._poll.stop()
        self._do(self.correcting.close)
        return True

    def _name(self) -> None:
        """The user said who corrects."""
        if self.author.text().strip() != self.correcting.author:
            self.correcting.author = self.author.text().strip()
            remember_author(self.correcting.author)

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except XTError as error:
            show_error(str(error))
            self.status.setText(str(error))
            self.status.show()

    def _follow(self, _event: Any = None) -> None:
        """Offer the predictions as they are now and keep the choice."""
        if not alive(self):
            return
        combo, now = self.predictions, predictions_in(self._viewer)
        if [combo.itemData(i) for i in range(combo.count())] != [store for store, _ in now]:
            combo.clear()
            for store, name in now:
                combo.addItem(f"{name}: {Path(store).name}", store)
            combo.setCurrentIndex(max(0, combo.findData(self.correcting.store)))
        if self.correcting.store != (combo.currentData() or ""):
            QTimer.singleShot(0, self._choose)  # when all layers of the prediction are there
        elif self.correcting.painting is None and now:
            QTimer.singleShot(0, self._look)

    def _choose(self, asked: int | None = None) -> None:
        """Correct what is chosen, unless that is done already, or failed and nobody ``asked`` for it again."""
        if self._let_go() or self.correcting.held:
            return
        store = self.predictions.currentData() or ""
        if store == self.correcting.store or (asked is None and store and store == self._failed):
            return
        self._do(lambda: self.correcting.choose(store or None))
        self._failed = "" if self.correcting.store else store
