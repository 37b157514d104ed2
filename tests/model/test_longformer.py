from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_xt.model.context import longformer
from napari_xt.model.context.longformer import (
    Heads,
    Layout,
    Longformer,
    longformer_attention,
    longformer_attention_ref,
)

maps = st.one_of(st.tuples(st.just(1), st.integers(1, 300)), st.tuples(st.integers(1, 24), st.integers(1, 24)))
counts = st.integers(0, 3)
layouts = st.builds(lambda size, first, last: Layout(first, *size, last), maps, counts, counts)
radii = st.one_of(st.tuples(st.just(0), st.integers(0, 90)), st.tuples(st.integers(0, 12), st.integers(0, 12)))


def projected(layout: Layout, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Heads, Heads | None]:
    make = torch.Generator().manual_seed(sum(layout))
    every, some = sum(layout) - layout.rows - layout.cols + layout.rows * layout.cols, layout.first + layout.last

    def normal(count: int) -> Tensor:
        return (scale * torch.randn(2, 3, count, 4, generator=make, dtype=dtype)).requires_grad_()

    local = Heads(normal(every), normal(every), normal(every))
    return local, Heads(normal(some), normal(every), normal(every)) if some else None


@settings(max_examples=60)
@given(layouts, radii)
def test_tiles_are_the_masked_matrix(layout: Layout, radius: tuple[int, int]) -> None:
    given_ = projected(layout)
    leaves = [x for heads in given_ if heads for x in heads]
    fast, slow = (form(*given_, layout, radius) for form in (longformer_attention, longformer_attention_ref))
    torch.testing.assert_close(fast, slow)
    gradients = (torch.autograd.grad(x.square().sum(), leaves) for x in (fast, slow))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@given(layouts, radii, st.integers(1, 100))
def test_the_size_of_a_tile_makes_no_difference(layout: Layout, radius: tuple[int, int], tile: int) -> None:
    given_ = projected(layout)
    expected = longformer_attention(*given_, layout, radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longformer, "TILE", tile)
        torch.testing.assert_close(longformer_attention(*given_, layout, radius), expected)


@pytest.mark.parametrize("scale", [1e-4, 30.0], ids=["even", "sharp"])
def test_large_and_small_scores_stay_finite(scale: float) -> None:
    layout, radius = Layout(2, 1, 300, 1), (0, 20)
    given_ = projected(layout, torch.float32, scale)
    output = longformer_attention(*given_, layout, radius)
    assert output.isfinite().all()
    torch.testing.assert_close(output, longformer_attention_ref(*given_, layout, radius), rtol=1e-4, atol=1e-4 * scale)


def seen_from(encoder: Longformer, layout: Layout | None, count: int, place: int) -> list[int]:
    """Which tokens the output at ``place`` depends on."""
    tokens = torch.randn(1, count, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(tokens, layout)[0, place].square().sum(), tokens)
    return (gradient[0].norm(dim=-1) > 0).nonzero().flatten().tolist()


def test_a_token_sees_half_a_window_to_each_side() -> None:
    encoder = Longformer(16, 1, 2, attention_window=8).double()
    assert seen_from(encoder, None, 40, 20) == list(range(16, 25))
    assert seen_from(encoder, None, 40, 1) == list(range(6))


@pytest.mark.parametrize("window_2d", [False, True])
def test_global_tokens_see_all_and_are_seen_by_all(window_2d: bool) -> None:
    encoder = Longformer(16, 1, 2, attention_window=4, window_2d=window_2d).double()
    layout = Layout(2, 5, 6, 1)
    assert seen_from(encoder, layout, 33, 1) == list(range(33))
    assert seen_from(encoder, layout, 33, 32) == list(range(33))
    assert {0, 1, 32} < set(seen_from(encoder, layout, 33, 12))


@pytest.mark.parametrize(
    ("window_2d", "seen"),
    [(False, [7, 8, 9, 10, 11]), (True, [2, 3, 4, 8, 9, 10, 14, 15, 16])],
    ids=["along the raster", "on the map"],
)
def test_the_window_lies_on_the_map(window_2d: bool, seen: list[int]) -> None:
    encoder = Longformer(16, 1, 2, attention_window=4, window_2d=window_2d).double()
    globals_before = 2
    places = seen_from(encoder, Layout(globals_before, 5, 6, 0), 32, globals_before + 9)
    assert places == [0, 1, *(globals_before + i for i in seen)]


def test_a_window_of_256_is_a_square_of_17() -> None:
    encoder = Longformer(16, 1, 2, attention_window=256, window_2d=True).double()
    assert len(seen_from(encoder, Layout(0, 20, 30, 0), 600, 10 * 30 + 15)) == 17 * 17


def test_sight_grows_by_a_window_per_layer() -> None:
    encoder = Longformer(16, 3, 2, attention_window=8).double()
    assert seen_from(encoder, None, 60, 30) == list(range(18, 43))


def test_global_tokens_have_projections_of_their_own() -> None:
    torch.manual_seed(0)
    attention = Longformer(16, 1, 2).layers[0].attention
    layout, radius = Layout(1, 2, 4, 1), (0, 2)
    tokens = torch.randn(1, 10, 16)
    before = attention(tokens, layout, radius)
    with torch.no_grad():
        attention.key_global.weight.add_(torch.randn(16, 16))
        attention.value_global.weight.add_(torch.randn(16, 16))
    changed = (attention(tokens, layout, radius) != before).any(-1)[0]
    assert changed.tolist() == [True] + 8 * [False] + [True]


def test_a_global_token_starts_as_full_attention() -> None:
    torch.manual_seed(0)
    attention = Longformer(16, 1, 2).layers[0].attention
    tokens = torch.randn(2, 10, 16)
    as_global = attention(tokens, Layout(1, 1, 9, 0), (0, 9))
    as_any = attention(tokens, Layout(0, 1, 10, 0), (0, 10))
    torch.testing.assert_close(as_global, as_any)


def test_recurrent_layers_share_their_weights() -> None:
    torch.manual_seed(0)
    shared_weights, own_weights = Longformer(16, 3, 2, recurrent=True), Longformer(16, 3, 2)
    for layer in own_weights.layers:
        layer.load_state_dict(shared_weights.layers[0].state_dict())
    tokens, layout = torch.randn(2, 14, 16), Layout(1, 3, 4, 1)
    assert len(shared_weights.layers) == 1
    assert torch.equal(shared_weights(tokens, layout), own_weights(tokens, layout))


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    encoder = Longformer(16, 2, 2, attention_window=4, window_2d=True)
    encoder(torch.randn(2, 14, 16), Layout(1, 3, 4, 1)).square().sum().backward()
    keys = nn.Module.named_parameters(encoder)
    assert [name for name, weight in keys if weight.grad is None or not weight.grad.isfinite().all()] == []
