"""A table of the classes that are painted with: colour, name, shown, locked, how much is labelled.

Knows classes as values; must not know corrections, layers or viewers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qtpy.QtCore import QSize, Qt, Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QColorDialog, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_xt.io.corrections.classes import CorrectedClass
from napari_xt.plugin.correct.levels import DONT_KNOW, NO_CORRECTION

HEADS: Final = ("class", "Ctrl+", "see", "lock", "labelled")
TIPS: Final = ("", "the key that chooses it, with Ctrl", "shown", "locked: never painted over", "known pixels")
NAME, KEY, SHOWN, LOCKED, AREA = range(5)
REST: Final = {DONT_KNOW: "don't know", NO_CORRECTION: "as predicted"}
GREY = (178, 178, 178)
SWATCH = QSize(14, 14)
ROWS_SHOWN, ROW_PX = 8, 22
VALUE = Qt.ItemDataRole.UserRole
CHECKED = {True: Qt.CheckState.Checked, False: Qt.CheckState.Unchecked}


class ClassTable(QTableWidget):
    """Chooses a class, renames it (double click), recolours, hides and locks it.

    Attributes
    ----------
    chosen
        Emitted with the value of the row that the user chose.
    renamed, recoloured, hidden, locked
        Emitted with the value of a class and what it shall have: a name, ``[r, g, b]``, whether.
    """

    chosen = Signal(int)
    renamed = Signal(int, str)
    recoloured = Signal(int, list)
    hidden = Signal(int, bool)
    locked = Signal(int, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(HEADS), parent)
        self._known: tuple[object, ...] = ()
        self._classes: dict[int, CorrectedClass] = {}
        self._areas: dict[str, int] = {}
        self.setHorizontalHeaderLabels(HEADS)
        for column, tip in enumerate(TIPS):
            if (head := self.horizontalHeaderItem(column)) is not None:
                head.setToolTip(tip)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        across, down = self.horizontalHeader(), self.verticalHeader()
        if across is not None and down is not None:
            across.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            across.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
            across.setMinimumSectionSize(10)
            down.setDefaultSectionSize(ROW_PX)
            down.hide()
        self.itemSelectionChanged.connect(self._choose)
        self.itemChanged.connect(self._change)

    def show_classes(self, classes: Sequence[CorrectedClass], colors: Mapping[int, Sequence[int]]) -> None:
        """Fill in the classes and below them what is no class; ``colors`` by value, 0..255, where they differ."""
        known = (tuple(classes), tuple(sorted((value, tuple(color)) for value, color in colors.items())))
        if known == self._known:
            return
        self._known, value = known, self.value
        self._classes = {one.value: one for one in classes}
        self.blockSignals(True)
        rest = [CorrectedClass(value, name, (*GREY, 255)) for value, name in REST.items()] if classes else []
        self.setRowCount(len(classes) + len(rest))
        keys = iter(range(1, 10))
        for row, one in enumerate([*classes, *rest]):
            key = str(next(keys, "")) if 0 < one.value < DONT_KNOW else ""
            key = "0" if one.value == DONT_KNOW else key
            self._fill(row, one, key, colors.get(one.value, one.color))
        self.setFixedHeight((min(ROWS_SHOWN, self.rowCount()) + 1) * ROW_PX + 12)
        self.show_areas(self._areas)
        self.choose(value)
        self.blockSignals(False)

    @property
    def value(self) -> int:
        """The value of the row that is chosen, -1 where none is."""
        item = self.item(self.currentRow(), NAME)
        return -1 if item is None else int(item.data(VALUE))

    def names(self) -> dict[int, str]:
        """The classes by value."""
        return {value: one.name for value, one in self._classes.items()}

    def choose(self, value: int) -> None:
        """Choose a row by its value, without telling of it."""
        row = self._row(value)
        if row is not None and row != self.currentRow():
            blocked = self.blockSignals(True)
            self.selectRow(row)
            self.setCurrentCell(row, NAME)
            self.blockSignals(blocked)

    def show_areas(self, labelled: Mapping[str, int]) -> None:
        """Say how many pixels of each class, by its name, are labelled."""
        self._areas = dict(labelled)
        blocked = self.blockSignals(True)
        for value, one in self._classes.items():
            row = self._row(value)
            if row is not None and (item := self.item(row, AREA)) is not None:
                item.setText(_short(labelled.get(one.name, 0)))
                item.setToolTip(f"{labelled.get(one.name, 0):,} pixels are known to be {one.name}")
        self.blockSignals(blocked)

    def ask_color(self, value: int) -> None:
        """Let the user choose the colour of a class."""
        if value in self._classes:
            color = QColorDialog.getColor(QColor(*self._classes[value].color[:3]), self)
            if color.isValid():
                self.recoloured.emit(value, [color.red(), color.green(), color.blue()])

    def _fill(self, row: int, one: CorrectedClass, key: str, color: Sequence[int]) -> None:
        own = one.value in self._classes
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        for column, text in ((NAME, one.name), (KEY, key), (SHOWN, ""), (LOCKED, ""), (AREA, "")):
            item = QTableWidgetItem(text)
            item.setFlags(flags)
            self.setItem(row, column, item)
        name, shown, locked = (self.item(row, column) for column in (NAME, SHOWN, LOCKED))
        assert name is not None
        assert shown is not None
        assert locked is not None
        name.setData(VALUE, one.value)
        pixels = QPixmap(SWATCH)
        pixels.fill(QColor(*color[:3]))
        name.setIcon(QIcon(pixels))
        if own:
            name.setFlags(flags | Qt.ItemFlag.ItemIsEditable)
            name.setToolTip("Double-click to rename")
            for item, on in ((shown, not one.hidden), (locked, one.locked)):
                item.setFlags(flags | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(CHECKED[on])

    def _row(self, value: int) -> int | None:
        items = ((row, self.item(row, NAME)) for row in range(self.rowCount()))
        return next((row for row, item in items if item is not None and item.data(VALUE) == value), None)

    def _choose(self) -> None:
        if self.value >= 0:
            self.chosen.emit(self.value)

    def _change(self, item: QTableWidgetItem) -> None:
        """A name was edited, or a box checked."""
        name = self.item(item.row(), NAME)
        one = None if name is None else self._classes.get(int(name.data(VALUE)))
        if one is None:
            return
        checked = item.checkState() == Qt.CheckState.Checked
        self._known = ()  # what the user changed is filled in anew, whatever comes of it
        if item.column() == NAME and item.text().strip() != one.name:
            self.renamed.emit(one.value, item.text())
        elif item.column() == SHOWN and checked == one.hidden:
            self.hidden.emit(one.value, not checked)
        elif item.column() == LOCKED and checked != one.locked:
            self.locked.emit(one.value, checked)


def _short(pixels: int) -> str:
    """So many pixels in a few letters."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if pixels >= size:
            return f"{pixels / size:.1f} {unit}px"
    return f"{pixels} px" if pixels else ""
