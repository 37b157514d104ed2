"""Longformer as context encoder: every token sees a window around it, and a few global tokens see and are seen by all.

Beltagy et al. (2020), "Longformer: The Long-Document Transformer", section 3.1; the window on a map is that of Zhang et
al. (2021), "Multi-Scale Vision Longformer". Knows tensors and where on a map the tokens lie. Dimensions:

    B  batch          G     global tokens               H  heads
    N  tokens         R, Q  rows, columns of the map    E  channels of a head, D / H
    D  token width    N = G + R Q

As in the paper, a global token has projections of its own for the attention that it pays, which start equal to the
others; where it is seen by the tokens of the map it has theirs, and one softmax goes over window and global tokens.
The paper's dilation and dropout are left out; layers normalise before attention and MLP, not after.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

INIT_STD = 0.02  # of the paper's code
TILE = 64  # least tokens of a tile of queries: smaller ones are hardly faster and more in number
MLP_TOKENS = 4096  # tokens whose inner MLP values are in memory at once


class Layout(NamedTuple):
    """Where the tokens of a window lie.

    ``first`` global tokens, then those of a map of ``rows`` x ``cols`` in raster order, then ``last`` global tokens.
    """

    first: int
    rows: int
    cols: int
    last: int


class Heads(NamedTuple):
    """Projected tokens, each ``(B, H, N, E)``."""

    query: Tensor
    key: Tensor
    value: Tensor


def longformer_attention(local: Heads, across: Heads | None, layout: Layout, radius: tuple[int, int]) -> Tensor:
    """Window and global attention in memory linear in N, the same as `longformer_attention_ref`.

    The map is cut into tiles no smaller than the radius, so that what a tile sees lies in the 3 x 3 tiles around it.

    Parameters
    ----------
    local
        What the tokens of the map ask, and what they are answered from: by their window and all global tokens.
    across
        The same for the global tokens, with ``query`` ``(B, H, G, E)`` of these only; None where there are none.
    layout
        Where the tokens lie.
    radius
        Rows and columns that a token of the map sees to each side.

    Returns
    -------
    Tensor
        ``(B, H, N, E)``.
    """
    mapped = _window_attention(local, layout, radius)
    if across is None:
        return mapped
    collected = F.scaled_dot_product_attention(*across)  # (B, H, G, E)
    return torch.cat([collected[:, :, : layout.first], mapped, collected[:, :, layout.first :]], dim=2)


def longformer_attention_ref(local: Heads, across: Heads | None, layout: Layout, radius: tuple[int, int]) -> Tensor:
    """Full attention under a mask: the reference of `longformer_attention`. Parameters and result as there."""
    count, size = local.query.shape[2:]
    place = torch.arange(count, device=local.query.device) - layout.first
    row, col = place.div(layout.cols, rounding_mode="floor"), place % layout.cols
    is_global = (place < 0) | (place >= layout.rows * layout.cols)
    near = ((row[:, None] - row).abs() <= radius[0]) & ((col[:, None] - col).abs() <= radius[1])
    scores = local.query @ local.key.transpose(-1, -2) / size**0.5  # (B, H, N, N)
    out: Tensor = scores.masked_fill(~near & ~is_global, -torch.inf).softmax(-1) @ local.value
    if across is not None:
        scores = across.query @ across.key.transpose(-1, -2) / size**0.5  # (B, H, G, N)
        out[:, :, is_global] = scores.softmax(-1) @ across.value
    return out


def _window_attention(local: Heads, layout: Layout, radius: tuple[int, int]) -> Tensor:
    """The part of `longformer_attention` that belongs to the tokens of the map: ``(B, H, R Q, E)``."""
    least = (1, TILE) if layout.rows == 1 else (math.isqrt(TILE), math.isqrt(TILE))
    tile = (max(radius[0], least[0]), max(radius[1], least[1]))
    query, key, value = (_tiles(x, layout, tile) for x in local)
    key_all, value_all = (torch.cat(_global_tokens(x, layout), dim=2) for x in local[1:])  # (B, H, G, E)
    device, strips = key_all.device, []
    for i, strip in enumerate(query):
        rows = _near(i, tile[0], layout.rows, radius[0], device)
        mixed = []
        for j, asking in enumerate(strip):
            visible = _pairs(rows, _near(j, tile[1], layout.cols, radius[1], device))
            seen = torch.cat([key_all, _around(key, i, j)], dim=2)
            told = torch.cat([value_all, _around(value, i, j)], dim=2)
            visible = F.pad(visible, (seen.shape[2] - visible.shape[1], 0), value=True)
            out = F.scaled_dot_product_attention(asking.flatten(2, 3), seen, told, visible)
            mixed.append(out.view(asking.shape))
        strips.append(torch.cat(mixed, dim=3))
    return torch.cat(strips, dim=2).flatten(2, 3)


def _tiles(x: Tensor, layout: Layout, tile: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    """Cut the map out of ``(B, H, N, E)`` and into tiles, by row and column: ``(B, H, tile rows, tile columns, E)``."""
    on_map = x[:, :, layout.first : layout.first + layout.rows * layout.cols]
    by_place = rearrange(on_map, "b h (y x) e -> b h y x e", y=layout.rows)
    return [torch.split(strip, tile[1], dim=3) for strip in torch.split(by_place, tile[0], dim=2)]


def _global_tokens(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Those of ``(B, ..., N, E)`` before and after the map."""
    return x[..., : layout.first, :], x[..., layout.first + layout.rows * layout.cols :, :]


def _around(tiles: list[tuple[Tensor, ...]], i: int, j: int) -> Tensor:
    """The tile at ``i, j`` and its neighbours: ``(B, H, keys, E)`` in raster order."""
    strips = (torch.cat(strip[max(0, j - 1) : j + 2], dim=3) for strip in tiles[max(0, i - 1) : i + 2])
    return torch.cat(list(strips), dim=2).flatten(2, 3)


def _near(index: int, tile: int, length: int, radius: int, device: torch.device) -> Tensor:
    """Along one axis: whether a place of a tile (row) is near one of the tile and its neighbours (column)."""
    start = index * tile
    asking = torch.arange(start, min(start + tile, length), device=device)
    seen = torch.arange(max(0, start - tile), min(start + 2 * tile, length), device=device)
    return (asking[:, None] - seen).abs() <= radius


def _pairs(rows: Tensor, cols: Tensor) -> Tensor:
    """Join both axes: ``(y, y'), (x, x') -> (y x, y' x')``."""
    return (rows[:, None, :, None] & cols[None, :, None, :]).flatten(2).flatten(0, 1)


class LongformerAttention(nn.Module):
    """The projections around `longformer_attention`.

    Parameters
    ----------
    dim, heads
        D, and H, which divides it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (_linear(dim, dim) for _ in range(3))
        self.query_global, self.key_global, self.value_global = map(copy.deepcopy, (self.query, self.key, self.value))
        self.output = _linear(dim, dim)

    def forward(self, tokens: Tensor, layout: Layout, radius: tuple[int, int]) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        local = Heads(*(self._heads(net(tokens)) for net in (self.query, self.key, self.value)))
        mixed = longformer_attention(local, self._across(tokens, layout), layout, radius)
        out: Tensor = self.output(rearrange(mixed, "b h n e -> b n (h e)"))
        return out

    def _across(self, tokens: Tensor, layout: Layout) -> Heads | None:
        asking = torch.cat(_global_tokens(tokens, layout), dim=1)
        if asking.shape[1] == 0:
            return None
        answers = (self._heads(net(tokens)) for net in (self.key_global, self.value_global))
        return Heads(self._heads(self.query_global(asking)), *answers)

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, N, D) -> (B, H, N, E)``."""
        return rearrange(x, "b n (h e) -> b h n e", h=self.heads)


class LongformerLayer(nn.Module):
    """Attention and a GELU MLP, each on normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = LongformerAttention(dim, heads)
        self.mlp = nn.Sequential(_linear(dim, mlp_ratio * dim), nn.GELU(), _linear(mlp_ratio * dim, dim))

    def forward(self, tokens: Tensor, layout: Layout, radius: tuple[int, int]) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        tokens = tokens + self.attention(self.norm(tokens), layout, radius)
        parts = torch.split(tokens, MLP_TOKENS, dim=1)
        return torch.cat([part + self.mlp(self.mlp_norm(part)) for part in parts], dim=1)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


class Longformer(nn.Module):
    """A stack of Longformer layers: sight grows by a window per layer, and at once to all through global tokens.

    Parameters
    ----------
    dim, layers, heads
        D, the number of layers, and H.
    mlp_ratio
        Inner width of an MLP over D.
    attention_window
        A token sees itself and ``attention_window // 2`` tokens to each side.
    window_2d
        It sees instead a square of the map, ``isqrt(attention_window) // 2`` rows and columns to each side (256: a
        square of 17 x 17), as far as the map reaches.
    recurrent
        Apply one layer ``layers`` times.
    """

    uses_layout = True

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        mlp_ratio: int = 4,
        attention_window: int = 256,
        window_2d: bool = False,
        recurrent: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.attention_window, self.window_2d = layers, attention_window, window_2d
        self.layers = nn.ModuleList(LongformerLayer(dim, heads, mlp_ratio) for _ in range(1 if recurrent else layers))

    def forward(self, tokens: Tensor, layout: Layout | None = None) -> Tensor:
        """Let tokens see each other.

        Parameters
        ----------
        tokens
            ``(B, N, D)``.
        layout
            Where they lie; None for one row of N tokens, none of them global, under the sliding window.

        Returns
        -------
        Tensor
            ``(B, N, D)``.
        """
        on_map = self.window_2d and layout is not None
        layout = layout or Layout(0, 1, tokens.shape[1], 0)
        assert layout.first + layout.rows * layout.cols + layout.last == tokens.shape[1]
        if on_map:
            radius = (math.isqrt(self.attention_window) // 2,) * 2
        else:
            radius = (0, self.attention_window // 2)
            layout = layout._replace(rows=1, cols=layout.rows * layout.cols)
        for i in range(self.depth):
            tokens = self.layers[i % len(self.layers)](tokens, layout, radius)
        return tokens
