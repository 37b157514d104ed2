"""Pages with what is measured in a thread: every object, and count, area and density by class and shape.

Knows an opened prediction and Shapes layers; must not know how things are measured.
"""

from __future__ import annotations

from typing import Any

from napari.layers import Layer, Shapes
from napari.viewer import Viewer
from qtpy.QtCore import QTimer, Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_xt.plugin.layers.overlays import TAG, Place
from napari_xt.plugin.tables.drawn import drawn_over
from napari_xt.plugin.tables.opened import Opened
from napari_xt.plugin.tables.table_source import Rows
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.table import NOTHING, TablePage
from napari_xt.plugin.widgets.task import Task

CHANGED_MS = 400  # after the last change of a shape
WHOLE = "whole image"


class MeasuredPage(QWidget):
    """A table that is made when it is asked for, by a button that stops it meanwhile.

    Attributes
    ----------
    opened
        What it is made of.
    asked
        Whether it was asked for; then it follows the thresholds.
    """

    text, tip = "", ""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.opened: Opened | None = None
        self.asked = False
        self.page, self.button, self.note = TablePage(), QPushButton(self.text), QLabel()
        self.task = Task(viewer, self)
        self.button.setToolTip(self.tip)
        self.note.setWordWrap(True)
        self.bar = QHBoxLayout()
        self.bar.addWidget(self.button)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 4, 0, 0)
        whole.addLayout(self.bar)
        whole.addWidget(self.note)
        whole.addWidget(self.page, 1)
        self.note.hide()
        self.button.clicked.connect(self._click)
        self.task.progress.connect(self._tell)
        self.task.changed.connect(self._follow)

    def offer(self, opened: Opened | None) -> None:
        """Show nothing yet of another prediction."""
        self.task.stop()
        self.opened = opened
        self.page.show_rows(NOTHING)
        self.note.hide()
        self._follow()

    def take(self, opened: Opened) -> None:
        """Take the same prediction at other thresholds; what was asked for is measured again."""
        old, self.opened = self.opened, opened
        if self.asked and old is not None and self._hangs_on(old, opened):
            self.measure()

    def measure(self) -> None:
        """Measure now."""
        raise NotImplementedError

    def _hangs_on(self, old: Opened, new: Opened) -> bool:
        """Whether what changed is in the table."""
        return old.thresholds != new.thresholds

    def _click(self) -> None:
        if self.task.busy:
            self.task.stop()
            self._follow()
        elif self.opened is not None:
            self.measure()

    def _tell(self, done: int, total: int) -> None:
        if self.task.busy:
            self.button.setText(f"Stop ({100 * done // max(1, total)} %)")

    def _follow(self) -> None:
        self.button.setEnabled(self.opened is not None)
        self.button.setText("Stop" if self.task.busy else self.text)

    def _show(self, rows: Rows) -> None:
        self.note.hide()
        self.page.show_rows(rows)

    def _fail(self, why: str) -> None:
        self.note.setText(why)
        self.note.show()


class ObjectsPage(MeasuredPage):
    """Every object of the mask, in physical units where these are known."""

    text, tip = "Measure objects", "Area, perimeter, centroid and score of each connected object of the mask."

    def __init__(self, viewer: Viewer) -> None:
        self.intensities = QCheckBox("intensities")
        super().__init__(viewer)
        self.intensities.setToolTip("Measure the mean of each channel as well: all pixels of the image are read.")
        self.bar.addWidget(self.intensities)

    def offer(self, opened: Opened | None) -> None:
        """Offer intensities where the image is known."""
        super().offer(opened)
        self.asked = False
        self.intensities.setEnabled(opened is not None and opened.image is not None)

    def measure(self) -> None:
        """Measure in a thread."""
        opened, intensities = self.opened, self.intensities.isChecked() and self.intensities.isEnabled()
        if opened is not None:
            self.asked, arrange = True, self.page.arranged()
            call = lambda tell: arrange(opened.objects(tell, intensities=intensities))  # noqa: E731
            self.task.do(call, self._show, self._fail)

    def _hangs_on(self, old: Opened, new: Opened) -> bool:
        return old.thresholds.mask != new.thresholds.mask


class SummaryPage(MeasuredPage):
    """Count, area and density by class in the whole image and in the shapes of a layer, following these.

    Attributes
    ----------
    shapes
        The layers that may be chosen.
    """

    text, tip = "Summarise", "Count, area and density of each class, in the whole image and in each shape."
    measured = Signal()

    def __init__(self, viewer: Viewer) -> None:
        self.shapes = QComboBox()
        super().__init__(viewer)
        self.place = Place()
        self._viewer = viewer
        self._followed: Layer | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(CHANGED_MS)
        self._timer.timeout.connect(self.measure)
        self.shapes.setToolTip("The Shapes layer whose areas are measured one by one.")
        self.shapes.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.bar.addWidget(self.shapes, 1)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self.follow)
        self.shapes.currentIndexChanged.connect(self._choose)
        self.follow()

    def follow(self, _event: Any = None) -> None:
        """Offer the Shapes layers that are drawn by hand or loaded."""
        if not alive(self):
            return
        chosen = self.shapes.currentData()
        there = [one for one in self._viewer.layers if isinstance(one, Shapes) and TAG not in one.metadata]
        if there == [self.shapes.itemData(i) for i in range(1, self.shapes.count())] and self.shapes.count():
            return
        self.shapes.blockSignals(True)
        self.shapes.clear()
        self.shapes.addItem(WHOLE, None)
        for layer in there:
            self.shapes.addItem(layer.name, layer)
        self.shapes.setCurrentIndex(there.index(chosen) + 1 if chosen in there else 0)
        self.shapes.blockSignals(False)
        self._choose()

    def measure(self) -> None:
        """Measure in a thread; the shapes are taken as they are now."""
        opened, layer = self.opened, self.shapes.currentData()
        self._timer.stop()
        if opened is None:
            return
        self.asked = True
        within = None if layer is None else drawn_over(layer, self.place)
        self.task.do(lambda tell: opened.summary(tell, within), self._show, self._fail)

    def _show(self, rows: Rows) -> None:
        super()._show(rows)
        self.measured.emit()

    def _choose(self) -> None:
        """Follow another layer."""
        layer = self.shapes.currentData()
        if layer is self._followed:
            return
        if self._followed is not None:
            self._followed.events.set_data.disconnect(self._changed)
        self._followed = layer
        if layer is not None:
            layer.events.set_data.connect(self._changed)
        self._changed()

    def _changed(self, _event: Any = None) -> None:
        """A shape was drawn, moved or deleted."""
        if alive(self) and self.asked and self.opened is not None:
            self._timer.start()
