"""Tables, summaries and files hold exactly what the sliders show: from the widgets, from the shell and from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.layers import Layer
from probability_case import stored

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.shown import thresholds_in
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.tables.seen import Thresholds
from napari_xt.plugin.widgets.export import ExportButton
from napari_xt.plugin.widgets.regions import RegionsWidget
from napari_xt.plugin.widgets.shown import ShownPanel
from napari_xt.plugin.writer import write_layers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_xt.io.prediction import Prediction

LONG_MS = 20_000
MASK, BOXES = 0.8, 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return stored(tmp_path_factory.mktemp("seen") / "a.xt.zarr", (700, 260))


@pytest.fixture
def listed(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, made: Prediction
) -> tuple[Any, RegionsWidget, ShownPanel]:
    viewer = make_napari_viewer(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-xt", "Region scores")
    panel = ShownPanel(viewer)
    qtbot.addWidget(panel)
    for layer in viewer.open(made.path, plugin="napari-xt"):
        assert layer in viewer.layers
    qtbot.waitUntil(lambda: widget.opened is not None and not widget.loading.busy, timeout=LONG_MS)
    qtbot.waitUntil(lambda: panel.run is not None and panel.run.boxes is not None, timeout=LONG_MS)
    panel.follow()
    panel.mask_threshold.setValue(0.5)
    panel.box_threshold.setValue(made.threshold)
    return viewer, widget, panel


def move(panel: ShownPanel) -> None:
    for value in (0.55, 0.7, MASK):
        panel.mask_threshold.setValue(value)
    for value in (0.4, BOXES):
        panel.box_threshold.setValue(value)


def column(page: Any, name: str) -> np.ndarray:
    found = page.model.rows.column(name)
    assert found is not None
    return np.asarray(found.values)


def test_tables_and_summary_follow_the_sliders(
    listed: tuple[Any, RegionsWidget, ShownPanel], made: Prediction, qtbot: QtBot
) -> None:
    _, widget, panel = listed
    widget.objects.button.click()
    widget.summary.button.click()
    qtbot.waitUntil(lambda: len(widget.summary.page.model.rows) > 0 and not widget.objects.task.busy, timeout=LONG_MS)
    np.testing.assert_array_equal(column(widget.objects.page, "id"), xt.objects(made)["id"])
    move(panel)
    expected = xt.objects(made, mask_threshold=MASK)
    qtbot.waitUntil(
        lambda: np.array_equal(column(widget.objects.page, "id"), expected["id"]) and not widget.summary.task.busy,
        timeout=LONG_MS,
    )
    np.testing.assert_array_equal(column(widget.objects.page, "score"), expected["score"])
    np.testing.assert_array_equal(column(widget.boxes, "id"), made.at(box_threshold=BOXES).boxes["id"])
    told = xt.measure(made, mask_threshold=MASK, box_threshold=BOXES)
    np.testing.assert_array_equal(column(widget.summary.page, "count"), told["count"])
    panel.box_threshold.setValue(0.0)
    qtbot.waitUntil(lambda: len(widget.boxes.model.rows) == len(made.merged()), timeout=LONG_MS)
    assert not widget.objects.task.busy, "boxes are no objects"
    told = xt.measure(made, mask_threshold=MASK, box_threshold=0.0)
    qtbot.waitUntil(lambda: np.array_equal(column(widget.summary.page, "count"), told["count"]), timeout=LONG_MS)


def test_a_file_is_the_same_from_widget_shell_and_python(
    listed: tuple[Any, RegionsWidget, ShownPanel], made: Prediction, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, widget, panel = listed
    button = ExportButton(viewer)
    qtbot.addWidget(button)
    move(panel)
    assert thresholds_in(viewer, str(made.path)) == Thresholds(MASK, BOXES)
    paths = [tmp_path / f"{name}.geojson" for name in ("button", "table", "save", "shell", "python", "line", "at")]
    button.start(str(paths[0]), "")
    widget.export(["mask", "boxes"], str(paths[1]))
    wanted = [layer for layer in viewer.layers if layer.metadata.get(TAG, {}).get("role") in ("mask", "boxes")]
    write_layers(str(paths[2]), [layer.as_layer_data_tuple() for layer in wanted])
    seen = ["--mask-threshold", str(MASK), "--box-threshold", str(BOXES)]
    assert main(["export", str(made.path), str(paths[3]), *seen]) == 0
    xt.export(made, paths[4], mask_threshold=MASK, box_threshold=BOXES)
    qtbot.waitUntil(lambda: button.job is not None and button.job.done, timeout=LONG_MS)
    qtbot.waitUntil(lambda: widget.status.text().startswith("exported: xt.export("), timeout=LONG_MS)
    line = button.job.line.replace(repr(str(paths[0])), repr(str(paths[5])))
    assert f"mask_threshold={MASK}, box_threshold={BOXES})" in line
    assert line in button.toolTip().replace(str(paths[0]), str(paths[5]))
    exec(line, {"xt": xt})
    xt.export(open_prediction(made.path).at(mask_threshold=MASK, box_threshold=BOXES), paths[6])
    regions = {"button", "shell", "python", "line", "at"}
    for names in (regions, {"table", "save"}):
        assert len({path.read_bytes() for path in paths if path.stem in names}) == 1, names
    assert paths[0].read_bytes() != xt.export(made, tmp_path / "plain.geojson").read_bytes()


def test_what_was_shown_comes_back_and_is_what_is_listed(
    listed: tuple[Any, RegionsWidget, ShownPanel], made: Prediction, qtbot: QtBot
) -> None:
    viewer, widget, panel = listed
    move(panel)
    expected = made.at(box_threshold=BOXES).boxes["id"]
    qtbot.waitUntil(lambda: np.array_equal(column(widget.boxes, "id"), expected), timeout=LONG_MS)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: widget.opened is None, timeout=LONG_MS)
    viewer.open(made.path, plugin="napari-xt")
    store = str(made.path)
    qtbot.waitUntil(lambda: thresholds_in(viewer, store) == Thresholds(MASK, BOXES), timeout=LONG_MS)
    qtbot.waitUntil(
        lambda: widget.opened is not None and widget.opened.thresholds == Thresholds(MASK, BOXES), timeout=LONG_MS
    )
    np.testing.assert_array_equal(column(widget.boxes, "id"), expected)


def test_layers_without_a_viewer_are_saved_at_the_runs_thresholds(made: Prediction, tmp_path: Path) -> None:
    layers = [Layer.create(*data).as_layer_data_tuple() for data in read_layers(made.path)[1:]]
    (path,) = write_layers(str(tmp_path / "a.geojson"), layers)
    expected = xt.export(made, tmp_path / "b.geojson", what=["mask", "boxes", "regions"])
    assert (tmp_path / "a.geojson").read_bytes() == expected.read_bytes()
    assert path == str(tmp_path / "a.geojson")
