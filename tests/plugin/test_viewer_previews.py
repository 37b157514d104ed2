"""Previews in a real viewer while a large window is encoded, and the view that says where a run begins."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtGui import QColor

from napari_xt.engine import plan
from napari_xt.engine import run as engine
from napari_xt.engine.events import Event, Notice, RunStarted
from napari_xt.engine.focus import Focus
from napari_xt.engine.run import predict
from napari_xt.geometry import Box
from napari_xt.io.stores.preview import NONE, open_previews
from napari_xt.io.stores.store import Store
from napari_xt.plugin import view
from napari_xt.plugin.layers import previews
from napari_xt.plugin.layers.composed import UNKNOWN
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run
from napari_xt.plugin.view import Follower, visible_box
from napari_xt.plugin.widgets.run import RunWidget
from napari_xt.plugin.widgets.shown import ShownPanel
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_xt.io.stores.preview import RegionPreview

pytestmark = pytest.mark.usefixtures("canopy")
Make = Callable[..., Any] if TYPE_CHECKING else Any
LONG = 120.0
LONG_MS = int(LONG * 1000)
SHAPE = (600, 560)  # 10 x 9 regions in blocks of 64, 8, 16 and 2
FIRST = 512 // 4  # rows of cells in the first row of blocks


def by_role(viewer: Any) -> dict[str, Any]:
    return {layer.metadata[TAG]["role"]: layer for layer in viewer.layers if TAG in layer.metadata}


def whole(viewer: Any) -> bool:
    """Whether there is a preview of every region, its stripes too."""
    return shown(viewer).size > 0 and not np.isin(shown(viewer), (NONE, previews.BETWEEN)).any()


def shown(viewer: Any) -> np.ndarray:
    """Return what the layer of the previews holds, nothing where there is none."""
    layer = by_role(viewer).get("preview")
    return np.zeros((0, 0)) if layer is None else np.asarray(layer.data[0] if layer.multiscale else layer.data)


def _check_hidden_class(viewer: Any, preview: Any) -> None:
    """A class that is hidden or coloured in the panel is so in the previews."""
    panel = ShownPanel(viewer)
    box = panel.classes.rows["crown"][0]
    (one,) = (found for found in panel.run.classes if found.name == "crown")

    def color() -> list[float]:
        return [round(float(share), 3) for share in preview.colormap.color_dict[one.value]]

    before, striped = color(), preview.colormap.color_dict[NONE]
    assert before[3] == previews.PALE
    box.setChecked(False)
    assert color() == [*before[:3], 0.0]
    panel.classes.recolor(one, QColor(0, 0, 255))
    assert color() == [0.0, 0.0, 1.0, 0.0]
    box.setChecked(True)
    assert color() == [0.0, 0.0, 1.0, previews.PALE]
    np.testing.assert_array_equal(preview.colormap.color_dict[NONE], striped)
    panel.deleteLater()


@pytest.fixture(autouse=True)
def _large_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "IN_MEMORY_REGIONS", 8)


def test_previews_come_before_the_mask_give_way_to_it_and_go(
    make_napari_viewer: Make, slicing: str, commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    pixels = picture(*SHAPE)
    image = viewer.add_image(pixels, name="scene", scale=(0.5, 0.5), translate=(3, 4))
    mine = viewer.add_labels(np.ones(SHAPE, np.uint8), name="mine", opacity=0.0)
    viewer.layers.selection.active = mine
    handle = run(viewer, image, out=tmp_path / "a.xt.zarr", window="global")

    qtbot.waitUntil(lambda: whole(viewer), timeout=LONG_MS)
    layers = by_role(viewer)
    stored = open_previews(tmp_path / "a.xt.zarr", handle.prediction.layout)[...]
    np.testing.assert_array_equal(shown(viewer), stored)
    assert len(np.unique(stored)) > 1
    assert not np.asarray(layers["mask"].data).any()
    assert [layer.name for layer in viewer.layers] == [
        "scene",
        "mine",
        "scene - xT scores",
        "scene - xT preview",
        "scene - xT mask",
        "scene - xT boxes",
    ]
    corner = layers["preview"].data_to_world((-0.5, -0.5))
    np.testing.assert_allclose(corner, image.data_to_world((-0.5, -0.5)), atol=1e-9)
    qtbot.waitUntil(lambda: np.array_equal(layers["preview"]._slice.image.raw, stored), timeout=LONG_MS)
    _check_hidden_class(viewer, layers["preview"])

    commits.release()
    qtbot.waitUntil(lambda: not shown(viewer)[:FIRST].any(), timeout=LONG_MS)
    assert np.asarray(layers["mask"].data)[: 4 * FIRST].any()
    np.testing.assert_array_equal(shown(viewer)[FIRST:], stored[FIRST:])
    assert handle.state.phase == "running"

    commits.release(1000)
    prediction = handle.wait(LONG)
    assert sorted(by_role(viewer)) == ["boxes", "mask", "scores"]
    assert mine in viewer.layers
    assert viewer.layers.selection.active is mine
    assert np.array_equal(mine.data, np.ones(SHAPE, np.uint8))
    assert "preview" not in os.listdir(prediction.path)
    plain = predict(pixels, "canopy", out=tmp_path / "b.xt.zarr", window="global")
    np.testing.assert_array_equal(by_role(viewer)["mask"].data, plain.mask[0][:])
    qtbot.wait(50)  # let a slice in flight end


def test_a_stopped_run_takes_its_previews_away_and_shows_them_again(
    make_napari_viewer: Make, commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(*SHAPE))
    handle = run(viewer, out=tmp_path / "a.xt.zarr", window="global")
    qtbot.waitUntil(lambda: whole(viewer), timeout=LONG_MS)
    commits.release()
    qtbot.waitUntil(lambda: not shown(viewer)[:FIRST].any(), timeout=LONG_MS)
    before = shown(viewer).copy()
    handle.cancel()
    commits.shut.set()
    handle.wait(LONG)
    assert handle.state.phase == "stopped"
    assert sorted(by_role(viewer)) == ["boxes", "mask", "scores"]

    commits.shut.clear()
    again = run(viewer, out=tmp_path / "a.xt.zarr", window="global")
    qtbot.waitUntil(lambda: shown(viewer).size > 0, timeout=LONG_MS)
    np.testing.assert_array_equal(shown(viewer), before)
    assert before[FIRST:].any()
    viewer.layers.remove(by_role(viewer)["preview"])
    commits.release(1000)
    assert again.wait(LONG).complete
    assert sorted(by_role(viewer)) == ["boxes", "mask", "scores"]


def test_large_previews_are_shown_coarser(
    make_napari_viewer: Make,
    commits: Gate,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(previews, "MOST_CELLS", 60)
    monkeypatch.setattr(previews, "COARSEST_CELLS", 40)
    viewer = make_napari_viewer()
    image = viewer.add_image(picture(*SHAPE))
    handle = run(viewer, out=tmp_path / "a.xt.zarr", window="global")
    qtbot.waitUntil(lambda: whole(viewer), timeout=LONG_MS)
    stored = open_previews(tmp_path / "a.xt.zarr", handle.prediction.layout)[...]
    layer = by_role(viewer)["preview"]
    for level, step in zip(layer.data, (3, 6), strict=True):
        unstriped = np.where(level == previews.BETWEEN, NONE, level)
        np.testing.assert_array_equal(unstriped, stored[::step, ::step])
    np.testing.assert_allclose(layer.data_to_world((9.5, 9.5)), image.data_to_world((119.5, 119.5)), atol=1e-9)
    commits.release(1000)
    handle.wait(LONG)


def test_what_is_not_computed_is_striped_and_classes_are_paler_than_the_mask(
    make_napari_viewer: Make, commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(*SHAPE))
    handle = run(viewer, out=tmp_path / "a.xt.zarr", window="global", roi="0,0,200,200")
    qtbot.waitUntil(lambda: bool(np.any(shown(viewer) != NONE)), timeout=LONG_MS)
    layer, mask = by_role(viewer)["preview"], by_role(viewer)["mask"]
    unknown = shown(viewer)[256 // 4 :]
    assert set(np.unique(unknown)) == {NONE, previews.BETWEEN}, "what is not run is not known, either: striped"
    rgba = lambda colors, value: np.asarray(colors.colormap.map(np.array([value]))).ravel()  # noqa: E731
    assert rgba(layer, NONE)[3] > rgba(layer, previews.BETWEEN)[3] > 0
    assert rgba(layer, 0)[3] == 0
    assert 0 < rgba(layer, 1)[3] < rgba(mask, 1)[3]
    np.testing.assert_allclose(rgba(layer, 1)[:3], rgba(mask, 1)[:3])
    assert list(layer.features["class"])[-1] == "not computed yet"
    assert UNKNOWN not in mask.data, "previews are not hatched"
    commits.release(1000)
    handle.wait(LONG)
    assert set(np.unique(mask.data[256:])) == {0, UNKNOWN}, "what was not run is hatched where no preview is"
    assert UNKNOWN not in mask.data[:200, :200]


def test_the_focus_follows_the_view_until_the_end(make_napari_viewer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "FOLLOW_S", 0.0)
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(picture(800, 1000), scale=(0.1, 0.1), translate=(3, 4))
    viewer.reset_view()
    focus = Focus(Box(0, 0, 1, 1))
    follower = Follower(viewer, image, focus)
    assert focus.box is None, "all of it is in view"
    viewer.scene.camera.zoom = 60
    viewer.scene.camera.center = (0, 3 + 20, 4 + 30)
    box = focus.box
    assert box is not None
    assert box == visible_box(viewer, image)
    viewer.scene.camera.center = (0, 3 + 30, 4 + 50)
    assert focus.box == visible_box(viewer, image) != box
    viewer.scene.camera.center = (0, 5000, 5000)
    assert focus.box is None, "nothing of it is in view"
    viewer.scene.camera.center = (0, 3 + 20, 4 + 30)
    assert focus.box == box
    viewer.dims.ndisplay = 3
    assert focus.box is None
    viewer.dims.ndisplay = 2
    follower.end()
    there = focus.box
    viewer.scene.camera.center = (0, 3 + 40, 4 + 40)
    follower.look()
    assert focus.box == there


def test_a_view_that_moves_is_looked_at_now_and_then_and_at_its_last_place(
    make_napari_viewer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "FOLLOW_S", 1000.0)
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(picture(800, 1000))
    viewer.scene.camera.zoom = 6
    focus = Focus()
    follower = Follower(viewer, image, focus)
    first = focus.box
    for x in range(300, 700):
        viewer.scene.camera.center = (0, 400, x)
    assert focus.box == first != visible_box(viewer, image)
    later = time.monotonic() + 1001
    monkeypatch.setattr(view, "monotonic", lambda: later)
    follower.look()
    assert focus.box == visible_box(viewer, image) != first
    follower.end()


def test_a_run_begins_where_the_view_is(
    make_napari_viewer: Make,
    commits: Gate,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[set[tuple[int, int]]] = []
    put = Store.put_previews

    def noted(store: Store, found: Sequence[RegionPreview]) -> None:
        groups.append({(region.row // 8, region.col // 8) for region, _ in found})
        put(store, found)

    monkeypatch.setattr(Store, "put_previews", noted)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(*SHAPE))
    viewer.scene.camera.zoom = 30
    viewer.scene.camera.center = (0, 590, 550)
    handle = run(viewer, out=tmp_path / "a.xt.zarr", window="global")
    commits.release(1000)
    handle.wait(LONG)
    assert groups == [{(1, 1)}, {(0, 0)}, {(0, 1)}, {(1, 0)}]


def test_notices_are_told(
    make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari.utils.notifications import notification_manager

    stream = engine.stream

    def noting(*args: Any, **options: Any) -> Iterator[Event]:
        for event in stream(*args, **options):
            yield event
            if isinstance(event, RunStarted):
                yield Notice(event.run_id, event.seq, event.seconds, "the batch is 1 now")

    monkeypatch.setattr(engine, "stream", noting)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(100, 100))
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run xT", area="right")
    notification_manager.records.clear()
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    handle.wait(LONG)
    assert widget.status.text().endswith("\nthe batch is 1 now")
    assert [record.message for record in notification_manager.records] == ["the batch is 1 now"]
    assert handle.job.settings == replace(handle.job.settings, preview=True)
