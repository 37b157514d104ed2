"""What is synthetic: the slide among the samples, the models that are offered for it, and for nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.layers import Layer

from napari_xt.errors import ModelError
from napari_xt.io.computed.synthetic import MASK, SyntheticSlide
from napari_xt.model import zoo
from napari_xt.plugin.images.synthetic import is_synthetic
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.run import run, session_of
from napari_xt.plugin.sample_data import SLIDE_PX, context_proof
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot

Docked = tuple[Any, RunWidget]

MAKE_PROOF = """
import sys
from dataclasses import replace
from small_model import SMALL, small_model
from napari_xt.io.computed.synthetic import MASK, SCORES
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
config = replace(SMALL, scale_um=None, window=2, mask=MASK, boxes=None, scores=SCORES)
save_model(small_model(config), sys.argv[1], ModelCard(name="context-proof", synthetic=True))
"""


@pytest.fixture(scope="session")
def proof_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both") / "models"
    shutil.copytree(model_folder, folder)
    make = [sys.executable, "-c", MAKE_PROOF, str(folder / "context-proof.safetensors")]
    subprocess.run(make, check=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.fixture
def dock(
    proof_folder: Path, make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Docked:
    monkeypatch.setattr(zoo, "_bundled", lambda: proof_folder)
    viewer = make_napari_viewer(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-xt", "Run xT")
    widget.form.more.out.setText(str(tmp_path / "a.xt.zarr"))
    return viewer, widget


def offered(widget: RunWidget) -> list[str]:
    texts = [widget.form.model.itemText(i) for i in range(widget.form.model.count() - 2)]  # Browse, a new model
    return [text.partition("   ")[0] for text in texts]


def test_synthetic_models_are_offered_for_the_synthetic_slide_alone(dock: Docked) -> None:
    viewer, widget = dock
    assert offered(widget) == ["canopy"]
    real = viewer.add_image(picture(128, 128), name="synthetic, it says")
    assert offered(widget) == ["canopy"]
    viewer.add_image(SyntheticSlide((256, 256)).data[0], name="mine", rgb=True)
    assert offered(widget) == ["canopy", "context-proof (synthetic)"]
    assert widget.form.model.info.name == "context-proof"
    assert "synthetic" in widget.form.model.toolTip()
    viewer.layers.selection.active = real
    assert offered(widget) == ["canopy"]
    assert widget.form.model.info.name == "canopy"


def test_synthetic_model_is_refused_for_a_real_image(dock: Docked, proof_folder: Path) -> None:
    viewer, widget = dock
    layer = viewer.add_image(SyntheticSlide((256, 256)).data[0], name="slide", rgb=True)
    layer.data = picture(256, 256)  # behind the list's back
    widget.run_button.click()
    assert "context-proof: is synthetic" in widget.status.text()
    for model in (proof_folder / "context-proof.safetensors", zoo.describe(proof_folder / "context-proof.safetensors")):
        with pytest.raises(ModelError, match="slide is none"):
            run(viewer, layer, model)
    assert session_of(viewer).runs == []
    assert list(viewer.layers) == [layer]


def test_everything_about_it_is_called_synthetic(dock: Docked, qtbot: QtBot) -> None:
    viewer, widget = dock
    viewer.add_image(list(SyntheticSlide((256, 256)).data), name="mine", rgb=True, multiscale=True)
    qtbot.waitUntil(lambda: "<b>synthetic</b>" in widget.card.text(), timeout=5000)
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.handle.state.over, timeout=120_000)
    assert widget.handle.state.error is None
    made = [layer for layer in viewer.layers if TAG in layer.metadata]
    assert [layer.name for layer in made] == ["mine (synthetic) - xT scores", "mine (synthetic) - xT mask"]


def test_sample_opens_lazily(dock: Docked, qtbot: QtBot) -> None:
    viewer, widget = dock
    viewer.open_sample("napari-xt", "context-proof")
    image, truth = viewer.layers
    assert "synthetic" in image.name
    assert "synthetic" in truth.name
    assert image.data[0].shape == (SLIDE_PX, SLIDE_PX, 3)
    assert (truth.visible, truth.multiscale, image.multiscale) == (False, True, True)
    assert is_synthetic(image)
    assert widget.form.model.info.name == "context-proof"
    qtbot.waitUntil(lambda: "synthetic slide" in widget.card.text(), timeout=5000)
    truth.visible = True
    qtbot.waitUntil(lambda: truth.loaded and image.loaded, timeout=20_000)
    qtbot.wait(50)
    assert set(np.unique(truth._slice.image.raw)) == {0, 1, 2, 3}


def test_sample_shows_what_the_slide_is() -> None:
    slide = SyntheticSlide((SLIDE_PX, SLIDE_PX))
    image, truth = [Layer.create(*data) for data in context_proof()]
    part = (slice(2000, 2100), slice(1500, 1700))
    np.testing.assert_array_equal(image.data[0][part], slide.data[0][part])
    np.testing.assert_array_equal(truth.data[0][part], slide.truth[0][part])
    np.testing.assert_array_equal(image.data_to_world((0, 0)), truth.data_to_world((0, 0)))
    assert list(truth.features["class"]) == list(MASK)
