"""Reviewing a prediction of 29,000 x 25,000: until the first region is in view, and from a key to the next one.

All regions are complete; the queue is made in a thread, as the widget does it. A key is pressed on the canvas, and the
time ends when the canvas was drawn. Needs a screen: ``.ci/screen python tests/benchmarks/review.py``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paint
from figures import Figures, options
from napari.qt import get_qapp
from napari.viewer import Viewer
from vispy.util import keys

from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.widgets.review_bar import ReviewBar

KEYS = {"next": "N", "accept": "Y", "fix": "G", "skip": "U"}
LONG_S = 60.0


def opened(store: Path) -> tuple[Viewer, Correcting, ReviewBar]:
    """Return a viewer, and what reviews the prediction in ``store`` once it is chosen."""
    viewer = Viewer(show=True)
    viewer.window.resize(1280, 720)
    viewer.open(store, plugin="napari-xt")
    correcting = Correcting(viewer, "Ada")
    bar = ReviewBar(correcting)
    correcting.chosen.connect(bar.refresh)
    correcting.changed.connect(lambda _box: bar.refresh())
    viewer.window.add_dock_widget(bar, name="Review")
    paint.settle()
    return viewer, correcting, bar


def until(there: Callable[[], bool]) -> float:
    """Handle events until something is there, and return the longest pause between two."""
    longest, end = 0.0, time.monotonic() + LONG_S
    while not there() and time.monotonic() < end:
        longest = max(longest, paint.timed(get_qapp().processEvents))
        time.sleep(0.001)
    return longest


def pressed(viewer: Viewer, key: str) -> float:
    """Return the seconds from a key to the view."""
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    drawn: list[object] = []
    canvas.events.draw.connect(drawn.append, position="last")
    began = time.perf_counter()
    for event in (canvas.events.key_press, canvas.events.key_release):
        event(key=keys.Key(key), modifiers=[])
    canvas.update()
    until(lambda: bool(drawn))
    taken = time.perf_counter() - began
    canvas.events.draw.disconnect(drawn.append)
    paint.settle()
    return taken


def main() -> None:
    """Measure."""
    arguments = options(__doc__).parse_args()
    shape, count = ((2_300, 2_600), 3) if arguments.quick else (paint.SHAPE, 20)
    paint.BLOCKS = max(shape)  # all of them
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # nothing is remembered
        store = Path(folder) / "a.xt.zarr"
        paint.stored(store, shape)
        viewer, correcting, bar = opened(store)
        began = time.perf_counter()
        correcting.choose(str(store))
        chosen = time.perf_counter() - began
        pause = until(lambda: bar.reviewing.queue is not None and not bar.ordering.busy)
        about = {"regions": len(bar.reviewing.queue or ()), "choose": chosen, "longest_pause": pause}
        figures.add("review.open", time.perf_counter() - began, "s", **about)
        paint.settle()
        for name, key in KEYS.items():
            times = [pressed(viewer, key) for _ in range(count)]
            figures.add(f"review.{name}", float(np.median(times)), "s", longest=max(times), count=count)
        correcting.close()
        paint.settle()
        viewer.close()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
