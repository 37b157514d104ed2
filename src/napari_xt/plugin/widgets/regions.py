"""The dock widget *Region scores*: tables of regions, boxes and objects linked with the canvas, summary, context map.

Shows tables and calls what reads and measures in threads; must not know stores, networks or how things are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari.viewer
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QTabWidget, QVBoxLayout, QWidget

from napari_xt.io.export import export
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.pointer import Pointer, place_in, shown_predictions
from napari_xt.plugin.layers.shown import boxes_of_store, thresholds_in
from napari_xt.plugin.run import RunHandle, session_of
from napari_xt.plugin.session import RunState
from napari_xt.plugin.tables.opened import Opened
from napari_xt.plugin.tables.seen import export_line
from napari_xt.plugin.view import plain
from napari_xt.plugin.widgets.context_bar import ContextBar
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.widgets.summary import ObjectsPage, SummaryPage
from napari_xt.plugin.widgets.table import NOTHING, TablePage
from napari_xt.plugin.widgets.task import Task

MOVED_MS = 250  # after the last move of a threshold
AGAIN_MS = 2000  # while a run goes on its tables are read so often
FILES = {"CSV (*.csv)": ".csv", "Parquet (*.parquet)": ".parquet"}
EMPTY = "Run a model, or open a prediction (NAME.xt.zarr): its regions and boxes are listed here."


class RegionsWidget(QWidget):
    """Lists what a prediction of the viewer holds.

    Parameters
    ----------
    viewer
        Given by napari, which looks for this very annotation.

    Attributes
    ----------
    opened
        The prediction that is shown, None before it is read.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        viewer = plain(viewer)
        self.opened: Opened | None = None
        self._viewer, self._session = viewer, session_of(viewer)
        self.predictions, self.tabs, self.status = QComboBox(), QTabWidget(), QLabel(EMPTY)
        self.regions, self.boxes = TablePage(), TablePage()
        self.objects, self.summary = ObjectsPage(viewer), SummaryPage(viewer)
        self.context = ContextBar(viewer)
        self.pointer = Pointer(viewer, self._clicked)
        self.loading, self.exporting = Task(viewer, self), Task(viewer, self)
        self._again, self._sift = QTimer(self), QTimer(self)
        self._arrange()
        self._connect()
        self._follow()

    def _arrange(self) -> None:
        combo = self.predictions
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(12)
        combo.setToolTip("The prediction that is listed.")
        pages = {"Regions": self.regions, "Boxes": self.boxes, "Objects": self.objects, "Summary": self.summary}
        for name, page in pages.items():
            self.tabs.addTab(page, name)
        self.status.setWordWrap(True)
        self.status.setTextFormat(Qt.TextFormat.PlainText)
        self.summary.page.export_button.hide()
        self.boxes.select_button.show()
        whole = QVBoxLayout(self)
        for widget in (combo, self.tabs, self.context, self.status):
            whole.addWidget(widget, int(widget is self.tabs))

    def _connect(self) -> None:
        self._again.setSingleShot(True)
        self._again.timeout.connect(self.read)
        self._sift.setSingleShot(True)
        self._sift.setInterval(MOVED_MS)
        self._sift.timeout.connect(self._see)
        moved.thresholds.connect(self._moved)
        moved.tables.connect(self._corrected)
        self.boxes.select_button.clicked.connect(self.select_boxes)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._follow)
        self._session.changed.connect(self._run_changed)
        self._session.started.connect(self._run_started)
        self.predictions.currentIndexChanged.connect(self.read)
        for page, what in self._tables().items():
            page.chosen.connect(lambda row, page=page: self._chosen(page, row))
            page.exported.connect(lambda what=what: self._export(what))
        self.context.told.connect(self.status.setText)
        self.destroyed.connect(self.pointer.end)

    def _tables(self) -> dict[TablePage, str]:
        return {self.regions: "regions", self.boxes: "boxes", self.objects.page: "mask"}

    def _follow(self, _event: Any = None) -> None:
        """Offer the predictions as they are now and keep the choice."""
        if not alive(self):
            return
        combo, now = self.predictions, shown_predictions(self._viewer)
        chosen, there = combo.currentData(), [combo.itemData(i) for i in range(combo.count())]
        if there == [one.store for one in now]:
            return
        combo.blockSignals(True)
        combo.clear()
        for one in now:
            combo.addItem(f"{one.name}: {Path(one.store).name}", one.store)
        kept = combo.findData(chosen) if chosen is not None else -1
        combo.setCurrentIndex(kept if kept >= 0 else combo.count() - 1)
        combo.blockSignals(False)
        if kept < 0:
            self._again.start(0)  # when all layers of the prediction are there

    def read(self) -> None:
        """Read the tables of the chosen prediction in a thread."""
        store = self.predictions.currentData()
        self._sift.stop()
        if store is None:
            self.loading.stop()
            self._show(None)
            return
        thresholds = thresholds_in(self._viewer, store)
        arrange = self._arranged()
        self.loading.do(lambda _tell: arrange(Opened(store, thresholds)), self._show, self.status.setText)

    def _moved(self) -> None:
        """A threshold has moved: what is listed follows when it has come to rest."""
        if alive(self) and self.predictions.currentData() is not None:
            self._sift.start()

    def _corrected(self, store: str) -> None:
        """Somebody corrects: what is listed follows when that has come to rest."""
        if alive(self) and store == self.predictions.currentData():
            self._again.start(AGAIN_MS)

    def select_boxes(self) -> None:
        """Select the boxes of the chosen rows on the canvas, of all that are shown where none is."""
        ids, rows = self.boxes.model.rows.column("id"), self.boxes.model.rows.shown[self.boxes.positions(1)]
        layer = boxes_of_store(self._viewer, self.predictions.currentData())
        if ids is not None and layer is not None:
            layer.select(ids.values[rows])

    def _see(self) -> None:
        """List what is seen with the thresholds of now."""
        opened = self.opened
        if opened is None or self.loading.busy:
            self.read()
            return
        thresholds = thresholds_in(self._viewer, self.predictions.currentData())
        if thresholds != opened.thresholds:
            arrange = self._arranged()
            self.loading.do(lambda _tell: arrange(opened.at(thresholds)), self._take, self.status.setText)

    def _arranged(self) -> Callable[[Opened], Opened]:
        """What brings tables into the order of those that are shown, in any thread; these stay as they are."""
        pages = [(page.arranged(), page.model.rows) for page in (self.regions, self.boxes)]

        def arrange(opened: Opened) -> Opened:
            for (call, shown), rows in zip(pages, (opened.regions, opened.boxes), strict=True):
                if rows is not None and rows is not shown:
                    call(rows)
            return opened

        return arrange

    def _take(self, opened: Opened) -> None:
        """Show the same prediction as it is seen now."""
        old, self.opened = self.opened, opened
        if opened.boxes is not None and (old is None or old.boxes is not opened.boxes):
            self.boxes.show_rows(opened.boxes)
        self.objects.take(opened)
        self.summary.take(opened)

    def _show(self, opened: Opened | None) -> None:
        """Show what was read; a prediction that is read again keeps what was chosen in it."""
        old, self.opened = self.opened, opened
        row, same = self.regions.row, old is not None and opened is not None
        same = same and old.prediction.path == opened.prediction.path  # type: ignore[union-attr]
        self.regions.show_rows(opened.regions if opened else NOTHING)
        self.boxes.show_rows(opened.boxes if opened and opened.boxes else NOTHING)
        self.objects.offer(opened)
        self.summary.offer(opened)
        self.context.offer(opened)
        self.tabs.setTabEnabled(1, opened is not None and opened.boxes is not None)
        self.tabs.setTabEnabled(2, opened is not None and opened.prediction.layout.mask is not None)
        self.status.setText("" if opened else EMPTY)
        if opened is None or not same:
            self._point_elsewhere(opened)
        elif row is not None and row < len(opened.regions):
            self.regions.select(row)
            self._ask_about(row)
        if self.summary.asked and opened is not None:
            self.summary.measure()

    def _point_elsewhere(self, opened: Opened | None) -> None:
        if opened is None:
            self.pointer.clear()
            return
        prediction = opened.prediction
        place = place_in(self._viewer, str(prediction.path), prediction.layout.frame)
        self.pointer.follow(str(prediction.path), place)
        self.summary.place = self.context.place = place

    def _chosen(self, page: TablePage, row: int) -> None:
        """A row was chosen: show where it is."""
        self.pointer.point(page.model.rows.edges[row])
        self._ask_about(row if page is self.regions else None)

    def _clicked(self, y: float, x: float) -> None:
        """The canvas was clicked: choose what lies there in the table that is in front."""
        page = self.tabs.currentWidget()
        page = page if isinstance(page, TablePage) else getattr(page, "page", None)
        if not alive(self) or page not in self._tables():
            return
        row = page.model.rows.at(y, x)
        if row is None:
            return
        self.pointer.point(page.model.rows.edges[row], move=False)
        self.status.setText("" if page.select(row) else "What you clicked is hidden by the filters.")
        self._ask_about(row if page is self.regions else None)

    def _ask_about(self, row: int | None) -> None:
        cells = self.regions.model.rows.cells
        if row is not None and cells is not None:
            self.context.region = (int(cells[row, 0]), int(cells[row, 1]))

    def _run_started(self, handle: RunHandle) -> None:
        if alive(self):
            self.context.runs.append(handle)

    def _run_changed(self, state: RunState) -> None:
        """A run has got on: what is listed of it is read again, not too often."""
        if alive(self) and state.out and state.out == self.predictions.currentData():
            if state.over:
                self._again.start(0)
            elif not self._again.isActive():
                self._again.start(AGAIN_MS)

    def _export(self, what: str) -> None:
        path, kind = QFileDialog.getSaveFileName(self, "Export", "", ";;".join(FILES))
        if path:
            self.export(what, path if path.endswith(tuple(FILES.values())) else path + FILES.get(kind, ".csv"))

    def export(self, what: Any, path: str) -> None:
        """Write all regions, boxes or objects of the prediction to a file, CSV or Parquet by its name, in a thread."""
        store = self.predictions.currentData()
        if store is not None:
            self.status.setText(f"exporting to {path}")
            seen = thresholds_in(self._viewer, store)
            call = lambda tell: export(seen.of(open_prediction(store)), path, what=what, progress=tell)  # noqa: E731
            line = export_line(store, path, seen, what=what)
            self.exporting.do(call, lambda path: self._tell_exported(path, line), self.status.setText)

    def _tell_exported(self, path: Path, line: str) -> None:
        self.status.setText(f"exported: {line}")
        show_info(f"exported to {path}")
