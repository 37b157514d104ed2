"""What a run costs who looks at it: pauses of the window, first pixels, stopping; and what the window costs the run.

Pauses are gaps between the ticks of a timer on the viewer's thread while the camera pans and zooms over a large image
of mirrored copies, all layers shown; ratios are those of the same camera path over the same layers with the run and
with the run stopped, taken in turn in one process. Needs a screen: ``.ci/screen python tests/benchmarks/viewer.py``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, options
from napari.settings import get_settings
from napari.viewer import Viewer
from qtpy.QtCore import QCoreApplication, QEventLoop, QTimer
from viewer_pauses import Pauses

from napari_xt.engine.events import RunFinished
from napari_xt.engine.run import stream
from napari_xt.engine.settings import RunSettings
from napari_xt.geometry import Box
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.model.checkpoint import load_model
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.reader import image_layers
from napari_xt.plugin.run import RunHandle, run
from napari_xt.plugin.view import seen

TICK_MS, MOVE_MS = 5, 30
PATH_S = 6.0  # of the camera's way
LARGE, SMALL, RUN = (25_000, 29_000), (5_000, 6_000), (4_000, 5_000)  # px
UNKNOWN = (253, 254, 255)  # values of stripes, in masks and previews


def path(shape: tuple[int, int], share: float) -> tuple[float, float, float]:
    """Return the camera's ``y, x, zoom`` at a ``share`` of its way: along the image at pixel size, out, in again."""
    whole = 700 / max(shape)
    near = np.cos(np.pi * share) ** 2  # 1 where the view is at pixel size, 0 where all is in view
    y, x = shape[0] * (0.3 + 0.2 * np.sin(5 * share)), shape[1] * (0.2 + 0.6 * share)
    return float(y), float(x), float(np.exp(np.log(whole) * (1 - near)))


def look(viewer: Any, view: tuple[float, float, float]) -> None:
    """Set the camera to ``y, x`` in pixels of the image and a zoom in its pixels."""
    y, x, zoom = view
    scale = float(viewer.layers[0].scale[0])
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, y * scale, x * scale), zoom / scale


def handle_events(until: Callable[[], bool], seconds: float = 120.0, every_ms: int = 5) -> None:
    """Let the window live until something is so."""
    loop, timer, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    timer.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
    timer.start(every_ms)
    loop.exec()
    timer.stop()


class Heart:
    """Ticks of a timer on the viewer's thread."""

    def __init__(self, pauses: Pauses) -> None:
        self.gaps: list[float] = []
        self._pauses, self._last, self._timer = pauses, time.perf_counter(), QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK_MS)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now
        self._pauses.beat()

    def end(self) -> list[float]:
        """Return the seconds between ticks."""
        self._timer.stop()
        return self.gaps


def drive(viewer: Any, shape: tuple[int, int], seconds: float, pauses: Pauses) -> list[float]:
    """Move the camera along its path and return the gaps between the ticks meanwhile."""
    began, timer, heart = time.monotonic(), QTimer(), Heart(pauses)

    def move() -> None:
        look(viewer, path(shape, (time.monotonic() - began) / PATH_S % 1))

    timer.timeout.connect(move)
    timer.start(MOVE_MS)
    with pauses.watching():
        handle_events(lambda: time.monotonic() - began > seconds)
    timer.stop()
    return heart.end()


@contextmanager
def viewer_of(shape: tuple[int, int]) -> Iterator[Any]:
    """Open a viewer with the mirrored scene in it."""
    viewer = Viewer(show=True)
    viewer.window.resize(1280, 720)
    for data, meta, _ in image_layers(mirrored_scene(*shape)):
        viewer.add_image(data, **meta)
    QCoreApplication.processEvents()
    yield viewer
    viewer.close()
    handle_events(lambda: True)


def going(handle: RunHandle) -> Callable[[], bool]:
    """Return whether the run's layers are there."""
    return lambda: handle.state.over or (handle.state.phase == "running" and len(handle.layers) > 1)


def told(viewer: Any) -> bool:
    """Whether a layer of a run draws something that is known in the view."""
    for layer in viewer.layers:
        role = layer.metadata.get(TAG, {}).get("role")
        if role in ("preview", "mask") and layer.loaded:
            pixels = np.asarray(layer._slice.image.raw)  # what is on the screen, of several levels its part in view
            if not layer.multiscale:
                pixels = pixels[seen(viewer, layer).clip(Box(0, 0, *pixels.shape)).slices]
            known = ~np.isin(pixels, UNKNOWN)
            if (known if role == "preview" else known & (pixels > 0)).any():
                return True
    return False


def first_pixels(viewer: Any, out: Path, view: tuple[float, float, float]) -> tuple[float, float]:
    """Return the seconds from the start of a run to its first pixels in view, and from *Stop* to idle."""
    look(viewer, view)
    QCoreApplication.processEvents()
    began = time.perf_counter()
    handle = run(viewer, viewer.layers[0], MODEL[0], out=out)
    handle_events(lambda: handle.state.over or told(viewer), every_ms=30)
    first = time.perf_counter() - began
    handle_events(lambda: False, 1.0)
    began = time.perf_counter()
    handle.cancel()
    handle_events(lambda: handle.state.over)
    return first, time.perf_counter() - began


MODEL: list[Any] = []  # loaded once


def measure_pauses(figures: Any, name: str, shape: tuple[int, int], turns: int, seconds: float, pauses: Pauses) -> None:
    """Compare the same way of the camera with the run and without it, in turn."""
    for kind in ("sync", "async"):
        get_settings().experimental.async_ = kind == "async"
        gaps: dict[str, list[float]] = {"image": [], "without": [], "with": []}
        with tempfile.TemporaryDirectory() as folder, viewer_of(shape) as viewer:
            drive(viewer, shape, seconds, Pauses())  # what is read once
            gaps["image"] = drive(viewer, shape, seconds, Pauses())
            for _ in range(turns):
                handle = run(viewer, viewer.layers[0], MODEL[0], out=Path(folder, "a.xt.zarr"))
                handle_events(going(handle))
                gaps["with"] += drive(viewer, shape, seconds, pauses)
                finished = handle.state.over
                handle.cancel()
                handle_events(lambda: handle.state.over)  # noqa: B023
                handle_events(lambda: False, 0.5)
                gaps["without"] += drive(viewer, shape, seconds, Pauses())
                if finished:
                    break
            viewer.layers.clear()
        tell(figures, f"viewer.{name}.{kind}", gaps)


def tell(figures: Any, name: str, gaps: dict[str, list[float]]) -> None:
    """Add the figures of pauses."""
    p99 = {key: float(np.percentile(each, 99)) for key, each in gaps.items()}
    longest = {key: float(np.max(each)) for key, each in gaps.items()}
    figures.add(f"{name}.p99", p99["with"] / p99["without"], "x", **p99)
    figures.add(f"{name}.longest", longest["with"] - longest["without"], "s", **longest)


def measure_slowdown(figures: Any, shape: tuple[int, int], turns: int) -> None:
    """Compare runs with the viewer and without, in turn."""
    took: dict[str, list[float]] = {"headless": [], "viewer": []}
    busy: dict[str, list[float]] = {"headless": [], "viewer": []}
    scene = mirrored_scene(*shape)
    for turn in range(turns + 1):
        with tempfile.TemporaryDirectory() as folder, viewer_of(shape) as viewer:
            cpu = time.process_time()
            took["headless"].append(headless(scene, Path(folder, "a.xt.zarr")))
            busy["headless"].append(time.process_time() - cpu)
            cpu = time.process_time()
            handle = run(viewer, viewer.layers[0], MODEL[0], out=Path(folder, "b.xt.zarr"))
            handle_events(lambda: handle.state.over, 600)  # noqa: B023
            assert handle.state.summary is not None
            took["viewer"].append(handle.state.summary.seconds)
            busy["viewer"].append(time.process_time() - cpu)
        if not turn and turns:  # the first warms up
            took, busy = ({key: [] for key in each} for each in (took, busy))
    ratio, cpu_ratio = (float(np.median(np.divide(each["viewer"], each["headless"]))) for each in (took, busy))
    figures.add("viewer.slowdown", ratio, "x", cpu=cpu_ratio, **{key: float(np.median(s)) for key, s in took.items()})


def headless(scene: Any, out: Path) -> float:
    """Return the seconds that a run takes that nobody looks at."""
    settings = RunSettings.of(preview=True, keep="features")
    events = list(stream(scene, MODEL[0], settings, out=out))
    return next(event.summary.seconds for event in events if isinstance(event, RunFinished))


def main() -> None:
    """Measure."""
    parser = options(__doc__)
    parser.add_argument("--only", choices=["pauses", "slowdown", "first"], help="a part of it")
    parser.add_argument("--trace", type=float, metavar="MS", help="tell what the viewer's thread did in longer pauses")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    figures, pauses = Figures(), Pauses(None if arguments.trace is None else arguments.trace / 1000)
    quick, only = arguments.quick, arguments.only
    large, seconds, turns = ((1_500, 2_000), 0.5, 1) if quick else (LARGE, PATH_S, arguments.turns)
    with viewer_of(SMALL if not quick else large) as viewer:
        began = time.perf_counter()
        viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
        QCoreApplication.processEvents()
        figures.add("viewer.widget", time.perf_counter() - began, "s")
    MODEL.append(load_model("canopy"))
    if only in (None, "first"):
        measure_first(figures, large, turns)
    if only in (None, "pauses"):
        measure_pauses(figures, "large", large, turns, seconds, pauses)
        if not quick:
            measure_pauses(figures, "small", SMALL, 1, seconds, pauses)
    if only in (None, "slowdown"):
        measure_slowdown(figures, RUN if not quick else (500, 600), 0 if quick else turns)
    pauses.tell()
    figures.write(arguments.json)


def measure_first(figures: Any, shape: tuple[int, int], turns: int) -> None:
    """Measure the first pixels and the stop, all of the image in view and at pixel size."""
    views = {
        "whole": (shape[0] / 2, shape[1] / 2, 700 / max(shape)),
        "near": (shape[0] * 0.7, shape[1] * 0.6, 1.0),
    }
    stops = []
    for name, view in views.items():
        firsts = []
        for _ in range(turns):
            with viewer_of(shape) as viewer, tempfile.TemporaryDirectory() as folder:
                first, stop = first_pixels(viewer, Path(folder, "a.xt.zarr"), view)
                firsts.append(first)
                stops.append(stop)
        figures.add(f"viewer.first.{name}", float(np.median(firsts)), "s", worst=max(firsts))
    figures.add("viewer.stop", float(np.median(stops)), "s", worst=max(stops))


if __name__ == "__main__":
    main()
