"""Nested tokenization: images to regions, regions back to one map, the order of a window's tokens and their positions.

Knows tensors only. Dimensions:

    B  batch              R, Q   rows and columns of regions
    C  channels           S      side of a region's inner (px)
    D  token width        P      side of the encoder's input, S + 2 halo
    n  tokens along a region's side
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from napari_xt.model.config import Scan


def to_regions(images: Tensor, region_px: int, halo_px: int = 0) -> Tensor:
    """Cut images into regions with their halo; what lies outside the image is the nearest pixel inside (replication).

    Parameters
    ----------
    images
        ``(B, C, H, W)``, any size.
    region_px, halo_px
        Side of the inner, and pixels beyond it.

    Returns
    -------
    Tensor
        ``(B, R, Q, C, P, P)``; ``R = ceil(H / region_px)``, ``Q = ceil(W / region_px)``, ``P = region_px + 2 halo_px``.
    """
    return cut_regions(to_full(images, region_px, halo_px), region_px, halo_px)


def to_full(images: Tensor, region_px: int, halo_px: int = 0) -> Tensor:
    """Fill images ``(B, C, H, W)`` up to whole regions and a halo around them, by replication."""
    height, width = images.shape[-2:]
    bottom, right = -height % region_px, -width % region_px
    return F.pad(images, (halo_px, right + halo_px, halo_px, bottom + halo_px), mode="replicate")


def cut_regions(padded: Tensor, region_px: int, halo_px: int) -> Tensor:
    """Cut images that bring their halo along, ``(B, C, R S + 2 halo, Q S + 2 halo) -> (B, R, Q, C, P, P)``."""
    side = region_px + 2 * halo_px
    cut = padded.unfold(2, side, region_px).unfold(3, side, region_px)  # (B, C, R, Q, P, P)
    return rearrange(cut, "b c r q y x -> b r q c y x")


def from_regions(maps: Tensor) -> Tensor:
    """Put the maps of regions side by side: ``(B, R, Q, C, h, w) -> (B, C, R h, Q w)``, channels last in memory."""
    return rearrange(maps, "b r q c h w -> b (r h) (q w) c").permute(0, 3, 1, 2)


def token_map(tokens: Tensor) -> Tensor:
    """Assemble the tokens of a window: ``(B, R, Q, n * n, D) -> (B, R n, Q n, D)``, row-major within each region."""
    n = round(tokens.shape[-2] ** 0.5)
    return rearrange(tokens, "b r q (i j) d -> b (r i) (q j) d", i=n, j=n)


def region_tokens(assembled: Tensor, tokens_per_side: int) -> Tensor:
    """The inverse of `token_map`: ``(B, R n, Q n, D) -> (B, R, Q, n * n, D)``."""
    n = tokens_per_side
    return rearrange(assembled, "b (r i) (q j) d -> b r q (i j) d", i=n, j=n)


def scan_order(scan: Scan, rows: int, cols: int, tokens_per_side: int = 1) -> Tensor:
    """In which order the tokens of a map are walked.

    Parameters
    ----------
    scan
        As `ContextConfig` describes it.
    rows, cols
        Size of the token map.
    tokens_per_side
        Tokens along a region's side, for ``"region"``.

    Returns
    -------
    Tensor
        ``(rows * cols,)`` int64, row-major places; for ``"two_stream"`` twice as long: all of them to be remembered,
        then all of them to be kept.
    """
    raster = torch.arange(rows * cols).reshape(rows, cols)
    if scan == "region":
        n = tokens_per_side
        return rearrange(raster, "(r i) (q j) -> (r q i j)", i=n, j=n)
    if scan == "zigzag":
        raster[1::2] = raster[1::2].flip(1)
    return raster.flatten().repeat(2 if scan == "two_stream" else 1)


def positions(rows: int, cols: int, dim: int, start: tuple[int, int] = (0, 0)) -> Tensor:
    """Two-dimensional sine-cosine positions, as in the released code of the paper (and MAE).

    The first half of the channels states the column, the second the row; each half is all sines, then all cosines,
    of ``position / 10000 ** (2 k / (dim / 2))``.

    Parameters
    ----------
    rows, cols
        Size of the token map.
    dim
        D, a multiple of 4.
    start
        Row and column of the first token, counted from the full window's origin.

    Returns
    -------
    Tensor
        ``(rows, cols, D)`` float32.
    """
    rates = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def encode(first: int, count: int) -> Tensor:
        angles = torch.arange(first, first + count, dtype=torch.float64)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()  # (count, D / 2)

    by_col = encode(start[1], cols)[None].expand(rows, -1, -1)
    by_row = encode(start[0], rows)[:, None].expand(-1, cols, -1)
    return torch.cat([by_col, by_row], dim=-1)
