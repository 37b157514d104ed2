from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from napari_xt.model.context import mamba
from napari_xt.model.context.mamba import Mamba, MambaLayer, MambaMixer

DIM = 16
LENGTHS = st.integers(1, 90)
DTYPES = st.sampled_from([torch.float32, torch.float64])


def seeded(module: torch.nn.Module, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    make = torch.Generator().manual_seed(0)
    for value in module.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=make)
    return module.to(dtype).requires_grad_(False)


def tokens(length: int, dtype: torch.dtype = torch.float64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(length)).to(dtype)


@pytest.mark.parametrize("kind", [MambaMixer, MambaLayer])
@settings(max_examples=40)
@given(LENGTHS, st.lists(st.integers(1, 89), max_size=8), DTYPES)
def test_a_stream_cut_anywhere_gives_what_the_whole_gives(
    kind: Any, length: int, cuts: list[int], dtype: torch.dtype
) -> None:
    module, x = seeded(kind(DIM), dtype), tokens(length, dtype)
    state, parts = module.start(x), []
    for first, stop in pairwise(sorted({0, length, *(cut for cut in cuts if cut < length)})):
        part, state = module.advance(x[:, first:stop], state)
        parts.append(part)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(torch.cat(parts, 1), module(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@settings(max_examples=20)
@given(LENGTHS, st.integers(1, 40))
def test_a_layer_by_segments_is_the_layer_that_learns(reverse: bool, length: int, segment: int) -> None:
    layer, x = seeded(MambaLayer(DIM)), tokens(length)
    with patch.object(mamba, "SEGMENT", segment):
        streamed = layer(x, reverse)
    whole = layer.requires_grad_()(x, reverse)
    assert whole.requires_grad
    assert not streamed.requires_grad
    torch.testing.assert_close(streamed, whole.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@settings(max_examples=20)
@given(LENGTHS, st.integers(1, 40))
def test_the_gradient_of_tokens_by_segments_is_that_of_the_whole(reverse: bool, length: int, segment: int) -> None:
    layer, x = seeded(MambaLayer(DIM)), tokens(length).requires_grad_()
    with patch.object(mamba, "SEGMENT", segment):
        (streamed,) = torch.autograd.grad(layer(x, reverse).square().sum(), x)
    (whole,) = torch.autograd.grad(layer.requires_grad_()(x, reverse).square().sum(), x)
    torch.testing.assert_close(streamed, whole)


def test_gradients_pass_from_one_part_of_a_stream_to_the_next() -> None:
    layer, x = seeded(MambaLayer(DIM)), tokens(20).requires_grad_()
    first, state = layer.advance(x[:, :7], layer.start(x))
    both = torch.cat([first, layer.advance(x[:, 7:], state)[0]], 1)
    (cut,) = torch.autograd.grad(both.square().sum(), x)
    (whole,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(cut, whole)


def test_the_convolution_is_that_of_its_module() -> None:
    mixer, x = seeded(MambaMixer(DIM)), tokens(30)
    heard = []
    with patch.object(mamba, "selective_scan", side_effect=lambda u, *_: heard.append(u) or u):
        mixer(x)
    channels_first = mixer.in_proj(x).chunk(2, -1)[0].mT
    wanted = torch.nn.functional.silu(mixer.conv1d(channels_first)[..., :30]).mT
    torch.testing.assert_close(heard[0], wanted)


class Largest(TorchDispatchMode):
    """Remember the most numbers that any tensor made in its context has."""

    numbers = 0

    def __torch_dispatch__(self, operation: Any, types: Any, given_: Any = (), named: Any = None) -> Any:
        made = operation(*given_, **(named or {}))
        for value in made if isinstance(made, list | tuple) else [made]:
            self.numbers = max(self.numbers, value.numel()) if isinstance(value, torch.Tensor) else self.numbers
        return made


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_makes_nothing_larger_than_its_tokens(reverse: bool) -> None:
    layer, x = seeded(MambaLayer(DIM)), tokens(4000, batch=1)
    with patch.object(mamba, "SEGMENT", 32), Largest() as largest:
        layer(x, reverse)
    assert largest.numbers == x.numel()


def test_a_recurrent_stack_is_one_layer_again_and_again() -> None:
    recurrent, stack, x = seeded(Mamba(DIM, 3, recurrent=True)), Mamba(DIM, 3), tokens(30)
    assert len(recurrent.layers) == 1
    for layer in stack.double().layers:
        layer.load_state_dict(recurrent.layers[0].state_dict())
    torch.testing.assert_close(recurrent(x), stack(x))
    assert not torch.allclose(recurrent(x), seeded(Mamba(DIM, 1))(x))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of the packages that mamba_ssm imports
def test_mamba_on_a_gpu_is_mamba_on_a_cpu() -> None:
    encoder, x = seeded(Mamba(DIM, 2), torch.float32), tokens(500, torch.float32)
    torch.testing.assert_close(encoder.cuda()(x.cuda()).cpu(), encoder.cpu()(x), atol=1e-4, rtol=1e-4)
