"""Boxes and regions corrected on the canvas: every gesture is a stroke, and the canvas shows what stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from export_case import prediction
from napari.utils.notifications import notification_manager

from napari_xt.errors import SettingsError
from napari_xt.io.corrections.corrections import corrections
from napari_xt.io.prediction import open_prediction
from napari_xt.plugin.boxes import layer as boxes
from napari_xt.plugin.boxes.in_view import boxes_in_view
from napari_xt.plugin.correct import long_stroke
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.widgets.correct_boxes import FAR, BoxesPanel
from napari_xt.plugin.widgets.regions import RegionsWidget
from paint_case import drag, hover, look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 10_000


class Scene:
    """A prediction in a viewer whose boxes are edited."""

    def __init__(self, viewer: Any, path: Path, qtbot: QtBot) -> None:
        prediction(path)
        self.viewer, self.qtbot = viewer, qtbot
        layers = viewer.open(path, plugin="napari-xt")
        self.layer: Any = next(layer for layer in layers if layer.metadata.get(TAG, {}).get("role") == "boxes")
        self.correcting = Correcting.open(viewer, str(path), "Ada")
        self.lines: list[str] = []
        self.correcting.did.connect(self.lines.append)
        self.panel = BoxesPanel(self.correcting)
        qtbot.addWidget(self.panel)
        qtbot.waitUntil(lambda: self.panel.edit.drawn is not None, timeout=LONG_MS)
        self.edit, self.known = self.panel.edit, self.correcting.corrections
        self.settle()

    @property
    def shown(self) -> dict[int, tuple[float, ...]]:
        """The edges of what is drawn, by id."""
        found = {}
        for key, shape in zip(self.layer.features["id"], self.layer.data, strict=True):
            corners = np.asarray(shape) + 0.5
            found[int(key)] = (*corners.min(axis=0).round(2), *corners.max(axis=0).round(2))
        return found

    @property
    def wanted(self) -> dict[int, tuple[float, ...]]:
        """Those of the final prediction."""
        table = self.known.final.boxes
        edges = table[["y0", "x0", "y1", "x1"]].to_numpy(float).round(2)
        return {int(key): tuple(row) for key, row in zip(table["id"], edges, strict=True)}

    def alike(self) -> bool:
        """Whether the canvas shows what stands."""
        shown, wanted = self.shown, self.wanted
        ours = [shown.get(key, (0, 0, 0, 0)) for key in wanted]
        return shown.keys() == wanted.keys() and np.allclose(ours, list(wanted.values()), atol=0.02)

    def settle(self) -> None:
        """Wait until the canvas shows what stands."""
        self.qtbot.waitUntil(self.alike, timeout=LONG_MS)
        drawn = boxes_in_view(self.layer)
        assert sum(drawn.counts().values()) == len(self.wanted) == drawn.total
        self.qtbot.wait(60)

    def near(self, key: int, zoom: float = 4.0) -> tuple[float, float]:
        """Look at a box; its middle as the layer counts."""
        y0, x0, y1, x1 = self.shown[key]
        middle = ((y0 + y1) / 2 - 0.5, (x0 + x1) / 2 - 0.5)
        look_at(self.viewer, self.layer, middle, zoom)
        return middle

    def press(self, name: str, *held: str) -> None:
        """Press a key on the canvas."""
        from vispy.util import keys

        events = self.viewer.window._qt_viewer.canvas._scene_canvas.events
        modifiers = [getattr(keys, one) for one in held]
        events.key_press(key=keys.Key(name), modifiers=modifiers, text="")
        events.key_release(key=keys.Key(name), modifiers=modifiers, text="")

    def tools(self) -> list[str]:
        """The log's strokes that stand."""
        log = self.known.log()
        return [*log["tool"][~log["undone"]]]


@pytest.fixture
def scene(make_napari_viewer: Callable[..., Any], tmp_path: Path, qtbot: QtBot) -> Iterator[Scene]:
    made = Scene(make_napari_viewer(), tmp_path / "a.xt.zarr", qtbot)
    yield made
    made.correcting.close()
    made.panel.edit.end()
    made.panel.regions.end()
    qtbot.wait(80)


def test_a_box_that_is_drawn_is_one_stroke_and_undone_on_the_canvas(slicing: str, scene: Scene) -> None:
    before = scene.wanted
    look_at(scene.viewer, scene.layer, (300, 550), 3.0)
    scene.panel.class_name.setCurrentText("bush")
    scene.press("D", "SHIFT")
    assert (scene.viewer.layers.selection.active, str(scene.layer.mode)) == (scene.layer, "add_rectangle")
    drag(scene.viewer, scene.layer, [(290, 540), (300, 550), (320, 580)])
    scene.settle()
    (new,) = set(scene.shown) - set(before)
    np.testing.assert_allclose(scene.shown[new], (290.5, 540.5, 320.5, 580.5), atol=0.4)
    assert scene.known.box(new)["class"] == "bush"
    assert [*scene.edit.selected] == [new]
    drag(scene.viewer, scene.layer, [(310, 520), (310, 520)])  # a click is no box
    scene.settle()
    assert scene.tools() == ["draw boxes"]
    assert scene.lines[-1].startswith("with corrections.stroke('draw boxes') as stroke: stroke.box_add(")
    scene.press("Z", "CONTROL")
    scene.settle()
    assert scene.shown.keys() == before.keys()
    scene.press("Z", "CONTROL", "SHIFT")
    scene.settle()
    assert new in scene.shown


def test_move_and_resize_keep_the_id_and_what_is_selected(scene: Scene) -> None:
    key = next(iter(scene.wanted))
    y, x = scene.near(key)
    y0, x0, y1, x1 = scene.shown[key]
    scene.press("E", "SHIFT")
    drag(scene.viewer, scene.layer, [(y, x), (y + 3, x + 2), (y + 10, x + 5)])
    scene.settle()
    np.testing.assert_allclose(scene.shown[key], (y0 + 10, x0 + 5, y1 + 10, x1 + 5), atol=0.4)
    assert [*scene.edit.selected] == [key]
    y0, x0, y1, x1 = scene.shown[key]
    drag(scene.viewer, scene.layer, [(y1 - 0.5, x1 - 0.5), (y1 + 2, x1 + 2), (y1 + 7.5, x1 + 5.5)])
    scene.settle()
    np.testing.assert_allclose(scene.shown[key], (y0, x0, y1 + 8, x1 + 6), atol=0.6)
    assert scene.tools() == ["move boxes"] * 2
    assert [*scene.known.boxes["id"]] == [key]
    scene.press("Z", "CONTROL")
    scene.press("Z", "CONTROL")
    scene.settle()
    assert scene.known.boxes.empty


def test_keys_act_on_the_box_under_the_mouse_whatever_layer_is_active(scene: Scene) -> None:
    first, second, third = list(scene.wanted)[:3]
    scene.viewer.layers.selection.active = scene.correcting.layer
    for key, name in ((first, "A"), (second, "C"), (third, "X")):
        hover(scene.viewer, scene.layer, [scene.near(key)])
        scene.panel.class_name.setCurrentText("bush")
        scene.press(name, "SHIFT")
        scene.settle()
    assert dict(zip(scene.known.boxes["id"], scene.known.boxes["state"], strict=True)) == {
        first: "accepted",
        second: "changed",
        third: "deleted",
    }
    assert scene.known.box(second)["class"] == "bush"
    assert third not in scene.shown
    assert scene.panel.edit.counts == {"added": 0, "changed": 1, "accepted": 1, "deleted": 1}
    assert len(scene.tools()) == 3


def test_delete_and_paste_of_napari_act_on_all_that_is_selected(scene: Scene) -> None:
    before, keys = scene.wanted, list(scene.wanted)[:5]
    scene.edit.move()
    scene.edit.select(keys[:2])
    scene.press("C", "CONTROL")
    scene.press("V", "CONTROL")
    scene.settle()
    copies = [edges for key, edges in scene.wanted.items() if key not in before]
    np.testing.assert_allclose(sorted(copies), sorted(before[key] for key in keys[:2]), atol=0.02)
    scene.correcting.undo()
    scene.settle()
    scene.edit.select(keys)
    scene.press("Delete")
    scene.settle()
    assert not set(keys) & set(scene.shown)
    assert scene.tools() == ["delete boxes"]
    scene.edit.drawn.take(scene.layer.metadata[TAG]["overlay"].table, all=True)  # as a run does that goes on
    scene.settle()
    scene.correcting.undo()
    scene.settle()
    assert set(keys) <= set(scene.shown)


def test_lasso_selects_and_one_step_takes_it_all_back(scene: Scene) -> None:
    before = scene.wanted
    look_at(scene.viewer, scene.layer, (150, 200), 2.0)
    scene.panel.buttons["Lasso"].click()
    around = [(60, 60), (60, 140), (60, 220), (140, 220), (220, 220), (220, 140), (220, 60), (140, 60), (62, 60)]
    drag(scene.viewer, scene.layer, around)
    middles = {key: ((y0 + y1) / 2, (x0 + x1) / 2) for key, (y0, x0, y1, x1) in before.items()}
    inside = {key for key, (y, x) in middles.items() if 62 < y < 218 and 62 < x < 218}
    scene.qtbot.waitUntil(lambda: len(scene.edit.selected) > 0, timeout=LONG_MS)
    assert inside <= set(scene.edit.selected.tolist())
    assert scene.viewer.layers.selection.active is scene.layer
    assert "xT lasso" not in scene.viewer.layers
    scene.qtbot.waitUntil(scene.panel.buttons["Delete"].isEnabled, timeout=LONG_MS)
    scene.panel.buttons["Delete"].click()
    scene.settle()
    assert not inside & set(scene.shown)
    assert scene.tools() == ["delete boxes"]
    scene.correcting.undo()
    scene.settle()
    assert scene.shown.keys() == before.keys()


def test_what_is_refused_is_put_back(scene: Scene) -> None:
    key = next(iter(scene.wanted))
    y, x = scene.near(key, 0.3)
    scene.edit.move()
    drag(scene.viewer, scene.layer, [(y, x), (y - 200, x - 200), (y - 500, x - 500)])
    assert "holds nothing of the image" in notification_manager.records[-1].message
    scene.settle()
    assert scene.known.boxes.empty


def test_a_region_gets_a_class_by_key_and_by_click(scene: Scene) -> None:
    classes = scene.panel.regions.classes
    assert classes == ("open", "dense")
    look_at(scene.viewer, scene.layer, (100, 100), 2.0)
    with scene.known.stroke() as stroke:
        stroke.region(1, 1, "accepted")
    hover(scene.viewer, scene.layer, [(96, 96), (98, 98)])
    scene.press("2", "ALT")
    assert scene.known.marks.regions[1, 1] == {"state": "accepted", "class": "dense"}
    scores = scene.known.final.scores.set_index(["region_row", "region_col"])
    assert scores.loc[(1, 1), "class"] == "dense"
    assert "accepted, dense" in scene.panel.regions.told()
    overlay = scene.layer.metadata[TAG]["overlay"]
    assert overlay.regions.of_class("dense")[1, 1] == 1
    assert overlay.regions.told(96, 96) == "region 1, 1: accepted, dense"
    scene.press("0", "ALT")
    assert scene.known.marks.regions[1, 1] == {"state": "accepted", "class": None}
    scene.panel.region_class.setCurrentText("open")
    scene.panel.click_button.click()
    hover(scene.viewer, scene.layer, [(98, 160)])
    drag(scene.viewer, scene.layer, [(98, 160)])
    assert scene.known.marks.regions[1, 2]["class"] == "open"
    scene.correcting.undo()
    assert (1, 2) not in scene.known.marks.regions


def test_the_end_leaves_the_layer_as_the_run_made_it(scene: Scene) -> None:
    keys = list(scene.wanted)[:2]
    scene.edit.delete(keys)
    scene.settle()
    path = scene.correcting.store
    scene.correcting.close()
    predicted = set(open_prediction(path).boxes["id"])
    scene.qtbot.waitUntil(lambda: set(scene.shown) == predicted, timeout=LONG_MS)
    assert not scene.panel.buttons["Draw"].isEnabled() or not scene.edit.editable
    with corrections(path) as again:
        assert set(again.boxes["id"]) == set(keys)
    scene.correcting.choose(path)
    scene.qtbot.waitUntil(lambda: not set(keys) & set(scene.shown), timeout=LONG_MS)
    scene.known = scene.correcting.corrections


def test_rows_of_a_table_are_corrected_at_once_and_the_table_follows(scene: Scene) -> None:
    before = scene.known.final.boxes
    widget = RegionsWidget(scene.viewer)
    scene.qtbot.addWidget(widget)
    scene.qtbot.waitUntil(lambda: widget.opened is not None and len(widget.boxes.model.rows) > 0, timeout=LONG_MS)
    widget.boxes.class_name.setCurrentText("bush")
    widget.boxes.filter()
    widget.boxes.select_button.click()
    bushes = before[before["class"] == "bush"]["id"]
    assert set(scene.edit.selected.tolist()) == set(bushes) != set(before["id"])
    scene.panel.class_name.setCurrentText("crown")
    scene.panel.refresh()
    assert f"{len(bushes)} of {len(before)} boxes selected" in scene.panel.note.text()
    scene.panel.buttons["Set class"].click()
    scene.settle()
    assert scene.tools() == ["class of boxes"]
    assert set(scene.layer.features["class"]) == {"crown"}
    words = lambda: {widget.boxes.model.rows.columns[0].text(row) for row in range(len(widget.boxes.model.rows))}  # noqa: E731
    scene.qtbot.waitUntil(lambda: words() == {"crown"}, timeout=LONG_MS)
    scene.correcting.undo()
    scene.settle()
    assert set(scene.layer.features["class"]) == {"crown", "bush"}
    scene.qtbot.waitUntil(lambda: words() == {"crown", "bush"}, timeout=LONG_MS)


def test_many_boxes_are_edited_near_and_selected_from_afar(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 40)
    monkeypatch.setattr(long_stroke, "PORTION", 30)
    drawn = scene.edit.drawn
    look_at(scene.viewer, scene.layer, (300, 550), 0.3)
    drawn.show(threshold=drawn.threshold)
    scene.qtbot.waitUntil(lambda: drawn.many and not scene.layer.editable, timeout=LONG_MS)
    scene.qtbot.waitUntil(lambda: not scene.panel.buttons["Draw"].isEnabled(), timeout=LONG_MS)
    assert scene.panel.note.text() == FAR
    with pytest.raises(SettingsError, match="zoom in"):
        scene.edit.draw()
    scene.press("F", "SHIFT")
    corners = [(-20, -20), (-20, 500), (-20, 1120), (300, 1120), (620, 1120), (620, 500), (620, -20), (300, -20)]
    drag(scene.viewer, scene.layer, [*corners, (-15, -20)])
    scene.qtbot.waitUntil(lambda: len(scene.edit.selected) > 200, timeout=LONG_MS)
    left = set(scene.wanted) - set(scene.edit.selected.tolist())
    scene.press("X", "SHIFT")
    assert scene.edit.working == 30
    scene.correcting.undo()  # nothing is undone while it is made
    scene.qtbot.waitUntil(lambda: drawn.total == sum(drawn.counts().values()) == len(left), timeout=LONG_MS)
    assert (set(scene.wanted), scene.edit.working, scene.tools()) == (left, 0, ["delete boxes"])
    scene.correcting.undo()
    scene.qtbot.waitUntil(lambda: drawn.many and drawn.total == len(scene.wanted), timeout=LONG_MS)
    look_at(scene.viewer, scene.layer, (300, 550), 6.0)
    scene.qtbot.waitUntil(lambda: scene.edit.editable and len(scene.shown) > 0, timeout=LONG_MS)
    assert scene.layer.editable
