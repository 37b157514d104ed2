"""The fold Review: its order, the keys and buttons that answer, the view that follows, what is remembered and said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from export_case import GRID, mask, prediction
from vispy.util import keys

import napari_xt as xt
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.correct.review import ALONE, FRAME, Order
from napari_xt.plugin.widgets.review_bar import OVER, ReviewBar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 20_000
SCALE = np.array([0.5, 0.25])  # of the prediction
QUEUE: dict[str, Any] = {"by": "class", "class_name": "rock", "most": 10, "every": 5}
ALL = GRID.shape[0] * GRID.shape[1] - 1  # one failed


class Scene:
    """A viewer with a prediction that is corrected, and the fold."""

    def __init__(self, viewer: Any, path: Path, qtbot: QtBot) -> None:
        viewer.open(path, plugin="napari-xt")
        self.viewer, self.path, self.qtbot = viewer, path, qtbot
        self.correcting = Correcting(viewer, "Ada")
        self.bar = ReviewBar(self.correcting)
        self.correcting.chosen.connect(self.bar.refresh)
        self.correcting.changed.connect(lambda _box: self.bar.refresh())
        self.correcting.choose(str(path))
        self.lines: list[str] = []
        self.correcting.did.connect(self.lines.append)
        viewer.window.add_dock_widget(self.bar, name="Review")

    @property
    def queue(self) -> Any:
        """The queue."""
        return self.bar.reviewing.queue

    def wait(self) -> None:
        """Wait until the queue is there and all is told."""
        bar = self.bar
        self.qtbot.waitUntil(lambda: self.queue is not None and not bar.ordering.busy, timeout=LONG_MS)

    def estimated(self) -> None:
        """Wait until the error was estimated anew."""
        bar = self.bar
        bar._soon.start(0)
        self.qtbot.waitUntil(lambda: not bar._soon.isActive() and not bar.estimating.busy, timeout=LONG_MS)

    def press(self, name: str, *held: Any) -> None:
        """Press a key over the canvas."""
        events = self.viewer.window._qt_viewer.canvas._scene_canvas.events
        events.key_press(key=keys.Key(name), modifiers=list(held))
        events.key_release(key=keys.Key(name), modifiers=list(held))

    def framed(self) -> tuple[int, int]:
        """The region that is framed, after a check that it is in the middle and its neighbours are seen."""
        corners = np.asarray(self.viewer.layers[FRAME].data[0]) + 0.5
        first, last = corners.min(axis=0), corners.max(axis=0)
        camera, canvas = self.viewer.scene.camera, np.array(self.viewer.window._qt_viewer.canvas.size)
        np.testing.assert_allclose(camera.center[-2:], ((first + last) / 2 - 0.5) * SCALE)
        shares = (last - first) * SCALE * camera.zoom / canvas
        assert 0.2 < shares.max() <= 0.8
        row, col = np.rint(first / GRID.region_px).astype(int)
        return int(row), int(col)


@pytest.fixture
def make_scene(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Scene]]:
    """Return what makes a `Scene`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path, scenes = tmp_path / "a.xt.zarr", list[Scene]()

    def make() -> Scene:
        if not path.exists():
            prediction(path)
        scenes.append(Scene(make_napari_viewer(show=True), path, qtbot))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.correcting.close()
    qtbot.wait(50)


def test_keys_answer_and_the_view_goes_on(slicing: str, make_scene: Callable[[], Scene]) -> None:
    scene = make_scene()
    scene.wait()
    bar, order = scene.bar, scene.queue.order
    active = scene.viewer.layers.selection.active
    assert bar.progress.text() == f"reviewed 0 of {ALL}"
    for place, key in zip(order, "NYGU", strict=False):
        assert scene.queue.current == place == scene.framed()
        scene.press(key)
    assert scene.queue.current == order[4] == scene.framed()
    assert scene.viewer.layers.selection.active is active
    known = scene.correcting.corrections
    assert [known.marks.regions.get(place, {}).get("state") for place in order[:5]] == [
        None,
        "accepted",
        "fixed",
        "skipped",
        None,
    ]
    assert bar.progress.text() == f"reviewed 3 of {ALL}"
    assert [*known.log()["author"]] == ["Ada"] * 3
    scene.press("U", keys.SHIFT)
    assert scene.framed() == order[3]
    assert bar.told.text() == f"Region {order[3][0]}, {order[3][1]}: skipped"
    listed = dict(scene.correcting.keys())
    assert set("NYGU") <= set(listed)


def test_buttons_do_the_same_their_lines_run_and_undo_goes_back(make_scene: Callable[[], Scene]) -> None:
    scene = make_scene()
    scene.wait()
    for name in ("Accept", "Next", "Fixed", "Skip"):
        scene.bar.buttons[name].click()
    corrections, path = scene.correcting.corrections, scene.path.with_name("b.xt.zarr")
    wanted = corrections.regions
    prediction(path)
    with xt.corrections(path) as corrections:
        exec("\n".join(scene.lines), {"xt": xt, "corrections": corrections})
        assert corrections.regions.equals(wanted)
    assert len(wanted) == 3
    known, order = scene.correcting.corrections, scene.queue.order
    assert scene.framed() == order[4]
    for count, place in ((2, order[3]), (1, order[2]), (0, order[0])):
        known.undo()
        assert scene.framed() == place
        assert scene.bar.progress.text() == f"reviewed {count} of {ALL}"


def test_order_and_place_are_remembered(make_scene: Callable[[], Scene], qtbot: QtBot) -> None:
    scene = make_scene()
    scene.wait()
    bar = scene.bar
    bar.most.setValue(10)
    bar.by.setCurrentIndex(bar.by.findData("class"))
    bar.by.activated.emit(bar.by.currentIndex())
    scene.wait()
    assert bar.detail.currentText() == "crown"
    bar.detail.setCurrentIndex(bar.detail.findData("rock"))
    bar.detail.activated.emit(bar.detail.currentIndex())
    scene.wait()
    assert scene.queue.order == xt.review_queue(scene.correcting.prediction, **QUEUE).order
    scene.press("Y")
    scene.press("N")
    at = scene.queue.current
    scene.estimated()
    scene.correcting.close()
    assert FRAME not in scene.viewer.layers
    assert not bar.buttons["Accept"].isEnabled()
    bar.reviewing.order = Order()
    scene.correcting.choose(str(scene.path))
    scene.wait()
    assert (bar.by.currentData(), bar.detail.currentText(), bar.most.value()) == ("class", "rock", 10)
    assert scene.queue.current == at == scene.framed()
    assert bar.progress.text() == "reviewed 1 of 10"


def test_disagreement_is_with_another_prediction(make_scene: Callable[[], Scene], qtbot: QtBot) -> None:
    scene = make_scene()
    scene.wait()
    bar = scene.bar
    bar.by.setCurrentIndex(bar.by.findData("disagreement"))
    bar.by.activated.emit(bar.by.currentIndex())
    qtbot.waitUntil(lambda: bar.told.text() == ALONE, timeout=LONG_MS)
    assert scene.queue is None
    assert FRAME not in scene.viewer.layers
    pixels = mask()
    pixels[130:140, 200:240] = 2
    prediction(scene.path.with_name("other.xt.zarr"), pixels)
    scene.press("N")
    scene.wait()
    assert bar.detail.currentText() == "other"
    assert scene.framed() == (130 // GRID.region_px, 200 // GRID.region_px)


def test_error_is_estimated_from_those_at_random_and_the_end_is_said(make_scene: Callable[[], Scene]) -> None:
    scene = make_scene()
    scene.wait()
    scene.estimated()
    assert scene.bar.wrong.text() == "not known yet"
    at_random = xt.review_queue(scene.correcting.prediction, "random", corrections=scene.correcting.corrections)
    assert scene.queue.order[4] == at_random.order[0]
    for _ in range(5):
        scene.press("Y")
    scene.estimated()
    assert scene.bar.wrong.text().startswith("0.0% (0.0% to ")
    assert scene.bar.faulty.text().endswith("1 regions)")
    scene.bar.most.setValue(5)
    scene.bar.most.editingFinished.emit()
    scene.wait()
    assert scene.bar.told.text() == OVER
    assert scene.bar.progress.text() == "reviewed 5 of 5"
    assert FRAME not in scene.viewer.layers


def test_who_only_reads_looks_on(make_scene: Callable[[], Scene], tmp_path: Path) -> None:
    prediction(tmp_path / "a.xt.zarr")
    with xt.corrections(tmp_path / "a.xt.zarr", "Bob") as held:
        with held.stroke() as stroke:
            stroke.region(0, 0, state="accepted")
        scene = make_scene()
        scene.wait()
        assert scene.bar.progress.text() == f"reviewed 1 of {ALL}"
        assert {name for name, button in scene.bar.buttons.items() if button.isEnabled()} == {"Next", "Back"}
        at = scene.framed()
        scene.press("N")
        assert scene.framed() != at
        at = scene.framed()
        scene.press("Y")
        assert scene.framed() == at
        assert len(held.regions) == 1


@pytest.mark.parametrize("told", [{}, {"by": 3}, {"by": "beauty"}, {"most": -1}, {"most": True}], ids=str)
def test_order_of_a_damaged_file_is_the_default(told: dict[str, Any]) -> None:
    assert Order.parse(told) == Order()
