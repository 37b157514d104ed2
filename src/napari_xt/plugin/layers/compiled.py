"""What napari compiles for the first layer of classes in a process, compiled before it would stop the window.

Knows napari's colours and threads; must not know layers, runs or Qt.
"""

from __future__ import annotations

import threading

import numpy as np

_compiled = threading.Event()
_begun = threading.Lock()


def compile_ahead() -> None:
    """Begin, in a thread of its own, unless it was begun. From any thread."""
    if _begun.acquire(blocking=False):  # never released: once in a process
        threading.Thread(target=_compile, name="napari-xt-compile").start()


def compiled(seconds: float = 0.0) -> bool:
    """Whether that is done, after at most so many ``seconds``."""
    return _compiled.wait(seconds)


def _compile() -> None:
    from napari.utils.colormaps import DirectLabelColormap

    try:
        colors = DirectLabelColormap(color_dict={None: (0, 0, 0, 0), 0: (0, 0, 0, 0), 1: (1, 1, 1, 1)})
        colors.map(np.zeros((1, 1), np.uint8))
    finally:
        _compiled.set()
