from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_xt.model.config import ContextConfig
from napari_xt.model.context import context_encoder, scan
from napari_xt.model.context.scan import selective_scan, selective_scan_ref


def arguments(length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(seed)
    channels, state = 6, 4

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, dtype=dtype)

    return (
        normal(2, length, channels),
        torch.nn.functional.softplus(normal(2, length, channels) - 2),
        -normal(channels, state).exp(),
        normal(2, length, state),
        normal(2, length, state),
        normal(channels),
    )


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(0, 5))
def test_the_chunk_parallel_scan_is_the_token_loop(length: int, seed: int) -> None:
    given_ = arguments(length, seed)
    torch.testing.assert_close(selective_scan(*given_), selective_scan_ref(*given_), atol=3e-5, rtol=1e-5)


def test_the_scan_carries_its_state_over_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SEGMENT", 32)
    given_ = arguments(150)
    torch.testing.assert_close(selective_scan(*given_), selective_scan_ref(*given_), atol=3e-5, rtol=1e-5)


def test_the_gradients_of_both_scans_agree() -> None:
    gradients = []
    for form in (selective_scan, selective_scan_ref):
        leaves = [x.requires_grad_() for x in arguments(37, dtype=torch.float64)]
        gradients.append(torch.autograd.grad(form(*leaves).square().sum(), leaves))
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow)


def test_every_token_sees_every_other_through_two_mamba_layers() -> None:
    torch.manual_seed(0)
    encoder = context_encoder(ContextConfig(layers=2, dim=16)).double()
    tokens = torch.randn(1, 12, 16, dtype=torch.float64, requires_grad=True)
    for place in (0, 5, 11):
        (gradient,) = torch.autograd.grad(encoder(tokens)[0, place].square().sum(), tokens)
        assert (gradient[0].norm(dim=-1) > 0).all()


def test_the_first_layer_runs_backwards() -> None:
    torch.manual_seed(0)
    encoder = context_encoder(ContextConfig(layers=1, dim=16)).double()
    tokens = torch.randn(1, 12, 16, dtype=torch.float64)
    changed = tokens.clone()
    changed[0, 4, 3] += 1
    differs = (encoder(tokens) != encoder(changed)).any(-1)[0]
    assert differs[:5].all()
    assert not differs[5:].any()


def test_none_leaves_tokens_as_they_are() -> None:
    tokens = torch.randn(2, 7, 16)
    assert torch.equal(context_encoder(ContextConfig(kind="none", dim=16))(tokens), tokens)
