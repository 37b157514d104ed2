"""New models by the paper's names: valid whatever is asked, or a sentence that says what to change."""

from __future__ import annotations

import pytest
import torch

import napari_xt as xt
from napari_xt.errors import ModelError
from napari_xt.model.new import REGION_ENCODERS, _config

CONTEXTS = ("transformer-xl", "hyper", "mamba", "longformer", "none")
OUTPUTS = ("mask", "boxes", "scores")


@pytest.mark.parametrize("name", sorted(REGION_ENCODERS))
def test_every_name_of_the_paper_gives_a_configuration(name: str) -> None:
    config = _config(("tree",), name, "mamba", OUTPUTS, 3, {})
    assert config.region_encoder == REGION_ENCODERS[name]
    assert config.halo_px == (0 if name.startswith(("swin", "hiera")) else 32)
    assert config.region_px == (224 if name.startswith("hiera") else 256)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_new_model_runs_at_once(context: str) -> None:
    small = {"region_px": 64, "dim": 64, "layers": 2, "window": 2}
    model = xt.new_model(
        ["tumour", "stroma"], "test_convnext", context, outputs=(*OUTPUTS, "label"), in_channels=5, **small
    )
    output = model(torch.randn(1, 5, 100, 128))
    assert output.mask.shape == (1, 3, 32, 32)
    assert output.boxes.shape == (1, 2 + 4, 32, 32)
    assert output.scores.shape == (1, 2, 2, 3)
    assert output.label.shape == (1, 2)
    assert (
        model.digest
        == xt.new_model(
            ["tumour", "stroma"], "test_convnext", context, outputs=(*OUTPUTS, "label"), in_channels=5, **small
        ).digest
    )


def test_a_region_larger_than_a_fixed_encoder_is_nested() -> None:
    config = _config(("tree",), "swin-t", "hyper", OUTPUTS, 3, {"region_px": 1024, "dim": 256})
    assert config.sub_regions_px == (256,)
    assert config.encoder_px == 256


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"region_encoder": "swim-t"}, "swim-t"),
        ({"context": "rnn"}, "context.kind = 'rnn'"),
        ({"outputs": ("masks",)}, "outputs = 'masks'"),
        ({"tokens": 4}, "tokens = 4"),
        ({"region_encoder": "swin-t", "region_px": 260}, "it takes"),
        ({"region_encoder": "swin-t", "region_px": 250}, "region_px = 250"),
        ({"region_encoder": "test_convnext", "halo_px": 20}, "it takes 288 or 320"),
        ({"region_encoder": "test_convnext", "tokens_per_side": 9, "region_px": 256}, "at most 8"),
        ({"region_encoder": "test_convnext", "dim": 30}, "context.dim = 30"),
    ],
    ids=str,
)
def test_what_to_change_is_said(asked: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError) as error:
        xt.new_model(["tree"], **asked)  # type: ignore[arg-type]
    assert named in str(error.value)
