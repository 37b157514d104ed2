"""Every part of the family in a whole network: context encoders, scans, summaries, overview, heads, own modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.config import ContextConfig, XTConfig
from napari_xt.model.tokens import positions, scan_order
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

TINY = ContextConfig(layers=2, dim=32, segment_tokens=8, memory_tokens=8, attention_window=8)
KINDS = ("mamba", "transformer_xl", "hyper", "longformer")
SCANS = ("raster", "region", "zigzag", "two_stream")
LABEL = replace(SMALL, mask=None, boxes=None, scores=None, label=("cat", "dog"), halo_px=0)


def tokens(rows: int = 3, cols: int = 2, dim: int = 32, each: int = 4) -> Tensor:
    return torch.randn(1, rows, cols, each, dim, generator=torch.Generator().manual_seed(3))


def built(context: ContextConfig, config: XTConfig = SMALL) -> XT:
    torch.manual_seed(0)
    return XT(replace(config, context=context)).eval().requires_grad_(False)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_region_reaches_every_other_in_every_scan(kind: str, scan: str) -> None:
    model = built(replace(TINY, kind=kind, scan=scan, attention_window=64, segment_tokens=64)).double()
    before = model.contextualise(tokens().double()).regions
    for row, col in ((0, 0), (2, 1), (1, 0)):
        changed = tokens().double()
        changed[0, row, col, :, 0] += 1
        differs = (model.contextualise(changed).regions != before).any(dim=-1).any(dim=-1)[0]
        assert differs.all(), (row, col)


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_applied_again_has_the_weights_of_one_layer(kind: str) -> None:
    config = replace(TINY, kind=kind, layers=3)
    once, again = (built(c).context for c in (replace(config, layers=1), replace(config, recurrent=True)))
    count = [sum(p.numel() for p in m.parameters()) for m in (once, again)]
    assert count[0] == count[1]
    x = torch.randn(1, 9, 32)
    assert not torch.equal(once(x), again(x))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(SCANS), st.sampled_from(KINDS))
def test_any_grid_keeps_its_shape_and_its_places(rows: int, cols: int, scan: str, kind: str) -> None:
    """Without layers a token comes back to where it was."""
    model = built(replace(TINY, kind=kind, scan=scan))
    x = tokens(rows, cols)
    assert model.contextualise(x).regions.shape == x.shape
    model.context, model.context_norm = nn.Identity(), nn.Identity()
    place = positions(rows * 2, cols * 2, 32)
    same = model.contextualise(x).regions[0, rows - 1, 0, 1] - place[rows * 2 - 2, 1]
    torch.testing.assert_close(same, x[0, rows - 1, 0, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", range(1, 6))
def test_scans_are_those_of_the_released_code(shared: Path, size: int) -> None:
    orders = json.loads((shared / "reference" / "tiling_orders.json").read_text())["grid_size_to_order"]
    ours = {"naive": "raster", "zig_zag_horizontal": "zigzag", "naive_two_stream": "two_stream"}
    for theirs, scan in ours.items():
        steps = orders[theirs][str(size)]
        assert scan_order(scan, size, size).tolist() == [row * size + col for row, col, _, _ in steps]  # type: ignore[arg-type]
        kept = [not memory_only for *_, memory_only in steps]
        assert kept == [i >= len(steps) - size * size for i in range(len(steps))]


def test_a_region_scan_walks_one_region_after_the_other() -> None:
    assert scan_order("region", 2, 4, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_without_context_a_region_is_what_it_is_anywhere() -> None:
    model = built(replace(TINY, kind="none"))
    x = tokens()
    assert torch.equal(model.contextualise(x).regions, model.contextualise(x, (2, 1)).regions)


@pytest.mark.parametrize("side", [1, 2])
def test_the_first_region_sees_the_layout_through_the_overview(side: int) -> None:
    """A causal encoder tells the first region nothing of the others; the overview does."""
    context = ContextConfig(kind="hyper", layers=2, dim=32, causal=True, tokens_per_side=1, overview_tokens=side * side)
    config = replace(SMALL, halo_px=0)
    images = torch.randn(1, 3, 192, 128, generator=torch.Generator().manual_seed(1))
    changed = images.clone()
    changed[..., 128:, 64:] *= -1
    for sees, chosen in ((True, context), (False, replace(context, overview_tokens=0))):
        model = built(chosen, config)
        assert torch.equal(model(images).scores[0, 0, 0], model(changed).scores[0, 0, 0]) is not sees


def test_an_overview_that_is_missing_is_named() -> None:
    model = built(replace(TINY, overview_tokens=4))
    with pytest.raises(ModelError, match="overview"):
        model.contextualise(tokens())


def test_the_label_sees_the_whole_window() -> None:
    model = small_model(replace(LABEL, context=TINY))
    images = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    output = model(images)
    assert output.label.shape == (2, 2)
    assert output.mask is output.boxes is output.scores is None
    for y, x in ((0, 0), (127, 191), (70, 100)):
        changed = images.clone()
        changed[0, :, y, x] += 20
        assert not torch.equal(model(changed).label[0], output.label[0])
        torch.testing.assert_close(model(changed).label[1], output.label[1], atol=1e-5, rtol=1e-5)


def test_the_naive_head_is_a_perceptron_on_the_mean_of_the_encoder_map() -> None:
    model = small_model(replace(LABEL, label_head="pooled", context=replace(TINY, kind="none")))
    images = torch.randn(1, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    seen, _ = model.encode(torch.cat(images.split(64, dim=2)))
    summary = model.context_norm(seen).mean(dim=(0, 1))[None]
    torch.testing.assert_close(model(images).label, model.label_head(summary))


@pytest.mark.parametrize("patches", [2, 5, 24, 25, 100])
def test_in_context_patches_average_the_class_token_over_windows(patches: int) -> None:
    context = replace(TINY, kind="hyper", causal=True, in_context_patches=patches)
    model = small_model(replace(LABEL, context=context))
    x = tokens(3, 2)
    whole = replace(context, in_context_patches=0)
    other = XT(replace(LABEL, context=whole)).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    same = torch.equal(model.contextualise(x).summary, other.contextualise(x).summary)
    assert same is (patches > 24)


class OwnRegions(nn.Module):
    """A region encoder of somebody's own."""

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        inner = regions[..., 32:-32, 32:-32]
        pooled = nn.functional.adaptive_avg_pool2d(inner, 2).flatten(2).transpose(1, 2)
        return pooled.repeat(1, 1, 11)[..., :32], nn.functional.avg_pool2d(inner, 4).repeat(1, 6, 1, 1)[:, :16]


class OwnContext(nn.Module):
    """A context encoder of somebody's own."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + tokens.mean(dim=1, keepdim=True)


def test_modules_of_ones_own_take_the_place_of_both_encoders() -> None:
    torch.manual_seed(0)
    model = XT(SMALL, region_encoder=OwnRegions(), context=OwnContext()).eval()
    assert (model.config.region_encoder, model.config.context.kind) == ("custom", "custom")
    output = model(torch.randn(1, 3, 128, 192))
    assert output.mask.shape == (1, 2, 32, 48)
    assert output.scores.shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: ContextConfig(kind="rnn"), "context.kind = 'rnn'"),
        (lambda: ContextConfig(scan="spiral"), "context.scan = 'spiral'"),
        (lambda: ContextConfig(kind="hyper", dim=64, heads=3), "context.heads = 3"),
        (lambda: ContextConfig(kind="hyper", in_context_patches=1), "in_context_patches = 1"),
        (lambda: ContextConfig(kind="mamba", in_context_patches=9), "defined for hyper"),
        (lambda: ContextConfig(kind="longformer", window_2d=True, scan="zigzag"), "window_2d"),
        (lambda: ContextConfig(overview_tokens=5), "overview_tokens = 5"),
        (lambda: ContextConfig(project=False), "project = False"),
        (lambda: replace(SMALL, sub_regions_px=(24,)), "24 does not divide 64"),
        (lambda: replace(SMALL, sub_regions_px=(64,)), "sub_regions_px"),
        (lambda: replace(LABEL, context=ContextConfig(kind="none")), "label_head"),
        (lambda: replace(SMALL, context=ContextConfig(kind="hyper", in_context_patches=9)), "label alone"),
        (lambda: replace(SMALL, stored="int8"), "stored = 'int8'"),
        (lambda: XT(replace(SMALL, region_encoder="custom")), "region_encoder=..."),
        (lambda: XT(replace(SMALL, context=ContextConfig(kind="custom"))), "context=..."),
    ],
)
def test_what_does_not_fit_is_named(change, named: str) -> None:
    with pytest.raises(ModelError) as error:
        change()
    assert named in str(error.value)


def test_new_fields_do_not_change_what_an_older_model_says_of_itself() -> None:
    text = SMALL.to_json()
    assert "label" not in text
    assert "heads" not in text
    assert XTConfig.from_json(text) == SMALL
    told = replace(LABEL, context=replace(TINY, heads=2))
    assert XTConfig.from_json(told.to_json()) == told


def test_the_length_of_the_sequence_counts_everything() -> None:
    assert SMALL.sequence_length(16) == 64
    context = replace(TINY, scan="two_stream", overview_tokens=4)
    assert replace(LABEL, context=context).sequence_length(16) == 4 + 128 + 1
