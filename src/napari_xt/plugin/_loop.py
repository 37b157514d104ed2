"""The event loop of the viewer's thread: calls that wait for it, and whether it runs. Knows Qt; knows nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from weakref import WeakMethod

from qtpy.QtCore import QCoreApplication, QEventLoop, QObject, QThread, QTimer, Signal  # type: ignore[attr-defined]

WAIT_S = 0.02


class _Later(QObject):  # type: ignore[misc,unused-ignore]
    """A call that waits for the viewer's thread."""

    asked = Signal()

    def __init__(self, app: QCoreApplication, call: Callable[[], None], seconds: float) -> None:
        super().__init__()
        self._call, self._ms = call, round(seconds * 1000)
        self.moveToThread(app.thread())
        self.asked.connect(self._wait)

    def _wait(self) -> None:
        QTimer.singleShot(self._ms, self._run)

    def _run(self) -> None:
        _later.discard(self)
        self._call()


_later: set[_Later] = set()


def on_viewer_thread(call: Callable[[], None], seconds: float = 0) -> None:
    """Call ``call`` on the viewer's thread after ``seconds``; never where there is none. From any thread."""
    app = QCoreApplication.instance()
    if app is not None:
        later = _Later(app, call, seconds)
        _later.add(later)
        later.asked.emit()


def weak(method: Callable[[], None]) -> Callable[[], None]:
    """Call a method of what still lives by then, without keeping it alive."""
    found = WeakMethod(method)

    def call() -> None:
        if (alive := found()) is not None:
            alive()

    return call


def is_handling_events() -> bool:
    """Whether the caller is the viewer's thread while its window lives, so that waiting would be felt."""
    app, thread = QCoreApplication.instance(), QThread.currentThread()
    return app is not None and thread is not None and thread == app.thread() and thread.loopLevel() > 0


def is_viewer_thread() -> bool:
    """Whether the caller is the thread of the application's windows, if it has any."""
    app = QCoreApplication.instance()
    return app is not None and bool(QThread.currentThread() == app.thread())


def handle_events_until(over: Callable[[], bool], seconds: float) -> None:
    """Let the window live until ``over``, asked every few ``seconds`` on the viewer's thread, says so, or all ends."""
    loop, timer, app = QEventLoop(), QTimer(), QCoreApplication.instance()
    timer.timeout.connect(lambda: loop.quit() if over() else None)
    timer.start(max(1, round(seconds * 1000)))
    if app is not None:
        app.aboutToQuit.connect(loop.quit)
    if not over():
        loop.exec()
    timer.stop()


def wait_until(over: Callable[[], bool], timeout: float | None = None) -> bool:
    """Wait until ``over`` says so, at most ``timeout`` seconds; the window lives on meanwhile. Whether it does."""
    end = math.inf if timeout is None else time.monotonic() + timeout

    def ends() -> bool:
        return over() or time.monotonic() > end

    if is_viewer_thread():
        handle_events_until(ends, WAIT_S)
        return over()
    while not ends():
        time.sleep(WAIT_S)
    return over()
