"""What napari docks: the plugin's widgets at once where their modules are loaded, else a line until a thread has.

Knows names of modules; must not import any of them, which is what makes it quick.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from typing import Any, ClassVar

import napari.viewer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

LOADING = "Loading..."
LOOK_MS = 20


class Dock(QWidget):
    """Stands for a widget while its modules are being loaded, then holds it.

    Where they are loaded already, the call gives the widget itself.

    Parameters
    ----------
    viewer
        Given by napari, which looks for this very annotation.

    Attributes
    ----------
    inside
        The widget, None while its modules are being loaded.
    """

    module: ClassVar[str]
    name: ClassVar[str]

    def __new__(cls, viewer: napari.viewer.Viewer) -> Any:
        """The widget itself, or what stands for it."""
        loaded = sys.modules.get(cls.module)
        ready = loaded is not None and hasattr(loaded, cls.name)
        return getattr(loaded, cls.name)(viewer) if ready else super().__new__(cls)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.inside: QWidget | None = None
        self._viewer = viewer
        self._told = QLabel(LOADING)
        self._told.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._told.setWordWrap(True)
        policy = QSizePolicy.Policy
        self.setSizePolicy(policy.Preferred, policy.Expanding)  # or napari puts a stretch above what is held
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._told)
        self._error: list[Exception] = []
        self._thread = threading.Thread(  # no worker of napari's: this one may outlive the viewer
            target=_load, args=(self.module, self._error), name="napari-xt-load", daemon=True
        )
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        self._thread.start()
        self._timer.start()

    def _look(self) -> None:
        """Put the widget in the place of the line, once it can be made."""
        if self._thread.is_alive():
            return
        self._timer.stop()
        if self._error:
            self._told.setText(f"{self.name} can't be loaded: {self._error[0]}")
            return
        self.inside = getattr(sys.modules[self.module], self.name)(self._viewer)
        self._told.hide()
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self.inside)


class RunDock(Dock):
    """Holds `RunWidget`."""

    module, name = "napari_xt.plugin.widgets.run", "RunWidget"


class RegionsDock(Dock):
    """Holds `RegionsWidget`."""

    module, name = "napari_xt.plugin.widgets.regions", "RegionsWidget"


class CorrectDock(Dock):
    """Holds `CorrectWidget`."""

    module, name = "napari_xt.plugin.widgets.correct", "CorrectWidget"


def _load(module: str, errors: list[Exception]) -> None:
    """Import it."""
    try:
        import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
        errors.append(error)
