"""The one hop between threads: a thread pulls the events of a run, and they are delivered on the viewer's thread.

Knows Qt and iterators; must not know what the events mean.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from napari.utils.task_status import Status
from napari.viewer import Viewer
from qtpy.QtCore import QEventLoop, QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_xt.errors import RunError
from napari_xt.plugin._loop import is_viewer_thread

CLOSING_S = 1.0
"""A viewer that is closed waits for its threads at most so long."""

Make = Callable[[], Iterator[Any]]

_going_on: set[Pull] = set()  # Qt does not keep what its signals are connected to
_closed: weakref.WeakSet[Viewer] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class _Over:
    """The last event: nothing comes after it; with the error that ended the run, or None."""

    error: Exception | None


class Pull(QObject):  # type: ignore[misc,unused-ignore]
    """One run being pulled in a thread of its own.

    It is no worker of napari's: those are kept by the window's list of tasks, whatever they hold, and one that is still
    at work when Qt goes ends the process. Python waits for this thread, which ends when Python does.

    Parameters
    ----------
    make
        Gives the events; called and exhausted in the thread, closed there when it is stopped.
    deliver
        Called with each event on the viewer's thread; no more once the run was stopped.
    ended
        Called last, on the viewer's thread, with the error that ended the run or None.
    viewer
        Whose closing stops the run.
    name
        What a user who closes the window is told goes on; who closes it waits a moment for what has a name.
    asked
        Set where it is to stop.

    Raises
    ------
    RunError
        This is not the viewer's thread.
    """

    over = Signal()
    _come = Signal(object)

    def __init__(
        self,
        make: Make,
        deliver: Callable[[Any], None],
        ended: Callable[[Exception | None], None],
        viewer: Viewer,
        name: str = "",
        asked: threading.Event | None = None,
    ) -> None:
        check_thread()
        super().__init__()
        self._deliver, self._ended = deliver, ended
        self._done, self._asked = threading.Event(), asked or threading.Event()
        self._calls: deque[Any] = deque()
        self._calling = False
        self._come.connect(self._take)
        self._task = _Task(viewer, name) if name else None
        self.viewer = weakref.ref(viewer)
        when_closed(viewer, self.stop)
        if viewer in _closed:
            self.stop()
        _going_on.add(self)
        self._thread = threading.Thread(target=self._work, args=(make,), name="napari-xt-work")
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it does at the run's next event."""
        self._asked.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over, at most ``timeout`` seconds; whether it is.

        On the viewer's thread events go on being handled meanwhile, so the viewer stays alive.
        """
        if not is_viewer_thread():
            return self._done.wait(timeout)
        if not self._done.is_set():
            loop = QEventLoop()
            self.over.connect(loop.quit)
            if timeout is not None:
                QTimer.singleShot(round(timeout * 1000), loop.quit)
            QTimer.singleShot(0, self._catch_up)  # who waits inside of a call waits for those after it
            loop.exec()
            self.over.disconnect(loop.quit)
        return self._done.is_set()

    def join(self, seconds: float) -> None:
        """Wait for the thread alone; what it said is delivered later."""
        self._thread.join(max(0.0, seconds))

    def _work(self, make: Make) -> None:
        error = None
        try:
            if not self._stops():
                with closing(make()) as events:  # type: ignore[type-var]
                    for event in events:
                        self._come.emit(event)
                        if self._stops():
                            break
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is handed to the viewer's thread
            error = raised
        self._come.emit(_Over(error))

    def _stops(self) -> bool:
        return self._asked.is_set() or not threading.main_thread().is_alive()

    def _take(self, event: Any) -> None:
        """Handle after all that came before and never inside of it: who handles an event may let Qt handle others."""
        self._calls.append(event)
        if not self._calling:
            self._catch_up()

    def _catch_up(self) -> None:
        self._calling = True
        try:
            while self._calls:
                self._give(self._calls.popleft())
        finally:
            self._calling = False
            if self._calls:
                QTimer.singleShot(0, self._catch_up)

    def _give(self, event: Any) -> None:
        if isinstance(event, _Over):
            self._end(event.error)
        elif not self._asked.is_set():
            self._deliver(event)

    def _end(self, error: Exception | None) -> None:
        self._thread.join()  # it has nothing left to do, and this must not be deleted in it
        self._done.set()
        if self._task is not None:
            self._task.end()
        try:
            self._ended(error)
        finally:
            _going_on.discard(self)
            self.over.emit()


class _Task:
    """What napari names to a user who closes the window, and cancels then."""

    def __init__(self, viewer: Viewer, name: str) -> None:
        self._viewer, self._window = weakref.ref(viewer), weakref.ref(viewer.window)
        register = viewer.window._register_task_status  # noqa: SLF001 - napari has no public door to it
        self._id = register("napari-xt", Status.BUSY, name, partial(_close, self._viewer))

    def end(self) -> None:
        """Name it no more."""
        window = self._window()
        if window is not None:
            window._update_task_status(self._id, Status.COMPLETED)  # noqa: SLF001 - as above


def _close(viewer: weakref.ref[Viewer]) -> None:
    """Stop all that works for a viewer, and give it a moment to end."""
    closed = viewer()
    if closed is None or closed in _closed:
        return
    _closed.add(closed)
    pulls = [pull for pull in _going_on if pull.viewer() is closed]
    for pull in pulls:
        pull.stop()
    end = time.monotonic() + CLOSING_S
    for pull in pulls:
        pull.join(end - time.monotonic())


def check_thread() -> None:
    """Refuse to go on in another thread than the viewer's.

    Raises
    ------
    RunError
        This is another one.
    """
    if not is_viewer_thread():
        raise RunError("run", "was called from another thread than the viewer's", "call it from napari's console")


def when_closed(viewer: Viewer, call: Callable[[], None]) -> None:
    """Call ``call`` when the window of a viewer goes."""
    viewer.window._qt_window.destroyed.connect(call)  # noqa: SLF001 - napari stops workers of the current viewer alone
