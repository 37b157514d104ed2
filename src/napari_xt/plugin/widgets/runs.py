"""The button *Runs*: what waits for its turn, and the last runs over an image, to see them again.

Knows paths and what the session says; must not know engine, layers or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtWidgets import QMenu, QPushButton, QWidget

from napari_xt.plugin.runs.known_runs import KnownRun
from napari_xt.plugin.session import RunState, Session

TIP = "The last runs over the chosen image: click one to see it again."


class RunsButton(QPushButton):
    """Lists runs when it is clicked.

    Parameters
    ----------
    runs
        Asked for them each time.
    reopen
        Called with the one that is chosen.
    compare
        Called with all of them where two are to be compared.
    session
        Whose waiting runs are listed first, to be taken out of the queue.
    """

    def __init__(
        self,
        runs: Callable[[], list[KnownRun]],
        reopen: Callable[[KnownRun], None],
        compare: Callable[[list[KnownRun]], None],
        session: Session,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._runs, self._reopen, self._compare, self._session = runs, reopen, compare, session
        self.list = QMenu(self)
        self.list.setToolTipsVisible(True)
        self.list.aboutToShow.connect(self.fill)
        self.setText("Runs")
        self.setToolTip(TIP)
        self.setMenu(self.list)

    def fill(self) -> None:
        """List the runs as they are now."""
        self.list.clear()
        for waiting in self._session.queued:
            if (drop := self.list.addAction(f"Don't run: {waiting.name}")) is not None:
                drop.setToolTip("It waits for its turn: take it out of the queue.")
                drop.triggered.connect(partial(self._drop, waiting))
        found = self._runs()
        if self._session.queued:
            self.list.addSeparator()
        for run in found:
            action = self.list.addAction(run.label)
            if action is not None:
                action.setToolTip(str(run.path))
                action.triggered.connect(partial(self._choose, run))
        if len(found) > 1 and (compare := self.list.addAction("Compare two...")) is not None:
            self.list.insertSeparator(compare)
            compare.triggered.connect(lambda: self._compare(found))
        if not found and (nothing := self.list.addAction("no runs over this image yet")) is not None:
            nothing.setEnabled(False)

    def _drop(self, waiting: RunState, _checked: bool = False) -> None:
        self._session.stop(waiting)

    def _choose(self, run: KnownRun, _checked: bool = False) -> None:
        self._reopen(run)
