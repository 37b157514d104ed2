"""What a model was trained on beside this image, in the dock widget."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_xt.model import zoo
from napari_xt.model.thumbnails import put_thumbnails
from napari_xt.plugin.widgets import pictures
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot


@pytest.fixture
def shown(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a model with pictures in the place of the bundled ones."""
    path = shutil.copy(model_folder / "canopy.safetensors", tmp_path / "canopy.safetensors")
    put_thumbnails(path, [picture(64, 64, seed) for seed in range(3)])
    monkeypatch.setattr(zoo, "_bundled", lambda: tmp_path)
    return path


def test_training_data_stands_beside_this_image(
    shown: Path, make_napari_viewer: Callable[..., Any], qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    seen = pictures.seen
    monkeypatch.setattr(pictures, "seen", lambda *args: (read.append(1), seen(*args))[1])
    viewer = make_napari_viewer(show=True)
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run xT", area="right")
    assert widget.pictures.isHidden()
    pixels = picture(300, 400)
    pixels[:] = (255, 0, 0)
    layer = viewer.add_image(pixels, name="scene")
    row = widget.pictures
    qtbot.waitUntil(lambda: not row.this.pixmap().isNull(), timeout=20_000)
    assert len(row.trained) == 3
    assert row.this.pixmap().toImage().pixelColor(10, 10).name() == "#ff0000"
    widget.form.outputs.boxes["boxes"].click()
    qtbot.waitUntil(lambda: "mask, scores" in widget.card.text(), timeout=20_000)
    assert read == [1], "it is kept for what is chosen"
    viewer.layers.remove(layer)
    assert row.isHidden()


def test_a_model_without_pictures_shows_none(
    canopy: Path, make_napari_viewer: Callable[..., Any], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((300, 400, 3), np.uint8))
    widget = RunWidget(viewer)
    qtbot.addWidget(widget)
    qtbot.waitUntil(lambda: "regions" in widget.card.text(), timeout=20_000)
    assert widget.pictures.isHidden()
