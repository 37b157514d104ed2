"""A page with a table of a million rows: lazily shown, sorted, filtered by class, status and score, copied, exported.

Knows the rows of a table; must not know predictions, layers or viewers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import (  # type: ignore[attr-defined]  # under another name in PyQt
    QAbstractTableModel,
    QItemSelectionModel,
    QModelIndex,
    Qt,
    QTimer,
    Signal,
)
from qtpy.QtGui import QGuiApplication, QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)
from superqt import QDoubleRangeSlider

from napari_xt.plugin.tables.table_source import COPIED, Rows
from napari_xt.plugin.widgets.histogram import Histogram

ALL = "all"
SEVERAL = 2  # rows: one is chosen wherever somebody has clicked
NOTHING = Rows((), np.zeros((0, 4)))
MANY_WORDS = 50  # are looked at for the width of a column
FILTER_AFTER_MS = 40
COLUMN_PX, ROW_PX = 64, 22
ROOM_PX = 26  # of a column's head, for its arrow
STEPS = 100  # of the slider of scores


class RowsModel(QAbstractTableModel):
    """What Qt asks of a table, answered for the cells that it draws."""

    def __init__(self, rows: Rows, parent: Any = None) -> None:
        super().__init__(parent)
        self.rows = rows

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """How many rows are shown."""
        return 0 if parent is not None and parent.isValid() else len(self.rows.shown)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """How many columns there are."""
        return 0 if parent is not None and parent.isValid() else len(self.rows.columns)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """The text of a cell, numbers to the right."""
        column = self.rows.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(int(self.rows.shown[index.row()]))
        if role == Qt.ItemDataRole.TextAlignmentRole and column.words is None:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """The names of the columns."""
        named = role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole)
        there = section < len(self.rows.columns)  # a header asks for what was, while the table changes
        return self.rows.columns[section].name if there and named and orientation == Qt.Orientation.Horizontal else None

    def show(self, rows: Rows, column: int, order: Qt.SortOrder) -> None:
        """Show another table, ordered by a column."""
        self.beginResetModel()
        self.rows = rows
        rows.sort(column, descending=order == Qt.SortOrder.DescendingOrder)
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Order the rows by a column."""
        self.beginResetModel()
        self.rows.sort(column, descending=order == Qt.SortOrder.DescendingOrder)
        self.endResetModel()

    def keep(self, words: dict[str, Collection[str]], scores: tuple[float, float]) -> None:
        """Show some of the rows."""
        self.beginResetModel()
        self.rows.keep(words, scores)
        self.endResetModel()


class TablePage(QWidget):
    """A table with its filters.

    Attributes
    ----------
    chosen
        Emitted with the row that the user has chosen.
    exported
        Emitted when the button *Export* is clicked.
    model
        What is shown.
    """

    chosen = Signal(int)
    exported = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.row: int | None = None
        self.class_name, self.status = QComboBox(), QComboBox()
        self.scores = QDoubleRangeSlider(Qt.Orientation.Horizontal)  # type: ignore[no-untyped-call]
        self.histogram, self.count, self.range = Histogram(), QLabel(), QLabel()
        self.view, self.model = QTableView(), RowsModel(NOTHING, self)
        self.copy_button, self.export_button = QPushButton("Copy"), QPushButton("Export")
        self.select_button = QPushButton("Select")
        self._filters = QWidget()
        self._labels: dict[QComboBox, QLabel] = {}
        self._timer = QTimer(self)
        self._quiet = False
        self._arrange()
        self._connect()
        self.show_rows(NOTHING)

    def _arrange(self) -> None:
        self.scores.setRange(0.0, 1.0)
        self.scores.setSingleStep(1 / STEPS)
        self.scores.setValue((0.0, 1.0))
        filters = QVBoxLayout(self._filters)
        filters.setContentsMargins(0, 0, 0, 0)
        choices = QHBoxLayout()
        for text, combo in (("Class", self.class_name), ("Status", self.status)):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(6)
            combo.setToolTip(f"Show the rows of one {text.lower()} alone.")
            self._labels[combo] = QLabel(text)
            choices.addWidget(self._labels[combo])
            choices.addWidget(combo, 1)
        filters.addLayout(choices)
        filters.addWidget(self.histogram)
        score = QHBoxLayout()
        score.addWidget(QLabel("Score"))
        score.addWidget(self.scores, 1)
        score.addWidget(self.range)
        filters.addLayout(score)
        self.scores.setToolTip("Show the rows with a score in this range alone.")
        self.copy_button.setToolTip("Copy the chosen rows, or all that are shown, for a spreadsheet (Ctrl+C).")
        below = QHBoxLayout()
        self.select_button.setToolTip(
            "Select the boxes of the chosen rows on the canvas, of all that are shown where none is."
        )
        self.select_button.hide()
        buttons = (self.select_button, self.copy_button, self.export_button)
        for widget, stretch in ((self.count, 1), *((button, 0) for button in buttons)):
            below.addWidget(widget, stretch)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 4, 0, 0)
        whole.addWidget(self._filters)
        whole.addWidget(self.view, 1)
        whole.addLayout(below)
        self._arrange_view()

    def _arrange_view(self) -> None:
        view = self.view
        view.setModel(self.model)
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerItem)
        view.setWordWrap(False)
        if (across := view.horizontalHeader()) is not None:
            across.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.setSortingEnabled(True)
        if (down := view.verticalHeader()) is not None:  # asking each row for its height would take minutes
            down.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
            down.setDefaultSectionSize(ROW_PX)
            down.hide()

    def _connect(self) -> None:
        self._timer.setSingleShot(True)
        self._timer.setInterval(FILTER_AFTER_MS)
        self._timer.timeout.connect(self.filter)
        for combo in (self.class_name, self.status):
            combo.currentIndexChanged.connect(self._filter_soon)
        self.scores.valueChanged.connect(self._filter_soon)
        if (selection := self.view.selectionModel()) is not None:
            selection.currentRowChanged.connect(self._choose)
        self.model.modelReset.connect(self._again)
        self.copy_button.clicked.connect(self.copy)
        self.export_button.clicked.connect(self.exported)
        copy = QShortcut(QKeySequence(QKeySequence.StandardKey.Copy), self.view)
        copy.setContext(Qt.ShortcutContext.WidgetShortcut)
        copy.activated.connect(self.copy)

    def show_rows(self, rows: Rows) -> None:
        """Show another table, filtered and sorted as this one was."""
        self.row = None
        header = self.view.horizontalHeader()
        assert header is not None
        self.model.show(rows, header.sortIndicatorSection(), header.sortIndicatorOrder())
        self._offer(self.class_name, "class")
        self._offer(self.status, "status")
        self._filters.setVisible(rows.column("score") is not None)
        self._fit(rows)
        self.filter()

    def arranged(self) -> Callable[[Rows], Rows]:
        """What sorts and filters rows as this table is now, in any thread: to show them takes a moment then."""
        header = self.view.horizontalHeader()
        assert header is not None
        column, descending = header.sortIndicatorSection(), header.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
        words, (low, high) = self._words(), map(float, self.scores.value())

        def arrange(rows: Rows) -> Rows:
            rows.sort(column, descending=descending)
            rows.keep(words, (low, high))
            rows.histogram(words)
            return rows

        return arrange

    def _fit(self, rows: Rows) -> None:
        """Make the columns as wide as their heads, and those of words as these."""
        for i, column in enumerate(rows.columns):
            widest = max((column.name, *(column.words or ())[:MANY_WORDS]), key=len)
            self.view.setColumnWidth(i, max(COLUMN_PX, self.fontMetrics().horizontalAdvance(widest) + ROOM_PX))

    def _filter_soon(self, _value: object) -> None:
        self._timer.start()

    def filter(self) -> None:
        """Show the rows that the filters let through."""
        self._timer.stop()
        words = self._words()
        low, high = map(float, self.scores.value())
        self.range.setText(f"{low:.2f} to {high:.2f}")
        self.model.keep(words, (low, high))
        self.histogram.show_counts(self.model.rows.histogram(words), (low, high))
        shown, there = self.model.rowCount(), len(self.model.rows)
        self.count.setText(f"{there:,} rows" if shown == there else f"{shown:,} of {there:,} rows")
        self.copy_button.setEnabled(shown > 0)
        self.select_button.setEnabled(shown > 0)

    def select(self, row: int) -> bool:
        """Choose a row of the table and scroll to it, without telling of it; whether the filters show it."""
        position = self.model.rows.position(row)
        self.row = row
        selection = self.view.selectionModel()
        if position is None or selection is None:
            return False
        self._quiet = True
        index, flags = self.model.index(position, 0), QItemSelectionModel.SelectionFlag
        selection.setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
        self._quiet = False
        self.view.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)
        return True

    def positions(self, least: int) -> NDArray[np.int64]:
        """Where the chosen rows are among those that are shown; all of these where fewer than ``least`` are chosen."""
        selection = self.view.selectionModel()
        chosen = np.zeros(0, np.int64) if selection is None else _positions(selection)
        return chosen if len(chosen) >= least else np.arange(self.model.rowCount())

    def copy(self) -> None:
        """Copy the chosen rows, or all that are shown where fewer than two are chosen."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is None:
            return
        positions = self.positions(SEVERAL)
        if len(positions) > COPIED:
            self.count.setText(f"{len(positions):,} rows are too many to copy: export them")
            return
        clipboard.setText(self.model.rows.tsv(positions))
        self.count.setText(f"{len(positions):,} rows copied")

    def _words(self) -> dict[str, Collection[str]]:
        """What the lists of classes and states let through."""
        chosen = {"class": self.class_name.currentData(), "status": self.status.currentData()}
        return {name: [word] for name, word in chosen.items() if word is not None}

    def _offer(self, combo: QComboBox, name: str) -> None:
        """Offer the words of a column, and keep the choice."""
        column, chosen = self.model.rows.column(name), combo.currentData()
        words = [] if column is None or column.words is None else list(column.words)
        combo.blockSignals(True)
        combo.clear()
        combo.addItem(ALL, None)
        for word in words:
            combo.addItem(word, word)
        combo.setCurrentIndex(max(0, combo.findData(chosen)) if chosen is not None else 0)
        combo.blockSignals(False)
        combo.setEnabled(bool(words))
        combo.setVisible(bool(words))
        self._labels[combo].setVisible(bool(words))

    def _choose(self, index: QModelIndex) -> None:
        if not self._quiet and index.isValid():
            self.row = int(self.model.rows.shown[index.row()])
            self.chosen.emit(self.row)

    def _again(self) -> None:
        """Rows have moved: choose the same one in its new place."""
        if self.row is not None:
            self.select(self.row)


def _positions(selection: QItemSelectionModel) -> NDArray[np.int64]:
    """The rows that are chosen, by ranges: a list of a million indices would take minutes."""
    chosen = selection.selection()
    parts = [np.arange(part.top(), part.bottom() + 1) for part in (chosen[i] for i in range(len(chosen)))]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
