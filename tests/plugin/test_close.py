"""A viewer that is closed while it works ends its process, with nothing said and nothing broken."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_xt.plugin._thread import CLOSING_S, Pull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytestqt.qtbot import QtBot

CLOSES = """
import sys, time
from pathlib import Path
import napari
from napari_xt.model import zoo
from napari_xt.plugin._loop import wait_until
from napari_xt.plugin.run import run
from plugin_fixtures import picture

models, out, seconds, how = Path(sys.argv[1]), *sys.argv[2:]
zoo._bundled = lambda: models
viewer = napari.Viewer()
viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
viewer.window.add_plugin_dock_widget("napari-xt", "Region scores")
handle = run(viewer, viewer.add_image(picture(400, 1500), rgb=True), out=out)
if how != "at once":
    wait_until(lambda: handle.state.over or handle.state.done > 0, 120)
end = time.monotonic() + float(seconds)
wait_until(lambda: time.monotonic() > end)
if how == "window":
    viewer.window._qt_window.close()
elif how != "never":
    viewer.close()
"""
WAYS = ("at once", "viewer", "window", "never")


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_process_ends_well_whenever_its_viewer_is_closed(times: int, model_folder: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for turn in range(times):
        how = WAYS[(turn + 1) % len(WAYS)]
        command = [sys.executable, "-c", CLOSES, str(model_folder), str(tmp_path / f"{turn}.xt.zarr")]
        ended = subprocess.run(
            [*command, f"{chance.uniform(0, 1):.2f}", how],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (how, ended.returncode, ended.stderr) == (how, 0, "")


def test_closing_waits_a_moment_for_what_has_a_name(make_napari_viewer: Callable[..., Any], qtbot: QtBot) -> None:
    viewer, let_go, ends = make_napari_viewer(), threading.Event(), list[str]()

    def slow() -> Iterator[int]:
        yield 1
        let_go.wait(60)
        yield 2

    def quick() -> Iterator[int]:
        while True:
            time.sleep(0.01)
            yield 1

    Pull(slow, print, lambda _: ends.append("slow"), viewer, "one that does not listen")
    Pull(quick, print, lambda _: ends.append("quick"), viewer)
    began = time.monotonic()
    viewer.close()
    assert CLOSING_S * 0.9 < time.monotonic() - began < CLOSING_S + 20
    qtbot.waitUntil(lambda: ends == ["quick"], timeout=20_000)
    let_go.set()
    qtbot.waitUntil(lambda: ends == ["quick", "slow"], timeout=20_000)


def test_a_window_names_what_goes_on_only_while_it_does(make_napari_viewer: Callable[..., Any], qtbot: QtBot) -> None:
    viewer, let_go = make_napari_viewer(), threading.Event()

    def work() -> Iterator[int]:
        let_go.wait(60)
        yield 1

    pull = Pull(work, print, print, viewer, "a run goes on")
    tasks = viewer.window._task_status_manager
    assert tasks.get_status() == ["napari-xt: a run goes on"]
    let_go.set()
    assert pull.wait(60)
    assert tasks.get_status() == []
