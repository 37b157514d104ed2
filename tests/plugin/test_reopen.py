"""What comes back with a prediction that is opened again: its image, how it was seen, and what is still written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_xt.engine.run import predict
from napari_xt.io.pack import pack
from napari_xt.io.prediction import open_prediction
from napari_xt.io.stores.preview import Previews
from napari_xt.plugin.images.opening import opened
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.shown import shown_runs
from napari_xt.plugin.runs.reopen import find_image, keep_view, view_of
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

LONG_MS = 20_000

WRITE = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import export_case, store_case
from napari_xt.io.stores.store import Store
from dataclasses import replace
layout = export_case.layout()
header = replace(store_case.header(layout), notes={}, plan={"regions": len(list(layout.grid.regions()))})
pixels = export_case.mask()
with Store.open_writer(sys.argv[1], header) as store:
    print("open", flush=True)
    for line, key in zip(sys.stdin, store_case.blocks(layout)):
        store.commit([export_case.block(layout, pixels, *key)])
        print("done", flush=True)
    store.finish(0.5)
print("over", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def scene(canopy: Path, tmp_path: Path) -> Path:
    """Return a folder with an image and its prediction beside it."""
    folder = tmp_path / "there"
    folder.mkdir()
    tifffile.imwrite(folder / "scene.tif", picture(300, 200), photometric="rgb", tile=(64, 64))
    predict(folder / "scene.tif", "canopy")
    return folder


def store_in(folder: Path) -> Path:
    (found,) = folder.glob("*.xt.zarr")
    return found


def by_role(viewer: Any) -> dict[str, Any]:
    return {layer.metadata[TAG]["role"]: layer for layer in viewer.layers if TAG in layer.metadata}


def found(store: Path, ask: Any = None) -> str | None:
    image = find_image(open_prediction(store), opened, ask)
    if image is None:
        return None
    image.close()
    return image.source


def test_image_that_moved_with_its_prediction_is_found(scene: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    scene.rename(moved)
    assert found(store_in(moved)) == str(moved / "scene.tif")


def test_prediction_that_moved_alone_finds_its_image_where_it_was(scene: Path, tmp_path: Path) -> None:
    alone = tmp_path / "a" / "b"
    alone.mkdir(parents=True)
    store = store_in(scene).rename(alone / "scene.xt.zarr")
    assert found(store) == str(scene / "scene.tif")


def test_another_image_of_the_same_name_is_not_taken(scene: Path) -> None:
    tifffile.imwrite(scene / "scene.tif", picture(300, 200, seed=1), photometric="rgb", tile=(64, 64))
    assert found(store_in(scene)) is None


def test_user_is_asked_once_and_the_answer_is_kept(scene: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    store, renamed = store_in(scene), scene / "renamed.tif"
    (scene / "scene.tif").rename(renamed)
    assert found(store) is None, "nobody is there to be asked"
    assert found(store, lambda name: asked.append(name) or str(renamed)) == str(renamed)
    assert found(store, asked.append) == str(renamed)
    assert asked == ["scene.tif"]


def test_user_who_does_not_know_is_not_asked_again(canopy: Path, tmp_path: Path) -> None:
    path, asked = tmp_path / "lost.tif", list[str]()
    tifffile.imwrite(path, picture(300, 200, seed=7), photometric="rgb")
    store = predict(path, "canopy").path
    path.unlink()
    assert found(store, asked.append) is None
    assert found(store, asked.append) is None
    assert asked == ["lost.tif"]


def test_view_is_kept_by_run(scene: Path) -> None:
    header = open_prediction(store_in(scene)).header
    keep_view(header, {"camera": {"zoom": 2.0}})
    assert view_of(header) == {"camera": {"zoom": 2.0}}
    assert view_of(open_prediction(store_in(scene)).header) == {"camera": {"zoom": 2.0}}


def test_prediction_comes_back_as_it_was_seen(scene: Path, make_napari_viewer: Make, qtbot: QtBot) -> None:
    first = make_napari_viewer()
    first.open(store_in(scene), plugin="napari-xt")
    image = first.layers["scene"]
    qtbot.waitUntil(lambda: by_role(first)["mask"].metadata[TAG]["image"] == str(image.unique_id), timeout=LONG_MS)
    by_role(first)["mask"].opacity, by_role(first)["scores"].visible = 0.7, False
    (shown,) = shown_runs(first)
    assert shown.boxes is not None
    shown.move(0.25)
    shown.boxes.show(threshold=0.95)
    first.scene.camera.center, first.scene.camera.zoom = (0.0, 120.0, 60.0), 3.5
    first.layers.clear()

    second = make_napari_viewer()
    second.open(store_in(scene), plugin="napari-xt")
    qtbot.waitUntil(lambda: by_role(second)["mask"].opacity == 0.7, timeout=LONG_MS)
    assert not by_role(second)["scores"].visible
    assert second.scene.camera.zoom == pytest.approx(3.5)
    np.testing.assert_allclose(second.scene.camera.center[-2:], (120, 60))
    (again,) = shown_runs(second)
    assert again.boxes is not None
    assert again.boxes.threshold == 0.95
    assert again.overlay.composed is not None
    assert again.overlay.composed.threshold == 0.25
    qtbot.wait(50)


def test_packed_prediction_opens_without_its_image(scene: Path, make_napari_viewer: Make, tmp_path: Path) -> None:
    store = store_in(scene)
    packed = pack(store, tmp_path / "far.xt.zarr.zip")
    viewer = make_napari_viewer()
    viewer.open(packed, plugin="napari-xt")
    names = [layer.name for layer in viewer.layers]
    assert names[:3] == ["far - overview", "far - xT scores", "far - xT mask"]
    np.testing.assert_array_equal(np.asarray(viewer.layers[2].data), open_prediction(store).mask[0][:])


def test_camera_stays_where_there_is_more_to_see(scene: Path, make_napari_viewer: Make, qtbot: QtBot) -> None:
    keep_view(open_prediction(store_in(scene)).header, {"camera": {"center": [0, 9, 9], "zoom": 77.0}, "layers": {}})
    viewer = make_napari_viewer()
    viewer.add_image(picture(64, 64), name="other")
    viewer.open(store_in(scene), plugin="napari-xt")
    image = viewer.layers["scene"]
    qtbot.waitUntil(lambda: by_role(viewer)["mask"].metadata[TAG]["image"] == str(image.unique_id), timeout=LONG_MS)
    assert viewer.scene.camera.zoom != 77.0


def test_damaged_view_is_ignored(scene: Path, make_napari_viewer: Make, qtbot: QtBot) -> None:
    keep_view(open_prediction(store_in(scene)).header, {"camera": "none", "layers": {"mask": {"opacity": "much"}}})
    viewer = make_napari_viewer()
    viewer.open(store_in(scene), plugin="napari-xt")
    image = viewer.layers["scene"]
    qtbot.waitUntil(lambda: by_role(viewer)["mask"].metadata[TAG]["image"] == str(image.unique_id), timeout=LONG_MS)


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """Return a process that commits a block of a prediction for each line that it is sent."""
    cases = Path(__file__).parents[1] / "io"
    command = [sys.executable, "-c", WRITE, str(tmp_path / "far.xt.zarr"), str(cases), str(cases.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "open\n"

        def commit(blocks: int) -> None:
            for _ in range(blocks):
                process.stdin.write("\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]

        commit.kill = process.kill  # type: ignore[attr-defined]
        yield commit
        process.kill()


def test_what_another_process_writes_is_followed(
    writer: Any, slicing: str, tmp_path: Path, make_napari_viewer: Make, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.open(tmp_path / "far.xt.zarr", plugin="napari-xt")
    mask, scores = by_role(viewer)["mask"], by_role(viewer)["scores"]
    shown = lambda: np.isin(np.asarray(mask._slice.image.raw), (1, 2)).sum()  # noqa: E731 - what is on the screen
    assert shown() == 0
    for blocks in (2, 3):
        before = shown(), np.isfinite(scores.data).sum(), len(by_role(viewer)["boxes"].data)
        writer(blocks)
        qtbot.waitUntil(lambda: shown() > before[0], timeout=LONG_MS)  # noqa: B023
        qtbot.waitUntil(lambda: np.isfinite(scores.data).sum() > before[1], timeout=LONG_MS)  # noqa: B023
        qtbot.waitUntil(lambda: len(by_role(viewer)["boxes"].data) > before[2], timeout=LONG_MS)  # noqa: B023
    qtbot.wait(50)


def test_previews_of_another_process_are_shown(
    writer: Any, tmp_path: Path, make_napari_viewer: Make, qtbot: QtBot
) -> None:
    store = tmp_path / "far.xt.zarr"
    layout = open_prediction(store).layout
    first, *_, last = layout.grid.regions()
    previews = Previews(store, layout)
    cells = layout.cells(last.inner)
    previews.put([(last, np.ones(cells.shape, np.uint8))])
    viewer = make_napari_viewer(show=True)
    viewer.open(store, plugin="napari-xt")
    qtbot.waitUntil(lambda: "preview" in by_role(viewer), timeout=LONG_MS)
    shown = by_role(viewer)["preview"]
    finest = shown.data[0] if shown.multiscale else shown.data
    assert (finest[cells.slices] == 1).all()
    assert (finest[layout.cells(first.inner).slices] > 200).all(), "nothing is known of it"
    previews.put([(first, np.full(layout.cells(first.inner).shape, 2, np.uint8))])
    there = finest[layout.cells(first.inner).slices]
    qtbot.waitUntil(lambda: there.min() == there.max() == 2, timeout=LONG_MS)
    writer(1)
    qtbot.waitUntil(lambda: there.max() == 0, timeout=LONG_MS)
    writer.kill()
    qtbot.waitUntil(lambda: "preview" not in by_role(viewer), timeout=LONG_MS)


def test_following_ends_with_the_layers(writer: Any, tmp_path: Path, make_napari_viewer: Make, qtbot: QtBot) -> None:
    from napari_xt.plugin import _thread

    viewer = make_napari_viewer()
    viewer.open(tmp_path / "far.xt.zarr", plugin="napari-xt")
    qtbot.waitUntil(lambda: len(_thread._going_on) == 1, timeout=LONG_MS)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not _thread._going_on, timeout=LONG_MS)


def test_following_ends_with_the_viewer(writer: Any, tmp_path: Path, make_napari_viewer: Make, qtbot: QtBot) -> None:
    from napari_xt.plugin import _thread

    viewer = make_napari_viewer()
    viewer.open(tmp_path / "far.xt.zarr", plugin="napari-xt")
    qtbot.waitUntil(lambda: len(_thread._going_on) == 1, timeout=LONG_MS)
    viewer.close()
    qtbot.waitUntil(lambda: not _thread._going_on, timeout=LONG_MS)
