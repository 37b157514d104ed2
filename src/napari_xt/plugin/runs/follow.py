"""A prediction that another process is writing, followed: its layers grow as those of a run in this viewer do.

Joins live layers and the hop between threads; must not know Qt, models or how a run writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from napari.viewer import Viewer

from napari_xt.io.prediction import Prediction
from napari_xt.io.stores import lock
from napari_xt.io.stores.ledger import Ledger
from napari_xt.io.stores.place import ledger_path, lock_path
from napari_xt.plugin._thread import Pull
from napari_xt.plugin.live import LiveLayers

POLL_S = 0.5  # the journal is asked at most so often
SHARE = 5  # reading what is new takes at most one part in so many of the time
TICK_S = 0.1  # it ends within this time


def is_written(prediction: Prediction) -> bool:
    """Whether a living process is writing the prediction."""
    writer = lock.owner(lock_path(prediction.path))
    return writer is not None and writer.alive and not prediction.complete


class Follow:
    """Layers that are brought up to date while a process writes their prediction, until it ends or they are gone.

    Parameters
    ----------
    viewer
        Whose closing ends it.
    live
        The layers.
    prediction
        What they show.
    """

    def __init__(self, viewer: Viewer, live: LiveLayers, prediction: Prediction) -> None:
        self._live = live
        self._pull: Pull = Pull(lambda: _changes(live, prediction), self._take, self._end, viewer)

    def stop(self) -> None:
        """End it soon; what is shown stays."""
        self._pull.stop()

    def _take(self, _: object) -> None:
        if self._live.there:
            self._live.show()
        else:
            self._pull.stop()

    def _end(self, error: Exception | None) -> None:
        if self._live.there:
            self._live.show(now=True)
            self._live.end_previews()
        if error is not None:
            from napari.utils.notifications import show_warning

            show_warning(f"{error}: it is not followed any more")


def _changes(live: LiveLayers, prediction: Prediction) -> Iterator[None]:
    """Read what is new whenever the journal has grown; in the thread of the `Pull`."""
    revision, known, writing = -1, set[tuple[int, int]](), True
    live.begin_previews()
    while writing:
        began = time.monotonic()
        writing = is_written(prediction)
        with Ledger(ledger_path(prediction.path), read_only=True) as ledger:
            now = ledger.revision
        if now != revision:
            revision = now
            known = live.read_settled(known)
        live.read_previews(known)
        yield None
        pause = max(POLL_S, SHARE * (time.monotonic() - began))
        while writing and time.monotonic() < began + pause:
            time.sleep(TICK_S)
            yield None
    live.read_all()
    yield None
