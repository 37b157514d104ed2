"""The thread that brings strokes to the disk, in groups and in order.

Knows jobs and a journal; must not know what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread

from napari_xt.errors import StoreError, XTError
from napari_xt.io.corrections.journal import Journal

AT_MOST_S = 0.4  # between two parts of a long stroke, and before what failed is tried again

Job = Callable[[Journal], None]


class Writer:
    """Does jobs in transactions on a thread of its own; what could not be written is kept and tried again.

    Parameters
    ----------
    journal
        It has no other writer.
    tick
        Called from the thread while it ticks, every `AT_MOST_S`.
    """

    def __init__(self, journal: Journal, tick: Callable[[], None]) -> None:
        self._journal, self._tick = journal, tick
        self._jobs: list[Job] = []
        self._changed = Condition()
        self._error: XTError | None = None
        self._ending = self._stirred = False
        self._ticking = False
        self._thread = Thread(target=self._work, name="napari-xt corrections", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have ``job`` done; may be called again for what failed, so it must not count on being the first."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def tick(self, ticking: bool) -> None:
        """Begin to tick, or stop."""
        with self._changed:
            self._ticking, self._stirred = ticking, True
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when all is on the disk.

        Raises
        ------
        StoreError
            It can't be written; it is kept and tried again.
        """
        with self._changed:
            self._error = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._jobs or self._error is not None)
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the thread, whatever is left to do."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._wanted, AT_MOST_S if self._ticking or self._jobs else None)
                if self._ending:
                    return
                jobs, self._stirred = list(self._jobs), False
            if not jobs:
                if self._ticking:
                    self._tick()
                continue
            self._do(jobs)

    def _wanted(self) -> bool:
        return self._ending or self._stirred or (bool(self._jobs) and self._error is None)

    def _do(self, jobs: list[Job]) -> None:
        error: XTError | None = None
        try:
            with self._journal.exclusive():
                for job in jobs:
                    job(self._journal)
        except XTError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - whoever waits is told
            error = StoreError(self._journal.path, f"corrections can't be written: {failure!r}")
        with self._changed:
            self._error = error
            if error is None:
                del self._jobs[: len(jobs)]
            self._changed.notify_all()
