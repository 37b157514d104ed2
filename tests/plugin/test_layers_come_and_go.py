"""Layers of a run go while the canvas shows them, others come, and the canvas goes on drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtGui import QOpenGLContext

from napari_xt.plugin.run import run
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_xt.plugin.run import RunHandle

LONG = 120.0


@pytest.mark.usefixtures("canopy")
def test_a_canvas_draws_on_after_its_layers_were_removed(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
    for name in ("first", "second"):
        viewer.add_image(picture(400, 800), rgb=True)
        viewer.reset_view()
        handle = run(viewer, viewer.layers[0], out=tmp_path / f"{name}.xt.zarr")
        move_until_shown(viewer, handle, qtbot)
        handle.cancel()
        handle.wait(LONG)
        qtbot.wait(100)
        viewer.layers.clear()
        assert QOpenGLContext.currentContext() is canvas(viewer).context(), "freed in another context than drawn in"
    viewer.add_image(np.full((64, 64), 200, np.uint8), contrast_limits=(0, 255))
    viewer.reset_view()
    qtbot.wait(200)
    assert (viewer.screenshot(canvas_only=True, flash=False)[..., 0] > 150).any()


def move_until_shown(viewer: Any, handle: RunHandle, qtbot: QtBot) -> None:
    turn = iter(np.linspace(0, 100, 100_000))

    def shown() -> bool:
        viewer.scene.camera.center = (0.0, 200.0, 400.0 + 300 * np.sin(next(turn)))
        return len(handle.layers) > 1 and handle.state.done > 0

    qtbot.waitUntil(shown, timeout=int(LONG * 1000))


def canvas(viewer: Any) -> Any:
    return viewer.window._qt_viewer.canvas.native
