"""Swin V2's window attention, fused and with its position bias kept: what timm computes, in less time on a CPU.

Knows timm's window attention; knows no image sizes, regions or heads. Dimensions:

    B  images    W  windows of an image    N  places of a window    H  heads    c  channels of a head

Where timm's blocks are slow on a CPU: the bias (an MLP over all relative positions, gathered and squashed) is made anew
for every batch, and scores ``(B W, H, N, N)`` go through memory five times. Here the bias is made once for a state of
the weights, and scores never leave the cache (`scaled_dot_product_attention`). Names of parameters stay.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from napari_xt.model._timm import timm

WindowAttention: Any = timm.models.swin_transformer_v2.WindowAttention


def fuse_window_attention(net: nn.Module) -> None:
    """Give every window attention of timm's Swin V2 inside ``net`` the forward of `FusedWindowAttention`."""
    for module in net.modules():
        if type(module) is WindowAttention:
            module.__class__ = FusedWindowAttention


class _Bias(NamedTuple):
    """A bias and what it was made of: it holds for as long as that is the same."""

    weights: tuple[Tensor, ...]
    mask: Tensor | None
    kinds: Tensor  # (kinds of windows, H, N, N): windows at the shifted edge may not see all of themselves
    of_window: tuple[int, ...]  # which kind each of an image's W windows is

    def holds(self, weights: tuple[Tensor, ...], mask: Tensor | None, dtype: torch.dtype) -> bool:
        return self.mask is mask and self.kinds.dtype == dtype and all(map(_equal, self.weights, weights))


class FusedWindowAttention(WindowAttention):  # type: ignore[misc]
    """Scaled cosine attention with a continuous position bias (Liu et al., 2022, "Swin Transformer V2", eq. 2, 3).

    Where a gradient is wanted, or off the CPU, timm's own forward runs.
    """

    _kept: _Bias | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Parameters
        ----------
        x
            ``(B W, N, H c)``, an image's windows one after the other.
        mask
            ``(W, N, N)``, to be added to the scores; None where windows are not shifted.

        Returns
        -------
        Tensor
            ``(B W, N, H c)``.
        """
        if x.device.type != "cpu" or self.training or self._wants_gradient(x):
            plain: Tensor = super().forward(x, mask)
            return plain
        q, k, v = self._queries_keys_values(x)
        bias = self._bias(mask, q.dtype)
        windows = len(bias.of_window)
        seen = torch.empty_like(v)  # (B W, H, N, c)
        for first, kind in enumerate(bias.of_window):
            some = slice(first, None, windows)
            seen[some] = F.scaled_dot_product_attention(q[some], k[some], v[some], bias.kinds[kind, None], scale=1.0)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out

    def _wants_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of length exp(logit scale), keys of length 1, and values, each ``(B W, H, N, c)``."""
        offsets: list[Any] = [getattr(self, f"{of}_bias") for of in "qkv"]
        offset = None if offsets[0] is None else torch.cat(offsets)
        qkv = rearrange(
            F.linear(x, self.qkv.weight, offset), "b n (three h c) -> b n three h c", three=3, h=self.num_heads
        )
        exact = torch.promote_types(qkv.dtype, torch.float32)
        lengths = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True, dtype=exact)
        factors = lengths.clamp_min_(1e-12).reciprocal_()
        factors[:, :, 0] *= self.logit_scale[:, 0].clamp(max=math.log(100.0)).exp()
        q, k = (qkv[:, :, :2] * factors.to(qkv)).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def _bias(self, mask: Tensor | None, dtype: torch.dtype) -> _Bias:
        weights = (self.relative_coords_table, *self.cpb_mlp.parameters())
        kept = self._kept
        if kept is None or not kept.holds(weights, mask, dtype):
            kept = self._kept = self._new_bias(tuple(w.detach().clone() for w in weights), mask, dtype)
        return kept

    def _new_bias(self, weights: tuple[Tensor, ...], mask: Tensor | None, dtype: torch.dtype) -> _Bias:
        places: Tensor = self.relative_position_index
        with torch.autocast("cpu", enabled=False):
            table: Tensor = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).flatten(0, 2))
        bias = rearrange(table[places], "n m h -> 1 h n m")
        if mask is None:
            return _Bias(weights, mask, bias.to(dtype).contiguous(), (0,))
        edges, of_window = torch.unique(mask, dim=0, return_inverse=True)
        return _Bias(weights, mask, (bias + edges[:, None]).to(dtype).contiguous(), tuple(of_window.tolist()))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
