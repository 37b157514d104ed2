"""Hyper: attention layers over the window's tokens in near-linear time and linear memory, as context encoder.

HyperAttention (Han et al., 2023, arXiv 2310.05869) in layers of the LLaMA kind: normalise by root mean square
(Zhang & Sennrich, 2019), attend; normalise, gated MLP (Shazeer, 2020, "GEGLU"); each beside a skip. Names, shapes and
arithmetic are those of the released code of xT (Gupta et al., 2024). Knows tensors only. Dimensions:

    B  batch    N  tokens    D  token width    H  heads    d  channels of a head, D / H    F  width inside the MLP

``attention="hyper"`` is exact up to 4095 tokens (the released models saw 257 at most) and approximate beyond, see
`hyper_attention`. ``attention="naive"`` is exact at any length, in time that grows with its square.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.context.exact_attention import one_channel_attention
from napari_xt.model.context.hyper_attention import hyper_attention

EPS = 1e-5
MLP_TOKENS = 4096  # tokens that pass an MLP at a time, for its inside is several times as wide


class Hyper(nn.Module):
    """A stack of such layers.

    Parameters
    ----------
    dim, layers, heads
        D, the number of layers, and H. The released models have 128 channels a head.
    mlp_ratio
        F / D.
    causal
        Token t sees tokens 0 ... t, as in the released hyper models; the naive variant ignores it.
    attention
        ``"hyper"``, or the released code's ``"naive"``: D heads of one channel (``heads`` is ignored), scale 1, every
        token sees every other.
    recurrent
        One layer's weights, applied ``layers`` times (Shen et al., 2022, "Sliced Recursive Transformer").

    Raises
    ------
    ModelError
        D is no multiple of H.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        mlp_ratio: int = 4,
        causal: bool = False,
        attention: Literal["hyper", "naive"] = "hyper",
        recurrent: bool = False,
    ) -> None:
        super().__init__()
        heads = dim if attention == "naive" else heads
        if heads < 1 or dim % heads:
            raise ModelError(f"heads = {heads}", f"must divide the token width {dim}")
        self.depth = layers
        self.layers = nn.ModuleList()
        for seed in range(1 if recurrent else layers):
            attend = one_channel_attention if attention == "naive" else partial(_hyper, causal=causal, seed=seed)
            self.layers.append(HyperLayer(dim, heads, mlp_ratio * dim, attend))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        for i in range(self.depth):
            tokens = self.layers[i % len(self.layers)](tokens)
        return tokens


class HyperLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + MLP(norm(x))``.

    Parameters
    ----------
    dim, heads, inner
        D, H, F.
    attend
        From queries, keys and values ``(B, H, N, d)`` to as much.
    """

    def __init__(self, dim: int, heads: int, inner: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(dim, EPS)
        self.attn = Attention(dim, heads, attend)
        self.post_attention_layernorm = nn.RMSNorm(dim, EPS)
        self.mlp = GatedMLP(dim, inner)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        tokens = tokens + self.attn(self.input_layernorm(tokens))
        parts = torch.split(tokens, MLP_TOKENS, dim=1)
        return torch.cat([part + self.mlp(self.post_attention_layernorm(part)) for part in parts], dim=1)


class Attention(nn.Module):
    """Queries, keys and values from one projection, attention head by head, and a projection of all heads."""

    def __init__(self, dim: int, heads: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.heads = heads
        self.attend = attend

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, d) each
        out: Tensor = self.proj(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return out


class GatedMLP(nn.Module):
    """``down(GELU(gate(x)) * up(x))``, without biases, GELU by the error function."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(..., D) -> (..., D)``."""
        out: Tensor = self.down_proj(F.gelu(self.gate_proj(tokens)) * self.up_proj(tokens))
        return out


def _hyper(q: Tensor, k: Tensor, v: Tensor, causal: bool, seed: int) -> Tensor:
    return hyper_attention(q, k, v, causal=causal, seed=seed)[0]
