"""Painting with napari's own tools over a mask with levels: by mouse and keys, in both ways of slicing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import export_case
import numpy as np
import pytest
import store_case
from export_case import layout, prediction
from napari.layers import Labels
from scipy import ndimage

from napari_xt.geometry import Frame, Grid
from napari_xt.io.corrections.corrections import corrections
from napari_xt.io.prediction import open_prediction
from napari_xt.io.stores.store import Store
from napari_xt.plugin.correct.levels import DONT_KNOW, NO_CORRECTION
from napari_xt.plugin.correct.painting import Painting
from napari_xt.plugin.correct.private import NAMES
from napari_xt.plugin.correct.pyramid_labels import PyramidLabels
from napari_xt.plugin.correct.rules import Rules
from napari_xt.plugin.correct.selftest import paintable
from napari_xt.plugin.layers.overlays import TAG, Overlay, Place, layer_data
from napari_xt.plugin.live import corrected_layers
from paint_case import click, drag, hover, look_at, press_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

SHAPE = (1152, 2112)  # two levels
LONG_MS = 10_000


class Scene:
    """A prediction in a viewer whose mask is painted on."""

    def __init__(self, viewer: Any, path: Path, pixels: np.ndarray | None = None) -> None:
        frame = Frame(SHAPE, SHAPE, (0.5, 0.5), "micrometer")
        pixels = np.zeros(SHAPE, np.uint8) if pixels is None else pixels
        about = {"frame": frame, "grid": Grid(*SHAPE, region_px=64), "boxes": None, "scores": None}
        prediction(path, pixels, layout(), **about)
        self.viewer = viewer
        layers = viewer.open(path, plugin="napari-xt")
        self.mask = next(layer for layer in layers if layer.metadata.get(TAG, {}).get("role") == "mask")
        self.prediction = self.mask.metadata[TAG]["overlay"].prediction
        self.corrections = corrections(self.prediction, "Ada")
        self.painting = Painting(viewer, self.mask, self.corrections)
        self.layer: Any = self.painting.layer

    def near(self, pixel: tuple[float, float], zoom: float = 1.0) -> None:
        """Look at a pixel."""
        look_at(self.viewer, self.layer, pixel, zoom)

    def now(self, *key: Any) -> np.ndarray:
        """Return what the finest level is, after a check that all levels are alike."""
        fine = np.asarray(self.corrections.mask[0][:])
        for index, level in enumerate(self.layer.data):
            there = np.asarray(level[:])
            known = there != NO_CORRECTION
            np.testing.assert_array_equal(there[known], fine[:: 1 << index, :: 1 << index][known])
        return fine[key] if key else fine


@pytest.fixture
def make_scene(make_napari_viewer: Make, tmp_path: Path, qtbot: QtBot) -> Iterator[Callable[..., Scene]]:
    """Return what makes a `Scene`."""
    made: list[Scene] = []

    def make(pixels: np.ndarray | None = None) -> Scene:
        made.append(Scene(make_napari_viewer(), tmp_path / "a.xt.zarr", pixels))
        return made[-1]

    yield make
    for scene in made:
        scene.painting.end()
        scene.corrections.close()
    qtbot.wait(50)


def test_this_napari_paints_on_pyramids() -> None:
    assert paintable()


def test_drag_is_one_stroke_in_all_levels_and_is_seen(
    slicing: str, make_scene: Callable[..., Scene], qtbot: QtBot
) -> None:
    scene = make_scene()
    layer = scene.layer
    scene.near((1000, 1000))
    assert isinstance(layer, PyramidLabels)
    assert layer.data_level == 0
    layer.mode, layer.selected_label, layer.brush_size = "paint", 2, 11
    drag(scene.viewer, layer, [(1000, 1000), (1000, 1040), (1040, 1080)])
    assert scene.now(1000, slice(1000, 1041)).tolist() == [2] * 41
    assert scene.now(slice(995, 1006), 1000).tolist() == [2] * 11
    assert [*scene.corrections.log()["tool"]] == ["brush"]
    qtbot.waitUntil(lambda: 2 in layer._slice.image.raw, timeout=LONG_MS)
    look_at(scene.viewer, layer, (1000, 1000), 0.2)
    qtbot.waitUntil(lambda: layer.data_level == 1 and (layer._slice.image.raw == 2).any(), timeout=LONG_MS)
    layer.mode = "erase"
    drag(scene.viewer, layer, [(1000, 1000), (1000, 1100)])
    assert not scene.now(1000, slice(1000, 1100)).any()


def test_undo_and_redo_by_keys_are_those_of_the_corrections(
    slicing: str, make_scene: Callable[..., Scene], qtbot: QtBot
) -> None:
    scene = make_scene()
    layer, viewer = scene.layer, scene.viewer
    scene.near((1000, 1000))
    layer.mode, layer.brush_size = "paint", 11
    for label, row in ((1, 1000), (2, 1010)):
        layer.selected_label = label
        drag(viewer, layer, [(row, 1000), (row, 1040)])
    both = scene.now()
    press_key(viewer, "Z")
    first = scene.now()
    assert set(np.unique(first)) == {0, 1}
    press_key(viewer, "Z")
    assert not scene.now().any()
    assert (np.asarray(scene.corrections.diff[0][:]) == NO_CORRECTION).all()
    press_key(viewer, "Z", shift=True)
    np.testing.assert_array_equal(scene.now(), first)
    scene.corrections.redo()  # by somebody else
    np.testing.assert_array_equal(scene.now(), both)
    qtbot.waitUntil(lambda: {1, 2} <= {*np.unique(layer._slice.image.raw)}, timeout=LONG_MS)


def test_fill_stays_in_view(make_scene: Callable[..., Scene]) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[900:1100, 900:1100] = 1
    scene = make_scene(pixels)
    layer = scene.layer
    layer.mode, layer.selected_label = "fill", 2
    scene.near((1000, 1000))
    click(scene.viewer, layer, (1000, 1000))
    np.testing.assert_array_equal(scene.now(), pixels * 2)
    click(scene.viewer, layer, (880, 880))
    filled = scene.now() == 2
    assert filled[880, 880]
    assert not filled[0].any()
    assert not filled[:, -1].any()
    assert [*scene.corrections.log()["tool"]] == ["fill", "fill"]


def test_polygon_and_picker(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    layer, viewer = scene.layer, scene.viewer
    scene.near((1000, 1000))
    layer.mode, layer.selected_label = "polygon", 2
    overlay = layer._overlays["polygon"]
    overlay.points = [(950, 950), (950, 1050), (1050, 1050), (1050, 950)]
    overlay.add_polygon_to_labels(layer)
    np.testing.assert_array_equal(np.argwhere(scene.now() == 2)[[0, -1]], [[950, 950], [1050, 1050]])
    assert np.count_nonzero(scene.now()) == 101 * 101
    for pixel, label in (((900, 900), 0), ((1000, 1000), 2)):
        layer.mode = "pick"
        click(viewer, layer, pixel)
        assert layer.selected_label == label


def test_encircling_with_the_right_button_is_one_stroke(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    layer, viewer = scene.layer, scene.viewer
    scene.near((1000, 1000))
    layer.mode, layer.selected_label, layer.brush_size = "paint", 1, 5
    drag(viewer, layer, [(950, 950)], button=2)
    hover(viewer, layer, [(950, 1050), (1050, 1050), (1050, 950), (950, 950)])
    assert scene.now(1000, 1000) == 1
    layer.undo()
    assert not scene.now().any()


def test_brush_is_as_large_on_the_screen_at_any_zoom(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.near((1000, 1000))
    scene.layer.brush_size = 40
    scene.near((1000, 1000), 0.25)
    assert scene.layer.brush_size == 160
    scene.near((1000, 1000), 8)
    assert scene.layer.brush_size == 5
    scene.layer.brush_size = 1
    scene.near((1000, 1000), 1)
    assert scene.layer.brush_size == 8


RULES = {
    "only background": (Rules(only={0}), {1, 2}),
    "never crown": (Rules(never={1}), {1}),
    "rock is locked": (Rules(locked={2}), {2}),
    "nothing": (Rules(only={1}, locked={1}), {0, 1, 2}),
    "paint is locked": (Rules(locked={3}), {0, 1, 2}),
}


def test_what_may_be_painted_over(make_scene: Callable[..., Scene]) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[:, 1000:1010], pixels[:, 1010:1020] = 1, 2
    scene = make_scene(pixels)
    assert scene.corrections.classes.add("new") == 3
    scene.layer.selected_label, scene.layer.brush_size, scene.layer.mode = 3, 9, "paint"
    scene.near((1000, 1000))
    for row, (name, (rules, left)) in enumerate(RULES.items()):
        scene.layer.rules = rules
        drag(scene.viewer, scene.layer, [(930 + 30 * row, 990), (930 + 30 * row, 1040)])
        assert {*scene.now(930 + 30 * row, slice(990, 1040)).tolist()} - {3} == left, name


def test_classes_are_chosen_by_keys_and_shown_in_their_colors(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    layer, viewer = scene.layer, scene.viewer
    for key, label in (("2", 2), ("1", 1), ("9", 1), ("0", DONT_KNOW)):
        press_key(viewer, key)
        assert layer.selected_label == label
    np.testing.assert_allclose(layer.get_color(1), scene.mask.get_color(1), atol=0.01)
    assert not np.allclose(layer.get_color(DONT_KNOW), layer.get_color(NO_CORRECTION))
    classes = scene.corrections.classes
    classes.add("new", (0, 0, 255, 255))
    classes.recolour("crown", (255, 0, 0, 255))
    classes.hide("rock")
    classes.lock("crown")
    scene.painting.update_classes()
    press_key(viewer, "3")
    assert layer.selected_label == 3
    assert [layer.get_color(value).tolist() for value in (1, 3)] == [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert layer.get_color(2)[3] == 0
    assert layer.rules.locked == {1}
    scene.near((1000, 1000))
    layer.mode = "paint"
    click(viewer, layer, (1000, 1000))
    assert scene.now(1000, 1000) == 3


def test_back_to_the_prediction(make_scene: Callable[..., Scene]) -> None:
    pixels = np.full(SHAPE, 1, np.uint8)
    scene = make_scene(pixels)
    scene.near((1000, 1000))
    layer = scene.layer
    layer.mode, layer.brush_size = "paint", 21
    for label in (2, NO_CORRECTION):
        layer.selected_label = label
        drag(scene.viewer, layer, [(1000, 1000), (1000, 1050)])
        assert (scene.now() == 2).any() == (label == 2)
    assert (np.asarray(scene.corrections.diff[0][:]) == NO_CORRECTION).all()


def test_objects_are_merged_and_split(make_scene: Callable[..., Scene]) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[950:1000, 950:1000], pixels[950:1000, 1020:1080] = 1, 1
    scene = make_scene(pixels)
    layer, viewer = scene.layer, scene.viewer
    scene.near((1000, 1000))
    layer.mode, layer.brush_size, layer.selected_label = "paint", 9, 2

    def objects() -> int:
        found: int = ndimage.label(scene.now() == 1, np.ones((3, 3)))[1]
        return found

    layer.brush = "merge"
    drag(viewer, layer, [(975, 990), (975, 1030)])
    assert objects() == 1
    layer.brush = "split"
    drag(viewer, layer, [(940, 955), (1010, 990)])
    drag(viewer, layer, [(940, 1050), (1010, 1055)])
    assert objects() == 3
    assert [*scene.corrections.log()["tool"]] == ["merge", "split", "split"]
    for count in (2, 1, 2):
        layer.undo()
        assert objects() == count
    assert 2 not in scene.now()


def test_layer_of_corrections_comes_and_goes(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.near((1000, 1000))
    layer, viewer = scene.layer, scene.viewer
    scene.painting.show_corrections()
    diff = next(one for one in viewer.layers if one.metadata.get(TAG, {}).get("role") == "corrections")
    assert viewer.layers.selection.active is layer
    layer.mode, layer.selected_label = "paint", 2
    drag(viewer, layer, [(1000, 1000), (1000, 1050)])
    assert diff.data[-1][500, 500] == 2
    assert diff.data[-1][100, 100] == NO_CORRECTION
    assert diff.get_color(NO_CORRECTION)[3] == 0
    scene.painting.show_corrections(False)
    assert diff not in viewer.layers
    assert not scene.painting.shows_corrections


def test_predicted_mask_is_back_at_the_end_and_nothing_listens(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    assert not scene.mask.visible
    scene.painting.show_corrections()
    scene.viewer.layers.remove(scene.layer)
    assert scene.mask.visible
    assert not scene.corrections.changed
    assert not scene.mask.metadata[TAG]["overlay"].followers
    assert [layer.metadata.get(TAG, {}).get("role") for layer in scene.viewer.layers] == [None, "mask"]


def test_edit_window_where_napari_lacks_a_name(make_scene: Callable[..., Scene], monkeypatch: Any) -> None:
    monkeypatch.setattr("napari_xt.plugin.correct.private.NAMES", (*NAMES, "_gone"))
    paintable.cache_clear()
    scene = make_scene(np.full(SHAPE, 1, np.uint8))
    paintable.cache_clear()
    layer = scene.layer
    assert type(layer) is Labels
    scene.near((100, 100))
    first = layer.data_to_world((0, 0))
    layer.mode, layer.selected_label, layer.brush_size = "paint", 2, 9
    drag(scene.viewer, layer, [(100, 100), (100, 140)])
    assert (np.asarray(scene.corrections.mask[0][:]) == 1).all()
    count = scene.painting.commit()
    painted = np.asarray(scene.corrections.mask[0][:]) == 2
    assert np.count_nonzero(painted) == count > 100
    y, x = np.round(scene.mask.world_to_data(first)).astype(int)
    assert painted[y + 100, x + 100 : x + 140].all()
    assert scene.painting.commit() == 0


def test_corrections_stay_while_a_run_writes_what_is_below(make_napari_viewer: Make, tmp_path: Path) -> None:
    found = layout()
    header = replace(store_case.header(found), plan={"regions": len(list(found.grid.regions()))})
    pixels = np.full(found.shape, 1, np.uint8)
    with Store.open_writer(tmp_path / "a.xt.zarr", header) as store:
        viewer = make_napari_viewer()
        data = layer_data(Overlay(open_prediction(tmp_path / "a.xt.zarr")), "mask", Place(), "scene", {"store": "a"})
        predicted = viewer.add_layer(Labels.create(*data))
        overlay = predicted.metadata[TAG]["overlay"]
        with corrections(overlay.prediction, "Ada") as edits:
            painting = Painting(viewer, predicted, edits)
            layer = painting.layer
            coarsest = layer.data
            assert NO_CORRECTION in coarsest[:100, :100]  # hatched: not computed
            layer.paint_polygon([(10, 10), (10, 40), (40, 40), (40, 10)], 2)
            assert (coarsest[10:40, 10:40] == 2).all()
            store.commit([export_case.block(found, pixels, 0, 0)])
            for region in found.grid.regions(found.grid.block(0, 0).box):
                overlay.mark(region)
            edits.refresh()
            overlay.read(all=True)
            assert (coarsest[10:40, 10:40] == 2).all()
            assert (coarsest[45:60, 45:60] == 1).all()
            assert corrected_layers(viewer, {"mask": predicted}) == [layer]
            painting.end()


def test_locked_corrections_put_the_brush_down_and_say_why(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    scene.corrections.read_only = True
    scene.near((1000, 1000))
    scene.layer.mode = "paint"
    click(scene.viewer, scene.layer, (1000, 1000))
    assert scene.layer.mode == "pan_zoom"
    assert not scene.now().any()
