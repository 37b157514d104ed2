"""Transformer-XL as context encoder: attention by relative position over segments, each remembering those before it.

Dai et al. (2019), "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context", sections 3.2 and 3.3; one
of the context encoders of xT (Gupta et al., 2024, section 3.2). Knows tensors only. Dimensions:

    B  batch          T  tokens of a segment               H  heads
    N  tokens         M  tokens of the memory              E  channels of a head, D / H
    D  token width    K  keys, M + T: memory, then segment

A token sees those before it in its segment and all of the memory; a stack of L layers carries over segments what lies
up to L memories back. Layers 0, 2, ... run over the reversed sequence, as those of our Mamba, so that no direction is
blind. Parameters have the names and shapes of the paper's code; its dropout is left out.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

INIT_STD = 0.02  # of the paper's code


def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, u: Tensor, v: Tensor, reach: int | None = None
) -> Tensor:
    """Causal attention with relative positions, the same as `relative_attention_ref`.

    The position scores are one product, and the shift that brings those of distance ``i - j`` to key ``j`` is a view of
    it: with a spare column, rows of K + 1 read as rows of K move one to the left at every row.

    Parameters
    ----------
    query
        ``(B, H, T, E)``: the segment, newest last.
    key, value
        ``(B, H, K, E)``: memory and segment.
    positions
        Position keys ``(H, K, E)`` of the distances K - 1, ..., 1, 0.
    u, v
        What is added to the query before it meets the keys and the position keys, ``(H, E)``.
    reach
        If given, keys at this distance and beyond are hidden.

    Returns
    -------
    Tensor
        ``(B, H, T, E)``.
    """
    steps, keys, scale = query.shape[2], key.shape[2], query.shape[3] ** -0.5
    spare = F.pad(positions, (0, 0, 0, 1)).transpose(1, 2)  # (H, E, K + 1)
    scores = ((query + v[:, None]) * scale) @ spare  # (B, H, T, K + 1)
    shifted = scores.flatten(2)[..., steps - 1 : steps - 1 + steps * keys].view(*query.shape[:3], keys)
    distance = _distances(steps, keys, query.device)
    hidden = (distance < 0) if reach is None else (distance < 0) | (distance >= reach)
    return F.scaled_dot_product_attention(query + u[:, None], key, value, shifted.masked_fill(hidden, -torch.inf))


def relative_attention_ref(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, u: Tensor, v: Tensor, reach: int | None = None
) -> Tensor:
    """The paper's equation (section 3.3), every pair with its own position key: the reference of `relative_attention`.

        score[i, j] = ((q[i] + u) . k[j] + (q[i] + v) . r[i - j]) / sqrt(E)

    Parameters and result as there.
    """
    distance = _distances(query.shape[2], key.shape[2], query.device)
    by_distance = positions.flip(1)[:, distance.clamp(min=0)]  # (H, T, K, E)
    content = torch.einsum("bhte,bhke->bhtk", query + u[:, None], key)
    place = torch.einsum("bhte,htke->bhtk", query + v[:, None], by_distance)
    scores = (content + place) / query.shape[3] ** 0.5
    hidden = (distance < 0) if reach is None else (distance < 0) | (distance >= reach)
    out: Tensor = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
    return out


def _distances(steps: int, keys: int, device: torch.device) -> Tensor:
    """How far each key ``(K)`` lies before each query ``(T)``, the newest key being the newest query: ``(T, K)``."""
    newest_first = torch.arange(keys, device=device)
    return newest_first[keys - steps :, None] - newest_first


class RelativeAttention(nn.Module):
    """Projections around `relative_attention`, and the norm that belongs to it (applied by the layer).

    Parameters
    ----------
    dim, heads
        D and H.
    clamp_len
        Distances beyond this count as this one; 0 for no limit.
    reach
        If given, keys at this distance and beyond are hidden.
    """

    def __init__(self, dim: int, heads: int, clamp_len: int, reach: int | None) -> None:
        super().__init__()
        self.heads, self.clamp_len, self.reach = heads, clamp_len, reach
        self.qkv_net = nn.Linear(dim, 3 * dim, bias=False)
        self.r_net = nn.Linear(dim, dim, bias=False)
        self.o_net = nn.Linear(dim, dim, bias=False)
        self.layer_norm = nn.LayerNorm(dim)

    def positions(self, keys: int) -> Tensor:
        """Position keys ``(H, K, E)`` of the distances K - 1, ..., 0: projected sines, then cosines (base 10000)."""
        weight = self.r_net.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        distance = torch.arange(keys - 1, -1, -1, device=weight.device, dtype=wide)
        if self.clamp_len:
            distance = distance.clamp(max=self.clamp_len)
        even = torch.arange(0, weight.shape[1], 2, device=weight.device, dtype=wide)
        angles = distance[:, None] * 10000 ** (-even / weight.shape[1])  # (K, D / 2)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).to(weight.dtype)
        return self._heads(self.r_net(waves))

    def forward(self, seen: Tensor, steps: int, positions: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Let the last ``steps`` tokens of ``seen`` ``(B, K, D)`` look back: ``(B, T, D)``."""
        dim = seen.shape[2]
        query = F.linear(seen[:, -steps:], self.qkv_net.weight[:dim])
        key, value = F.linear(seen, self.qkv_net.weight[dim:]).chunk(2, dim=-1)
        query, key, value = (self._heads(x) for x in (query, key, value))
        mixed = relative_attention(query, key, value, positions, u, v, self.reach)
        out: Tensor = self.o_net(rearrange(mixed, "b h t e -> b t (h e)"))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """``(..., K, D) -> (..., H, K, E)``."""
        return rearrange(x, "... k (h e) -> ... h k e", h=self.heads)


class FeedForward(nn.Module):
    """Linear, ReLU, Linear on every token, and the norm that belongs to it (applied by the layer)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        steps = {"0": nn.Linear(dim, inner), "1": nn.ReLU(), "3": nn.Linear(inner, dim)}
        self.CoreNet = nn.Sequential(OrderedDict(steps))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(..., D) -> (..., D)``."""
        out: Tensor = self.CoreNet(tokens)
        return out


class TransformerXLLayer(nn.Module):
    """One layer, walking the tokens segment by segment in the order given.

    Parameters
    ----------
    dim, heads
        D, an even number, and H, which divides it.
    mlp_ratio
        Inner width of the feed-forward over D.
    segment_tokens, memory_tokens
        Most tokens of a segment and of the memory.
    pre_norm
        LayerNorm before attention and feed-forward, with un-normalised skips and none at the end; else after each sum.
    clamp_len
        Distances beyond this count as this one; 0 for no limit.
    same_length
        Every token sees the ``memory_tokens`` newest ones, itself included, instead of all that is there.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: int = 4,
        segment_tokens: int = 512,
        memory_tokens: int = 512,
        *,
        pre_norm: bool = True,
        clamp_len: int = 0,
        same_length: bool = False,
    ) -> None:
        super().__init__()
        self.segment_tokens, self.memory_tokens, self.pre_norm = segment_tokens, memory_tokens, pre_norm
        self.dec_attn = RelativeAttention(dim, heads, clamp_len, memory_tokens if same_length else None)
        self.pos_ff = FeedForward(dim, mlp_ratio * dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, u: Tensor, v: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over ``tokens``, carrying the memory from segment to segment.

        A stream that is cut into chunks of a multiple of ``segment_tokens``, each with the memory that the one before
        it returned, gives what one call gives.

        Parameters
        ----------
        tokens
            ``(B, N, D)``.
        u, v
            The biases ``(H, E)`` of `relative_attention`, which all layers of a stack share.
        memory
            ``(B, M, D)``: this layer's input at the tokens before these; None at the start.

        Returns
        -------
        tuple
            ``(B, N, D)``, and the memory for what follows, cut off from the gradient (as in the paper: learning looks
            back within a segment only, however far the values come from).
        """
        outputs, positions = [], None
        memory = tokens[:, :0] if memory is None else memory
        for segment in torch.split(tokens, self.segment_tokens, dim=1):
            seen = torch.cat([memory, segment], dim=1)  # (B, K, D)
            keys = seen.shape[1]
            if positions is None or positions.shape[1] != keys:
                positions = self.dec_attn.positions(keys)
            outputs.append(self._segment(seen, segment.shape[1], positions, u, v))
            memory = seen[:, max(0, keys - self.memory_tokens) :].detach()
        return torch.cat(outputs, dim=1), memory

    def _segment(self, seen: Tensor, steps: int, positions: Tensor, u: Tensor, v: Tensor) -> Tensor:
        attention, feed_forward = self.dec_attn, self.pos_ff
        x: Tensor = seen[:, -steps:]
        if self.pre_norm:
            x = x + attention(attention.layer_norm(seen), steps, positions, u, v)
            x = x + feed_forward(feed_forward.layer_norm(x))
        else:
            x = attention.layer_norm(x + attention(seen, steps, positions, u, v))
            x = feed_forward.layer_norm(x + feed_forward(x))
        return x


class TransformerXL(nn.Module):
    """A stack of Transformer-XL layers of alternating direction.

    Memory beyond that of the tokens is that of one segment. Two layers with ``segment_tokens`` at least N let every
    token see every other; shorter segments carry on in one direction per layer, and as far as the memories reach.

    Parameters
    ----------
    dim, layers, heads
        D, the number of layers, and H.
    mlp_ratio
        Inner width of a feed-forward over D.
    segment_tokens, memory_tokens
        Tokens of a segment, and how many before it a layer remembers.
    recurrent
        Apply one layer ``layers`` times, still in alternating direction.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        mlp_ratio: int = 4,
        segment_tokens: int = 512,
        memory_tokens: int = 512,
        recurrent: bool = False,
    ) -> None:
        super().__init__()
        self.depth = layers
        self.r_w_bias, self.r_r_bias = (nn.Parameter(torch.randn(heads, dim // heads) * INIT_STD) for _ in range(2))
        self.layers = nn.ModuleList(
            TransformerXLLayer(dim, heads, mlp_ratio, segment_tokens, memory_tokens)
            for _ in range(1 if recurrent else layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        for i in range(self.depth):
            layer = self.layers[i % len(self.layers)]
            ordered = tokens.flip(1) if i % 2 == 0 else tokens
            ordered, _ = layer(ordered, self.r_w_bias, self.r_r_bias)
            tokens = ordered.flip(1) if i % 2 == 0 else ordered
        return tokens
