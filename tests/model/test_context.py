from __future__ import annotations

import torch

from napari_xt.model.config import ContextConfig
from napari_xt.model.context import context_encoder


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
