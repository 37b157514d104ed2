"""Two runs over one image side by side: where they differ as a layer, how far by class as a table.

Knows stores by their paths; must not know how they are compared or how layers are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QPushButton, QWidget

from napari_xt.io.compare import compare
from napari_xt.io.html import html_table
from napari_xt.plugin.layers.compared import hide_difference, show_difference, shown_difference
from napari_xt.plugin.runs.known_runs import KnownRun
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.task import Task

TIP = "Show where the two differ as a layer, and how far by class; once more takes both away."
TOO_FEW = "There are no two runs over this image to compare."


class ComparePanel(QWidget):
    """Chooses two runs, compares them and takes the comparison away; hidden until it is asked for."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._coming = False  # the layer is
        self.a, self.b, self.button, self.told = QComboBox(), QComboBox(), QPushButton("Compare"), QLabel()
        self.task = Task(viewer, self)
        self.button.setCheckable(True)
        self.button.setToolTip(TIP)
        self.told.setWordWrap(True)
        self.told.setTextFormat(Qt.TextFormat.RichText)
        self.told.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        for name, combo in (("Compare", self.a), ("with", self.b)):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(12)
            form.addRow(name, combo)
        form.addRow(self.button)
        form.addRow(self.told)
        self.button.clicked.connect(self.toggle)
        self._viewer.layers.events.removed.connect(self._follow)
        self.hide()

    def offer(self, runs: Sequence[KnownRun]) -> None:
        """Show the panel with these runs to choose from, the newest two chosen."""
        for place, combo in enumerate((self.a, self.b)):
            combo.clear()
            for run in runs:
                combo.addItem(run.label, str(run.path))
                combo.setItemData(combo.count() - 1, str(run.path), Qt.ItemDataRole.ToolTipRole)
            combo.setCurrentIndex(min(place, len(runs) - 1))
        self.button.setEnabled(len(runs) > 1)
        self.told.setText("" if len(runs) > 1 else TOO_FEW)
        self.setVisible(True)

    def toggle(self) -> None:
        """Compare, or take the comparison away."""
        if shown_difference(self._viewer) or self.task.busy or self._coming:
            self.task.stop()
            hide_difference(self._viewer)
            self._take_away()
            return
        a, b = self.a.currentData(), self.b.currentData()
        self.told.setText("Comparing...")
        self.button.setChecked(True)
        self._coming = True
        show_difference(self._viewer, a, b, done=lambda _layer: self._tabulate(a, b))

    def _show(self, table: pd.DataFrame) -> None:
        self.told.setText(html_table((f"{row['kind']}: {row['class']}", _words(row)) for _, row in table.iterrows()))

    def _fail(self, why: str) -> None:
        self.told.setText(why)
        self.button.setChecked(False)

    def _tabulate(self, a: str, b: str) -> None:
        """The layer has come, or can't: now the table; what was taken away meanwhile stays away."""
        if not alive(self):
            return
        self._coming = False
        if self.button.isChecked():
            self.task.do(lambda tell: compare(a, b, progress=tell), self._show, self._fail)
        else:
            hide_difference(self._viewer)

    def _follow(self, _event: Any) -> None:
        if alive(self) and self.button.isChecked() and not self._coming and not shown_difference(self._viewer):
            self.task.stop()
            self._take_away()

    def _take_away(self) -> None:
        self.button.setChecked(False)
        self.told.clear()


def _words(row: pd.Series[Any]) -> str:
    unit = " px" if row["kind"] == "mask" else ""
    return f"IoU {row['iou']:.3f}: {row['a']:,.0f}{unit} and {row['b']:,.0f}{unit}, {row['both']:,.0f} in both"
