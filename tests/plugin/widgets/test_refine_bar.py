"""Refine from the widget: it learns, writes a new model and prediction, and switches to it with the corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_xt as xt
from napari_xt.geometry import Box
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.widgets.correct import CorrectWidget
from napari_xt.plugin.widgets.new_model import ENTRY
from napari_xt.plugin.widgets.run import RunWidget
from napari_xt.train.lesson import RefineSettings
from napari_xt.train.targets import make_targets
from plugin_fixtures import Gate
from spotted_scene import spots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

LONG_MS = 60_000
SHAPE = (192, 192)  # 3 x 3 regions
SCENE = spots(SHAPE)
FEW = RefineSettings(steps=60, rate=3e-3, kept=0.0)


def drawn() -> np.ndarray:
    return (make_targets(SCENE.boxes, Box(0, 0, *SHAPE), SHAPE, 1, 64).crown > 0).astype(np.uint8)


def stores_of(viewer: Any) -> set[str]:
    tags = (layer.metadata.get(TAG, {}) for layer in viewer.layers)
    return {tag["store"] for tag in tags if tag.get("role") in ("mask", "boxes", "scores")}


def correct(corrections: Any, rows: int) -> None:
    with corrections.stroke(tool="fix") as stroke:
        stroke.fill(Box(0, 0, 64 * rows, 192), drawn()[: 64 * rows])
        for row in range(rows):
            for col in range(3):
                stroke.region(row, col, state="fixed")


def begin(run: RunWidget, channels: int, qtbot: QtBot) -> CorrectWidget:
    """Begin a new model and return what its image is scribbled on with."""
    models, row = run.form.model, run.new_model
    before, last = models.info, models.count() - 1
    assert models.itemText(last) == ENTRY
    models.setCurrentIndex(last)
    models.activated.emit(last)
    assert models.info == before
    assert len(run.image.layers) == channels
    row.begin_button.click()
    assert "no name is given" in row.told.text()
    row.classes.setText("square, gap")
    row.begin_button.click()
    qtbot.waitUntil(lambda: row.handle is not None and row.isHidden(), timeout=LONG_MS)
    widget = getattr(row._dock, "inside", row._dock)
    assert isinstance(widget, CorrectWidget)
    return widget


@pytest.fixture
def docked(
    canopy: Path, make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path
) -> Callable[[], tuple[Any, CorrectWidget]]:
    """Return what shows a prediction in a viewer with the widget docked."""

    def make() -> tuple[Any, CorrectWidget]:
        viewer = make_napari_viewer(show=True)
        viewer.add_image(SCENE.pixels.transpose(1, 2, 0), name="spots")
        handle = xt.run(viewer, "spots", model=canopy, out=tmp_path / "spots.xt.zarr", preview=False)
        handle.wait(60)
        widget = CorrectWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Correct and refine", area="right")
        qtbot.waitUntil(lambda: widget.correcting.painting is not None, timeout=LONG_MS)
        widget.refine.refining.settings = FEW
        return viewer, widget

    return make


def test_refine_makes_a_model_and_a_prediction_and_switches_to_it(
    docked: Callable[[], tuple[Any, CorrectWidget]], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, widget = docked()
    bar, correcting, old = widget.refine, widget.correcting, tmp_path / "spots.xt.zarr"
    widget.folds["Refine"].setChecked(True)
    qtbot.waitUntil(lambda: "Nothing is corrected" in bar.known.text(), timeout=LONG_MS)
    lines: list[str] = []
    correcting.did.connect(lines.append)
    correct(correcting.corrections, 2)
    qtbot.waitUntil(lambda: "6 regions, 6 of them whole" in bar.known.text(), timeout=LONG_MS)
    assert "crown" in bar.known.text()
    mask = np.asarray(xt.open_prediction(old).mask[0][:])
    bar.refine_button.click()
    assert not bar.refine_button.isEnabled()
    assert bar.stop_button.isEnabled()
    qtbot.waitUntil(lambda: not bar.refining.busy, timeout=LONG_MS)
    new = tmp_path / "spots+1.xt.zarr"
    assert correcting.store == widget.predictions.currentData() == str(new)
    assert stores_of(viewer) == {str(new)}
    assert bar.curve.values
    assert "canopy+1.safetensors" in bar.figures.text()
    assert "held out" in bar.figures.text()
    assert xt.load_model(tmp_path / "canopy+1.safetensors").card is not None
    assert any(line.startswith("better = xt.refine(") for line in lines)
    assert correcting.corrections is not None
    assert set(correcting.corrections.log()["tool"]) >= {"fix", "carry"}
    np.testing.assert_array_equal(np.asarray(correcting.corrections.mask[0][:128]), drawn()[:128])
    np.testing.assert_array_equal(np.asarray(xt.open_prediction(old).mask[0][:]), mask)
    assert bar.refine_button.isEnabled()


def test_stopping_leaves_all_as_it_was(
    docked: Callable[[], tuple[Any, CorrectWidget]], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, widget = docked()
    bar, correcting = widget.refine, widget.correcting
    bar.refine_button.click()
    qtbot.waitUntil(lambda: not bar.refining.busy, timeout=LONG_MS)
    assert "nothing to learn from" in bar.told.text()
    correct(correcting.corrections, 1)
    bar.refine_button.click()
    bar.stop_button.click()
    qtbot.waitUntil(lambda: not bar.refining.busy, timeout=LONG_MS)
    assert bar.refining.learned is None
    assert not list(tmp_path.glob("*+1*"))
    assert stores_of(viewer) == {correcting.store} == {str(tmp_path / "spots.xt.zarr")}


def test_stopping_the_new_model_shows_the_old_prediction_again(
    commits: Gate, docked: Callable[[], tuple[Any, CorrectWidget]], qtbot: QtBot, tmp_path: Path
) -> None:
    commits.release(1000)
    viewer, widget = docked()
    while commits.acquire(blocking=False):
        pass
    bar, correcting, old = widget.refine, widget.correcting, str(tmp_path / "spots.xt.zarr")
    correct(correcting.corrections, 1)
    bar.refine_button.click()
    qtbot.waitUntil(lambda: stores_of(viewer) == {str(tmp_path / "spots+1.xt.zarr")}, timeout=LONG_MS)
    assert bar.refining.phase == "predicting"
    assert correcting.store == ""
    bar.stop_button.click()
    commits.release(1000)
    qtbot.waitUntil(lambda: not bar.refining.busy, timeout=LONG_MS)
    assert stores_of(viewer) == {old}
    assert correcting.store == widget.predictions.currentData() == old
    assert correcting.layer in viewer.layers
    np.testing.assert_array_equal(np.asarray(correcting.corrections.mask[0][:64]), drawn()[:64])
    assert (tmp_path / "canopy+1.safetensors").exists()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_new_model_is_made_of_scribbles(
    canopy: Path, make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    viewer = make_napari_viewer(show=True)
    for channel in range(channels):
        viewer.add_image(SCENE.pixels[channel], name=f"spots {channel}")
    run = RunWidget(viewer)
    viewer.window.add_dock_widget(run, name="Run xT", area="right")
    widget = begin(run, channels, qtbot)
    correcting, bar, handle = widget.correcting, widget.refine, run.new_model.handle
    assert correcting.store == handle.state.out
    assert correcting.prediction.layout.mask == ("background", "square", "gap")
    assert bar.refine_button.text() == "Learn"
    qtbot.waitUntil(lambda: channels == 1 or handle.state.over, timeout=LONG_MS)  # or Learn waits for that
    with correcting.corrections.stroke(tool="brush") as stroke:
        for y, x, _, _ in SCENE.boxes[:3].astype(int):
            stroke.fill(Box(y + 4, x + 4, y + 10, x + 10), np.full((6, 6), 1, np.uint8))
        stroke.fill(Box(1, 1, 8, 150), np.zeros((7, 149), np.uint8))
    assert (np.asarray(correcting.corrections.diff[0][1:8, 1:150]) == 0).all(), "nothing is predicted to agree with"
    bar.refining.settings = FEW
    bar.refine_button.click()
    qtbot.waitUntil(lambda: not bar.refining.busy, timeout=LONG_MS)
    assert handle.state.phase == "done"
    assert not np.asarray(handle.prediction.mask[0][:]).any()
    assert correcting.store.endswith("+1.xt.zarr")
    assert "no pixel is labelled gap" in bar.figures.text()
    found, truth = np.asarray(correcting.prediction.mask[0][:]), drawn()
    hits = ((found == 1) & (truth == 1)).sum()
    assert 2 * hits / ((found == 1).sum() + truth.sum()) > 0.6
    assert bar.refine_button.text() == "Refine"
    models = run.form.model
    models.showPopup()
    models.hidePopup()
    assert any("new-square-gap+1" in models.itemText(i) for i in range(models.count()))
