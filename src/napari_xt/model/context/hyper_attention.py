"""HyperAttention: attention in near-linear time and linear memory, exact for few tokens.

Han et al. (2023), "HyperAttention: Long-context Attention in Near-Linear Time", arXiv 2310.05869: sortLSH (algorithm
1), block-diagonal and sampled part under one normaliser (algorithms 2 and 3), causal attention by halves (algorithm
4). Knows tensors only: no layers, no weights. Dimensions:

    B  batch    H  heads    P  problems, B H    N  queries    M  keys    d  channels of a head
    G  tiles of a group    s  keys of a block, queries of a tile    m  sampled keys

*Exact*, but for rounding: causal with up to ``exact_below`` tokens, and by halves to nearly twice as many; not causal
with fewer than ``exact_below`` keys. *Approximate*: all else. Keys then stand sorted by an angular hash and are cut
into blocks. A query sees the keys of one block as they are (that of its own hash, so that pairs of large weight meet)
and all other keys through ``m`` sampled ones, each counted ``M / m`` times. Normaliser and numerator are unbiased;
large weights outside the block that no sample hits are lost.

Unlike the released code: a query goes to the block that holds its bucket, not to the block of the same rank among
sorted queries (causal attention is causal in earnest, and errors are smaller); sampled keys of the query's own block
are masked in every type and on every device, as are places that fill up the last block; one key is drawn from each of
``m`` equal parts of the sorted keys (still uniform, with less variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_xt.model.context.exact_attention import Attended, each, exact_in_parts, normalise, room, scores


def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    projections: int = 7,
    block: int = 256,
    samples: int = 256,
    exact_below: int = 4096,
    seed: int = 0,
) -> Attended:
    """Attention that is exact for few tokens and approximate, in linear memory, for many.

    The same input gives the same bits; torch's global random state is neither used nor changed. Every item of a
    batch is treated alike, whatever stands beside it. While gradients are recorded, scores are not kept but computed
    again for the backward pass, so that this too takes linear memory.

    Parameters
    ----------
    q, k, v
        ``(B, H, N, d)``, ``(B, H, M, d)``, ``(B, H, M, d)``, any lengths; ``M = N`` if causal.
    causal, scale
        As in `exact_attention`.
    projections
        Bits of the hash.
    block
        Keys of a block, at most.
    samples
        Keys drawn for the part outside the blocks, for each head.
    exact_below
        Lengths up to which attention is exact; never less than ``block + samples``, which would cost no less.
    seed
        Of projections and samples.

    Returns
    -------
    Attended
        Output ``(B, H, N, d)`` in the type of ``v`` and log-sum-exp ``(B, H, N, 1)`` in float32 or better.
    """
    batch, heads, _, channels = q.shape
    q, k, work = (x.flatten(0, 1).to(_working_type(q.dtype)) for x in (q, k, v))
    chance = torch.Generator("cpu").manual_seed(seed)
    directions = torch.randn(channels, projections, generator=chance, device="cpu").to(q)
    sketch = _Sketch(heads, directions, block, samples, max(exact_below, block + samples), chance)
    q = q * (channels**-0.5 if scale is None else scale)
    out, lse = (sketch.causal if causal else sketch.full)(q, k, work)
    return out.view(batch, heads, *out.shape[1:]).to(v), lse.view(batch, heads, *lse.shape[1:])


@dataclass(frozen=True, slots=True)
class _Sketch:
    """The approximation of one call; queries are already scaled, ``(P, N, d)``, keys and values ``(P, M, d)``."""

    heads: int
    directions: Tensor  # (d, projections)
    block: int
    samples: int
    exact_below: int
    chance: torch.Generator

    def causal(self, q: Tensor, k: Tensor, v: Tensor) -> Attended:
        """Both halves causally, and the second half over the first: algorithm 4 of the paper."""
        length = k.shape[1]
        if length <= self.exact_below:
            return exact_in_parts(q, k, v, causal=True)
        halves = [length // 2, length - length // 2]
        (q1, q2), (k1, k2), (v1, v2) = (torch.split(x, halves, 1) for x in (q, k, v))
        first = self.causal(q1, k1, v1)
        second = _merge(self.causal(q2, k2, v2), self.full(q2, k1, v1))
        return torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)

    def full(self, q: Tensor, k: Tensor, v: Tensor) -> Attended:
        """Every query over all keys: the block of its bucket, and sampled keys."""
        if k.shape[1] < self.exact_below:
            return exact_in_parts(q, k, v, causal=False)
        of_q, of_k, picks = self._buckets(q), self._buckets(k), self._drawn(k.shape[1]).to(k.device)
        found = [
            _block_and_samples(q[p], k[p], v[p], of_q[p], of_k[p], picks[p % self.heads], self.block)
            for p in range(q.shape[0])
        ]
        return torch.stack([out for out, _ in found]), torch.stack([lse for _, lse in found])

    def _drawn(self, keys: int) -> Tensor:
        """Places in the order of the keys, one from each of ``m`` equal parts of it, for every head: ``(H, m)``."""
        draws = torch.rand(self.heads, self.samples, generator=self.chance, dtype=torch.float64, device="cpu")
        places = (torch.arange(self.samples, device="cpu") + draws) * (keys / self.samples)
        return places.long().clamp(max=keys - 1)

    def _buckets(self, x: Tensor) -> Tensor:
        """Angular hash of queries or keys: ``(P, N, d) -> (P, N)``.

        Buckets are numbered along a Gray code, so that neighbours lie on different sides of one hyperplane only.
        """
        bits = (x.detach() @ self.directions > 0).long()  # (P, N, projections)
        places = bits.flip(-1).cumsum(-1).remainder(2)  # the Gray code's inverse: bit i is the parity of bits >= i
        return (places << torch.arange(bits.shape[-1], device=x.device).flip(0)).sum(-1)


def _block_and_samples(
    q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, picks: Tensor, block: int
) -> Attended:
    """One problem: each query over its block of keys, and over the sampled keys outside it.

    Parameters
    ----------
    q, k, v
        ``(N, d)``, ``(M, d)``, ``(M, d)``.
    of_q, of_k
        Their buckets, ``(N,)`` and ``(M,)``.
    picks
        Places of the sampled keys in the order of the buckets, ``(m,)``.
    block
        Keys of a block, at most.
    """
    count = -(-len(k) // block)
    size = -(-len(k) // count)
    ordered, order = of_k.sort(stable=True)
    tile_block, place = _tiles(_own_place(of_q, ordered) // size, count, size)
    who = torch.zeros(len(tile_block) * size, dtype=torch.long, device=q.device)  # vacant places hold query 0
    who[place] = torch.arange(len(q), device=q.device)
    keys = F.pad(order, (0, count * size - len(k))).view(count, size)[tile_block]  # (tiles, s)
    vacant = (tile_block[:, None] * size + torch.arange(size, device=k.device) >= len(k))[:, None]
    bias = torch.where(picks // size == tile_block[:, None], -math.inf, math.log(len(k) / len(picks)))[:, None]
    group = max(1, room(q) // (size * (size + len(picks))))
    tiles = (torch.split(x, group) for x in (q[who.view(-1, size)], k[keys], v[keys], vacant, bias))
    k_picked, v_picked = k[order[picks]], v[order[picks]]
    found = each(_attend_tiles, [(*tile, k_picked, v_picked) for tile in zip(*tiles, strict=True)])
    return _flat([out for out, _ in found])[place], _flat([lse for _, lse in found])[place]


def _own_place(of_q: Tensor, ordered: Tensor) -> Tensor:
    """Where in the ``ordered`` buckets of keys ``(M,)`` each query belongs: ``(N,)``.

    Among the keys of its bucket, as far from the first as the query is from the first of all queries: so keys that
    stand near it in the sequence are near, and no query's place depends on another query.
    """
    first, after = torch.searchsorted(ordered, of_q), torch.searchsorted(ordered, of_q, right=True)
    within = (after - first) * torch.arange(len(of_q), device=of_q.device) // len(of_q)
    return (first + within).clamp(max=len(ordered) - 1)


def _tiles(blocks: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Gather the queries of each block in as many tiles of ``size`` places as they fill.

    Parameters
    ----------
    blocks
        Of each query, ``(N,)``, less than ``count``.

    Returns
    -------
    tuple[Tensor, Tensor]
        The block of each tile, ``(tiles,)``, and the place of each query among those of all tiles, ``(N,)``.
    """
    number = blocks.bincount(minlength=count)
    tiles = (number + size - 1) // size
    order = blocks.argsort(stable=True)
    shift = (tiles.cumsum(0) - tiles) * size - (number.cumsum(0) - number)  # by what a block's queries move up
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) + shift[blocks[order]]
    return torch.arange(count, device=order.device).repeat_interleave(tiles), place


def _flat(tiles: list[Tensor]) -> Tensor:
    return torch.cat(tiles).flatten(0, 1)


def _attend_tiles(
    q: Tensor, k: Tensor, v: Tensor, vacant: Tensor, bias: Tensor, k_picked: Tensor, v_picked: Tensor
) -> Attended:
    """``(G, s, d)`` over their own keys, less the ``vacant (G, 1, s)``, and ``(m, d)`` with ``bias (G, 1, m)``."""
    own = scores(q, k).masked_fill_(vacant, -math.inf)
    rest = scores(q, k_picked).add_(bias)
    return normalise([(own, v), (rest, v_picked)])


def _merge(one: Attended, other: Attended) -> Attended:
    """Attention over the keys of both, which share none."""
    lse = torch.logaddexp(one[1], other[1])
    out = one[0] * torch.exp(one[1] - lse) + other[0] * torch.exp(other[1] - lse)
    return out.to(one[0]), lse


def _working_type(dtype: torch.dtype) -> torch.dtype:
    """Sums of weighted values before they are normalised exceed the range of float16."""
    return torch.float32 if dtype == torch.float16 else dtype
