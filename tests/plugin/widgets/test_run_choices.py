"""What the widget offers before a run, in a real viewer: areas, models that fit, what was stopped, what was run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from napari.settings import get_plugin_settings
from napari.utils.progress import progress
from npe2 import PluginManager, PluginManifest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication

from napari_xt.engine.run import predict
from napari_xt.engine.script import read_settings
from napari_xt.engine.settings import RunSettings
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.run import wanted
from napari_xt.plugin.runs.known_models import known_models
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot

LONG_MS = 120_000


@pytest.fixture
def dock(canopy: Path, make_napari_viewer: Callable[..., Any]) -> Callable[..., tuple[Any, RunWidget]]:
    def make(pixels: Any, **style: Any) -> tuple[Any, RunWidget]:
        viewer = make_napari_viewer(show=True)
        viewer.add_image(pixels, name="scene", **style)
        widget = RunWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Run xT", area="right")
        return viewer, widget

    return make


def run_to_its_end(widget: RunWidget, qtbot: QtBot) -> None:
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.handle is not None and widget.handle.state.over, timeout=LONG_MS)


def feature(*corners: tuple[float, float]) -> dict[str, Any]:
    ring = [[x, y] for y, x in [*corners, corners[0]]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def test_drawn_shapes_are_run(dock: Callable[..., Any], qtbot: QtBot, tmp_path: Path) -> None:
    pixels = picture(500, 500)
    viewer, widget = dock(pixels, scale=(0.1, 0.1), translate=(3, 4))
    assert not widget.area.drawn.isVisible(), "there is nothing drawn"
    place = np.array([3.0, 4.0]) - 0.05
    triangle = place + np.array([(10, 10), (10, 150), (130, 10)]) / 10
    box = place + np.array([(300, 300), (300, 420), (420, 420), (420, 300)]) / 10
    viewer.add_shapes([triangle, box], shape_type=["polygon", "rectangle"], name="mine")
    widget.area.drawn.click()
    qtbot.waitUntil(lambda: "drawn areas touch" in widget.card.text(), timeout=5000)
    assert "context: the regions that are run" in widget.card.text()
    widget.image.setCurrentIndex(0)
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    run_to_its_end(widget, qtbot)
    areas = tmp_path / "mine.geojson"
    features = [feature((10, 10), (10, 150), (130, 10)), feature((300, 300), (300, 420), (420, 420), (420, 300))]
    areas.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    expected = predict(pixels, "canopy", out=tmp_path / "b.xt.zarr", roi=str(areas))
    pd.testing.assert_frame_equal(open_prediction(tmp_path / "a.xt.zarr").scores, expected.scores)
    viewer.layers.remove("mine")
    assert widget.area.whole.isChecked()


def test_no_shapes_are_refused(dock: Callable[..., Any], qtbot: QtBot) -> None:
    viewer, widget = dock(picture(100, 100))
    drawn = viewer.add_shapes(name="mine")
    widget.area.drawn.click()
    qtbot.waitUntil(lambda: "nothing is drawn" in widget.card.text(), timeout=5000)
    drawn.add_ellipses(np.array([(10, 10), (10, 60), (60, 60), (60, 10)]))
    qtbot.waitUntil(lambda: "regions" in widget.card.text(), timeout=5000)


def test_what_was_stopped_is_resumed_and_listed(dock: Callable[..., Any], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, widget = dock(picture(400, 1000))
    widget.form.more.out.setText(str(tmp_path / "scene.canopy.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(lambda: len(progress._all_instances) == 1, timeout=LONG_MS)
    qtbot.waitUntil(lambda: widget.handle.state.done > 8, timeout=LONG_MS)
    assert "left" in widget.stages.bars["encode"].format()
    widget.stop_button.click()
    qtbot.waitUntil(lambda: widget.handle.state.over, timeout=LONG_MS)
    assert not progress._all_instances, "nothing is left in the activity dock"
    qtbot.waitUntil(lambda: widget.run_button.text().startswith("Resume ("), timeout=5000)
    share = open_prediction(tmp_path / "scene.canopy.xt.zarr").coverage
    assert widget.run_button.text() == f"Resume ({round(100 * share)} %)"
    widget.form.more.window_.setValue(3)
    qtbot.waitUntil(lambda: widget.run_button.text() == "Run", timeout=5000)
    widget.form.more.window_.setValue(0)
    qtbot.waitUntil(lambda: widget.run_button.text().startswith("Resume ("), timeout=5000)
    run_to_its_end(widget, qtbot)
    qtbot.waitUntil(lambda: widget.run_button.text() == "Run", timeout=5000)
    widget.runs_button.list.aboutToShow.emit()
    (action,) = widget.runs_button.list.actions()
    assert action.text() == "scene.canopy"
    action.trigger()
    assert widget.handle.shown
    assert len(viewer.layers) == 4


def test_a_model_is_dropped_and_remembered(
    dock: Callable[..., Any], canopy: Path, qtbot: QtBot, tmp_path: Path
) -> None:
    _, widget = dock(picture(100, 100))
    path = shutil.copy(canopy, tmp_path / "mine.safetensors")
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    how = Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(5, 5), *how)
    widget.dragEnterEvent(enter)
    assert enter.isAccepted()
    widget.dropEvent(QDropEvent(QPoint(5, 5).toPointF(), *how))
    assert widget.form.model.info.name == "mine"
    assert [info.name for info in known_models()] == ["canopy", "mine"]
    assert "Random &lt;canopy&gt;" in widget.form.model.toolTip()
    path.unlink()
    assert [info.name for info in known_models()] == ["canopy"]


def test_the_list_says_what_fits(dock: Callable[..., Any]) -> None:
    viewer, widget = dock(picture(100, 100))
    assert widget.form.model.itemText(0) == "canopy   fits"
    viewer.add_image(np.zeros((50, 60), np.uint8), name="grey")
    assert widget.form.model.itemText(0) == "canopy   does not fit: wants 3 channels, the image has 1"


def test_what_is_chosen_runs_elsewhere(
    dock: Callable[..., Any], qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(200, 200)
    _, widget = dock(pixels)
    widget.form.more.threshold.setValue(0.4)
    widget.form.context.setChecked(False)
    qtbot.waitUntil(lambda: "threshold" in widget.line.text(), timeout=5000)
    assert widget.line.text() == "handle = xt.run(viewer, 'scene', 'canopy', context=False, threshold=0.4)"
    clipboard = QGuiApplication.clipboard()
    for kind, start in {"Python": "import napari_xt as xt", "shell": "napari-xt run scene", "sbatch": "#!/bin"}.items():
        next(action for action in widget.copy_as.list.actions() if action.text() == kind).trigger()
        assert clipboard.text().startswith(start)
    widget.copy_as.save(str(tmp_path / "mine"))
    model, settings = read_settings(tmp_path / "mine.json")
    assert (model, settings) == ("canopy", RunSettings(context=False, threshold=0.4))


def test_preferences_hold_where_nothing_is_said(make_napari_viewer: Callable[..., Any]) -> None:
    viewer = make_napari_viewer()
    manager = PluginManager.instance()
    if "napari-xt" not in manager:
        manager.register(PluginManifest.from_distribution("napari-xt"))
    set_ = get_plugin_settings("napari-xt").runs
    layer = viewer.add_image(picture(50, 50))
    set_.device, set_.memory_gib = "cpu", 2
    try:
        found = wanted(viewer, [layer], {})
        assert (found.device, found.memory_limit_bytes) == ("cpu", 2 << 30)
        assert wanted(viewer, [layer], {"device": "cuda", "memory_limit_bytes": 5}).memory_limit_bytes == 5
    finally:
        set_.device, set_.memory_gib = "auto", 0
    assert wanted(viewer, [layer], {}).device == "auto"


CONSOLE = """
import sys, time
import napari
from pathlib import Path
from napari_xt.model import zoo
import numpy as np
zoo._bundled = lambda: Path(sys.argv[1])
readme = Path(sys.argv[2]).read_text()
(line,) = [part for part in readme.split("`") if part.startswith("handle = xt.run")]
viewer = napari.Viewer(show=True)
viewer.add_image(np.random.default_rng(0).integers(0, 255, (130, 130, 3), np.uint8), name="scene")
console = viewer.window._qt_viewer.console
for typed in ("import napari_xt as xt", line, "prediction = handle.wait()", "boxes = handle.prediction.boxes"):
    console.execute(typed)
space = console.shell.user_ns
print(space["prediction"].complete, len(space["boxes"]) >= 0, "handle.cancel()" in readme)
viewer.close()
"""


def test_lines_of_the_readme_typed_into_the_console(model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("napari_console")
    readme = Path(__file__).parents[3] / "README.md"
    call = [sys.executable, "-c", CONSOLE, str(model_folder), str(readme)]
    done = subprocess.run(call, cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("True True True"), done.stderr[-2000:]
