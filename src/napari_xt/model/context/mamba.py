"""Mamba as context encoder: selective state spaces over the window's tokens, in alternating directions.

Gu & Dao (2023); in xT (Gupta et al., 2024, section 3.2) a stack of such layers is the linear-memory context encoder.
Knows tensors only. Dimensions:

    B  batch    L  tokens    D  token width    E  inner width, 2 D    N  state size, 16    R  rank of dt, ceil(D / 16)

Parameter names and shapes are those of ``mamba_ssm.Mamba``; the layer's arithmetic is that of the paper's released
code: ``u = LayerNorm(x)``, result ``u + Mamba(u)``, layers 0, 2, ... over the reversed sequence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.model.context.scan import selective_scan

STATE = 16
CONV = 4
EXPAND = 2


class MambaMixer(nn.Module):
    """One selective state-space mixer: causal depthwise convolution, scan, gate.

    Parameters
    ----------
    dim
        D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner, rank = EXPAND * dim, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, CONV, groups=inner, padding=CONV - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, STATE + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._initialise_dt(rank)

    def _initialise_dt(self, rank: int) -> None:
        """Steps between 0.001 and 0.1 at the start, evenly in the logarithm, as in the released initialisation."""
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        dt = torch.exp(torch.rand(self.dt_proj.out_features) * math.log(100) + math.log(0.001))
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``tokens`` ``(B, L, D)``; token t sees tokens up to t."""
        length = tokens.shape[1]
        u, gate = self.in_proj(tokens).chunk(2, dim=-1)  # (B, L, E) each
        u = F.silu(self.conv1d(u.transpose(1, 2))[..., :length].transpose(1, 2))
        rank = self.dt_proj.in_features
        low, b, c = self.x_proj(u).split([rank, STATE, STATE], dim=-1)
        y = selective_scan(u, F.softplus(self.dt_proj(low)), -self.A_log.exp(), b, c, self.D)
        out: Tensor = self.out_proj(y * F.silu(gate))
        return out


class MambaLayer(nn.Module):
    """LayerNorm, mixer, skip from the normalised input; over the reversed sequence where ``reverse``."""

    def __init__(self, dim: int, reverse: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mixer = MambaMixer(dim)
        self.reverse = reverse

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, L, D) -> (B, L, D)``."""
        u: Tensor = self.norm(tokens.flip(1) if self.reverse else tokens)
        u = u + self.mixer(u)
        return u.flip(1) if self.reverse else u


class Mamba(nn.Module):
    """A stack of Mamba layers of alternating direction, so that after two of them every token sees every other.

    Parameters
    ----------
    dim, layers
        D, and the number of layers.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MambaLayer(dim, reverse=i % 2 == 0) for i in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, L, D) -> (B, L, D)``."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens
