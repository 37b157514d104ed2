"""The widget *Correct and refine*: what is opened, by whom, classes, tools, the log, and how it lets go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from export_case import prediction
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from vispy.util import keys

import napari_xt as xt
from napari_xt.errors import SettingsError
from napari_xt.io.corrections.corrections import corrections
from napari_xt.plugin import preferences
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.shown import shown_runs
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.runs.reopen import view_of
from napari_xt.plugin.widgets.class_table import LOCKED, NAME, SHOWN
from napari_xt.plugin.widgets.correct import EMPTY, CorrectWidget
from paint_case import drag, look_at, press_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 10_000
OFF, ON = Qt.CheckState.Unchecked, Qt.CheckState.Checked


@pytest.fixture
def author(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is kept in Preferences, in the place of the user's own."""
    kept = ["Ada"]
    monkeypatch.setattr("napari_xt.plugin.widgets.correct.author", lambda: kept[-1])
    monkeypatch.setattr("napari_xt.plugin.widgets.correct.remember_author", kept.append)
    return kept


@pytest.fixture
def widget(make_napari_viewer: Callable[..., Any], qtbot: QtBot, tmp_path: Path, author: list[str]) -> Iterator[Any]:
    viewer = make_napari_viewer(show=True)
    _, docked = viewer.window.add_plugin_dock_widget("napari-xt", "Correct and refine")
    assert isinstance(docked, CorrectWidget)
    assert docked.status.text() == EMPTY
    prediction(tmp_path / "a.xt.zarr", np.zeros((600, 1100), np.uint8))
    show(viewer, tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: docked.correcting.layer is not None, timeout=LONG_MS)
    yield docked
    if docked.correcting.store:
        docked.correcting.close()
    qtbot.wait(60)


def show(viewer: Any, path: Path) -> None:
    """Put what was predicted into a viewer, as a user who drops the store does."""
    for data in read_layers(path):
        viewer.add_layer(Layer.create(*data))


def layer_of(widget: Any, role: str, store: str | None = None) -> Any:
    tags = [(layer, layer.metadata.get(TAG, {})) for layer in widget.correcting.viewer.layers]
    wanted = store or widget.correcting.store
    return next((layer for layer, tag in tags if tag.get("role") == role and tag.get("store") == wanted), None)


def press(viewer: Any, key: str) -> None:
    """Press Shift and a key, and release them."""
    events = viewer.window._qt_viewer.canvas._scene_canvas.events
    events.key_press(key=keys.Key(key), modifiers=[keys.SHIFT])
    events.key_release(key=keys.Key(key), modifiers=[keys.SHIFT])


def paint(widget: Any, *pixels: tuple[float, float], size: int = 9) -> None:
    """Drag the mouse over pixels of the mask."""
    layer = widget.correcting.layer
    look_at(widget.correcting.viewer, layer, pixels[0], 1.0)
    layer.brush_size = size
    drag(widget.correcting.viewer, layer, pixels)


def now(widget: Any, y: int, x: int) -> int:
    return int(np.asarray(widget.correcting.corrections.mask[0][y : y + 1, x : x + 1])[0, 0])


def row_of(widget: Any, name: str) -> int:
    table = widget.classes.table
    return next(row for row in range(table.rowCount()) if table.item(row, NAME).text() == name)


def test_what_is_open_is_corrected_in_the_place_of_its_mask(widget: Any, qtbot: QtBot, author: list[str]) -> None:
    correcting, viewer = widget.correcting, widget.correcting.viewer
    mask = layer_of(widget, "mask")
    assert not mask.visible
    assert correcting.layer.visible
    assert viewer.layers.index(correcting.layer) == viewer.layers.index(mask) + 1
    assert widget.predictions.currentData() == correcting.store
    assert widget.status.isHidden()
    widget.classes.use("Brush")
    correcting.choose_class(2)
    paint(widget, (100, 100), (100, 120))
    assert now(widget, 100, 110) == 2
    widget.author.setText(" Grace ")
    widget.author.editingFinished.emit()
    assert author[-1] == "Grace"
    paint(widget, (200, 100), (200, 120))
    assert [*correcting.corrections.log()["author"]] == ["Ada", "Grace"]
    widget.undo_button.click()
    assert now(widget, 200, 110) == 0
    widget.redo_button.click()
    assert now(widget, 200, 110) == 2
    widget.copy_button.click()
    said = QGuiApplication.clipboard().text()
    assert widget.line.text() == "corrections.redo()"
    correcting.close()
    space: dict[str, Any] = {}
    exec(said, space)  # what is told does the same
    with space["corrections"] as known:
        assert (known.author, known.mask[0][200, 110]) == ("Ada", 2)


def test_classes_are_added_renamed_recoloured_hidden_and_locked(widget: Any, qtbot: QtBot) -> None:
    correcting, table = widget.correcting, widget.classes.table
    widget.classes.name.setText("fern")
    widget.classes.add_button.click()
    known = correcting.corrections.classes
    assert (known["fern"].value, correcting.class_value, table.value) == (3, 3, 3)
    widget.classes.add_button.click()  # of no name
    widget.classes.name.setText("fern")
    widget.classes.add_button.click()  # there is one
    assert len(known) == 4
    table.item(row_of(widget, "fern"), NAME).setText("moss")
    assert known[3].name == "moss"
    table.item(row_of(widget, "moss"), NAME).setText("crown")  # is taken
    assert known[3].name == "moss"
    assert row_of(widget, "moss") == 3
    table.recoloured.emit(3, [10, 20, 30])
    assert known[3].color[:3] == (10, 20, 30)
    np.testing.assert_allclose(correcting.layer.colormap.color_dict[3][:3], np.array([10, 20, 30]) / 255, atol=1e-3)
    table.item(3, SHOWN).setCheckState(OFF)
    assert known[3].hidden
    assert correcting.layer.colormap.color_dict[3][3] == 0
    widget.classes.use("Brush")
    paint(widget, (100, 100), (100, 120))
    table.item(3, LOCKED).setCheckState(ON)
    table.selectRow(row_of(widget, "rock"))
    assert correcting.class_value == 2
    paint(widget, (100, 110), (130, 110))
    assert (now(widget, 100, 110), now(widget, 120, 110)) == (3, 2)
    press_key(correcting.viewer, "1")
    assert (correcting.class_value, table.value) == (1, 1)
    press_key(correcting.viewer, "0")
    assert (correcting.class_value, table.value) == (254, 254)
    widget.undo_button.click()  # the paint
    widget.undo_button.click()  # the lock
    assert not known[3].locked
    qtbot.waitUntil(lambda: table.item(3, LOCKED).checkState() == OFF, timeout=LONG_MS)
    assert not correcting.layer.rules.locked
    widget.folds["Classes and tools"].setChecked(True)
    qtbot.waitUntil(lambda: table.item(3, 4).text().endswith("px"), timeout=LONG_MS)
    assert [line for line in widget._lines if ".classes." in line][:3] == [
        "corrections.classes.add('fern')",
        "corrections.classes.rename(3, 'moss')",
        "corrections.classes.recolour(3, [10, 20, 30])",
    ]


def test_tools_and_what_they_paint_over(widget: Any) -> None:
    correcting, panel, viewer = widget.correcting, widget.classes, widget.correcting.viewer
    layer = correcting.layer
    for name, mode in (("Fill", "fill"), ("Polygon", "polygon"), ("Eraser", "erase"), ("Move", "pan_zoom")):
        panel.tools[name].click()
        assert (str(layer.mode), panel.tools[name].isChecked()) == (mode, True)
    viewer.layers.selection.active = layer_of(widget, "boxes")
    press(viewer, "S")
    assert (layer.brush, str(layer.mode), panel.tools["Split"].isChecked()) == ("split", "paint", True)
    assert viewer.layers.selection.active is layer
    press(viewer, "M")
    assert (layer.brush, panel.tools["Merge"].isChecked()) == ("merge", True)
    panel.tools["Brush"].click()
    assert layer.brush == "paint"
    panel.brush_size.setValue(50)
    assert correcting.painting.brush.px == 50
    layer.brush_size = 3
    assert panel.brush_size.value() == round(correcting.painting.brush.px)
    correcting.choose_class(1)
    paint(widget, (100, 100), (100, 140))
    correcting.choose_class(2)
    panel.only.setCurrentText("crown")
    paint(widget, (80, 120), (120, 120))
    assert (now(widget, 100, 120), now(widget, 85, 120)) == (2, 0)
    press(viewer, "O")
    assert panel.only.currentText() == "rock"
    press(viewer, "O")
    assert panel.only.currentData() is None
    press(viewer, "N")
    assert panel.never.currentText() == "rock"
    correcting.choose_class(1)
    paint(widget, (80, 120), (120, 120))
    assert (now(widget, 100, 120), now(widget, 85, 120)) == (2, 1)
    told = dict(correcting.keys())
    assert {"Shift-M", "Shift-S", "Shift-O", "Shift-N"} <= told.keys()
    assert all(text in widget.keys.text() for text in ("Shift-M", "Ctrl+0"))


def test_log_goes_there_reverts_and_is_saved(widget: Any, qtbot: QtBot, tmp_path: Path) -> None:
    correcting, log = widget.correcting, widget.log
    widget.folds["Log"].setChecked(True)
    widget.classes.use("Brush")
    correcting.choose_class(1)
    for y in (100, 300, 500):
        paint(widget, (y, 100), (y, 120))
    qtbot.waitUntil(lambda: len(log._ids) == 3, timeout=LONG_MS)
    assert not log.stroke_button.isEnabled()
    words = [log.page.model.rows.columns[i].text(0) for i in (1, 2, 4)]
    assert words[:2] == ["Ada", "brush"]
    assert words[2].startswith("crown")
    log.page.view.selectRow(2)  # the oldest
    assert correcting.region_in_view() == (1, 1)
    assert log.region_button.text() == "Revert region 1, 1"
    log.stroke_button.click()
    assert (now(widget, 100, 110), now(widget, 300, 110)) == (0, 1)
    correcting.go_to(4, 1)
    qtbot.waitUntil(lambda: log.region_button.text() == "Revert region 4, 1", timeout=LONG_MS)
    log.region_button.click()
    assert (now(widget, 300, 110), now(widget, 500, 110)) == (0, 1)
    widget.undo_button.click()
    assert now(widget, 300, 110) == 1
    log.all_button.click()
    assert not np.asarray(correcting.corrections.mask[0][:]).any()
    qtbot.waitUntil(lambda: len(log._ids) == 6, timeout=LONG_MS)
    assert [line for line in widget._lines if ".revert(" in line] == [
        "corrections.revert(1)",
        "corrections.revert(region=(4, 1))",
        "corrections.revert()",
    ]
    log.diff.click()
    assert layer_of(widget, "corrections") is not None
    log.diff.click()
    assert layer_of(widget, "corrections") is None
    for name in ("log.parquet", "log.csv"):
        log.export(str(tmp_path / name))
        qtbot.waitUntil(lambda name=name: name in widget.line.text(), timeout=LONG_MS)
    assert len(pd.read_parquet(tmp_path / "log.parquet")) == len(pd.read_csv(tmp_path / "log.csv")) == 6


def test_who_holds_it_is_told_until_they_let_go(widget: Any, qtbot: QtBot) -> None:
    correcting = widget.correcting
    with corrections(correcting.store, "Ben") as other:
        with other.stroke() as stroke:
            stroke.put([100], [100], 2)
        other.flush()
        widget._look()
        assert "read-only: process" in widget.status.text()
        assert not widget.undo_button.isEnabled()
        assert not correcting.layer.editable
        assert now(widget, 100, 100) == 2
        widget.classes.use("Brush")
        assert str(correcting.layer.mode) == "pan_zoom"
    widget._look()
    assert widget.status.isHidden()
    widget.classes.use("Brush")
    correcting.choose_class(1)
    paint(widget, (100, 100))
    assert now(widget, 100, 100) == 1


def test_another_prediction_is_chosen(widget: Any, qtbot: QtBot, tmp_path: Path) -> None:
    correcting, first = widget.correcting, widget.correcting.store
    widget.classes.never.setCurrentText("rock")
    prediction(tmp_path / "b.xt.zarr", boxes=None)
    show(correcting.viewer, tmp_path / "b.xt.zarr")
    assert correcting.store == first, "what was chosen stays"
    assert [widget.predictions.itemText(i) for i in range(2)] == ["b: b.xt.zarr", "a: a.xt.zarr"]
    widget.predictions.setCurrentIndex(0)
    widget.predictions.activated.emit(0)
    assert correcting.store == str(tmp_path / "b.xt.zarr")
    assert widget.classes.never.currentData() is None, "what held for the first"
    assert layer_of(widget, "mask", first).visible
    assert layer_of(widget, "final", first) is None
    layers = correcting.viewer.layers
    layers.remove(correcting.layer)
    assert correcting.painting is None
    assert layer_of(widget, "mask").visible
    for layer in [layer for layer in layers if layer.metadata.get(TAG, {}).get("store") == correcting.store]:
        layers.remove(layer)
    qtbot.waitUntil(lambda: correcting.store == first and correcting.layer is not None, timeout=LONG_MS)
    layers.clear()
    qtbot.waitUntil(lambda: correcting.store == "", timeout=LONG_MS)
    assert widget.status.text() == EMPTY


def test_what_cannot_be_painted_says_why(widget: Any, qtbot: QtBot, tmp_path: Path) -> None:
    correcting, viewer = widget.correcting, widget.correcting.viewer
    prediction(tmp_path / "boxes.xt.zarr", mask=None)
    show(viewer, tmp_path / "boxes.xt.zarr")
    correcting.choose(str(tmp_path / "boxes.xt.zarr"))
    assert correcting.painting is None
    assert not widget.classes.note.isHidden()
    assert widget.classes.table.rowCount() == 0
    assert widget.status.isHidden(), "its boxes can be corrected"
    packed = xt.pack(tmp_path / "a.xt.zarr")
    show(viewer, packed)
    correcting.choose(str(packed))
    assert widget.predictions.currentData() == str(packed)
    assert "it is packed" in widget.status.text()
    assert not correcting.layer.editable
    with pytest.raises(SettingsError, match="open it first"):
        correcting.choose(str(tmp_path / "c.xt.zarr"))
    assert correcting.corrections is None
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not widget.predictions.count(), timeout=LONG_MS)


def test_thresholds_and_opacity_of_what_is_shown_are_followed(widget: Any, qtbot: QtBot) -> None:
    correcting, viewer = widget.correcting, widget.correcting.viewer
    widget.classes.use("Brush")
    correcting.choose_class(2)
    widget.classes.brush_size.setValue(33)
    paint(widget, (100, 100))
    widget.classes.brush_size.setValue(33)
    layer, mask = correcting.layer, layer_of(widget, "mask")
    mask.opacity = 0.3
    assert layer.opacity == 0.3
    run = next(run for run in shown_runs(viewer) if run.layers.get("mask") is mask)
    run.move(0.2)
    qtbot.waitUntil(lambda: correcting.layer is not layer and correcting.layer is not None, timeout=LONG_MS)
    assert correcting.prediction.mask_threshold == 0.2
    assert (str(correcting.layer.mode), correcting.class_value) == ("paint", 2)
    assert round(correcting.painting.brush.px) == 33
    assert now(widget, 100, 100) == 2


def test_mask_that_was_painted_over_is_visible_when_it_is_opened_again(widget: Any, qtbot: QtBot) -> None:
    viewer, header = widget.correcting.viewer, widget.correcting.prediction.header
    qtbot.waitUntil(lambda: viewer.scene.camera.zoom != 3.25 and view_of(header) != {}, timeout=LONG_MS)
    viewer.scene.camera.zoom = 3.25
    qtbot.waitUntil(lambda: view_of(header).get("camera", {}).get("zoom") == 3.25, timeout=LONG_MS)
    assert not layer_of(widget, "mask").visible
    assert view_of(header)["layers"]["mask"]["visible"]


def test_closed_widget_lets_go(widget: Any, qtbot: QtBot) -> None:
    viewer, store = widget.correcting.viewer, widget.correcting.store
    widget.classes.use("Brush")
    widget.correcting.choose_class(1)
    paint(widget, (100, 100))
    bound = len(viewer.keymap)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: all("final" not in layer.name for layer in viewer.layers), timeout=LONG_MS)
    assert layer_of(widget, "mask", store).visible
    assert len(viewer.keymap) < bound
    with xt.corrections(store, "Ben") as known:
        assert known.holder is None
        assert known.mask[0][100, 100] == 1
    viewer.window.add_dock_widget(widget, name="again")
    qtbot.waitUntil(lambda: widget.correcting.layer is not None, timeout=LONG_MS)


def test_author_is_kept_in_preferences(make_napari_viewer: Callable[..., Any]) -> None:
    make_napari_viewer()
    before = preferences.author()
    try:
        preferences.remember_author(" Ada ")
        assert preferences.author() == "Ada"
    finally:
        preferences.remember_author(before)
