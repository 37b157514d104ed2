"""Opening, running, stopping and closing again and again leaves no thread, file, widget or object of ours behind."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtWidgets import QApplication

from napari_xt.plugin.run import run
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG = 120.0
WARM = 2  # cycles until all is imported and cached


def open_run_cancel_close(make_viewer: Callable[..., Any], qtbot: QtBot, out: Path) -> None:
    viewer = make_viewer()
    image = viewer.add_image(picture(200, 1500))
    viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
    handle = run(viewer, image, out=out, restart=True)
    qtbot.waitUntil(lambda: handle.state.over or len(handle.layers) > 1, timeout=int(LONG * 1000))
    handle.cancel()
    handle.wait(LONG)
    viewer.layers.clear()
    viewer.open(out, plugin="napari-xt")
    viewer.layers.clear()
    viewer.close()


def alive() -> Counter[str]:
    """Count what may leak, objects of ours by class."""
    for _ in range(3):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        QCoreApplication.processEvents()
        gc.collect()
    found = Counter(
        threads=threading.active_count(), files=psutil.Process().num_fds(), windows=len(QApplication.topLevelWidgets())
    )
    ours = (type(thing) for thing in gc.get_objects())
    found.update(f"{kind.__module__}.{kind.__name__}" for kind in ours if str(kind.__module__).startswith("napari_xt"))
    return found


@pytest.mark.usefixtures("canopy")
@pytest.mark.parametrize("cycles", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_grows(cycles: int, make_napari_viewer: Callable[..., Any], qtbot: QtBot, tmp_path: Path) -> None:
    for _ in range(WARM):
        open_run_cancel_close(make_napari_viewer, qtbot, tmp_path / "a.xt.zarr")
    before = alive()
    for _ in range(cycles):
        open_run_cancel_close(make_napari_viewer, qtbot, tmp_path / "a.xt.zarr")
    assert alive() - before == Counter()
