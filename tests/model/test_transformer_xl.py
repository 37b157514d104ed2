from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_xt.model.context.transformer_xl import (
    TransformerXL,
    TransformerXLLayer,
    relative_attention,
    relative_attention_ref,
)
from reference_recipe import weights as made_up

if TYPE_CHECKING:
    from pathlib import Path

VARIANTS = ["pre_lnorm", "post_lnorm", "same_length", "clamp_len_8", "no_memory", "mem_len_0", "short_mem_20"]


class Published(nn.Module):
    """The published memory model around our layers: the same names, its memories passed in and out by segment."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, heads = config["d_model"], config["n_head"]
        self.keeps = not config.get("no_memory", False)
        self.word_emb = nn.Linear(config["n_token"], dim)
        self.r_w_bias, self.r_r_bias = (nn.Parameter(torch.zeros(heads, config["d_head"])) for _ in range(2))
        self.layers = nn.ModuleList(
            TransformerXLLayer(
                dim,
                heads,
                config["d_inner"] // dim,
                config["tgt_len"],
                config["mem_len"],
                pre_norm=config["pre_lnorm"],
                clamp_len=max(0, config.get("clamp_len", 0)),
                same_length=config.get("same_length", False),
            )
            for _ in range(config["n_layer"])
        )

    def forward(self, segment: Tensor, memories: list[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        tokens, kept = self.word_emb(segment), []
        for layer, memory in zip(self.layers, memories, strict=True):
            tokens, new = layer(tokens, self.r_w_bias, self.r_r_bias, memory)
            kept.append(new if self.keeps else None)
        return tokens, kept


@pytest.mark.parametrize("name", VARIANTS)
def test_the_published_numbers(name: str, shared: Path) -> None:
    folder = shared / "reference"
    case = json.loads((folder / "transformer_xl.json").read_text())["cases"][name]
    recorded = torch.from_numpy(np.load(folder / "transformer_xl.npz")[name])
    model = Published(case["config"])
    names = {key: tuple(shape) for key, shape, _ in case["state_dict"] if key not in case["left_as_built"]}
    assert {key: tuple(weight.shape) for key, weight in model.state_dict().items()} == names
    model.load_state_dict(made_up([entry for entry in case["state_dict"] if entry[0] in names]))
    data = np.random.Generator(np.random.PCG64(123)).standard_normal(case["input_shape"]).astype(np.float32)
    memories: list[Tensor | None] = [None] * len(model.layers)
    kept = case["mems_after_segment"]
    for segment, expected, summaries in zip(torch.from_numpy(data), recorded, kept, strict=True):
        with torch.no_grad():
            output, memories = model(segment.transpose(0, 1), memories)
        assert (output.transpose(0, 1) - expected).norm() / expected.norm() < 2e-6
        for memory, summary in zip(memories, summaries, strict=False):
            assert memory is not None
            assert list(memory.transpose(0, 1).shape) == summary["shape"]
            assert memory.norm().item() == pytest.approx(summary["l2"], rel=1e-5)


def whole_window_ref(layer: TransformerXLLayer, tokens: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """A pre-norm layer over the whole window as one score matrix: who sees whom, and from where gradients flow."""
    attention, feed_forward = layer.dec_attn, layer.pos_ff
    count, dim = tokens.shape[1:]
    heads, size = u.shape
    normed = attention.layer_norm(tokens)
    remembered = attention.layer_norm(tokens.detach())
    w_q, w_k, w_v = attention.qkv_net.weight.split(dim)
    frequency = 10000 ** (-torch.arange(0, dim, 2, dtype=tokens.dtype) / dim)
    rows = []
    for i in range(count):
        start = i // layer.segment_tokens * layer.segment_tokens
        query = (normed[:, i] @ w_q.T).unflatten(-1, (heads, size))
        scores, values = [], []
        for j in range(max(0, start - layer.memory_tokens), i + 1):
            source = normed[:, j] if j >= start else remembered[:, j]
            key = (source @ w_k.T).unflatten(-1, (heads, size))
            angle = (i - j) * frequency
            place = (attention.r_net.weight @ torch.cat([angle.sin(), angle.cos()])).unflatten(-1, (heads, size))
            scores.append(((query + u) * key + (query + v) * place).sum(-1) / size**0.5)
            values.append((source @ w_v.T).unflatten(-1, (heads, size)))
        weights = torch.stack(scores, -1).softmax(-1)  # (B, H, keys)
        rows.append((weights[..., None] * torch.stack(values, 2)).sum(2).flatten(1))
    mixed = torch.stack(rows, 1) @ attention.o_net.weight.T
    x = tokens + mixed
    return x + feed_forward(feed_forward.layer_norm(x))


def made_layer(
    segment: int, memory: int, dtype: torch.dtype = torch.float64
) -> tuple[TransformerXLLayer, Tensor, Tensor]:
    """A layer with weights of a size at which attention is far from even, and its two biases."""
    torch.manual_seed(1)
    layer = TransformerXLLayer(8, 2, 2, segment, memory).to(dtype)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.5)
    u, v = torch.randn(2, 2, 4, dtype=dtype)
    return layer, u.requires_grad_(), v.requires_grad_()


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 20), st.sampled_from([None, 1, 5, 60]))
def test_the_shifted_product_is_the_equation(batch: int, steps: int, memory: int, reach: int | None) -> None:
    make = torch.Generator().manual_seed(steps)
    heads, size, keys = 3, 4, memory + steps
    shapes = [(batch, heads, steps, size), *[(batch, heads, keys, size)] * 2, (heads, keys, size)]
    leaves = [torch.randn(s, generator=make, dtype=torch.float64) for s in [*shapes, (heads, size), (heads, size)]]
    leaves = [x.requires_grad_() for x in leaves]
    fast, slow = (form(*leaves, reach) for form in (relative_attention, relative_attention_ref))
    torch.testing.assert_close(fast, slow)
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (fast, slow)), strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=20)
@given(st.integers(1, 24), st.integers(1, 9), st.integers(0, 12))
def test_a_layer_is_the_score_matrix_of_the_whole_window(count: int, segment: int, memory: int) -> None:
    layer, u, v = made_layer(segment, memory)
    tokens = torch.randn(2, count, 8, dtype=torch.float64, requires_grad=True)
    leaves = [tokens, u, v, *layer.parameters()]
    output, expected = layer(tokens, u, v)[0], whole_window_ref(layer, tokens, u, v)
    torch.testing.assert_close(output, expected)
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (output, expected)), strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(0, 12), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 5))
def test_chunks_with_memory_are_the_whole(segment: int, memory: int, chunks: list[int], rest: int) -> None:
    layer, u, v = made_layer(segment, memory, torch.float32)
    sizes = [n * segment for n in chunks] + [rest]
    tokens = torch.randn(2, sum(sizes), 8)
    whole, last = layer(tokens, u, v)
    parts, kept = [], None
    for chunk in tokens.split(sizes, dim=1):
        part, kept = layer(chunk, u, v, kept)
        parts.append(part)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(kept, last)
    assert torch.equal(last, tokens[:, max(0, tokens.shape[1] - memory) :])


def test_values_cross_segments_and_gradients_do_not() -> None:
    layer, u, v = made_layer(segment=4, memory=3)
    tokens = torch.randn(1, 12, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(tokens, u, v)[0][0, 9].square().sum(), tokens)
    assert gradient[0].norm(dim=-1).gt(0).nonzero().flatten().tolist() == [8, 9]
    changes = []
    for place in range(12):
        changed = tokens.detach().clone()
        changed[0, place, 2] += 1
        changes.append(not torch.equal(layer(changed, u, v)[0][0, 9], layer(tokens, u, v)[0][0, 9]))
    assert [i for i, differs in enumerate(changes) if differs] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("recurrent", [False, True])
def test_every_token_sees_every_other_through_two_layers(recurrent: bool) -> None:
    torch.manual_seed(0)
    encoder = TransformerXL(16, 2, 2, recurrent=recurrent).double()
    tokens = torch.randn(1, 12, 16, dtype=torch.float64, requires_grad=True)
    for place in (0, 5, 11):
        (gradient,) = torch.autograd.grad(encoder(tokens)[0, place].square().sum(), tokens)
        assert (gradient[0].norm(dim=-1) > 0).all()


def test_the_first_layer_runs_backwards() -> None:
    torch.manual_seed(0)
    encoder = TransformerXL(16, 1, 2, segment_tokens=4, memory_tokens=8).double()
    tokens = torch.randn(1, 12, 16, dtype=torch.float64)
    changed = tokens.clone()
    changed[0, 4, 3] += 1
    differs = (encoder(tokens) != encoder(changed)).any(-1)[0]
    assert differs[:5].all()
    assert not differs[5:].any()


def test_recurrent_layers_share_their_weights() -> None:
    torch.manual_seed(0)
    shared_weights, own_weights = TransformerXL(16, 3, 2, recurrent=True), TransformerXL(16, 3, 2)
    for layer in own_weights.layers:
        layer.load_state_dict(shared_weights.layers[0].state_dict())
    own_weights.r_w_bias, own_weights.r_r_bias = shared_weights.r_w_bias, shared_weights.r_r_bias
    tokens = torch.randn(2, 9, 16)
    assert len(shared_weights.layers) == 1
    assert torch.equal(shared_weights(tokens), own_weights(tokens))
