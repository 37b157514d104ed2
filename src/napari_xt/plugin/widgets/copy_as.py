"""The button *Copy as*: what is chosen as Python, as a command, as a job, as a file of settings.

Knows scripts; must not know viewers, runs or layers.
"""

from __future__ import annotations

from collections.abc import Callable

from napari.utils.notifications import show_error, show_info
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from napari_xt.engine.script import Script
from napari_xt.errors import XTError

SAVE = "Save settings..."
COPIES: dict[str, Callable[[Script], str]] = {"Python": Script.python, "shell": Script.shell, "sbatch": Script.sbatch}


class CopyAs(QPushButton):
    """Copies a script to the clipboard, or saves its settings.

    Parameters
    ----------
    script
        Asked for what is chosen at that moment; an error of its own is told.
    """

    def __init__(self, script: Callable[[], Script], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._script = script
        self.list = QMenu(self)
        for name in COPIES:
            self.list.addAction(name, lambda name=name: self.copy(name))
        self.list.addSeparator()
        self.list.addAction(SAVE, self._ask)
        self.setText("Copy as")
        self.setToolTip("The run that is chosen here as text that runs it elsewhere, unchanged.")
        self.setMenu(self.list)

    def copy(self, kind: str) -> None:
        """Put what is chosen on the clipboard as ``kind`` of `COPIES`."""
        clipboard, script = QGuiApplication.clipboard(), self._asked()
        if clipboard is not None and script is not None:
            clipboard.setText(COPIES[kind](script))
            show_info(f"copied as {kind}")

    def save(self, path: str) -> None:
        """Write what is chosen to a file of settings."""
        script = self._asked()
        if script is None:
            return
        try:
            script.save(path if path.endswith(".json") else f"{path}.json")
        except XTError as error:
            show_error(str(error))

    def _ask(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Settings", "", "Settings of a run (*.json)")
        if path:
            self.save(path)

    def _asked(self) -> Script | None:
        try:
            return self._script()
        except XTError as error:
            show_error(str(error))
            return None
