"""Painting on a mask of 29,000 x 25,000 with napari's tools: what one move of the mouse costs, and one commit.

A move is all that the viewer's thread does for it: pixels, journal's memory, levels, and the view that is fetched again
(slicing is not asynchronous here). The prediction is a real store, of which the part that is painted on is complete.
Needs a screen: ``.ci/screen python tests/benchmarks/paint.py``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from figures import Figures, options
from napari.qt import get_qapp
from napari.viewer import Viewer

sys.path.append(str(Path(__file__).parents[1] / "io"))
import export_case
import store_case

from napari_xt.geometry import Frame, Grid
from napari_xt.io.corrections.corrections import Corrections, corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import BlockData, Layout
from napari_xt.io.stores.store import Store
from napari_xt.plugin.correct.brush_size import ScreenBrush
from napari_xt.plugin.correct.levels import ShownLevels
from napari_xt.plugin.correct.pyramid_labels import PyramidLabels

SHAPE = (29_000, 25_000)
BRUSH_PX = 40  # on the screen
BLOCKS = 7  # each way from the middle that are complete


def stored(path: Path, shape: tuple[int, int]) -> Prediction:
    """Return a prediction that is complete around its middle."""
    frame, grid = Frame(shape, shape, (0.5, 0.5), "micrometer"), Grid(*shape, region_px=256)
    layout = Layout(frame, grid, 4, ("background", "crown", "rock"), None, None, 3, "uint8")
    rng, side = np.random.default_rng(0), grid.block_px
    pixels = rng.integers(0, 3, (side // 32, side // 32), np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    with Store.open_writer(path, store_case.header(layout)) as store:
        for row, col in store_case.blocks(layout):
            if max(abs(row - grid.block_shape[0] // 2), abs(col - grid.block_shape[1] // 2)) <= BLOCKS:
                store.commit([block(layout, pixels, row, col)])
    return open_prediction(path)


def block(layout: Layout, pixels: np.ndarray, row: int, col: int) -> BlockData:
    """Return a block of the prediction."""
    box = layout.grid.block(row, col).box
    nothing = np.broadcast_to(np.zeros(1, np.uint8), layout.shape)
    return replace(export_case.block(layout, nothing, row, col), mask=pixels[: box.height, : box.width].copy())


def shown(edits: Corrections) -> tuple[Viewer, PyramidLabels]:
    """Return a viewer and the layer to paint on."""
    viewer = Viewer(show=True)
    viewer.window.resize(1280, 720)
    layer = PyramidLabels(edits, ShownLevels(edits.mask), name="mask")
    viewer.add_layer(layer)
    layer.mode = "paint"
    return viewer, layer


def timed(call: Callable[[], None]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(figures: Figures, viewer: Viewer, layer: PyramidLabels, name: str, zoom: float, count: int) -> None:
    """Measure moves of the brush and the eraser, and polygons, at one zoom."""
    middle = np.array(layer.data.shape) / 2
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, *middle), zoom
    settle()
    step = BRUSH_PX / zoom / 2
    way = [middle + step * np.array([np.sin(i / 5) * 4, (i % 20) - 10]) for i in range(count + 1)]
    for tool, mode, label in (("brush", "paint", 2), ("eraser", "erase", 0)):
        layer.mode = mode
        with layer.block_history():
            times = [moved(partial(layer.segment, a, b, label)) for a, b in pairwise(way)]
        add(figures, f"paint.{tool}.{name}", times, layer)
    corner = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * BRUSH_PX / zoom
    times = [moved(partial(layer.paint_polygon, at + corner, 1 + i % 2)) for i, at in enumerate(way[1:])]
    add(figures, f"paint.polygon.{name}", times, layer)


def add(figures: Figures, name: str, times: list[float], layer: PyramidLabels) -> None:
    """Keep the median of some times."""
    about = {"longest": max(times), "level": layer.data_level, "brush_px": layer.brush_size, "count": len(times)}
    figures.add(name, float(np.median(times)), "s", **about)


def moved(call: Callable[[], None]) -> float:
    """Return the seconds of a call; events are handled after it."""
    taken = timed(call)
    get_qapp().processEvents()
    return taken


def settle() -> None:
    """Let the viewer draw."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        get_qapp().processEvents()
        time.sleep(0.01)


def main() -> None:
    """Measure."""
    arguments = options(__doc__).parse_args()
    shape, count = ((2_300, 2_600), 5) if arguments.quick else (SHAPE, 60)
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder, corrections(stored(Path(folder) / "a.xt.zarr", shape)) as edits:
        viewer, layer = shown(edits)
        brush = ScreenBrush(viewer, layer)
        brush.px = BRUSH_PX
        for name, zoom in (("near", 1.0), ("half", 0.5), ("far", 0.125)):
            measure(figures, viewer, layer, name, zoom, count)
        layer.mode, commits = "paint", []
        for i in range(count):
            layer.begin_stroke()
            layer.segment((100 + i, 100), (100 + i, 400), 1 + i % 2)
            commits.append(timed(layer.end_stroke))
        figures.add("paint.commit", float(np.median(commits)), "s", longest=max(commits), count=count)
        brush.end()
        layer.close()
        viewer.close()
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
