"""A million boxes in a viewer: what panning costs, and how long the viewer's thread works on it at a time.

Frame times are from the change of the camera to the end of the events that it caused, drawing included. Ratios are
those of the same camera path with the boxes and without, taken in turn in one process, far away (all boxes in view) and
near (the rectangles in view are exchanged), over an image with levels, as images of such a size have. Needs a screen:
``.ci/screen python tests/benchmarks/boxes_view.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from figures import Figures, options
from napari.layers import Layer
from napari.qt import get_qapp
from napari.viewer import Viewer

from napari_xt.plugin.boxes.density import density
from napari_xt.plugin.boxes.in_view import BoxesInView, follow_camera
from napari_xt.plugin.boxes.layer import AT_ONCE, boxes_layer
from napari_xt.plugin.boxes.table import BoxTable

SHAPE = (25_000, 29_000)
FRAMES, AT_A_TIME = 200, 40  # of each kind and place, and in turn
CLASSES = {"crown": (230, 159, 0, 255), "shrub": (86, 180, 233, 255)}


def table(count: int) -> BoxTable:
    """Return boxes in random places of a large image."""
    rng = np.random.default_rng(0)
    y, x = (rng.uniform(0, side - 30, count) for side in SHAPE)
    columns = {"id": np.arange(count), "y0": y, "x0": x, "y1": y + 20, "x1": x + 20}
    classes = np.array(list(CLASSES), object)[rng.integers(0, 2, count)]
    frame = pd.DataFrame(columns | {"class": classes, "score": rng.uniform(0.05, 1, count).astype(np.float32)})
    return BoxTable.of(frame, list(CLASSES), list(CLASSES.values()), 0.05, SHAPE)


def wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    """Handle events until something is so."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        get_qapp().processEvents()
        time.sleep(0.005)


def path(zoom: float, frames: int) -> list[tuple[float, float, float]]:
    """Return a pan over a quarter of the image or of eight views, and zooms on the way: ``(y, x, zoom)``."""
    reach = min(SHAPE[1] / 4, 8 * 1000 / zoom)
    steps = np.linspace(0, 1, frames)
    return [(SHAPE[0] / 2, SHAPE[1] / 3 + reach * step, zoom * (1 + 0.1 * np.sin(9 * step))) for step in steps]


def pan(viewer: Any, zoom: float, frames: int) -> list[float]:
    """Return the time of each frame in seconds."""
    times = []
    for y, x, near in path(zoom, frames):
        began = time.perf_counter()
        viewer.scene.camera.center, viewer.scene.camera.zoom = (0, y, x), near
        get_qapp().processEvents()
        times.append(time.perf_counter() - began)
        time.sleep(0.01)
    return times


def compare(viewer: Any, view: BoxesInView, zoom: float, frames: int) -> dict[str, np.ndarray]:
    """Return frame times with the boxes and without, in turn."""
    found: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(max(1, frames // AT_A_TIME)):
        for name in found:
            view.layer.visible = name == "with"
            pan(viewer, zoom, 3)
            found[name] += pan(viewer, zoom, min(frames, AT_A_TIME))
    view.layer.visible = True
    return {name: np.array(times) for name, times in found.items()}


def stretches(view: BoxesInView) -> list[float]:
    """Return a list to which the seconds of its thread that each call that draws boxes takes are added."""
    times: list[float] = []
    look = view._look

    def timed(**options: bool) -> None:
        began = time.thread_time()
        look(**options)
        times.append(time.thread_time() - began)

    view._look = timed  # type: ignore[method-assign]
    return times


def main() -> None:
    """Measure."""
    arguments = options(__doc__).parse_args()
    count, frames = (20_000, 4) if arguments.quick else (1_000_000, FRAMES)
    figures = Figures()
    boxes = table(count)
    began = time.perf_counter()
    density(boxes, boxes.kept(), "class", np.ones(4))
    figures.add("boxes_view.picture", time.perf_counter() - began, "s", boxes=count)

    viewer = Viewer(show=True)
    viewer.window.resize(1280, 720)
    pixels = np.random.default_rng(0).integers(0, 255, (SHAPE[0] // 5, SHAPE[1] // 5), np.uint8)
    viewer.add_image([pixels[:: 2**level, :: 2**level] for level in range(3)], multiscale=True, scale=(5, 5))
    layer = viewer.add_layer(Layer.create(*boxes_layer(boxes)))
    view = follow_camera(viewer, layer, boxes)
    wait(lambda: view.density is not None and view.density.visible)
    times = stretches(view)
    few = (1000 / (SHAPE[1] * (500 / count) ** 0.5)) if count else 1.0
    for name, zoom in (("far", 0.03), ("middle", few / 4), ("near", few)):
        found = compare(viewer, view, zoom, frames)
        for what, value in (("p50", 50), ("p95", 95)):
            shares = {key: float(np.percentile(each, value)) for key, each in found.items()}
            ratio = shares["with"] / shares["without"]
            figures.add(f"boxes_view.{name}.{what}", ratio, "x", boxes=count, frame_s=shares["with"])
    figures.add(
        "boxes_view.longest", max(times, default=0.0), "s", at_once=AT_ONCE, p95=float(np.percentile(times, 95))
    )
    viewer.close()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
