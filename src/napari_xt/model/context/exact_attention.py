"""Exact softmax attention: by its definition, and the same a bounded number of scores at a time.

What HyperAttention falls back to for few tokens, and what it is measured against. Knows tensors only: no layers, no
weights. Dimensions:

    B  batch    H  heads    P  problems, B H    N  queries    M  keys    d  channels of a head

In parts, memory is linear in N + M, in the backward pass too: where gradients are recorded, scores are not kept but
computed again (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")
Attended: TypeAlias = tuple[Tensor, Tensor]  # output (..., N, d), logarithm of the normaliser (..., N, 1)

CPU_SCORES = 2**19  # scores in memory at once: as many as a core's cache still helps with
GPU_SCORES = 2**25  # ... as keep a GPU busy


def exact_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Attended:
    """Softmax attention by its definition, with all scores in memory: the reference of all other forms.

    Parameters
    ----------
    q, k, v
        ``(B, H, N, d)``, ``(B, H, M, d)``, ``(B, H, M, d)``.
    causal
        Query t sees keys 0 ... t.
    scale
        Factor of the scores; ``1 / sqrt(d)`` if None.

    Returns
    -------
    Attended
        Output ``(B, H, N, d)`` and log-sum-exp of the scores ``(B, H, N, 1)``.
    """
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, N, M)
    if causal:
        scores = scores.masked_fill(_future(q.shape[-2], k.shape[-2], q.device), -math.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    return torch.exp(scores - lse) @ v, lse


def exact_in_parts(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Attended:
    """`exact_attention` with scale 1 of ``(P, N, d)``, ``(P, M, d)``, ``(P, M, d)``; ``M = N`` if causal."""
    rows, problems = _part(q.shape[1], k.shape[1], room(q))
    ends = [min(first + rows, k.shape[1]) if causal else k.shape[1] for first in range(0, q.shape[1], rows)]
    parts = [
        (part, k_[:, :end], v_[:, :end])
        for q_, k_, v_ in zip(*(torch.split(x, problems) for x in (q, k, v)), strict=True)
        for part, end in zip(torch.split(q_, rows, 1), ends, strict=True)
    ]
    found = each(_attend_past if causal else _attend, parts)
    return _assemble([out for out, _ in found], len(ends)), _assemble([lse for _, lse in found], len(ends))


def one_channel_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Exact attention of heads of one channel with scale 1, every query over every key.

    Memory is linear in N, for torch's attention on a CPU keeps no scores, and elsewhere, where it does for so few
    channels, it gets some rows at a time. Time is not linear. Parameters and result are ``(B, H, N, 1)``.
    """
    if q.device.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return one_channel_in_parts(q, k, v)


def one_channel_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`one_channel_attention`, a bounded number of scores at a time whatever the device."""
    rows, problems = _part(q.shape[2], k.shape[2], room(q))
    parts = [
        (part[None], k_[None], v_[None])
        for q_, k_, v_ in zip(*(torch.split(x.flatten(0, 1).contiguous(), problems) for x in (q, k, v)), strict=True)
        for part in torch.split(q_, rows, 1)
    ]
    found = each(partial(F.scaled_dot_product_attention, scale=1.0), parts)
    return _assemble([out[0] for out in found], -(-q.shape[2] // rows)).view(q.shape)


def normalise(parts: Sequence[tuple[Tensor, Tensor]]) -> Attended:
    """One softmax over several sets of scores ``(..., N, M)``, which are used up, with their values ``(..., M, d)``."""
    top = torch.stack([scores.detach().amax(-1, keepdim=True) for scores, _ in parts]).amax(0)
    weighted = [(scores.sub_(top).exp_(), values) for scores, values in parts]
    total = torch.stack([weights.sum(-1, keepdim=True) for weights, _ in weighted]).sum(0)
    out = torch.stack([weights.to(values) @ values for weights, values in weighted]).sum(0)
    return (out / total).to(parts[0][1]), top + total.log()


def scores(q: Tensor, k: Tensor) -> Tensor:
    """Products of queries ``(..., N, d)`` and keys ``(..., M, d)``, in float32 or better: ``(..., N, M)``."""
    return (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32))


def each(attend: Callable[..., T], parts: Sequence[tuple[Tensor, ...]]) -> list[T]:
    """Attend part by part; where gradients are recorded and parts are many keep only what goes in."""
    if len(parts) > 1 and torch.is_grad_enabled():
        attend = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=False)
    return [attend(*part) for part in parts]


def room(x: Tensor) -> int:
    """How many scores may be in memory at once, where ``x`` lies."""
    return CPU_SCORES if x.device.type == "cpu" else GPU_SCORES


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    return normalise([(scores(q, k), v)])


def _attend_past(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    """Causally, for queries that stand at the end of the keys."""
    products = scores(q, k)
    products[..., -q.shape[-2] :].masked_fill_(_future(q.shape[-2], q.shape[-2], q.device), -math.inf)
    return normalise([(products, v)])


def _future(queries: int, keys: int, device: torch.device) -> Tensor:
    """``(N, M)``, true where the key comes after the query."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(1)


def _part(queries: int, keys: int, most: int) -> tuple[int, int]:
    """How many rows, and how many problems, give no more than ``most`` scores; at least one of each."""
    rows = max(1, min(queries, most // keys))
    return rows, max(1, most // (rows * keys))


def _assemble(parts: list[Tensor], down: int) -> Tensor:
    """``(P, N, ...)`` of parts of rows, ``down`` of them for each part of problems."""
    return torch.cat([torch.cat(parts[i : i + down], 1) for i in range(0, len(parts), down)])
