"""Work for one widget in a thread: one at a time, the newest wins, and what comes late is dropped.

Knows threads; must not know what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from napari.utils.notifications import ErrorNotification, notification_manager
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]  # under another name in PyQt

from napari_xt.errors import XTError
from napari_xt.plugin._thread import Pull
from napari_xt.plugin.widgets.image_combo import alive

Tell = Callable[[int, int], None]


class StoppedError(Exception):
    """Nobody wants the result any more."""


def _nobody(*_: Any) -> None:
    """Stand for what is wanted no more."""


@dataclass(slots=True, eq=False)
class _Work:
    call: Callable[[Tell], Any]
    done: Callable[[Any], None]
    failed: Callable[[str], None]
    tell: Tell
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Any:
        """Return what comes of it, an error as a value."""
        call, tell, self.call, self.tell = self.call, self.tell, _nobody, _nobody

        def told(done: int, total: int) -> None:
            if self.stop.is_set() or not threading.main_thread().is_alive():
                raise StoppedError
            tell(done, total)

        try:
            return call(told)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            return error

    def forget(self) -> None:
        """Let go of who waits for it."""
        self.done = self.failed = _nobody


class Task(QObject):
    """The work that a widget waits for.

    Parameters
    ----------
    viewer
        Whose closing ends it.
    owner
        Nothing is told any more once it is deleted.

    Attributes
    ----------
    progress
        Emitted with how much is done, and of how much.
    changed
        Emitted when work begins and when it ends.
    """

    progress = Signal(int, int)
    changed = Signal()

    def __init__(self, viewer: Viewer, owner: Any) -> None:
        super().__init__(owner)
        self._viewer, self._owner = viewer, owner
        self._now: _Work | None = None
        self._next: _Work | None = None
        viewer.window._qt_window.destroyed.connect(self.stop)  # noqa: SLF001 - as a run is

    @property
    def busy(self) -> bool:
        """Whether something is being worked at that is still wanted."""
        return self._next is not None or (self._now is not None and not self._now.stop.is_set())

    def do(self, call: Callable[[Tell], Any], done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Let ``call`` work in a thread, in the place of what it worked at before.

        Parameters
        ----------
        call
            Given a function to be told of progress, which raises where nobody wants the result any more.
        done, failed
            Called on the viewer's thread with the result, or with a sentence about the error.
        """
        self.stop()
        self._next = _Work(call, done, failed, self.progress.emit)
        if self._now is None:
            self._begin()

    def stop(self) -> None:
        """Drop what is being worked at, and what waits."""
        self._next = None
        if self._now is not None:
            self._now.stop.set()
            self._now.forget()

    def _begin(self) -> None:
        work, self._now, self._next = self._next, self._next, None
        if work is None:
            return
        found: list[Any] = []
        Pull(lambda: _found(work, found), _nobody, lambda _: self._end(work, found), self._viewer, asked=work.stop)
        self.changed.emit()

    def _end(self, work: _Work, results: list[Any]) -> None:
        if not alive(self._owner):
            return
        self._now = None
        if results and not work.stop.is_set():
            self._show(work, results.pop())
        work.forget()
        if self._next is not None:
            self._begin()
        elif self._now is None:
            self.changed.emit()

    def _show(self, work: _Work, found: Any) -> None:
        if isinstance(found, XTError):
            work.failed(str(found))
        elif isinstance(found, Exception):
            work.failed(f"{type(found).__name__}: {found}")
            notification_manager.dispatch(ErrorNotification(found))
        else:
            work.done(found)


def _found(work: _Work, found: list[Any]) -> Iterator[None]:
    found.append(work.run())
    yield
