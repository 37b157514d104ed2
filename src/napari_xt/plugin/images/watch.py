"""What a layer could not read: kept, said once in a while, and looked at again when pixels come late.

Knows napari's notifications and which layers show a level; must not know Qt, files or runs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box

SAY_EVERY_S = 10.0
LOOK_EVERY_S = 0.2
KEPT = 1000  # faults


class Fault(NamedTuple):
    """A part of a level, in its pixels, that could not be read, and why."""

    level: int
    box: Box
    why: str


class Watch:
    """The faults of what one layer shows.

    Parameters
    ----------
    what
        Path or name of the image.
    """

    def __init__(self, what: str) -> None:
        self.faults: deque[Fault] = deque(maxlen=KEPT)
        self._what, self._said, self._asked = what, -SAY_EVERY_S, False
        self._lock = threading.Lock()

    def note(self, fault: Fault) -> None:
        """Keep a fault, and say it unless one was said a moment ago. From any thread."""
        with self._lock:
            self.faults.append(fault)
            due = time.monotonic() - self._said >= SAY_EVERY_S
            self._said = time.monotonic() if due else self._said
        if due and open_viewers():
            from napari.utils.notifications import show_warning

            place = f"level {fault.level} at y={fault.box.y0}, x={fault.box.x0}"
            show_warning(
                str(ImageReadError(self._what, f"{place} can't be read ({fault.why})", "it is shown as empty"))
            )

    def look_again(self) -> None:
        """Let the layers that show it fetch their pixels once more, soon. From any thread."""
        with self._lock:
            if self._asked or not open_viewers():
                return
            self._asked = True
        from napari_xt.plugin._loop import on_viewer_thread

        on_viewer_thread(self._refresh, LOOK_EVERY_S)

    def _refresh(self) -> None:
        self._asked = False
        for layer in self._layers():
            layer.refresh()

    def _layers(self) -> Iterator[Any]:
        for viewer in open_viewers():
            for layer in viewer.layers:
                data: Any = getattr(layer, "data", None)
                levels: list[Any] = list(data) if getattr(layer, "multiscale", False) else [data]
                if any(getattr(level, "watch", None) is self for level in levels):
                    yield layer


def open_viewers() -> list[Any]:
    """The viewers that are open; without one there is nobody to tell."""
    module = sys.modules.get("napari.viewer")
    return list(module.Viewer._instances) if module else []  # noqa: SLF001 - current_viewer() is only one of them
