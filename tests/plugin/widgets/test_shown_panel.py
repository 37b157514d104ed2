"""The panel *Shown*: what is shown of a prediction is changed by its sliders, boxes and keys, and counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.layers import Layer
from probability_case import stored
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_xt.io.stores.layout import Status
from napari_xt.plugin.boxes.in_view import follow_camera
from napari_xt.plugin.layers.composed import FAILED, UNKNOWN
from napari_xt.plugin.layers.hover import overlay_of, tell_regions
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.toggle import KEY, bind_toggle
from napari_xt.plugin.reader import prediction_layers
from napari_xt.plugin.widgets.shown import ShownPanel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

Make = Callable[..., Any] if TYPE_CHECKING else Any
LONG_MS = 20_000
SHAPE = (2300, 300)


def opened(viewer: Any, path: Path, **states: Status) -> dict[str, Layer]:
    """Show a prediction; return its layers by role."""
    layers = [Layer.create(*data) for data in prediction_layers(stored(path, SHAPE, **states))]
    for layer in layers:
        viewer.add_layer(layer)
    found = {layer.metadata[TAG]["role"]: layer for layer in layers if TAG in layer.metadata}
    overlay = overlay_of(found["boxes"])
    assert overlay is not None
    follow_camera(viewer, found["boxes"], overlay.table)
    tell_regions(viewer)
    bind_toggle(viewer)
    return found


@pytest.fixture
def panel(make_napari_viewer: Make, qtbot: QtBot) -> tuple[Any, ShownPanel]:
    viewer = make_napari_viewer(show=True)
    panel = ShownPanel(viewer)
    holder = QWidget()
    QVBoxLayout(holder).addWidget(panel)
    viewer.window.add_dock_widget(holder, name="shown")
    return viewer, panel


def test_the_mask_follows_its_slider_and_its_counts_too(
    panel: tuple[Any, ShownPanel], slicing: str, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, shown = panel
    assert not shown.isVisible()
    mask = opened(viewer, tmp_path / "a.xt.zarr")["mask"]
    qtbot.waitUntil(lambda: shown.isVisible() and shown.classes.rows["a"][2].text() != "", timeout=LONG_MS)
    assert shown.mask_threshold.value() == 0.5
    before, count = mask.data[-1].copy(), shown.classes.rows["a"][2].text()
    for value in (0.6, 0.9, 0.7):
        shown.mask_threshold.setValue(value)
    expected = overlay_of(mask).prediction.at(mask_threshold=0.7).mask[-1][:]
    qtbot.waitUntil(lambda: np.array_equal(mask.data[-1], expected), timeout=LONG_MS)
    qtbot.waitUntil(lambda: shown.classes.rows["a"][2].text() != count, timeout=LONG_MS)
    assert np.count_nonzero(mask.data[-1]) < np.count_nonzero(before)
    qtbot.waitUntil(lambda: np.count_nonzero(mask._slice.image.raw) <= np.count_nonzero(expected), timeout=LONG_MS)
    shown.mask_threshold.setValue(0.5)
    qtbot.waitUntil(lambda: np.array_equal(mask.data[-1], before), timeout=LONG_MS)
    qtbot.waitUntil(lambda: shown.classes.rows["a"][2].text() == count, timeout=LONG_MS)


def test_boxes_follow_theirs_at_once(panel: tuple[Any, ShownPanel], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, shown = panel
    boxes = opened(viewer, tmp_path / "a.xt.zarr")["boxes"]
    overlay = overlay_of(boxes)
    qtbot.waitUntil(lambda: shown.isVisible() and shown.boxes_text.text() != "", timeout=LONG_MS)
    prediction = overlay.prediction
    every = prediction.candidates()
    assert shown.box_threshold.value() == pytest.approx(prediction.threshold, abs=0.005)
    shown.box_threshold.setValue(0.8)
    kept = every[every["score"] >= 0.8]
    qtbot.waitUntil(lambda: set(boxes.features["id"]) <= set(kept["id"]) and len(boxes.features) > 0, timeout=LONG_MS)
    qtbot.waitUntil(lambda: shown.boxes_text.text().startswith(f"{len(boxes.features)} box"), timeout=LONG_MS)


def test_classes_are_hidden_and_coloured(panel: tuple[Any, ShownPanel], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, shown = panel
    layers = opened(viewer, tmp_path / "a.xt.zarr")
    mask, boxes = layers["mask"], layers["boxes"]
    qtbot.waitUntil(shown.isVisible, timeout=LONG_MS)
    rgba = lambda value: np.asarray(mask.colormap.color_dict[value]).round(2).tolist()  # noqa: E731
    was = rgba(1)
    box = shown.classes.rows["a"][0]
    box.click()
    assert rgba(1)[3] == 0
    assert rgba(2)[3] == 1
    qtbot.waitUntil(lambda: set(boxes.features["class"]) == {"b"}, timeout=LONG_MS)
    shown.classes.recolor(shown.run.classes[0], QColor("#ff0000"))
    assert rgba(1) == [1, 0, 0, 0], "it is still hidden"
    box.click()
    assert rgba(1) == [1, 0, 0, 1] != was
    qtbot.waitUntil(lambda: set(boxes.features["class"]) == {"a", "b"}, timeout=LONG_MS)
    shown.opacity.setValue(0.8)
    assert mask.opacity == pytest.approx(0.8)


def test_scores_of_another_class_with_a_legend(panel: tuple[Any, ShownPanel], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, shown = panel
    scores = opened(viewer, tmp_path / "a.xt.zarr")["scores"]
    qtbot.waitUntil(lambda: shown.isVisible() and "Image: " in shown.label.text(), timeout=LONG_MS)
    assert scores.blending == "translucent", "seen over white as over black"
    assert scores.colormap.map([0.0, 1.0])[:, 3].tolist() == [0, 1], "what is not there hides nothing"
    table = overlay_of(scores).prediction.scores
    assert scores.data[0, 0] == pytest.approx(table["p:dense"][0])
    shown.scores.setCurrentText("open")
    shown.scores.textActivated.emit("open")
    assert scores.data[0, 0] == pytest.approx(table["p:open"][0])
    assert shown.legend._bar.pixmap().width() > 0


def test_a_key_hides_all_and_shows_again_what_was_there(
    panel: tuple[Any, ShownPanel], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, _shown = panel
    layers = opened(viewer, tmp_path / "a.xt.zarr")
    layers["scores"].visible = False
    key = next(call for key, call in viewer.keymap.items() if str(key) == KEY)
    key(viewer)
    assert not any(layer.visible for layer in layers.values())
    assert viewer.layers[0].visible, "the image stays"
    key(viewer)
    assert [layers[role].visible for role in ("mask", "boxes", "scores")] == [True, True, False]


def test_hovering_tells_the_region_whatever_is_selected(
    panel: tuple[Any, ShownPanel], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, _shown = panel
    states = {"r1_1": Status.NOT_YET, "r2_2": Status.FAILED}
    mask = opened(viewer, tmp_path / "a.xt.zarr", **states)["mask"]
    viewer.mouse_over_canvas = True
    for selected in (viewer.layers[0], mask):
        viewer.layers.selection.active = selected
        for place, told in (
            ((10, 10), "region 0, 0: "),
            ((100, 100), "not computed"),
            ((140, 140), "region 2, 2: failed"),
        ):
            viewer.cursor.position = mask.data_to_world(place)
            viewer.update_status_from_cursor()
            status = viewer.status["coordinates"] if isinstance(viewer.status, dict) else viewer.status
            assert told in status
            assert status.count("region ") == 1
    assert set(np.unique(mask.data[0][64:192, 64:192])) >= {UNKNOWN, FAILED}


def test_a_layer_of_a_run_is_copied_and_its_tag_told(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    mask = opened(viewer, tmp_path / "a.xt.zarr")["mask"]
    from napari.layers._layer_actions import _duplicate_layer

    viewer.layers.selection.active = mask
    _duplicate_layer(viewer.layers)
    assert sum("mask" in layer.name for layer in viewer.layers) == 2
    json.dumps({key: value for key, value in mask.metadata[TAG].items() if key != "overlay"})
