"""Several runs in a viewer: one after the other, and nothing is left where layers or the viewer go meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run, session_of
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("canopy")
LONG = 60.0
LONG_MS = int(LONG * 1000)


def with_images(make: Make, *names: str) -> Any:
    viewer = make()
    for seed, name in enumerate(names):
        viewer.add_image(picture(200, 300, seed), name=name)
    return viewer


def names(viewer: Any) -> set[str]:
    return {layer.name for layer in viewer.layers if layer.metadata.get(TAG, {}).get("role") in ("mask", "scores")}


def test_second_run_waits_for_its_turn(make_napari_viewer: Make, commits: Gate, tmp_path: Path) -> None:
    viewer = with_images(make_napari_viewer, "a", "b")
    first, second = (run(viewer, name, out=tmp_path / f"{name}.xt.zarr") for name in "ab")
    assert second.state.phase == "queued"
    assert second.prediction is None
    commits.release(1000)
    found = second.wait(LONG)
    assert found is not None
    assert found.complete
    assert first.state.phase == second.state.phase == "done"
    assert names(viewer) == {f"{name} - xT {role}" for name in "ab" for role in ("mask", "scores")}


def test_waiting_run_can_be_cancelled(make_napari_viewer: Make, commits: Gate, tmp_path: Path) -> None:
    viewer = with_images(make_napari_viewer, "a", "b")
    first, second = (run(viewer, name, out=tmp_path / f"{name}.xt.zarr") for name in "ab")
    with pytest.raises(TimeoutError):
        second.wait(0.05)
    second.cancel()
    assert second.state.phase == "stopped"
    assert second.wait(LONG) is None
    commits.release(1000)
    first.wait(LONG)
    assert session_of(viewer).active is None
    assert not (tmp_path / "b.xt.zarr").exists()


def test_waiting_off_the_viewers_thread(make_napari_viewer: Make, commits: Gate, qtbot: QtBot, tmp_path: Path) -> None:
    viewer = with_images(make_napari_viewer, "a", "b")
    _, second = (run(viewer, name, out=tmp_path / f"{name}.xt.zarr") for name in "ab")
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(second.wait(LONG)))
    waiter.start()
    commits.release(1000)
    qtbot.waitUntil(lambda: not waiter.is_alive(), timeout=LONG_MS)
    assert answers[0].complete


def test_run_whose_image_goes_while_it_waits_never_begins(
    make_napari_viewer: Make, commits: Gate, tmp_path: Path
) -> None:
    viewer = with_images(make_napari_viewer, "a", "b", "c")
    first, second, third = (run(viewer, name, out=tmp_path / f"{name}.xt.zarr") for name in "abc")
    viewer.layers.remove("b")
    commits.release(1000)
    assert third.wait(LONG) is not None
    assert [handle.state.phase for handle in (first, second, third)] == ["done", "stopped", "done"]
    assert not (tmp_path / "b.xt.zarr").exists()


def test_all_layers_may_go_while_it_runs(make_napari_viewer: Make, commits: Gate, qtbot: QtBot, tmp_path: Path) -> None:
    viewer = with_images(make_napari_viewer, "a")
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: len(names(viewer)) == 2, timeout=LONG_MS)
    viewer.layers.clear()
    commits.release(1000)
    prediction = handle.wait(LONG)
    assert prediction is not None
    assert prediction.complete, "what was asked for is done"
    assert not viewer.layers


def test_closing_the_viewer_ends_all_runs(
    make_napari_viewer: Make, commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = with_images(make_napari_viewer, "a", "b")
    first, second = (run(viewer, name, out=tmp_path / f"{name}.xt.zarr") for name in "ab")
    qtbot.waitUntil(lambda: len(names(viewer)) == 2, timeout=LONG_MS)
    viewer.close()
    commits.shut.set()
    qtbot.waitUntil(lambda: first.state.over and second.state.over, timeout=LONG_MS)
    assert second.state.phase == "stopped"
    assert not (tmp_path / "b.xt.zarr").exists()
