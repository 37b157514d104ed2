"""The threshold of a mask that is moved while it is looked at: composed in a thread, the newest wish wins.

Knows overlays and how to reach the viewer's thread; must not know layers, widgets or stores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from napari_xt.plugin._loop import on_viewer_thread
from napari_xt.plugin.layers.overlays import Overlay

_moving: WeakKeyDictionary[Overlay, _Moving] = WeakKeyDictionary()


def move_threshold(overlay: Overlay, threshold: float, shown: Callable[[], None]) -> None:
    """Compose the mask of ``overlay`` at ``threshold``; ``shown`` is called on the viewer's thread when that is done.

    A threshold that is given meanwhile ends what is being composed, and takes its place.
    """
    _moving.setdefault(overlay, _Moving()).move(overlay, threshold, shown)


class _Moving:
    """What is composed of one overlay, by one thread at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wish = 0
        self._works = False

    def move(self, overlay: Overlay, threshold: float, shown: Callable[[], None]) -> None:
        with self._lock:
            assert overlay.composed is not None
            overlay.composed.threshold = threshold
            self._wish += 1
            if self._works:
                return
            self._works = True
        threading.Thread(target=self._work, args=(overlay, shown), name="napari-xt-mask", daemon=True).start()

    def _work(self, overlay: Overlay, shown: Callable[[], None]) -> None:
        assert overlay.composed is not None
        done = -1
        try:
            while not self._over(done):
                done = wish = self._wish
                if overlay.composed.recompose(lambda wish=wish: self._wish != wish):  # type: ignore[misc]
                    on_viewer_thread(shown)
        except BaseException:
            with self._lock:
                self._works = False
            raise

    def _over(self, done: int) -> bool:
        """Whether the last wish is fulfilled; the thread ends then."""
        with self._lock:
            self._works = self._wish != done
            return not self._works
