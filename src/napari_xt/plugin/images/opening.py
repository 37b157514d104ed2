"""Opens images that take minutes to decode the first time, while the window lives: with a bar and a stop.

Knows threads and napari's activity dock; must not know formats, layers or runs.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing

from napari_xt.io.image import Image, open_image
from napari_xt.io.images.decoding import DECODING, telling

POLL_S = 0.05


class _Stop(Exception):
    """The user wants no more of it."""


class Opening:
    """An image that is being opened in a thread of its own.

    Parameters
    ----------
    path
        Path or URL.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._image: Image | None = None
        self._error: BaseException | None = None
        self._state, self._decodes, self._stop = (0, 0), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._open, name="napari-xt-opening", daemon=True)

    def image(self) -> Image | None:
        """Return the image; None where the user stopped its decoding, which goes on from there the next time.

        Raises
        ------
        XTError
            As of `open_image`.
        """
        self._thread.start()
        try:
            while self._thread.is_alive() and not self._decodes.is_set():
                self._thread.join(POLL_S)
            if self._thread.is_alive():
                self._watch()
        finally:
            self._stop.set()
            self._thread.join()
        if isinstance(self._error, _Stop):
            return None
        if self._error is not None:
            raise self._error
        image, self._image = self._image, None  # an event loop that began meanwhile keeps who listened
        return image

    def _open(self) -> None:
        try:
            with telling(self._tell):
                self._image = open_image(self._path)
        except BaseException as error:  # noqa: BLE001 - it is raised where the image was asked for
            self._error = error

    def _tell(self, done: int, total: int) -> None:
        self._state = done, total
        self._decodes.set()
        if self._stop.is_set():
            raise _Stop

    def _watch(self) -> None:
        """Handle events until it is decoded or stopped, or the program ends."""
        from napari.utils import cancelable_progress
        from napari.utils.notifications import show_info

        from napari_xt.plugin._loop import handle_events_until

        what = f"{os.path.basename(self._path)}: {DECODING}"
        show_info(f"{what}; the activity dock shows how far it is, and stops it")
        with closing(cancelable_progress(total=self._state[1], desc=what)) as bar:

            def over() -> bool:
                done, bar.total = self._state
                bar.update(done - bar.n)
                if bar.is_canceled:
                    self._stop.set()
                return not self._thread.is_alive()

            handle_events_until(over, POLL_S)


def opened(path: str) -> Image | None:
    """Open an image, where a window lives in such a way that it goes on living; None where the user stopped it."""
    return Opening(path).image() if _in_window() else open_image(path)


def _in_window() -> bool:
    if "qtpy.QtCore" not in sys.modules:
        return False
    from napari_xt.plugin._loop import is_viewer_thread

    return is_viewer_thread()
