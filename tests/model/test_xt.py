from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_xt.errors import ModelError
from napari_xt.model.config import ContextConfig
from napari_xt.model.heads import DenseHead, decode_boxes
from napari_xt.model.tokens import to_regions
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

SIDE = SMALL.region_px


def image(rows: int = 3, cols: int = 2) -> torch.Tensor:
    return torch.randn(1, 3, rows * SIDE, cols * SIDE, generator=torch.Generator().manual_seed(1))


def test_forward_is_encode_contextualise_decode() -> None:
    model = small_model()
    regions = to_regions(image(), SIDE, SMALL.halo_px)
    tokens, local = model.encode(regions.flatten(0, 2))
    grid = regions.shape[:3]
    steps = model.decode(local.unflatten(0, grid), model.contextualise(tokens.unflatten(0, grid)))
    whole = model(image())
    for a, b in zip(steps, whole, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_shapes_of_the_outputs() -> None:
    output = small_model()(image()[..., :-10])
    assert output.mask.shape == (1, 2, 3 * 16, 2 * 16)
    assert output.boxes.shape == (1, 1 + 4, 3 * 16, 2 * 16)
    assert output.scores.shape == (1, 3, 2, 3)
    assert output.label is None


@pytest.mark.parametrize(("kind", "sees"), [("mamba", True), ("none", False)])
def test_scores_of_a_region_depend_on_other_regions_through_the_context_alone(kind: str, sees: bool) -> None:
    model = small_model(replace(SMALL, halo_px=0, context=ContextConfig(kind=kind, layers=2, dim=32)))
    changed = image(4, 4)
    before = model(changed.clone()).scores
    changed[..., 3 * SIDE :, 3 * SIDE :] *= -2
    after = model(changed).scores
    others = (before != after).any(-1)[0]
    assert bool(others[0, 0]) is sees
    assert bool(others[3, 3])


def test_context_off_leaves_every_region_alone() -> None:
    model = small_model()
    tokens = torch.randn(1, 2, 2, 4, 32)
    changed = tokens.clone()
    changed[0, 1, 1] += 1
    off = [model.contextualise(x, context=False).regions for x in (tokens, changed)]
    assert torch.equal(off[0][0, 0, 0], off[1][0, 0, 0])
    assert not torch.equal(off[0], model.contextualise(tokens).regions)


def test_the_same_regions_elsewhere_in_the_window_have_another_context() -> None:
    tokens = torch.randn(1, 2, 2, 4, 32)
    model = small_model()
    assert not torch.equal(model.contextualise(tokens).regions, model.contextualise(tokens, (2, 1)).regions)


def test_a_constant_encoder_shows_no_seam() -> None:
    torch.manual_seed(0)
    head = DenseHead(4, 32, 2)
    rows = torch.linspace(0, 1, 8)[None, :, None, None]  # a context that changes evenly from region to region
    context = (rows * torch.randn(32)).expand(1, 8, 8, 32)
    logits = head(torch.zeros(1, 4, 64, 64), context)
    steps = logits.diff(dim=2).abs()[0, :, 4:-4]
    assert steps.max() < 2.5 * steps.median()


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_scores_of_a_region_have_the_same_bits_however_many_rows_there_are(rows: int) -> None:
    model = small_model()
    context = torch.randn(1, 5, 1, 4, 32)
    torch.set_num_threads(1)
    assert torch.equal(model.score_head(context)[:, :rows], model.score_head(context[:, :rows]))


@pytest.mark.parametrize(
    ("dtype", "top"),
    [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 1.0), ("float64", 1.0)],
)
def test_prepare_scales_every_dtype_to_its_range(dtype: str, top: float) -> None:
    model = small_model(replace(SMALL, mean=(0.0,) * 3, std=(1.0,) * 3))
    pixels = np.full((3, 4, 4), top, dtype=dtype)
    assert torch.equal(model.prepare(pixels), torch.ones(3, 4, 4))


def test_prepare_chooses_channels_and_makes_the_infinite_finite() -> None:
    model = small_model()
    pixels = np.zeros((2, 4, 4), np.float32)
    pixels[1, 0, 0], pixels[1, 1, 1] = np.nan, np.inf
    prepared = model.prepare(pixels, (1, 0, 1))
    assert torch.isfinite(prepared).all()
    assert prepared[0, 0, 0] == prepared[2, 1, 1] == 0
    with pytest.raises(ModelError, match="wants 3"):
        model.prepare(pixels)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"region_encoder": "no_such_net"}, "no_such_net"),
        ({"halo_px": 16}, "stride 32"),
        ({"local": replace(SMALL.local, stride=16, hidden=8)}, None),
    ],
)
def test_region_encoders_that_can_not_be_are_refused(change: dict[str, object], named: str | None) -> None:
    config = replace(SMALL, **change)
    if named is None:
        assert XT(config).eval()(image()).mask.shape[-1] == 2 * SIDE // 16
    else:
        with pytest.raises(ModelError, match=named):
            XT(config)


def test_boxes_are_peaks_with_their_geometry() -> None:
    raw = torch.full((5, 8, 8), -6.0)
    raw[0, 2, 3] = 4.0
    raw[0, 2, 4] = 3.0  # beside a higher peak
    raw[1:3] = 0.0  # the middle of the cell
    raw[3:] = float(np.log(5))
    found = decode_boxes(raw, stride=4)
    assert found.centres.tolist() == [[10.0, 14.0]]
    np.testing.assert_allclose(found.boxes.numpy(), [[0, 4, 20, 24]], atol=1e-4)
    np.testing.assert_allclose(found.scores.numpy(), [1 / (1 + np.exp(-4))], atol=1e-6)


def test_a_centre_never_leaves_its_cell() -> None:
    raw = torch.full((5, 4, 4), -6.0)
    raw[0, 1, 1], raw[1], raw[2] = 4.0, 1e4, -1e4
    y, x = decode_boxes(raw, stride=4).centres[0].tolist()
    assert 4 <= y < 8
    assert 4 <= x < 8
