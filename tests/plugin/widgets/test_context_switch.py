"""The Context switch in a real viewer: what it shows, what it runs and does not run again, what becomes of styles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_xt.engine.run import predict
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run, session_of
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot

LONG_MS = 120_000
Docked = tuple[Any, RunWidget]


@pytest.fixture
def dock(canopy: Path, make_napari_viewer: Callable[..., Any], tmp_path: Path) -> Callable[..., Docked]:
    def make(*pixels: Any) -> Docked:
        viewer = make_napari_viewer(show=True)
        for index, image in enumerate(pixels):
            viewer.add_image(image, name=f"scene {index}")
        widget = RunWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Run xT", area="right")
        widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
        return viewer, widget

    return make


def finish(qtbot: QtBot, viewer: Any) -> None:
    """Wait until nothing is run and nothing waits to be."""
    qtbot.wait(20)
    qtbot.waitUntil(lambda: session_of(viewer).active is None, timeout=LONG_MS)
    qtbot.wait(20)
    qtbot.waitUntil(lambda: session_of(viewer).active is None, timeout=LONG_MS)


def by_role(viewer: Any) -> dict[str, Any]:
    return {layer.metadata[TAG]["role"]: layer for layer in viewer.layers if TAG in layer.metadata}


def drawn(qtbot: QtBot, layer: Any) -> NDArray[Any]:
    """Return what the layer has on the screen, once it has loaded it."""
    qtbot.waitUntil(lambda: layer.loaded, timeout=LONG_MS)
    qtbot.wait(50)
    return np.array(layer._slice.image.raw)


def test_switch_shows_the_other_and_runs_each_once(
    dock: Callable[..., Docked], slicing: str, qtbot: QtBot, tmp_path: Path
) -> None:
    pixels = picture(130, 2100)  # two levels of the mask
    viewer, widget = dock(pixels)
    widget.run_button.click()
    finish(qtbot, viewer)
    layers = by_role(viewer)
    layers["mask"].opacity, layers["mask"].name, layers["scores"].visible = 0.9, "mine", False
    layers["boxes"].current_edge_color = "red"
    on_screen = drawn(qtbot, layers["mask"])

    widget.form.context.click()
    finish(qtbot, viewer)
    expected = predict(pixels, "canopy", out=tmp_path / "api.xt.zarr", context=False)
    without = drawn(qtbot, layers["mask"])
    assert (without != on_screen).any()
    np.testing.assert_array_equal(layers["mask"].data[0][:], expected.mask[0][:])
    assert sorted(layers["boxes"].features["id"]) == sorted(expected.boxes["id"])
    assert not open_prediction(tmp_path / "a-without-context.xt.zarr").settings["context"]
    assert "without context" in widget.status.text()

    begun = len(session_of(viewer).runs)
    for context, raw in ((True, on_screen), (False, without), (True, on_screen)):
        widget.form.context.setChecked(context)
        np.testing.assert_array_equal(drawn(qtbot, layers["mask"]), raw)
    assert len(session_of(viewer).runs) == begun == 2, "what is there is not run again"
    assert by_role(viewer) == layers, "the layers stay, and there are no others"
    assert (layers["mask"].opacity, layers["mask"].name, layers["scores"].visible) == (0.9, "mine", False)
    assert {tuple(color) for color in layers["boxes"].edge_color} == {(1.0, 0.0, 0.0, 1.0)}
    assert "without context" not in widget.status.text()
    assert len(viewer.layers) == 4


def test_before_a_run_it_is_a_setting(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(130, 200))
    assert "see each other" in widget.form.context.toolTip()
    assert widget.form.options() == {}
    widget.form.context.setChecked(False)
    assert widget.form.options()["context"] is False
    qtbot.waitUntil(lambda: "context off" in widget.card.text(), timeout=5000)
    assert session_of(viewer).runs == []
    widget.run_button.click()
    finish(qtbot, viewer)
    assert not open_prediction(tmp_path / "a.xt.zarr").settings["context"]
    widget.form.context.setChecked(True)
    finish(qtbot, viewer)
    assert open_prediction(tmp_path / "a-with-context.xt.zarr").settings["context"]
    widget.run_button.click()
    finish(qtbot, viewer)
    assert widget.handle is not None
    assert widget.handle.state.error is None
    assert widget.handle.state.summary.encoded == 0, "running what is shown is no new run, nor an error"


def test_switch_during_a_run_stops_it_and_goes_on_later(
    dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, widget = dock(picture(260, 1500))
    widget.run_button.click()
    handle = widget.handle
    qtbot.waitUntil(lambda: handle.prediction is not None and handle.prediction.coverage > 0.4, timeout=LONG_MS)
    widget.form.context.setChecked(False)
    qtbot.waitUntil(lambda: widget.handle is not handle and widget.handle.state.done > 5, timeout=LONG_MS)
    assert handle.state.phase == "stopped"
    tags = {layer.metadata[TAG]["store"] for layer in by_role(viewer).values()}
    assert tags == {str(tmp_path / "a-without-context.xt.zarr")}, "one of the two is shown, never both"
    for context in (True, False, True):
        widget.form.context.setChecked(context)
    finish(qtbot, viewer)
    assert widget.form.context.isChecked()
    assert open_prediction(tmp_path / "a.xt.zarr").complete
    assert widget.handle.state.summary.encoded < widget.handle.state.total
    assert {layer.metadata[TAG]["store"] for layer in by_role(viewer).values()} == {str(tmp_path / "a.xt.zarr")}


def test_switch_that_fails_is_told_and_set_back(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    from napari.utils.notifications import notification_manager

    viewer, widget = dock(picture(130, 200), picture(400, 2000))
    (tmp_path / "a-without-context.xt.zarr").write_text("mine")
    widget.image.setCurrentIndex(0)
    widget.run_button.click()
    finish(qtbot, viewer)
    notification_manager.records.clear()
    widget.form.context.setChecked(False)
    finish(qtbot, viewer)
    assert "holds no prediction" in notification_manager.records[-1].message
    assert widget.form.context.isChecked(), "it says what is shown"
    assert widget.handle.state.phase == "failed"

    elsewhere = run(viewer, viewer.layers["scene 1"], out=tmp_path / "b.xt.zarr")
    notification_manager.records.clear()
    widget.form.context.setChecked(False)
    assert widget.handle.state.phase == "queued", "it waits its turn"
    elsewhere.cancel()
    elsewhere.wait(LONG_MS / 1000)
    finish(qtbot, viewer)
    assert "holds no prediction" in notification_manager.records[-1].message
    assert widget.form.context.isChecked()


def test_switch_keeps_the_part_of_the_image(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(600, 600))
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 300, 300), 6
    widget.area.in_view.setChecked(True)
    widget.run_button.click()
    finish(qtbot, viewer)
    viewer.scene.camera.center = (0, 100, 100)
    widget.form.context.setChecked(False)
    finish(qtbot, viewer)
    one, other = (open_prediction(tmp_path / f"a{name}.xt.zarr") for name in ("", "-without-context"))
    assert 0 < len(one.scores) < 100
    assert list(other.scores["y0"]) == list(one.scores["y0"])


def test_each_image_has_its_own(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(130, 200, 0), picture(130, 200, 1))
    first, second = list(viewer.layers)
    run(viewer, first, out=tmp_path / "1.xt.zarr").wait(120)
    handle = run(viewer, second, out=tmp_path / "2.xt.zarr", context=False)
    widget.image.setCurrentIndex(1)
    assert not widget.form.context.isChecked(), "a run from the console counts too"
    handle.wait(120)
    widget.image.setCurrentIndex(0)
    assert widget.form.context.isChecked()
    widget.form.context.setChecked(False)
    finish(qtbot, viewer)
    assert widget.handle.image is first
    assert len(session_of(viewer).runs) == 3
    viewer.layers.remove(first)
    widget.form.context.setChecked(True)
    finish(qtbot, viewer)
    assert widget.handle.image is second
