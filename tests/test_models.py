"""What is bundled keeps what it promises: small, described, with the figures that its card tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import napari_xt as xt
from napari_xt.model.zoo import ModelInfo

BUNDLED = xt.list_models()


@pytest.fixture(params=BUNDLED, ids=lambda info: info.name)
def info(request: pytest.FixtureRequest) -> ModelInfo:
    found: ModelInfo = request.param
    return found


def test_canopy_is_bundled() -> None:
    assert "canopy" in [info.name for info in BUNDLED]


def test_files_are_small_and_in_half_precision(info: ModelInfo) -> None:
    assert info.path.stat().st_size <= 12_000_000
    kinds = {array.dtype for array in load_file(info.path).values()}
    assert np.dtype(np.float16) in kinds
    assert np.dtype(np.float32) not in kinds


def test_the_card_tells_licence_provenance_use_and_the_figures_of_the_file(info: ModelInfo) -> None:
    card = Path(info.path).with_suffix(".md").read_text()
    assert info.card.metrics
    real = ("research use only, not for diagnosis", "NEON", "DeepForest", "MIT", "never trained on")
    for text in ("synthetic", "never for real images") if info.card.synthetic else real:
        assert text.lower() in card.lower()
    for name, value in info.card.metrics.items():
        assert f"{value:.2f}" in card, name


def test_the_bundled_model_still_finds_what_its_card_says(shared: Path, tmp_path: Path) -> None:
    from napari_xt.plugin.demo import held_out_quality

    image = shared / "data/canopy/yellowstone_a.png"
    strip = xt.predict(image, "canopy", out=tmp_path / "strip.xt.zarr", roi="1792,0,2472,2299")
    quality = held_out_quality(strip)
    told = next(info.card.metrics for info in BUNDLED if info.name == "canopy")
    assert quality.f1 > 0.6
    assert abs(quality.f1 - told["f1"]) < 0.03  # the card's figure is of the whole scene: other windows
