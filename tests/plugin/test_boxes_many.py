"""Many boxes in a real viewer: rectangles of those in view, a picture of all, and every way to change what is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import export_case
import numpy as np
import pandas as pd
import pytest
from napari.layers import Image, Layer, Shapes

from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.boxes import layer as boxes
from napari_xt.plugin.boxes.in_view import BoxesInView, boxes_in_view, follow_camera
from napari_xt.plugin.boxes.layer import boxes_layer
from napari_xt.plugin.boxes.table import BoxTable
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run
from napari_xt.plugin.view import seen
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

Make = Callable[..., Any] if TYPE_CHECKING else Any
SIDE, COUNT = 10_000, 6000
LONG_MS = 60_000
RED, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)


def many(count: int = COUNT, seed: int = 0) -> BoxTable:
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(0, SIDE - 40, (2, count))
    columns = {"id": np.arange(count) * 3, "y0": y, "x0": x, "y1": y + 40, "x1": x + 40}
    classes = np.array(["tree", "bush"], object)[rng.integers(0, 2, count)]
    frame = pd.DataFrame(columns | {"class": classes, "score": rng.uniform(0.05, 1, count).astype(np.float32)})
    return BoxTable.of(frame, ["tree", "bush"], [(255, 0, 0, 255), (0, 0, 255, 255)], 0.05, (SIDE, SIDE))


@pytest.fixture
def shown(make_napari_viewer: Make, qtbot: QtBot) -> tuple[Any, BoxesInView]:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.zeros((SIDE // 10, SIDE // 10), np.uint8), scale=(5, 5))
    table = many()
    layer = viewer.add_layer(Layer.create(*boxes_layer(table)))
    layer.scale = (0.5, 0.5)
    viewer.layers.selection.active = image
    view = follow_camera(viewer, layer, table)
    qtbot.waitUntil(lambda: view.density is not None and view.density.visible, timeout=LONG_MS)
    return viewer, view


def look(viewer: Any, zoom: float, y: float = 2500, x: float = 2500) -> None:
    viewer.scene.camera.center = (0, y, x)
    viewer.scene.camera.zoom = zoom


def drawn(view: BoxesInView) -> set[int]:
    return set(view.layer.features["id"])


def in_view(viewer: Any, view: BoxesInView) -> set[int]:
    rows = view.table.within(seen(viewer, view.layer), view.table.kept(view.threshold, view.hidden))
    return set(view.table.ids[rows])


def settle(qtbot: QtBot, viewer: Any, view: BoxesInView, count: Callable[[int], bool] = bool) -> None:
    """Wait until rectangles of all that is in view are drawn, with a number of them that ``count`` accepts."""
    good = lambda: count(len(drawn(view))) and in_view(viewer, view) <= drawn(view)  # noqa: E731
    qtbot.waitUntil(good, timeout=LONG_MS)


def test_far_away_there_is_a_picture_and_near_are_the_rectangles_in_view(
    slicing: str, shown: tuple[Any, BoxesInView], qtbot: QtBot
) -> None:
    viewer, view = shown
    assert view.text == "6,000 boxes: zoom in to see each"
    assert drawn(view) == set()
    assert isinstance(view.density, Image)
    assert viewer.layers.index(view.density) == viewer.layers.index(view.layer) - 1
    assert viewer.layers.selection.active is viewer.layers[0], "what the user selected stays selected"
    corners = [view.density.data_to_world((-0.5, -0.5)), view.layer.data_to_world((-0.5, -0.5))]
    np.testing.assert_allclose(*corners)

    for y, x in ((2500, 2500), (600, 4000), (650, 4030)):
        look(viewer, 0.8, y, x)
        settle(qtbot, viewer, view)
        assert 0 < len(in_view(viewer, view)) <= len(drawn(view)) <= boxes.SHAPES_UP_TO
        assert not view.density.visible
    assert view.text.endswith("of 6,000 boxes in view")
    rows = view.table.rows(view.layer.features["id"].to_numpy())
    np.testing.assert_allclose(np.array(view.layer.data), view.table.rectangles(rows))
    expected = view.table.colors[view.table.codes[rows]]
    np.testing.assert_allclose(view.layer.edge_color, expected)
    look(viewer, 0.1)
    qtbot.waitUntil(lambda: not drawn(view) and view.density.visible, timeout=LONG_MS)


def test_threshold_acts_on_both(shown: tuple[Any, BoxesInView], qtbot: QtBot) -> None:
    _, view = shown
    view.show(threshold=0.4)
    expected = int((view.table.scores >= np.float32(0.4)).sum())
    qtbot.waitUntil(lambda: view.text == f"{expected:,} boxes: zoom in to see each", timeout=LONG_MS)
    assert sum(view.counts().values()) == view.total == expected
    opaque = lambda: np.count_nonzero(view.density.data[0][..., 3])  # noqa: E731
    qtbot.waitUntil(lambda: expected * 0.9 < opaque() <= expected, timeout=LONG_MS)
    view.show(threshold=0.97)
    few = set(view.table.ids[view.table.scores >= np.float32(0.97)])
    qtbot.waitUntil(lambda: drawn(view) == few, timeout=LONG_MS)
    assert not view.density.visible
    assert view.text == f"{len(few)} boxes"
    view.show(threshold=0.05)
    qtbot.waitUntil(lambda: view.density.visible and not drawn(view), timeout=LONG_MS)


def test_colours_and_hidden_classes(shown: tuple[Any, BoxesInView], qtbot: QtBot) -> None:
    viewer, view = shown
    look(viewer, 1.5)
    settle(qtbot, viewer, view)
    colors = lambda: {tuple(map(float, color)) for color in view.layer.edge_color}  # noqa: E731
    assert colors() == {RED, BLUE}
    view.show(color_by="score")
    assert len(colors()) > 10
    view.show(color_by="one")
    assert len(colors()) == 1
    view.layer.edge_color = "red"
    look(viewer, 1.5, 1500, 1500)
    settle(qtbot, viewer, view)
    assert colors() == {RED}, "the user's colour stays"
    view.show(color_by="class")
    assert colors() == {RED, BLUE}

    view.show(hidden=["tree"])
    qtbot.waitUntil(lambda: set(view.layer.features["class"]) == {"bush"}, timeout=LONG_MS)
    assert view.counts()["tree"] > 0, "hidden ones are counted"
    assert view.total == view.counts()["bush"]


def test_selection_and_eyes(shown: tuple[Any, BoxesInView], qtbot: QtBot) -> None:
    viewer, view = shown
    look(viewer, 1.5)
    settle(qtbot, viewer, view)
    box_id = int(view.layer.features["id"][3])
    look(viewer, 0.1)
    qtbot.waitUntil(lambda: not drawn(view), timeout=LONG_MS)
    view.select([box_id])
    look(viewer, 1.5)
    selected = lambda: set(view.layer.features["id"].iloc[list(view.layer.selected_data)])  # noqa: E731
    qtbot.waitUntil(lambda: selected() == {box_id}, timeout=LONG_MS)
    view.select([])
    assert selected() == set()

    look(viewer, 0.1)
    qtbot.waitUntil(lambda: bool(view.density.visible), timeout=LONG_MS)
    view.layer.visible = False
    assert not view.density.visible
    view.layer.visible = True
    assert view.density.visible
    view.density.visible = False
    look(viewer, 1.5)
    settle(qtbot, viewer, view)
    look(viewer, 0.1)
    qtbot.waitUntil(lambda: not drawn(view), timeout=LONG_MS)
    assert not view.density.visible, "the user hid it"


def test_the_picture_goes_with_the_layer_and_stays_away(shown: tuple[Any, BoxesInView], qtbot: QtBot) -> None:
    viewer, view = shown
    viewer.layers.remove(view.density)
    view.show(threshold=0.1)
    qtbot.wait(300)
    assert len(viewer.layers) == 2
    viewer.layers.remove(view.layer)
    assert boxes_in_view(view.layer) is None
    look(viewer, 1.0)
    qtbot.wait(300)
    assert len(viewer.layers) == 1


def test_a_growing_table_is_drawn_in_portions(make_napari_viewer: Make, qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.zeros((SIDE // 10, SIDE // 10), np.uint8), scale=(10, 10))
    table = many(0)
    layer = viewer.add_layer(Layer.create(*boxes_layer(table)))
    view = follow_camera(viewer, layer, table)
    for count in (90, 400, 4000):
        grown = many(4000)
        part = BoxTable(
            grown.ids[:count],
            grown.edges[:, :count],
            grown.codes[:count],
            grown.scores[:count],
            grown.names,
            grown.colors,
            grown.threshold,
            grown.shape,
        )
        view.take(part)
        assert view.total == count
        if count <= boxes.SHAPES_UP_TO:
            qtbot.waitUntil(lambda: len(drawn(view)) == count, timeout=LONG_MS)  # noqa: B023
        else:
            qtbot.waitUntil(lambda: view.density is not None and view.density.visible, timeout=LONG_MS)
            assert drawn(view) == set()


def test_a_prediction_that_is_dropped_gets_the_same(
    make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 40)
    prediction = export_case.prediction(tmp_path / "a.xt.zarr")
    viewer = make_napari_viewer(show=True)
    viewer.open(prediction.path, plugin="napari-xt")
    (layer,) = [one for one in viewer.layers if one.metadata.get(TAG, {}).get("role") == "boxes"]
    qtbot.waitUntil(lambda: boxes_in_view(layer) is not None, timeout=LONG_MS)
    view = boxes_in_view(layer)
    assert view is not None
    qtbot.waitUntil(lambda: view.density is not None and view.density.visible, timeout=LONG_MS)
    assert view.total == len(prediction.boxes)
    merged = prediction.merged()
    strict = open_prediction(prediction.path, threshold=0.6).boxes
    pd.testing.assert_frame_equal(strict, merged[merged["score"] >= np.float32(0.6)].reset_index(drop=True))
    np.testing.assert_array_equal(view.table.ids, merged["id"])
    fy, fx = prediction.layout.frame.scale
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 300 * fy, 500 * fx), 40
    settle(qtbot, viewer, view)
    assert drawn(view) <= set(prediction.boxes["id"])


@pytest.mark.usefixtures("canopy")
def test_a_run_of_many_boxes_gets_the_same(
    make_napari_viewer: Make, qtbot: QtBot, commits: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 10)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(200, 500))
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    commits.release(1000)
    prediction = handle.wait(LONG_MS / 1000)
    assert prediction is not None
    layer = next(one for one in handle.layers if isinstance(one, Shapes))
    view = boxes_in_view(layer)
    assert view is not None
    assert view.total == len(prediction.boxes) > 10
    qtbot.waitUntil(lambda: view.density is not None and view.density.visible, timeout=LONG_MS)
    assert len(layer.data) == 0
    assert sum(view.density.data[0][..., 3].ravel() > 0) <= len(prediction.boxes)
    assert len(viewer.layers) == 5
    again = run(viewer, out=tmp_path / "b.xt.zarr", window=1).wait(LONG_MS / 1000)
    assert again is not None
    assert len(viewer.layers) == 5, "layers are reused"
    qtbot.waitUntil(lambda: view.total == len(again.boxes), timeout=LONG_MS)
    viewer.layers.clear()
    assert boxes_in_view(layer) is None
