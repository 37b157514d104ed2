"""Downloads a file while the window lives: with a bar that stops it, and words about what is got.

Knows threads and napari's activity dock; must not know what is in the file.
"""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import platformdirs

from napari_xt.errors import ImageReadError
from napari_xt.io.download import Remote, download, kept

POLL_S = 0.05


def folder() -> Path:
    """Where downloads lie."""
    return platformdirs.user_cache_path("napari-xt") / "samples"


def downloaded(remote: Remote) -> Path:
    """The file, got before or now. On the viewer's thread.

    Raises
    ------
    XTError
        As of `download`, or the user stopped it.
    """
    return kept(remote, folder()) or _Download(remote).path()


class _Download:
    """One that goes on in a thread of its own."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._done = remote, 0
        self._path: Path | None = None
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="napari-xt-download", daemon=True)

    def path(self) -> Path:
        """Handle events until it is there, stopped or has failed."""
        from napari.utils import cancelable_progress
        from napari.utils.notifications import show_info

        from napari_xt.plugin._loop import handle_events_until

        show_info(f"Downloading {self._remote}; the activity dock shows how far it is, and stops it")
        name, size = self._remote.name, self._remote.size
        with closing(cancelable_progress(total=size, desc=name, unit="B", unit_scale=True)) as bar:

            def over() -> bool:
                bar.update(self._done - bar.n)
                if bar.is_canceled:
                    self._stop.set()
                return not self._thread.is_alive()

            self._thread.start()
            try:
                handle_events_until(over, POLL_S)
            finally:
                self._stop.set()
                self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._path is not None
        return self._path

    def _work(self) -> None:
        try:
            self._path = download(self._remote, folder(), self._tell)
        except BaseException as error:  # noqa: BLE001 - it is raised where the file was asked for
            self._error = error

    def _tell(self, done: int, _size: int) -> None:
        self._done = done
        if self._stop.is_set():
            raise ImageReadError(self._remote.name, "its download was stopped", "open it again to go on from there")
