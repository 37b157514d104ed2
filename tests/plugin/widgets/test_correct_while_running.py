"""Correcting while a run goes on, and when the next one takes its layers: what was corrected stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_xt.plugin.run import run
from napari_xt.plugin.widgets.correct import CorrectWidget
from paint_case import drag, look_at
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

pytestmark = pytest.mark.usefixtures("canopy")
LONG_S, LONG_MS = 120.0, 120_000


def test_corrections_win_over_what_arrives_later(
    make_napari_viewer: Callable[..., Any], commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(200, 1200), name="scene")
    _, widget = viewer.window.add_plugin_dock_widget("napari-xt", "Correct and refine")
    assert isinstance(widget, CorrectWidget)
    correcting = widget.correcting
    handle = run(viewer, out=tmp_path / "a.xt.zarr")
    qtbot.waitUntil(lambda: correcting.layer is not None, timeout=LONG_MS)
    assert not handle.state.over
    widget.classes.use("Brush")
    correcting.choose_class(1)
    layer = correcting.layer
    look_at(viewer, layer, (100, 600), 1.0)
    layer.brush_size = 21
    drag(viewer, layer, [(100, 550), (100, 650)])
    painted = np.asarray(correcting.corrections.mask[0][90:111, 550:651])
    assert (painted == 1).all()
    commits.release(1000)
    found = handle.wait(LONG_S)
    assert found is not None
    qtbot.waitUntil(lambda: handle.state.over and correcting.layer is layer, timeout=LONG_MS)
    qtbot.wait(300)
    predicted, final = np.asarray(found.mask[0][:]), np.asarray(layer.data)
    np.testing.assert_array_equal(final[90:111, 550:651], 1)
    outside = np.ones(final.shape, bool)
    outside[80:121, 530:671] = False
    np.testing.assert_array_equal(final[outside], predicted[outside])
    assert widget.status.isHidden()

    second = run(viewer, out=tmp_path / "b.xt.zarr", context=False)
    assert second.wait(LONG_S) is not None
    qtbot.waitUntil(lambda: correcting.store.endswith("b.xt.zarr") and correcting.layer is not None, timeout=LONG_MS)
    assert [one.name for one in viewer.layers if "final" in one.name] == ["scene - xT final"]
    assert not (np.asarray(correcting.corrections.diff[0][:]) != 255).any(), "the first one's stay with the first"
    correcting.choose(None)
    assert not any("final" in one.name for one in viewer.layers)
    qtbot.wait(60)
