"""Runs in a real viewer: layers appear and grow, stop, fail, are reused, and agree with the API."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from napari.layers import Labels, Shapes

from napari_xt.engine.run import predict
from napari_xt.errors import ImageNotFoundError, ModelNotFoundError, SettingsError, XTError
from napari_xt.plugin import live
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run, session_of
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

pytestmark = pytest.mark.usefixtures("canopy")
Make = Callable[..., Any] if TYPE_CHECKING else Any
LONG = 120.0


def by_role(viewer: Any) -> dict[str, Any]:
    return {layer.metadata[TAG]["role"]: layer for layer in viewer.layers if TAG in layer.metadata}


def test_layers_show_what_the_api_predicts(
    make_napari_viewer: Make, slicing: str, qtbot: QtBot, tmp_path: Path
) -> None:
    pixels = picture(300, 2200)  # two levels of the mask
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(pixels, name="scene", scale=(0.1, 0.1), units=("m", "m"), translate=(5, 7))
    handle = run(viewer, out=tmp_path / "viewer.xt.zarr")
    prediction = handle.wait(LONG)
    expected = predict(pixels, "canopy", out=tmp_path / "api.xt.zarr")

    assert prediction is not None
    pd.testing.assert_frame_equal(prediction.boxes, expected.boxes)
    layers = by_role(viewer)
    assert [layer.name for layer in handle.layers] == [
        "scene",
        "scene - xT scores",
        "scene - xT mask",
        "scene - xT boxes",
    ]
    assert viewer.layers.selection.active is image
    for shown, there in zip(layers["mask"].data, expected.mask, strict=True):
        np.testing.assert_array_equal(shown, there[:])
    assert layers["mask"].data[1].any()
    assert isinstance(layers["mask"].data[1], np.ndarray)
    assert sorted(layers["boxes"].features["id"]) == sorted(expected.boxes["id"])
    qtbot.wait(50)  # let a slice in flight end


def test_boxes_lie_where_the_table_says(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image = viewer.add_image(picture(150, 200), scale=(0.5, 0.5), translate=(5, 7), rotate=30)
    handle = run(viewer, image, out=tmp_path / "a.xt.zarr")
    table = handle.wait(LONG).boxes.set_index("id")
    layer = by_role(viewer)["boxes"]
    for box, box_id in zip(layer.data, layer.features["id"], strict=True):
        row = table.loc[box_id]
        corner = image.data_to_world((row.y0 - 0.5, row.x0 - 0.5))
        np.testing.assert_allclose(layer.data_to_world(box[0]), corner, atol=1e-4)
    for role, layer in by_role(viewer).items():
        first = layer.data_to_world((-0.5, -0.5))
        if role != "boxes":
            np.testing.assert_allclose(first, image.data_to_world((-0.5, -0.5)), atol=1e-9, err_msg=role)


def test_layers_grow_while_it_runs(
    make_napari_viewer: Make, slicing: str, commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(200, 4000))
    handle = run(viewer, out=tmp_path / "grows.xt.zarr")
    in_memory = lambda: np.count_nonzero(by_role(viewer)["mask"].data[-1])  # noqa: E731
    on_screen = lambda: np.count_nonzero(np.asarray(by_role(viewer)["mask"]._slice.image.raw))  # noqa: E731
    qtbot.waitUntil(lambda: "mask" in by_role(viewer), timeout=int(LONG * 1000))
    for _ in range(3):
        before = in_memory(), on_screen()
        commits.release()
        qtbot.waitUntil(lambda: in_memory() > before[0], timeout=int(LONG * 1000))  # noqa: B023
        qtbot.waitUntil(lambda: on_screen() > before[1], timeout=int(LONG * 1000))  # noqa: B023
        assert handle.state.phase == "running"
    commits.release(1000)
    handle.wait(LONG)
    qtbot.wait(50)


def test_second_run_reuses_the_layers_and_their_style(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image = viewer.add_image(picture(200, 300), name="scene")
    run(viewer, image, out=tmp_path / "a.xt.zarr").wait(LONG)
    first = by_role(viewer)
    first["mask"].opacity, first["mask"].name = 0.9, "mine"
    first["boxes"].current_edge_color = "red"
    handle = run(viewer, image, out=tmp_path / "b.xt.zarr", window=1)
    prediction = handle.wait(LONG)
    second = by_role(viewer)
    assert len(viewer.layers) == 4
    assert all(second[role] is first[role] for role in first)
    assert (second["mask"].opacity, second["mask"].name) == (0.9, "mine")
    assert second["mask"].metadata[TAG]["store"] == str(tmp_path / "b.xt.zarr")
    np.testing.assert_array_equal(second["mask"].data, prediction.mask[0][:])
    assert list(second["boxes"].features["id"]) == list(prediction.boxes["id"])
    assert len(set(map(tuple, second["boxes"].edge_color))) == 1


def test_outputs_that_are_not_asked_for_leave_no_layer(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(200, 300))
    run(viewer, out=tmp_path / "a.xt.zarr").wait(LONG)
    run(viewer, out=tmp_path / "b.xt.zarr", outputs=["mask"]).wait(LONG)
    assert list(by_role(viewer)) == ["mask"]


def test_two_images_keep_their_own_layers(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    for seed in (0, 1):
        image = viewer.add_image(picture(130, 130, seed))
        run(viewer, image, out=tmp_path / f"{seed}.xt.zarr").wait(LONG)
    assert len(viewer.layers) == 8


def test_a_layer_that_is_removed_stays_away(make_napari_viewer: Make, tmp_path: Path, qtbot: QtBot) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(200, 2000))
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: "boxes" in by_role(viewer), timeout=int(LONG * 1000))
    viewer.layers.remove(by_role(viewer)["boxes"])
    handle.wait(LONG)
    assert sorted(by_role(viewer)) == ["mask", "scores"]
    assert len(handle.layers) == 3


def test_stop_keeps_what_is_done_and_goes_on_later(make_napari_viewer: Make, tmp_path: Path, qtbot: QtBot) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(600, 2000))
    out = tmp_path / "a.xt.zarr"
    handle = run(viewer, out=out)
    qtbot.waitUntil(lambda: handle.state.done > 5, timeout=int(LONG * 1000))
    begun = time.monotonic()
    handle.cancel()
    handle.wait(LONG)
    assert time.monotonic() - begun < 5
    assert handle.state.phase == "stopped"
    assert handle.prediction.coverage < 1
    again = run(viewer, out=out)
    assert again.wait(LONG).complete
    assert again.state.summary.encoded <= again.state.total
    assert len(viewer.layers) == 4


@pytest.mark.parametrize("close", ["viewer", "window"])
def test_closing_the_viewer_stops_the_run(
    make_napari_viewer: Make, slicing: str, close: str, tmp_path: Path, qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(600, 2000))
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: handle.state.done > 5, timeout=int(LONG * 1000))
    (viewer if close == "viewer" else viewer.window).close()
    handle.wait(LONG)
    assert handle.state.phase == "stopped"


def test_closing_the_window_while_waiting_ends_the_wait(make_napari_viewer: Make, tmp_path: Path) -> None:
    from qtpy.QtCore import QTimer

    viewer = make_napari_viewer()
    viewer.add_image(picture(600, 2000))
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    QTimer.singleShot(1500, viewer.close)
    handle.wait(LONG)
    assert handle.state.over


def test_wait_off_the_viewers_thread_blocks(make_napari_viewer: Make, tmp_path: Path, qtbot: QtBot) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(200, 300))
    handle, answers = run(viewer, out=tmp_path / "a.xt.zarr"), []
    waiter = threading.Thread(target=lambda: answers.append(handle.wait(LONG)))
    waiter.start()
    qtbot.waitUntil(lambda: not waiter.is_alive(), timeout=int(LONG * 1000))
    assert answers[0].complete


def test_wait_gives_up_in_time(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(600, 2000))
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    with pytest.raises(TimeoutError):
        handle.wait(0.05)
    handle.cancel()
    handle.wait(LONG)


def test_path_is_opened_as_a_layer(make_napari_viewer: Make, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, picture(150, 200), photometric="rgb", tile=(64, 64))
    viewer = make_napari_viewer()
    first = run(viewer, path)
    prediction = first.wait(LONG)
    assert prediction.path == tmp_path / "scene.canopy.xt.zarr"
    assert viewer.layers[0].name == "scene"
    again = run(viewer, str(path))
    again.wait(LONG)
    assert again.state.summary.encoded == 0
    assert len(viewer.layers) == 4


BAD = {
    "no image": ({}, 0, SettingsError, "open an image"),
    "several images": ({}, 2, SettingsError, "select one"),
    "no such layer": ({"image": "nothing"}, 1, ImageNotFoundError, "nothing"),
    "no such file": ({"image": "/nowhere/scene.tif"}, 1, ImageNotFoundError, "no such"),
    "no such model": ({"model": "nothing"}, 1, ModelNotFoundError, "nothing"),
    "unknown option": ({"limit": 1}, 1, SettingsError, "limit"),
    "roi outside": ({"roi": "900,900,950,950"}, 1, SettingsError, "outside"),
}


@pytest.mark.parametrize(("options", "images", "error", "says"), BAD.values(), ids=BAD)
def test_what_can_be_known_at_once_is_raised_at_once(
    make_napari_viewer: Make, options: dict[str, Any], images: int, error: type[XTError], says: str
) -> None:
    viewer = make_napari_viewer()
    for _ in range(images):
        viewer.add_image(picture(100, 100))
    viewer.layers.selection.clear()
    with pytest.raises(error, match=says):
        run(viewer, **options)
    assert session_of(viewer).active is None
    assert len(viewer.layers) == images


class Lazy:
    """An image that says on which threads its pixels were read."""

    def __init__(self, pixels: Any) -> None:
        self.pixels, self.threads = pixels, set[str]()
        self.shape, self.dtype, self.ndim = pixels.shape, pixels.dtype, pixels.ndim

    def __getitem__(self, key: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        return self.pixels[key]


def test_a_click_reads_no_pixel_on_the_viewers_thread(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image = Lazy(picture(300, 400))
    viewer.add_image(image, rgb=True, contrast_limits=(0, 255))
    image.threads.clear()
    phases: list[str] = []
    session_of(viewer).changed.connect(lambda state: phases.append(state.phase))
    handle = run(viewer, out=tmp_path / "a.xt.zarr", intensity="percentile", skip_background=True)
    assert not image.threads
    prediction = handle.wait(LONG)
    assert list(dict.fromkeys(phases)) == ["starting", "planning", "running", "done"]
    expected = predict(image.pixels, "canopy", out=tmp_path / "b.xt.zarr", intensity="percentile", skip_background=True)
    pd.testing.assert_frame_equal(prediction.boxes, expected.boxes)


def test_what_only_pixels_tell_the_run_says(make_napari_viewer: Make, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(picture(300, 400))
    handle = run(viewer, out=tmp_path / "a.xt.zarr", skip_background=True, memory_limit_bytes=1000)
    with pytest.raises(SettingsError, match="memory_limit_bytes"):
        handle.wait(LONG)
    with pytest.raises(SettingsError, match="memory_limit_bytes"):
        run(viewer, out=tmp_path / "a.xt.zarr", memory_limit_bytes=1000)


def test_error_of_the_run_is_told_and_raised_again(make_napari_viewer: Make, tmp_path: Path) -> None:
    from napari.utils.notifications import notification_manager

    (tmp_path / "taken.xt.zarr").write_text("mine")
    viewer = make_napari_viewer()
    viewer.add_image(picture(100, 100))
    notification_manager.records.clear()
    handle = run(viewer, out=tmp_path / "taken.xt.zarr")
    with pytest.raises(XTError, match="holds no prediction"):
        handle.wait(LONG)
    assert [str(handle.state.error)] == [record.message for record in notification_manager.records]
    assert (tmp_path / "taken.xt.zarr").read_text() == "mine"
    assert len(viewer.layers) == 1
    assert run(viewer, out=tmp_path / "free.xt.zarr").wait(LONG).complete


def test_refreshes_are_rare(make_napari_viewer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    monkeypatch.setattr(Labels, "refresh", lambda self, *a, **k: times.append(time.monotonic()))
    viewer = make_napari_viewer()
    viewer.add_image(picture(600, 2000))
    run(viewer, out=tmp_path / "a.xt.zarr").wait(LONG)
    gaps = np.diff(times[:-1])  # the last one is at the end, whenever that is
    assert len(gaps)
    shown = [gap for gap in gaps if gap > 1e-3]  # napari itself refreshes while it adds a layer
    assert min(shown, default=1) >= live.REFRESH_S * 0.9


def test_planes_in_view_are_run(make_napari_viewer: Make, tmp_path: Path) -> None:
    stack = np.stack([picture(130, 130, seed) for seed in range(3)])
    viewer = make_napari_viewer()
    viewer.add_image(stack, rgb=True)
    viewer.dims.set_point(0, 2)
    prediction = run(viewer, out=tmp_path / "a.xt.zarr").wait(LONG)
    expected = predict(stack[2], "canopy", out=tmp_path / "b.xt.zarr")
    pd.testing.assert_frame_equal(prediction.boxes, expected.boxes)
    assert isinstance(by_role(viewer)["boxes"], Shapes)
