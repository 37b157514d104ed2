"""The dock widget in a real viewer: what it offers, what its buttons do, and that it loads no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from napari_xt.engine.run import predict
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.view import visible_box
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 120_000
Docked = tuple[Any, RunWidget]


@pytest.fixture
def dock(canopy: Path, make_napari_viewer: Callable[..., Any]) -> Callable[..., Docked]:
    def make(*pixels: Any, **style: Any) -> Docked:
        viewer = make_napari_viewer(show=True)
        for index, image in enumerate(pixels):
            viewer.add_image(image, name=f"scene {index}", **style)
        widget = RunWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Run xT", area="right")
        return viewer, widget

    return make


def over(widget: RunWidget) -> Callable[[], bool]:
    return lambda: widget.handle is not None and widget.handle.state.over


def test_button_predicts_what_the_api_predicts(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    pixels = picture(200, 300)
    viewer, widget = dock(pixels)
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    assert widget.run_button.text() == "Queue"
    assert widget.stop_button.isEnabled()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    expected = predict(pixels, "canopy", out=tmp_path / "b.xt.zarr")
    pd.testing.assert_frame_equal(open_prediction(tmp_path / "a.xt.zarr").boxes, expected.boxes)
    assert len(viewer.layers) == 4
    assert widget.run_button.text() == "Run"
    assert not widget.stop_button.isEnabled()
    assert widget.stages.bars["encode"].value() == widget.stages.bars["encode"].maximum() == 20
    assert "done" in widget.status.text()


def test_docked_by_napari_it_runs_without_a_warning(
    canopy: Path, make_napari_viewer: Callable[..., Any], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)  # napari hands its plugins a proxy of it
    viewer.add_image(picture(200, 300), name="scene")
    _, widget = viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    assert open_prediction(tmp_path / "a.xt.zarr").complete
    assert len(viewer.layers) == 4


def test_stop_button(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    _, widget = dock(picture(600, 2000))
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.handle.state.done > 5, timeout=LONG_MS)
    widget.stop_button.click()
    assert not widget.stop_button.isEnabled()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    assert "stopped" in widget.status.text()
    assert widget.run_button.isEnabled()


def test_current_view_is_run(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(1000, 1000), scale=(0.1, 0.1), translate=(3, 4))
    viewer.scene.camera.center = (0, 3 + 20, 4 + 30)
    viewer.scene.camera.zoom = 60
    box = visible_box(viewer, viewer.layers[0])
    assert box is not None
    assert (box.y0 + box.y1) / 2 == pytest.approx(200, abs=1)
    assert (box.x0 + box.x1) / 2 == pytest.approx(300, abs=1)
    height, width = viewer.window._qt_viewer.canvas.size
    assert box.shape == pytest.approx((min(height / 6, 1000), min(width / 6, 1000)), abs=2)
    widget.area.in_view.setChecked(True)
    qtbot.waitUntil(lambda: "of 256" in widget.card.text(), timeout=5000)
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    done = widget.handle.prediction.scores
    assert 0 < len(done) < 256
    assert done["y0"].min() <= box.y0 <= done["y0"].min() + 64
    assert done["x1"].max() - 64 <= box.x1 <= done["x1"].max()


def test_view_beside_the_image_is_refused(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    viewer, widget = dock(picture(100, 100))
    viewer.scene.camera.center = (0, 5000, 5000)
    widget.area.in_view.setChecked(True)
    widget.run_button.click()
    assert "shows nothing" in widget.status.text()
    qtbot.waitUntil(lambda: "shows nothing" in widget.card.text(), timeout=5000)


def test_error_is_told_and_the_widget_stays_usable(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    from napari.utils.notifications import notification_manager

    _, widget = dock(picture(100, 100), np.zeros((100, 100), np.uint8))
    notification_manager.records.clear()
    widget.image.setCurrentIndex(1)
    widget.run_button.click()
    assert "wants 3 channels" in notification_manager.records[-1].message
    assert "wants 3 channels" in widget.status.text()
    (tmp_path / "taken.xt.zarr").write_text("mine")
    widget.image.setCurrentIndex(0)
    widget.form.more.out.setText(str(tmp_path / "taken.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    assert "holds no prediction" in notification_manager.records[-1].message
    widget.form.more.out.setText(str(tmp_path / "free.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(over(widget), timeout=LONG_MS)
    assert "done" in widget.status.text()


def test_images_follow_the_viewer(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    viewer, widget = dock(picture(50, 50), picture(60, 60))
    names = lambda: [widget.image.itemText(i) for i in range(widget.image.count())]  # noqa: E731
    assert widget.image.layer is viewer.layers[1], "the active one"
    viewer.layers.selection.active = viewer.layers[0]
    assert widget.image.layer is viewer.layers[0]
    viewer.add_image(np.zeros((5, 5)), name="of a run", metadata={TAG: {"role": "scores"}})
    viewer.add_points(np.zeros((1, 2)))
    viewer.layers[0].name = "mine"
    assert names() == ["mine", "scene 1"]
    viewer.layers.pop(0)
    assert names() == ["scene 1"]
    viewer.layers.clear()
    assert widget.image.layer is None
    qtbot.waitUntil(lambda: "Open an image" in widget.card.text(), timeout=5000)
    widget.run_button.click()
    assert "open an image first" in widget.status.text()


def test_card_follows_the_choices(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    _, widget = dock(picture(300, 300))
    qtbot.waitUntil(lambda: "mask, boxes, scores" in widget.card.text(), timeout=5000)
    widget.form.outputs.boxes["boxes"].setChecked(False)
    widget.form.more.window_.setValue(3)
    qtbot.waitUntil(lambda: "mask, scores" in widget.card.text(), timeout=5000)
    assert "3 x 3 regions" in widget.card.text()
    tip = widget.form.model.toolTip()
    assert "Random &lt;canopy&gt;" in tip
    assert "MIT" in tip
    assert "research use only" in tip


def test_options_are_those_of_the_run(dock: Callable[..., Docked]) -> None:
    _, widget = dock(picture(50, 50))
    assert widget.form.options() == {}
    widget.form.outputs.boxes["boxes"].setChecked(False)
    assert widget.form.options() == {"outputs": ("mask", "scores")}
    widget.form.more.threshold.setValue(0.4)
    assert widget.form.options()["threshold"] == pytest.approx(0.4)


def test_runs_from_the_console_show_in_the_dock(dock: Callable[..., Docked], tmp_path: Path) -> None:
    from napari_xt.plugin.run import run

    viewer, widget = dock(picture(100, 100))
    run(viewer, out=tmp_path / "a.xt.zarr").wait(120)
    assert "done" in widget.status.text()


def test_closing_the_dock_leaves_the_run_alone(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(200, 1000))
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    handle = widget.handle
    qtbot.waitUntil(lambda: handle.state.done > 2, timeout=LONG_MS)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    del widget
    assert handle.wait(120).complete
    viewer.add_image(picture(10, 10))


NO_TORCH = """
import sys, time
import napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=True)
QApplication.processEvents()
began = time.perf_counter()
_, dock = viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
QApplication.processEvents()
opened = time.perf_counter() - began
from napari_xt.model import zoo
from pathlib import Path
zoo._bundled = lambda: Path(sys.argv[1])
end = time.monotonic() + 60
while dock.inside is None and time.monotonic() < end:
    QApplication.processEvents()
widget = dock.inside
viewer.open_sample("napari-xt", "canopy")
while "regions" not in widget.card.text() and time.monotonic() < end:
    QApplication.processEvents()
print(f"{opened:.3f}", widget.card.text())
print([name for name in ("torch", "timm") if name in sys.modules])
viewer.close()
"""


def test_dock_and_card_load_no_torch(model_folder: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-c", NO_TORCH, str(model_folder)]
    done = subprocess.run(call, cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split(maxsplit=1)[0]) < 0.3, "what is docked waits for no module"
    assert "yellowstone, 2472 x 2299 px" in done.stdout
    assert done.stdout.strip().endswith("[]")
