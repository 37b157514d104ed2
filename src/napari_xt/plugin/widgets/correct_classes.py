"""The fold *Classes and tools*: the classes that are painted with, brushes, and what may be painted over.

Knows a `Correcting`; must not know the other folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from napari.layers import Labels
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledSlider

from napari_xt.annotate.truth import truths
from napari_xt.io.corrections.classes import CorrectedClass
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.correct.pyramid_labels import PyramidLabels
from napari_xt.plugin.widgets.class_table import ClassTable
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.task import Task

COUNT_AFTER_MS = 1000  # the last change
BRUSH_PX: Final = (1, 200)
ANYTHING, NOTHING = "anything", "nothing"
TOOLS: Final[dict[str, tuple[str, str, str]]] = {  # name: napari's mode, brush, key
    "Move": ("pan_zoom", "", "6 or Z"),
    "Brush": ("paint", "paint", "2 or P"),
    "Eraser": ("erase", "", "1 or E"),
    "Polygon": ("polygon", "", "3"),
    "Fill": ("fill", "", "4 or F"),
    "Picker": ("pick", "", "5 or L"),
    "Merge": ("paint", "merge", "Shift-M"),
    "Split": ("paint", "split", "Shift-S"),
}
TIPS: Final = {
    "Move": "Move and zoom the view.",
    "Brush": "Paint the chosen class.",
    "Eraser": "Paint background.",
    "Polygon": "Paint what a polygon covers; a right click ends it.",
    "Fill": "Fill what hangs together, as far as it is in view.",
    "Picker": "Choose the class that is clicked.",
    "Merge": "Join objects: drag from one to the next.",
    "Split": "Cut an object: drag across it.",
}
TOOL_KEYS: Final = (
    *((key, TIPS[name]) for name, (_, brush, key) in TOOLS.items() if brush not in ("merge", "split")),
    ("Ctrl+1 to Ctrl+9", "choose a class"),
    ("Ctrl+0", "choose don't know"),
    ("[ and ]", "a smaller, a larger brush"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
)


class ClassesPanel(QWidget):
    """Classes and tools.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    table
        The classes.
    tools
        The buttons by name.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self._heard: Labels | None = None
        self._classes: tuple[CorrectedClass, ...] = ()
        self.table = ClassTable()
        self.name, self.add_button, self.color_button = QLineEdit(), QPushButton("Add"), QPushButton("Colour...")
        self.tools = {name: QPushButton() for name in TOOLS}
        self.brush_size = QLabeledSlider(Qt.Orientation.Horizontal)
        self.only, self.never, self.commit_button = QComboBox(), QComboBox(), QPushButton("Write back")
        self.note = QLabel("Nothing can be painted: the model has no mask.")
        self._group = QButtonGroup(self)
        self._counting = Task(correcting.viewer, self)
        self._later = QTimer(self)
        self._arrange()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the classes as they are now, and what is painted with."""
        known, layer = self._correcting.corrections, self._correcting.layer
        self._hear(layer)
        paints, free = layer is not None, not self._correcting.read_only
        self.note.setVisible(known is not None and not paints)
        self._paint.setEnabled(paints and free)
        self.table.setEnabled(known is not None and bool(known.mask))
        classes = () if known is None or not known.mask else tuple(known.classes)
        if self._correcting.painting is not None and classes != self._classes:
            self._correcting.painting.update_classes()
        self._classes = classes
        self.table.show_classes(classes, self._shown_colors())
        self._offer_rules()
        self._show_tool()
        self.commit_button.setVisible(paints and not isinstance(layer, PyramidLabels))
        self._later.start()

    def _arrange(self) -> None:
        adding = QHBoxLayout()
        for widget, stretch in ((self.name, 1), (self.add_button, 0), (self.color_button, 0)):
            adding.addWidget(widget, stretch)
        self.name.setPlaceholderText("name of a new class")
        self.color_button.setToolTip("Give the chosen class another colour.")
        grid = QGridLayout()
        grid.setSpacing(2)
        for place, (name, button) in enumerate(self.tools.items()):
            button.setText(name)
            button.setCheckable(True)
            button.setToolTip(f"{TIPS[name]} ({TOOLS[name][2]})")
            button.setMinimumWidth(10)
            self._group.addButton(button)
            grid.addWidget(button, place // 4, place % 4)
        self.brush_size.setRange(*BRUSH_PX)
        self.brush_size.setToolTip(
            "Diameter of the brush in pixels of the screen: it stays as large when you zoom ([ and ])."
        )
        self.only.setToolTip("Paint over this class alone (Shift-O: the chosen one).")
        self.never.setToolTip("Never paint over this class (Shift-N: the chosen one).")
        form = QFormLayout()
        rows: dict[str, QWidget] = {"Brush": self.brush_size, "Paint over": self.only, "Never over": self.never}
        for text, row in rows.items():
            form.addRow(text, row)
        self._paint = QWidget()
        below = QVBoxLayout(self._paint)
        below.setContentsMargins(0, 0, 0, 0)
        for layout in (adding, grid, form):
            below.addLayout(layout)
        below.addWidget(self.commit_button)
        self.commit_button.setToolTip("Keep what was painted: this napari paints on a part of the mask at a time.")
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        for part in (self.note, self.table, self._paint):
            whole.addWidget(part)
        self.note.setWordWrap(True)

    def _connect(self) -> None:
        self._later.setSingleShot(True)
        self._later.setInterval(COUNT_AFTER_MS)
        self._later.timeout.connect(self._count)
        self.table.chosen.connect(self._correcting.choose_class)
        self.table.renamed.connect(lambda value, name: self._change("rename", value, name))
        self.table.hidden.connect(lambda value, on: self._change("hide", value, on))
        self.table.locked.connect(lambda value, on: self._change("lock", value, on))
        self.table.recoloured.connect(lambda value, color: self._change("recolour", value, color))
        self.color_button.clicked.connect(lambda: self.table.ask_color(self._correcting.class_value))
        for signal in (self.add_button.clicked, self.name.returnPressed):
            signal.connect(self._add)
        for name, button in self.tools.items():
            button.clicked.connect(lambda _on=False, name=name: self.use(name))
        self.brush_size.valueChanged.connect(self._resize)
        for combo in (self.only, self.never):
            combo.currentIndexChanged.connect(self._rule)
        self.commit_button.clicked.connect(self._commit)
        for name in ("Merge", "Split"):
            self._correcting.bind(TOOLS[name][2], TIPS[name], partial(self.use, name))
        self._correcting.bind("Shift-O", "paint over the chosen class alone, or over anything", self._toggle(self.only))
        self._correcting.bind("Shift-N", "never paint over the chosen class, or over any", self._toggle(self.never))

    def use(self, name: str) -> None:
        """Take a tool of `TOOLS`."""
        mode, brush, _ = TOOLS[name]
        layer = self._correcting.layer
        if layer is None or not layer.editable:
            self._show_tool()
            return
        self._correcting.viewer.layers.selection.active = layer
        if brush and isinstance(layer, PyramidLabels):
            layer.brush = brush  # type: ignore[assignment]
        layer.mode = mode
        self._show_tool()

    def _change(self, what: str, value: int, to: object) -> None:
        """Change a class."""
        self._do(lambda known: getattr(known.classes, what)(value, to), f"classes.{what}({value}, {to!r})")

    def _add(self) -> None:
        name = self.name.text().strip()
        if not name:
            return
        before = len(self._correcting.corrections.classes) if self._correcting.corrections is not None else 0
        self._do(lambda known: known.classes.add(name), f"classes.add({name!r})")
        known = self._correcting.corrections
        if known is not None and len(known.classes) > before:
            self.name.clear()
            self._correcting.choose_class(known.classes[name].value)

    def _do(self, change: Callable[[Corrections], object], line: str) -> None:
        self._correcting.change(change, line)
        self.refresh()

    def _resize(self, px: int) -> None:
        if self._correcting.painting is not None:
            self._correcting.painting.brush.resize(px)

    def _rule(self) -> None:
        """Paint only over, and never over, what is chosen."""
        layer, only, never = self._correcting.layer, self.only.currentData(), self.never.currentData()
        if isinstance(layer, PyramidLabels):
            layer.rules = replace(
                layer.rules, only=None if only is None else (only,), never=() if never is None else (never,)
            )

    def _toggle(self, combo: QComboBox) -> Callable[[], None]:
        """What chooses the class that is painted with in ``combo``, or nothing where it is chosen already."""

        def toggle() -> None:
            value = self._correcting.class_value
            combo.setCurrentIndex(0 if combo.currentData() == value else max(0, combo.findData(value)))

        return toggle

    def _commit(self) -> None:
        if self._correcting.painting is not None:
            self._correcting.painting.commit()

    def _offer_rules(self) -> None:
        """Offer the classes, and show the rules that hold."""
        rules = getattr(self._correcting.layer, "rules", None)
        chosen = {self.only: rules and rules.only, self.never: rules and rules.never}
        for combo, first in ((self.only, ANYTHING), (self.never, NOTHING)):
            now = [(first, None), *((name, value) for value, name in self.table.names().items())]
            combo.blockSignals(True)
            if now != [(combo.itemText(i), combo.itemData(i)) for i in range(combo.count())]:
                combo.clear()
                for name, value in now:
                    combo.addItem(name, value)
            rule = next(iter(chosen[combo] or ()), None)
            combo.setCurrentIndex(0 if rule is None else max(0, combo.findData(rule)))
            combo.blockSignals(False)

    def _hear(self, layer: Labels | None) -> None:
        """Follow what is chosen in napari's own controls and by keys."""
        if layer is not self._heard:
            self._heard = layer
            if layer is not None:
                for event in (layer.events.mode, layer.events.selected_label, layer.events.brush_size):
                    event.connect(self._show_tool)

    def _show_tool(self, _event: object = None) -> None:
        """Show the tool, the class and the size that are chosen."""
        layer, painting = self._correcting.layer, self._correcting.painting
        if not alive(self) or layer is None or painting is None:
            return
        brush = getattr(layer, "brush", "paint")
        mode = str(layer.mode)
        for name, (its_mode, its_brush, _) in TOOLS.items():
            if mode == its_mode and its_brush in ("", brush):
                self.tools[name].setChecked(True)
        self.table.choose(int(layer.selected_label))
        self.brush_size.blockSignals(True)
        self.brush_size.setValue(round(painting.brush.px))
        self.brush_size.blockSignals(False)

    def _shown_colors(self) -> dict[int, tuple[int, int, int]]:
        """The colours of classes as the canvas has them, 0..255."""
        painting = self._correcting.painting
        colors = {} if painting is None else painting.colors()
        return {value: (round(255 * r), round(255 * g), round(255 * b)) for value, (r, g, b, _) in colors.items()}

    def _count(self) -> None:
        """Say how much of each class is labelled; counted in a thread, when nothing has changed for a while."""
        known = self._correcting.corrections
        if known is None or not self.isVisible():
            return
        if self._counting.busy:
            self._later.start()
            return
        self._counting.do(lambda _tell: truths(known).labelled(), self.table.show_areas, lambda _why: None)
