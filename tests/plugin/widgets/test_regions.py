"""The widget Region scores: its rows and the canvas point at each other, filters, copies, exports, summaries, maps."""

from __future__ import annotations

from io import StringIO
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from export_case import FAILED, prediction
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication

from napari_xt.io.export import export
from napari_xt.io.measure import measure
from napari_xt.plugin.layers.context_layer import map_shown
from napari_xt.plugin.layers.pointer import FRAME, Shown, shown_predictions
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.run import run
from napari_xt.plugin.tables.table_source import Column, Rows
from napari_xt.plugin.widgets.context_bar import CHOOSE, KEY, NO_TOKENS
from napari_xt.plugin.widgets.regions import EMPTY, RegionsWidget
from napari_xt.plugin.widgets.table import TablePage
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_xt.io.prediction import Prediction

LONG_MS = 20_000
SCALE = np.array([0.5, 0.25])  # of the prediction below


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return prediction(tmp_path_factory.mktemp("listed") / "a.xt.zarr")


@pytest.fixture
def widget(make_napari_viewer: Callable[..., Any], qtbot: QtBot, made: Prediction) -> RegionsWidget:
    viewer = make_napari_viewer(show=True)
    _, docked = viewer.window.add_plugin_dock_widget("napari-xt", "Region scores")
    assert docked.status.text() == EMPTY
    for data in read_layers(made.path):
        viewer.add_layer(Layer.create(*data))
    assert shown_predictions(viewer) == [Shown(str(made.path), "a")]
    qtbot.waitUntil(lambda: docked.opened is not None and not docked.loading.busy, timeout=LONG_MS)
    return docked


def frame(widget: RegionsWidget) -> np.ndarray:
    """The corners of what is framed, (2, 2), first and last, in level-0 px."""
    corners = np.asarray(widget._viewer.layers[FRAME].data[0]) + 0.5
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def click(widget: RegionsWidget, y: float, x: float) -> None:
    """Press and release the mouse over a point of the image."""
    viewer = widget._viewer
    canvas, camera = viewer.window._qt_viewer.canvas, viewer.scene.camera
    world = (np.array([y, x]) - 0.5) * SCALE
    row, col = (world - camera.center[-2:]) * camera.zoom + np.array(canvas.size) / 2
    events = canvas._scene_canvas.events
    events.mouse_press(pos=(col, row), modifiers=(), button=1)
    events.mouse_release(pos=(col, row), modifiers=(), button=1)


def test_row_moves_the_camera_and_is_framed(widget: RegionsWidget, made: Prediction) -> None:
    viewer = widget._viewer
    active = viewer.layers.selection.active
    widget.regions.view.selectRow(25)
    row = made.scores.iloc[25]
    np.testing.assert_allclose(frame(widget), [(row["y0"], row["x0"]), (row["y1"], row["x1"])])
    middle = (frame(widget).mean(axis=0) - 0.5) * SCALE
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle)
    assert viewer.layers.selection.active is active
    for zoom in (2.0, 0.2):
        viewer.scene.camera.zoom = zoom
        line = viewer.layers[FRAME]
        assert line.edge_width[0] * line.scale.mean() * zoom > 2, "it is seen from afar"
    viewer.layers.remove(FRAME)
    widget.boxes.view.selectRow(0)
    box = made.boxes.iloc[0]
    np.testing.assert_allclose(frame(widget), [(box["y0"], box["x0"]), (box["y1"], box["x1"])], atol=1e-3)
    on_screen = (box["x1"] - box["x0"]) * SCALE[1] * viewer.scene.camera.zoom
    assert on_screen > 10, "the camera comes near"


def test_click_on_the_canvas_chooses_the_row(widget: RegionsWidget, made: Prediction) -> None:
    viewer = widget._viewer
    viewer.layers.selection.active = viewer.layers["a - xT mask"]
    centre = np.array(viewer.scene.camera.center)
    click(widget, 300, 500)
    row = widget.regions.row
    assert tuple(made.scores.iloc[row][["region_row", "region_col"]]) == (300 // 64, 500 // 64)
    assert widget.regions.view.currentIndex().row() == row
    np.testing.assert_array_equal(viewer.scene.camera.center, centre, "the view stays")
    widget.tabs.setCurrentWidget(widget.boxes)
    box = made.boxes.iloc[10]
    click(widget, (box["y0"] + box["y1"]) / 2, (box["x0"] + box["x1"]) / 2)
    assert widget.boxes.row == 10
    widget.boxes.scores.setValue((0.0, float(box["score"]) - 0.01))
    widget.boxes.filter()
    click(widget, (box["y0"] + box["y1"]) / 2, (box["x0"] + box["x1"]) / 2)
    assert "hidden by the filters" in widget.status.text()


def test_click_while_something_is_drawn_or_elsewhere_is_not_meant(widget: RegionsWidget) -> None:
    viewer = widget._viewer
    shapes = viewer.add_shapes(name="mine")
    click(widget, 300, 500)
    viewer.layers.remove(shapes)
    viewer.layers.selection.active = viewer.layers["a - xT boxes"]
    viewer.layers["a - xT boxes"].mode = "select"
    click(widget, 300, 500)
    viewer.layers["a - xT boxes"].mode = "pan_zoom"
    assert widget.regions.row is None
    click(widget, -50, 500)
    assert widget.regions.row is None


def test_sorting_and_filters_keep_the_chosen_row(widget: RegionsWidget, made: Prediction, qtbot: QtBot) -> None:
    page = widget.regions
    page.view.selectRow(25)
    page.view.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    shown = page.model.rows.shown
    assert list(shown[:2]) == list(made.scores.sort_values("score", ascending=False).index[:2])
    assert page.view.currentIndex().row() == list(shown).index(25)
    page.status.setCurrentText("failed")
    page.filter()
    assert page.count.text() == "1 of 180 rows"
    assert list(page.model.rows.shown) == [FAILED]
    page.status.setCurrentIndex(0)
    page.scores.setValue((0.9, 1.0))
    qtbot.waitUntil(lambda: page.model.rowCount() == (made.scores["score"] >= 0.9).sum())
    assert page.histogram.counts.sum() == made.scores["score"].notna().sum()


def test_copy_and_export(widget: RegionsWidget, made: Prediction, qtbot: QtBot, tmp_path: Path) -> None:
    page = widget.boxes
    page.class_name.setCurrentText("bush")
    page.filter()
    page.copy_button.click()
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    copied = pd.read_csv(StringIO(clipboard.text()), sep="\t")
    assert list(copied["id"]) == list(made.boxes.loc[made.boxes["class"] == "bush", "id"])
    assert page.count.text() == f"{len(copied)} rows copied"
    widget.export("regions", str(tmp_path / "a.csv"))
    qtbot.waitUntil(lambda: "exported" in widget.status.text(), timeout=LONG_MS)
    assert (tmp_path / "a.csv").read_bytes() == export(made, tmp_path / "b.csv", what="regions").read_bytes()
    widget.export("boxes", str(tmp_path / "no folder" / "a.parquet"))
    qtbot.waitUntil(lambda: "its folder is not there" in widget.status.text(), timeout=LONG_MS)


def test_viewer_can_be_closed_while_it_measures(widget: RegionsWidget) -> None:
    widget.objects.button.click()
    widget.summary.button.click()
    assert widget.objects.task.busy


def test_objects_are_measured_when_asked_for(widget: RegionsWidget, qtbot: QtBot) -> None:
    page = widget.objects
    assert len(page.page.model.rows) == 0
    assert not page.intensities.isEnabled(), "no image is known"
    page.button.click()
    assert page.button.text().startswith("Stop")
    qtbot.waitUntil(lambda: not page.task.busy, timeout=LONG_MS)
    assert page.button.text() == "Measure objects"
    assert len(page.page.model.rows) > 100
    page.page.view.selectRow(3)
    np.testing.assert_allclose(frame(widget).ravel(), page.page.model.rows.edges[3])


def test_summary_follows_the_shapes(widget: RegionsWidget, made: Prediction, qtbot: QtBot) -> None:
    page, viewer = widget.summary, widget._viewer
    corners = np.array([[50, 60], [50, 300], [300, 300], [300, 60]], float)
    world = (corners - 0.5) * SCALE
    shapes = viewer.add_shapes([world], shape_type="rectangle", name="mine", units=("um", "um"))
    page.shapes.setCurrentText("mine")
    with qtbot.waitSignal(page.measured, timeout=LONG_MS):
        page.button.click()
    expected = measure(made, within=[corners])
    rows = page.page.model.rows
    assert [rows.columns[0].text(i) for i in range(len(rows))] == list(expected["shape"])
    count = rows.column("count")
    assert count is not None
    np.testing.assert_array_equal(count.values, expected["count"])
    with qtbot.waitSignal(page.measured, timeout=LONG_MS):
        shapes.add_rectangles([world + 50])
    assert page.page.model.rows.columns[0].text(len(page.page.model.rows) - 1) == "shape 2"
    shapes.add_lines([world[:2]])
    qtbot.waitUntil(lambda: "has no inside" in page.note.text(), timeout=LONG_MS)


def test_without_tokens_or_predictions_it_says_what_to_do(widget: RegionsWidget, qtbot: QtBot) -> None:
    assert not widget.context.button.isEnabled()
    assert widget.context.button.toolTip() == NO_TOKENS
    widget.regions.view.selectRow(2)
    widget._viewer.layers.clear()
    qtbot.waitUntil(lambda: widget.opened is None)
    assert widget.status.text() == EMPTY
    assert widget.regions.model.rowCount() == 0


def test_context_map_of_a_run(
    canopy: Path, make_napari_viewer: Callable[..., Any], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-xt", "Region scores")
    layer = viewer.add_image(picture(256, 320), rgb=True, name="field", scale=(2, 2), translate=(30, 40))
    handle = run(viewer, layer, "canopy", out=tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: handle.state.over, timeout=LONG_MS)
    found = handle.wait()
    assert found is not None
    qtbot.waitUntil(lambda: len(widget.regions.model.rows) == len(found.scores) == 20, timeout=LONG_MS)
    bar = widget.context
    bar.toggle()
    assert widget.status.text() == CHOOSE
    widget.regions.view.selectRow(7)
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], np.array([30, 40]) + 2 * (frame(widget).mean(0) - 0.5))
    bar.button.click()
    qtbot.waitUntil(lambda: map_shown(viewer) is not None, timeout=LONG_MS)
    shown = map_shown(viewer)
    values, limits = np.asarray(shown.data), shown.contrast_limits
    assert limits[0] == -limits[1]
    np.testing.assert_allclose(np.nanmax(np.abs(values)), limits[1])
    assert np.isnan(values).any(), "outside of the window"
    corners = [one.extent.world[0] - one.scale[-2:] / 2 for one in (shown, layer)]
    np.testing.assert_allclose(*corners)
    assert bar.button.isChecked()
    assert "red speaks for it" in widget.status.text()
    viewer.layers.selection.active = layer
    viewer.window._qt_viewer.canvas._scene_canvas.native.setFocus()
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, KEY.lower())
    assert map_shown(viewer) is None
    assert not bar.button.isChecked()
    other = bar.class_name.itemText(bar.class_name.count() - 1)
    bar.class_name.setCurrentText(other)
    bar.button.click()
    qtbot.waitUntil(lambda: map_shown(viewer) is not None, timeout=LONG_MS)
    assert map_shown(viewer).name.startswith(other)


def test_a_million_rows_open_and_sort_at_once(qtbot: QtBot) -> None:
    rng, n = np.random.default_rng(0), 1_000_000
    rows = Rows(
        (Column("class", rng.integers(0, 3, n), ("a", "b", "c")), Column("score", rng.random(n))), np.zeros((n, 4))
    )
    page = TablePage()
    qtbot.addWidget(page)
    page.show()
    began = perf_counter()
    page.show_rows(rows)
    page.view.grab()
    opened = perf_counter()
    page.view.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    page.view.grab()
    ended = perf_counter()
    assert page.model.data(page.model.index(0, 1)) == "1"
    assert opened - began < 2, "0.1 s on an idle machine"
    assert ended - opened < 3, "0.2 s on an idle machine"
