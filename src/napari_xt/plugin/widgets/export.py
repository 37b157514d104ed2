"""The button *Export*: a prediction as a file that other tools read, written in a thread, with progress and a stop.

Calls `export`; must not know formats, runs or models.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari.layers import Layer
from napari.utils.notifications import ErrorNotification, notification_manager, show_error, show_info
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_xt.errors import XTError
from napari_xt.io.export import export, formats
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin._thread import Pull
from napari_xt.plugin.layers.shown import thresholds_in
from napari_xt.plugin.tables.seen import Thresholds, export_line
from napari_xt.plugin.widgets.image_combo import alive
from napari_xt.plugin.writer import shown_store

TIP = "Write what the run has found to a file for QGIS, QuPath, pandas, ...: the file's name says the format."
STOP = "Click to stop; nothing is left of the file."


class ExportButton(QPushButton):
    """Exports the prediction whose layers are over the chosen image; while that goes on, a click stops it.

    Attributes
    ----------
    job
        The last export.
    """

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__("Export", parent)
        self.job: Export | None = None
        self._viewer = viewer
        self._image: Layer | None = None
        self.setToolTip(TIP)
        self.clicked.connect(self._click)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self.follow)
        viewer.layers.selection.events.active.connect(self.follow)
        self.follow()

    def offer(self, image: Layer | None) -> None:
        """Say over which image the layers are meant."""
        self._image = image
        self.follow()

    def follow(self, _event: Any = None) -> None:
        """Enable where there is something to export."""
        if alive(self):
            self.setEnabled(self._busy or shown_store(self._viewer, self._image) is not None)

    def start(self, path: str, kind: str) -> None:
        """Export what is shown to ``path``, in the format ``kind``."""
        store = shown_store(self._viewer, self._image)
        if store is None or self._busy:
            return
        self.job = Export(self._viewer, store, path, kind, thresholds_in(self._viewer, store))
        self.job.told.connect(self._show)
        self.job.over.connect(self._end)
        self.setToolTip(STOP)
        self._show(0)
        self.job.begin()

    @property
    def _busy(self) -> bool:
        return self.job is not None and not self.job.done

    def _click(self) -> None:
        if self.job is not None and self._busy:
            self.job.stop()
            return
        named = {f"{name} ({' '.join(f'*{end}' for end in ends)})": name for name, ends in formats().items()}
        path, chosen = QFileDialog.getSaveFileName(self, "Export", "", ";;".join(named))
        if path:
            self.start(*_with_suffix(path, named.get(chosen, "")))

    def _show(self, percent: int) -> None:
        if alive(self):
            self.setText(f"Stop export ({percent} %)")

    def _end(self) -> None:
        if alive(self):
            self.setText("Export")
            self.setToolTip(TIP if self.job is None else f"{TIP}\nThe last one in Python: {self.job.line}")
            self.follow()


class Export(QObject):
    """One export in a thread of its own.

    Attributes
    ----------
    told
        Emitted with the percentage that is written, when it has grown.
    over
        Emitted last.
    done
        Whether it is over.
    line
        What does the same in Python.
    """

    told = Signal(int)
    over = Signal()

    def __init__(self, viewer: Viewer, store: str, path: str, kind: str, thresholds: Thresholds) -> None:
        super().__init__()
        self.done = False
        self.line = export_line(store, path, thresholds, format=kind or None)
        self._store, self._path, self._kind, self._thresholds = store, path, kind, thresholds
        self._stopping, self._percent = threading.Event(), 0
        self._viewer = viewer

    def begin(self) -> None:
        """Start the thread."""
        name = f"the export to {os.path.basename(self._path)} is being written"
        Pull(self._work, _say, self._end, self._viewer, name, self._stopping)

    def stop(self) -> None:
        """Ask it to end; what was at the path before stays."""
        self._stopping.set()

    def _work(self) -> Iterator[Path]:
        seen = self._thresholds.of(open_prediction(self._store))
        yield export(seen, self._path, format=self._kind or None, progress=self._tell)

    def _tell(self, done: int, total: int) -> None:
        if self._stopping.is_set() or not threading.main_thread().is_alive():
            raise _StoppedError
        percent = 100 * done // max(1, total)
        if percent > self._percent:
            self._percent = percent
            self.told.emit(percent)

    def _end(self, error: Exception | None) -> None:
        self.done = True
        if isinstance(error, XTError):
            show_error(str(error))
        elif error is not None and not isinstance(error, _StoppedError):
            notification_manager.dispatch(ErrorNotification(error))
        self.over.emit()


class _StoppedError(Exception):
    """The user wants no more of it."""


def _say(path: Path) -> None:
    show_info(f"exported to {path}")


def _with_suffix(path: str, kind: str) -> tuple[str, str]:
    """A path that ends as the format wants it, and the format; a known end tells its own."""
    every = formats()
    if kind and path.lower().endswith(every[kind]):
        return path, kind
    if path.lower().endswith(tuple(end for ends in every.values() for end in ends)):
        return path, ""
    return (f"{path}{every[kind][0]}", kind) if kind else (path, "")
