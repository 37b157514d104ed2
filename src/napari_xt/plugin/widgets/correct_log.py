"""The fold *Log*: who corrected what, when and with which tool; reverted by stroke, by region, at once; saved.

Knows a `Correcting`; must not know the other folds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_xt.geometry import Box
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.correct.log_file import save_log
from napari_xt.plugin.tables.table_source import Column, Rows
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.table import NOTHING, TablePage
from napari_xt.plugin.widgets.task import Task

READ_AFTER_MS = 400  # the last change
FILES: Final = {"Parquet (*.parquet)": ".parquet", "CSV (*.csv)": ".csv"}
HEIGHT_PX = 220
TIMES = "%Y-%m-%d %H:%M:%S"


class LogPanel(QWidget):
    """The log of corrections.

    Parameters
    ----------
    correcting
        What is corrected.

    Attributes
    ----------
    page
        A row a stroke, the newest first.
    """

    def __init__(self, correcting: Correcting) -> None:
        super().__init__()
        self._correcting = correcting
        self.page, self.diff = TablePage(), QCheckBox("Show what was corrected")
        self.stroke_button, self.region_button = QPushButton("Revert stroke"), QPushButton("Revert region")
        self.all_button = QPushButton("Revert all")
        self._ids = np.zeros(0, np.int64)
        self._reading = Task(correcting.viewer, self)
        self._soon, self._moved = QTimer(self), QTimer(self)
        self._arrange()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Read the log again, a moment after the last change."""
        known, painting = self._correcting.corrections, self._correcting.painting
        self.diff.setEnabled(painting is not None)
        self.diff.blockSignals(True)
        self.diff.setChecked(painting is not None and painting.shows_corrections)
        self.diff.blockSignals(False)
        if known is None:
            self._reading.stop()
            self._show(pd.DataFrame())
        else:
            self._soon.start()
        self._follow()

    def _arrange(self) -> None:
        self.page.export_button.setText("Save...")
        self.page.export_button.setToolTip("Write the log as Parquet or CSV.")
        self.page.setFixedHeight(HEIGHT_PX)
        self.diff.setToolTip("A layer of what was corrected alone, in the classes' colours.")
        self.stroke_button.setToolTip("Take back the chosen row, where nothing came after it. Can be undone.")
        self.region_button.setToolTip("Take back all in the region in the middle of the view. Can be undone.")
        self.all_button.setToolTip("Take back all corrections. Can be undone.")
        buttons = QHBoxLayout()
        for button in self._buttons():
            buttons.addWidget(button)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(self.diff)
        whole.addWidget(self.page)
        whole.addLayout(buttons)

    def _connect(self) -> None:
        for timer, call in ((self._soon, self._read), (self._moved, self._follow)):
            timer.setSingleShot(True)
            timer.setInterval(READ_AFTER_MS)
            timer.timeout.connect(call)
        self.diff.toggled.connect(self._show_diff)
        self.page.chosen.connect(self._chosen)
        self.page.exported.connect(self._ask)
        self.stroke_button.clicked.connect(self._revert_stroke)
        self.region_button.clicked.connect(self._revert_region)
        self.all_button.clicked.connect(self._revert_all)
        self._correcting.viewer.scene.camera.events.center.connect(self._look)

    def export(self, path: str) -> None:
        """Write the log to a file, Parquet or CSV by its name, in a thread."""
        known = self._correcting.corrections
        if known is not None:
            write = "to_parquet" if path.endswith(".parquet") else "to_csv"
            line = f"corrections.log().{write}({path!r}, index=False)"
            tell = self._correcting.did.emit
            self._reading.do(lambda _tell: save_log(known, Path(path)), lambda _path: tell(line), show_error)

    def _buttons(self) -> tuple[QPushButton, ...]:
        return self.stroke_button, self.region_button, self.all_button

    def _read(self) -> None:
        """Read the log in a thread; while nobody looks, later."""
        known = self._correcting.corrections
        if known is None or not self.isVisible():
            return
        if self._reading.busy:
            self._soon.start()
            return
        self._reading.do(lambda _tell: known.log(), self._show, lambda _why: None)

    def showEvent(self, event: Any) -> None:
        """Read what was not read while nobody looked."""
        super().showEvent(event)
        self._soon.start()

    def _show(self, log: pd.DataFrame) -> None:
        log = log[::-1]
        chosen = None if self.page.row is None else int(self._ids[self.page.row])
        self._ids = log["id"].to_numpy() if len(log) else np.zeros(0, np.int64)
        self.page.show_rows(_rows(log) if len(log) else NOTHING)
        row = np.flatnonzero(self._ids == chosen)
        if row.size:
            self.page.select(int(row[0]))
        self._follow()

    def _follow(self) -> None:
        """Say what the buttons would do."""
        if not alive(self):
            return
        free, there = not self._correcting.read_only, len(self._ids) > 0
        region = self._correcting.region_in_view()
        self.stroke_button.setEnabled(free and there and self.page.row is not None)
        self.region_button.setEnabled(free and there and region is not None)
        self.all_button.setEnabled(free and there)
        self.region_button.setText("Revert region" if region is None else f"Revert region {region[0]}, {region[1]}")

    def _look(self) -> None:
        if alive(self) and self.isVisible():
            self._moved.start()

    def _show_diff(self, on: bool) -> None:
        if self._correcting.painting is not None:
            self._correcting.painting.show_corrections(on)

    def _chosen(self, row: int) -> None:
        """Show where a stroke was."""
        y0, x0, y1, x1 = self.page.model.rows.edges[row]
        if np.isfinite([y0, x0, y1, x1]).all():
            self._correcting.look_at(Box(int(y0), int(x0), int(np.ceil(y1)), int(np.ceil(x1))), no_nearer=True)
        self._follow()

    def _revert_stroke(self) -> None:
        if self.page.row is not None:
            stroke = int(self._ids[self.page.row])
            self._correcting.change(lambda known: known.revert(stroke), f"revert({stroke})")

    def _revert_region(self) -> None:
        region = self._correcting.region_in_view()
        if region is not None:
            self._correcting.change(lambda known: known.revert(region=region), f"revert(region={region})")

    def _revert_all(self) -> None:
        self._correcting.change(lambda known: known.revert(), "revert()")

    def _ask(self) -> None:
        path, kind = QFileDialog.getSaveFileName(self, "Save the log", "", ";;".join(FILES))
        if path:
            self.export(path if path.endswith(tuple(FILES.values())) else path + FILES.get(kind, ".parquet"))


def _rows(log: pd.DataFrame) -> Rows:
    """The log as the table shows it."""
    when = log["time"].dt.tz_convert(None).dt.strftime(TIMES) + np.where(log["undone"], " (undone)", "")
    words = {"when (UTC)": when, "who": log["author"], "tool": log["tool"], "what": log["after"], "was": log["before"]}
    columns = [_words(name, texts) for name, texts in words.items()]
    columns.insert(3, Column("pixels", log["pixels"].to_numpy()))
    return Rows(tuple(columns), log[["y0", "x0", "y1", "x1"]].to_numpy(float))


def _words(name: str, texts: pd.Series) -> Column:
    codes, words = pd.factorize(texts)
    return Column(name, codes.astype(np.int64), tuple(map(str, words)))
