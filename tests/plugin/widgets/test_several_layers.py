"""The dock widget over images of several layers: rows for each channel, pixel size, planes, intensity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from napari.layers import Layer

from napari_xt.engine.run import predict
from napari_xt.plugin.images import channels
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.run import run
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 120_000
Docked = tuple[Any, RunWidget]


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels.platformdirs, "user_config_path", lambda _app: tmp_path / "config")


@pytest.fixture
def dock(canopy: Path, make_napari_viewer: Callable[..., Any]) -> Callable[..., Docked]:
    def make(**layers: Any) -> Docked:
        viewer = make_napari_viewer(show=True)
        for name, pixels in layers.items():
            viewer.add_image(pixels, name=name, axis_labels=("z", "y", "x")[-pixels.ndim :])
        widget = RunWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Run xT", area="right")
        return viewer, widget

    return make


def chosen(widget: RunWidget) -> list[str]:
    return [row.currentText() for row in widget.form.channels.rows]


def says(widget: RunWidget, text: str) -> Callable[[], bool]:
    return lambda: text in widget.card.text()


def test_layers_run_as_one_image(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    pixels = picture(200, 300)
    viewer, widget = dock(blue=pixels[..., 2], red=pixels[..., 0], green=pixels[..., 1])
    assert widget.image.currentText() == "blue, red, green"
    assert chosen(widget) == ["red", "green", "blue"]
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.handle is not None and widget.handle.state.over, timeout=LONG_MS)
    expected = predict(np.moveaxis(pixels, -1, 0), "canopy", out=tmp_path / "b.xt.zarr")
    pd.testing.assert_frame_equal(widget.handle.prediction.boxes, expected.boxes)
    assert {layer.metadata[TAG]["image"] for layer in viewer.layers if TAG in layer.metadata} == {
        str(viewer.layers["blue"].unique_id)
    }
    handle = run(viewer, ["red", "green", "blue"], out=tmp_path / "c.xt.zarr")
    pd.testing.assert_frame_equal(handle.wait(LONG_MS / 1000).boxes, expected.boxes)


def test_context_switch_keeps_the_layers(dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path) -> None:
    grey = picture(130, 130)[..., 0]
    viewer, widget = dock(red=grey, green=grey, blue=grey)
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    widget.run_button.click()
    first = widget.handle
    first.wait(LONG_MS / 1000)
    widget.form.context.setChecked(False)
    qtbot.waitUntil(lambda: widget.handle is not first and widget.handle.state.over, timeout=LONG_MS)
    assert widget.handle.layers_run == first.layers_run == tuple(viewer.layers[:3])
    assert widget.handle.prediction.complete
    qtbot.wait(50)


def test_run_over_the_layers_of_a_file_is_the_run_over_the_file(
    dock: Callable[..., Docked], qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "cells.ome.tif"
    about = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "WGA"]}}
    pixels = np.moveaxis(picture(150, 200), -1, 0).astype(np.uint16) * 200
    tifffile.imwrite(path, pixels, metadata=about, photometric="minisblack")
    viewer, widget = dock()
    for data in read_layers(path):
        viewer.add_layer(Layer.create(*data))
    assert [widget.image.itemText(i) for i in range(widget.image.count())] == ["cells.ome.tif: DAPI, GFP, WGA"]
    assert chosen(widget) == ["DAPI", "GFP", "WGA"]
    widget.run_button.click()
    done = widget.handle.wait(LONG_MS / 1000)
    expected = predict(path, "canopy")
    assert done.path == expected.path
    assert expected.path.parent == tmp_path
    viewer.layers.clear()


def test_rows_follow_image_and_choice_is_remembered(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    grey = picture(100, 100)[..., 0]
    viewer, widget = dock(DAPI=grey, GFP=grey, TRITC=grey)
    assert chosen(widget) == ["DAPI", "GFP", "TRITC"], "as they come"
    qtbot.waitUntil(says(widget, "regions"), timeout=5000)
    row = widget.form.channels.rows[0]
    row.setCurrentIndex(2)
    row.activated.emit(2)
    assert widget.form.options()["channels"] == (2, 1, 2)
    again = RunWidget(viewer)
    qtbot.addWidget(again)
    assert chosen(again) == ["TRITC", "GFP", "TRITC"]
    widget.image.setCurrentIndex(1)
    assert widget.image.currentText() == "GFP"
    assert chosen(widget) == [""] * 3
    qtbot.waitUntil(says(widget, "wants 3 channels"), timeout=5000)
    widget.image.setCurrentIndex(3)
    viewer.layers.remove("GFP")
    assert [widget.image.itemText(i) for i in range(widget.image.count())] == ["DAPI", "TRITC"]
    viewer.add_image(picture(50, 50), name="photo")
    assert not widget.form.channels.rows


def test_pixel_size_is_asked_for_and_stays_with_the_image(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    viewer, widget = dock()
    viewer.add_image(picture(90, 90), name="known", scale=(0.5, 0.5), units=("um", "um"))
    assert widget.form.pixel_size.placeholderText() == "0.5 x 0.5 micrometer"
    viewer.add_image(picture(80, 80), name="unknown")
    assert widget.form.pixel_size.placeholderText() == "not known"
    qtbot.keyClicks(widget.form.pixel_size, "2 um")
    qtbot.waitUntil(says(widget, "2 micrometer a pixel"), timeout=5000)
    widget.image.setCurrentIndex(0)
    assert widget.form.pixel_size.text() == ""
    widget.image.setCurrentIndex(1)
    assert widget.form.options()["pixel_size"] == "2 um"
    widget.form.pixel_size.setText("wide")
    qtbot.waitUntil(says(widget, "is not a length"), timeout=5000)


def test_card_shows_the_plane_on_the_slider(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (30, 70, 70), np.uint8)
    viewer, widget = dock(red=stack, green=stack, blue=stack)
    assert widget.image.currentText() == "red, green, blue"
    for z in (12, 29):
        viewer.dims.set_current_step(0, z)
        qtbot.waitUntil(says(widget, f"z = {z} of 30"), timeout=5000)


def test_intensity_may_be_what_the_layers_show(dock: Callable[..., Docked], qtbot: QtBot) -> None:
    grey = picture(100, 100)[..., 0]
    viewer, widget = dock(red=grey, green=grey, blue=grey)
    combo = widget.form.more.intensity
    combo.setCurrentIndex(combo.findText("as stored"))
    assert widget.form.options()["intensity"] == "range"
    combo.setCurrentIndex(combo.findText("the layers' contrast"))
    assert "intensity" not in widget.form.options()
    viewer.layers["green"].contrast_limits = (31, 177)
    qtbot.waitUntil(says(widget, "31 to 177"), timeout=5000)
