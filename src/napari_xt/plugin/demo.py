"""The demo's second half: the prediction of the bundled scene measured on its held-out strip and shown in napari.

Knows the sample and napari; must not know how the prediction came to be.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_xt.io.prediction import Prediction
from napari_xt.plugin.boxes.layer import outlines, rectangles
from napari_xt.plugin.layers.overlays import Place
from napari_xt.plugin.reader import prediction_layers
from napari_xt.plugin.sample_data import CROWNS, IMAGE, canopy
from napari_xt.train.canopy import HELD_OUT_FROM, strip_quality
from napari_xt.train.evaluate import BoxQuality

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_xt.plugin.tour import Step

SCENE = Path(str(files("napari_xt") / IMAGE))
CORNERS = ["y0", "x0", "y1", "x1"]


def held_out_quality(prediction: Prediction) -> BoxQuality:
    """How good the boxes are on the strip of the scene that the model was never trained on."""
    drawn = pd.read_csv(str(files("napari_xt") / CROWNS))
    predicted, known = (boxes[CORNERS].to_numpy(np.float64) for boxes in (prediction.boxes, drawn))
    return strip_quality(predicted, known)


def show(prediction: Prediction, screenshot: str | os.PathLike[str], *, stay: bool) -> None:
    """Open napari with the scene, the prediction and the strip, and save a picture of it.

    Parameters
    ----------
    prediction
        Of the bundled scene.
    screenshot
        Where to, a PNG file.
    stay
        Leave napari open until the user closes it.
    """
    import napari
    from napari.layers import Layer

    viewer = napari.Viewer(title="napari-xt demo")
    for data in (*prediction_layers(prediction), canopy()[-1]):
        viewer.add_layer(Layer.create(*data))
    height, width = prediction.layout.frame.shape_px
    strip = rectangles(pd.DataFrame([(HELD_OUT_FROM, 0, height, width)], columns=CORNERS))
    place = Place.of_frame(prediction.layout.frame).cells(1, 1)
    viewer.add_shapes(strip, **{**outlines("magenta"), "edge_width": 12, "name": "never trained on", **place})
    viewer.reset_view()
    _wait_until_loaded(viewer)
    Path(screenshot).parent.mkdir(parents=True, exist_ok=True)
    viewer.screenshot(os.fspath(screenshot), canvas_only=False, flash=False)
    if stay:
        napari.run()
    else:
        viewer.close()


def tour(folder: str | os.PathLike[str], record: str | None, *, stay: bool) -> Iterator[Step]:
    """Take the guided tour in a napari of its own; each step is yielded when it is done.

    Parameters
    ----------
    folder
        Where predictions and exports go; what is there of an earlier tour is replaced.
    record
        A GIF file to make of the window.
    stay
        Leave napari open until the user closes it.
    """
    import napari

    from napari_xt.plugin.recording import Recording
    from napari_xt.plugin.tour import Tour

    viewer = napari.Viewer(title="napari-xt tour")
    viewer.window.resize(1280, 720)
    recording = Recording(viewer)
    for step in Tour(viewer, fresh(Path(folder)), watch=recording.look if record else lambda: None).steps():
        if record:
            recording.hold(step.text)
        yield step
    if record:
        recording.save(record)
    if stay:
        napari.run()
    else:
        viewer.close()


def fresh(folder: Path) -> Path:
    """The folder, without what an earlier tour has left in it."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for store in folder.glob("*.xt.zarr"):
        shutil.rmtree(store)
    return folder


def _wait_until_loaded(viewer: Viewer, seconds: float = 60.0) -> None:
    """Let napari fetch what its layers show, which it may do in a thread of its own."""
    from napari.qt import get_qapp

    end = time.monotonic() + seconds
    get_qapp().processEvents()
    while not all(layer.loaded for layer in viewer.layers) and time.monotonic() < end:
        get_qapp().processEvents()
        time.sleep(0.01)
    get_qapp().processEvents()
