"""The one hop between threads: a worker pulls the events of a run, and they are delivered on the viewer's thread.

Knows Qt and iterators; must not know what the events mean.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from napari.viewer import Viewer
from qtpy.QtCore import QEventLoop, QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_xt.errors import RunError
from napari_xt.plugin._loop import is_viewer_thread

Make = Callable[[], Iterator[Any]]

_going_on: set[Pull] = set()  # Qt does not keep what its signals are connected to


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error of the run: raised in the worker it would be swallowed or shown with a traceback."""

    error: Exception


class _Worker(GeneratorWorker):  # type: ignore[misc]  # napari ships no types
    """A generator worker that closes its generator in its own thread, whatever ends it."""

    def work(self) -> Any:
        try:
            return super().work()
        finally:
            self._gen.close()


class Pull(QObject):  # type: ignore[misc,unused-ignore]
    """One run being pulled in a worker thread.

    Parameters
    ----------
    make
        Gives the events; called and exhausted in the worker's thread, closed there when it is stopped.
    deliver
        Called with each event on the viewer's thread; no more once the run was stopped.
    ended
        Called last, on the viewer's thread, with the error that ended the run or None.
    viewer
        Whose closing stops the run.

    Raises
    ------
    RunError
        This is not the viewer's thread.
    """

    over = Signal()

    def __init__(
        self,
        make: Make,
        deliver: Callable[[Any], None],
        ended: Callable[[Exception | None], None],
        viewer: Viewer,
    ) -> None:
        check_thread()
        super().__init__()
        self._deliver, self._ended = deliver, ended
        self._error: Exception | None = None
        self._done = threading.Event()
        self._calls: deque[Callable[[], None]] = deque()
        self._calling = False
        self._worker = create_worker(_pulled, make, _worker_class=_Worker, _start_thread=False)
        self._worker.yielded.connect(self._take)
        self._worker.finished.connect(self._finish)
        when_closed(viewer, self.stop)
        _going_on.add(self)
        self._worker.start()

    def stop(self) -> None:
        """Ask the worker to end; it does at the run's next event."""
        self._worker.quit()

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

    def _take(self, event: Any) -> None:
        self._call(lambda: self._give(event))

    def _finish(self) -> None:
        self._call(self._end)

    def _call(self, call: Callable[[], None]) -> None:
        """Call after all that came before and never inside of it: who handles an event may let Qt handle others."""
        self._calls.append(call)
        if not self._calling:
            self._catch_up()

    def _catch_up(self) -> None:
        self._calling = True
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            self._calling = False
            if self._calls:
                QTimer.singleShot(0, self._catch_up)

    def _give(self, event: Any) -> None:
        if isinstance(event, _Raised):
            self._error = event.error
        elif not self._worker.abort_requested:
            self._deliver(event)

    def _end(self) -> None:
        self._done.set()
        self._ended(self._error)
        self.over.emit()
        _going_on.discard(self)


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


def _pulled(make: Make) -> Iterator[Any]:
    try:
        with closing(make()) as events:  # type: ignore[type-var]
            yield from events
    except Exception as error:  # noqa: BLE001 - whatever it is, it is handed to the viewer's thread
        yield _Raised(error)
