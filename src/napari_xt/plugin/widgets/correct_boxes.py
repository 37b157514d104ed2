"""The fold *Boxes and regions*: what is edited, by mouse and by key.

Knows a `Correcting` and what edits boxes and regions; must not know the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_xt.plugin.correct.correcting import Correcting, told
from napari_xt.plugin.correct.edit_boxes import KEYS, EditBoxes
from napari_xt.plugin.correct.edit_regions import EditRegions
from napari_xt.plugin.widgets.image_combo import alive

BUTTONS: Final = ("Draw", "Edit", "Lasso", "Accept", "Set class", "Delete")  # in the order of `KEYS`
TOOLS: Final = 3  # of these
NO_BOXES: Final = "No boxes: the model finds none, or their layer is not in the viewer."
FAR: Final = "Zoom in to edit: too many boxes are in view. The lasso selects them all the same."
AFTER_MS = 50  # the last change


class BoxesPanel(QWidget):
    """A fold of *Correct and refine*.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    edit, regions
        What edits boxes, and regions.
    buttons
        By name.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self.edit, self.regions = EditBoxes(correcting), EditRegions(correcting)
        self.buttons = {name: QPushButton(name) for name in (*BUTTONS, "Select none")}
        self.class_name, self.region_class = QComboBox(), QComboBox()
        self.click_button = QPushButton("By click")
        self.note, self.counts, self.region = QLabel(), QLabel(), QLabel()
        self._soon = QTimer(self)
        self._arrange()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show what is open now."""
        edit, regions = self.edit, self.regions
        there, free = edit.drawn is not None, not self._correcting.read_only
        chosen = len(edit.selected)
        for name, button in self.buttons.items():
            enabled = there if name in ("Lasso", "Select none") else edit.editable if name in ("Draw", "Edit") else free
            button.setEnabled(there and enabled and (bool(chosen) or name in BUTTONS[:TOOLS]))
        self.class_name.setEnabled(there and free)
        _offer(self.class_name, edit.classes, edit.class_name)
        _offer(self.region_class, regions.classes, regions.class_name)
        self.region_class.setEnabled(bool(regions.classes) and free)
        self.click_button.setEnabled(bool(regions.classes) and free)
        self.click_button.setChecked(regions.clicks)
        self.note.setText(self._noted(chosen))
        self.counts.setText(", ".join(f"{count:,} {state}" for state, count in edit.counts.items() if count))
        self.counts.setVisible(bool(self.counts.text()))
        self.region.setText(regions.told() or "Regions: point at one.")

    def _noted(self, chosen: int) -> str:
        drawn = self.edit.drawn
        if drawn is None:
            return NO_BOXES if self._correcting.corrections is not None else ""
        if self.edit.working:
            return f"{self.edit.working:,} boxes corrected, going on..."
        if chosen:
            return f"{chosen:,} of {drawn.total:,} boxes selected"
        return FAR if drawn.many else f"{drawn.text}, none selected"

    def _arrange(self) -> None:
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(_row([self.buttons[name] for name in BUTTONS[:TOOLS]]))
        whole.addWidget(self.note)
        boxes = QFormLayout()
        boxes.addRow("Class of boxes", self.class_name)
        whole.addLayout(boxes)
        whole.addLayout(_row([self.buttons[name] for name in (*BUTTONS[TOOLS:], "Select none")]))
        whole.addWidget(self.counts)
        regions = QFormLayout()
        regions.addRow("Class of regions", _beside(self.region_class, self.click_button))
        whole.addLayout(regions)
        whole.addWidget(self.region)
        for label in (self.note, self.counts, self.region):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
        for combo in (self.class_name, self.region_class):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(6)
        self.class_name.setToolTip("The class of boxes that are drawn, or set.")
        self.region_class.setToolTip(
            "The class of a region, set with Shift+R under the mouse; Alt+1 to Alt+9 set others."
        )
        self.click_button.setToolTip("Give every region that is clicked this class.")
        self.click_button.setCheckable(True)
        for name, (key, text) in zip(BUTTONS, KEYS.items(), strict=True):
            self.buttons[name].setToolTip(f"{text[0].upper()}{text[1:]} ({key.replace('-', '+')}).")

    def _connect(self) -> None:
        self._soon.setSingleShot(True)
        self._soon.setInterval(AFTER_MS)
        self._soon.timeout.connect(self.refresh)
        edit = self.edit
        calls: list[Callable[[], object]] = [edit.draw, edit.move, edit.lasso, edit.accept, edit.reclass, edit.delete]
        for name, call in zip(BUTTONS, calls, strict=True):
            self.buttons[name].clicked.connect(lambda _checked=False, call=call: told(call))
        self.buttons["Select none"].clicked.connect(lambda: told(lambda: edit.select([])))
        self.class_name.currentTextChanged.connect(lambda name: setattr(edit, "class_name", name))
        self.region_class.currentTextChanged.connect(lambda name: setattr(self.regions, "class_name", name))
        self.click_button.toggled.connect(lambda on: setattr(self.regions, "clicks", on))
        edit.changed.connect(self._changed)
        self.regions.changed.connect(self._changed)
        self.destroyed.connect(edit.end)
        self.destroyed.connect(self.regions.end)

    def _changed(self) -> None:
        if alive(self):
            self._soon.start()


def _offer(combo: QComboBox, names: Sequence[str], chosen: str) -> None:
    """Offer names, unless they are offered."""
    if [combo.itemText(index) for index in range(combo.count())] != list(names):
        combo.blockSignals(True)
        combo.clear()
        combo.addItems(list(names))
        combo.blockSignals(False)
    combo.setCurrentText(chosen)


def _row(widgets: Sequence[QWidget]) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row


def _beside(wide: QWidget, narrow: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.addWidget(wide, 1)
    row.addWidget(narrow)
    return row
