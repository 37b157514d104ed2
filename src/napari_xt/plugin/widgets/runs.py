"""The button *Runs*: the last runs over an image, of this viewer and of the stores beside it, to see them again.

Knows paths and what the session says; must not know engine, layers or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtWidgets import QMenu, QPushButton, QWidget

from napari_xt.plugin.runs.known_runs import KnownRun

TIP = "The last runs over the chosen image: click one to see it again."


class RunsButton(QPushButton):
    """Lists runs when it is clicked.

    Parameters
    ----------
    runs
        Asked for them each time.
    reopen
        Called with the one that is chosen.
    """

    def __init__(
        self, runs: Callable[[], list[KnownRun]], reopen: Callable[[KnownRun], None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._runs, self._reopen = runs, reopen
        self.list = QMenu(self)
        self.list.setToolTipsVisible(True)
        self.list.aboutToShow.connect(self.fill)
        self.setText("Runs")
        self.setToolTip(TIP)
        self.setMenu(self.list)

    def fill(self) -> None:
        """List the runs as they are now."""
        self.list.clear()
        found = self._runs()
        for run in found:
            action = self.list.addAction(run.label)
            if action is not None:
                action.setToolTip(str(run.path))
                action.triggered.connect(partial(self._choose, run))
        if not found and (nothing := self.list.addAction("no runs over this image yet")) is not None:
            nothing.setEnabled(False)

    def _choose(self, run: KnownRun, _checked: bool = False) -> None:
        self._reopen(run)
