"""The region encoder: any timm backbone, turned into a few tokens and a compact map of local features per region.

A region larger than the backbone's input is cut into sub-regions with their own halo, those again, ...: nested
tokenization (Gupta et al., 2024, section 3.1). Sub-regions are encoded independently, and their maps put together
before anything is summarised. Knows tensors; knows nothing of windows, context or heads. Dimensions:

    B  regions    C  input channels    S  side of a region's inner (px)    P  side of the backbone's input, with halo
    n  tokens along a side    D  token width    c  local channels    s  local stride    h  side of a region's last map
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.backbone import backbone, encoder_info
from napari_xt.model.config import HEAD_DIM, XTConfig
from napari_xt.model.convolution import PointwiseConv2d
from napari_xt.model.folding import fold_norms
from napari_xt.model.tokens import cut_regions, from_regions, positions

COARSEST_LOCAL = 16  # coarser maps differ too much near a region's border; they reach the heads through the context
TOGETHER = 16  # regions or sub-regions that an accelerator encodes at a time
FEW_CELLS = 2  # of the coarsest map: enough to see whether two networks are the same


class RegionEncoder(nn.Module):
    """A backbone with two exits: tokens from its last stage, local features from its finer ones.

    Parameters
    ----------
    config
        Names the backbone, the sizes and the channels.

    Raises
    ------
    ModelError
        timm has no such backbone, it offers no feature maps or does not take that size, the halo does not fit its
        strides, or the tokens do not fit its last map.
    """

    def __init__(self, config: XTConfig) -> None:
        super().__init__()
        self.config = config
        self.info = encoder_info(config.region_encoder, config.in_channels, config.encoder_px, config.patch_px)
        self._check_sizes()
        self.backbone = backbone(config.region_encoder, config.in_channels, config.encoder_px, config.patch_px)
        width, dim, n = self.info.channels[-1], config.context.dim, config.context.tokens_per_side
        self.to_tokens = nn.Linear(width, dim) if config.context.project else nn.Identity()
        learned = config.context.summary == "queries"
        self.queries = Queries(dim, n, config.region_px // self.info.strides[-1]) if learned else None
        self.pyramid = LocalPyramid(self._local_maps(), config) if config.dense else None

    def load_pretrained(self, name: str | None = None) -> None:
        """Fill the backbone with its published weights, or those of the same network under another name.

        Raises
        ------
        ModelError
            They can't be had: there are none, access is missing, or this machine is offline and has none cached.
        """
        config = self.config
        called = name or config.region_encoder
        given = backbone(called, config.in_channels, config.encoder_px, config.patch_px, pretrained=True)
        self.backbone.load_state_dict(given.state_dict())

    def fold_norms(self) -> None:
        """Work batch norms into the convolutions before them, for inference; names of parameters change."""
        generator, place = torch.Generator().manual_seed(0), next(self.backbone.parameters()).device
        side = self.info.side if self.info.fixed else FEW_CELLS * max(self.info.strides)
        fold_norms(self.backbone, torch.randn(1, self.config.in_channels, side, side, generator=generator).to(place))
        if self.pyramid is not None:
            sample = torch.randn(1, self.config.local.hidden, FEW_CELLS, FEW_CELLS, generator=generator).to(place)
            for smooth in self.pyramid.smooth.values():
                fold_norms(smooth, sample)

    def _check_sizes(self) -> None:
        config, info = self.config, self.info
        unit, inner = math.lcm(max(info.strides), config.local.stride), (config.region_px, *config.sub_regions_px)[-1]
        if config.halo_px % unit or inner % unit:
            what = "sub_regions_px" if config.sub_regions_px else "region_px"
            why = f"must be multiples of {unit} ({config.region_encoder}'s stride {max(info.strides)}, local.stride)"
            raise ModelError(f"{what} = {inner}, halo_px = {config.halo_px}", why)
        side = config.region_px // info.strides[-1]
        if config.context.tokens_per_side > side:
            what = f"context.tokens_per_side = {config.context.tokens_per_side}"
            raise ModelError(what, f"a region's last map is {side} x {side}", f"choose at most {side}")
        if not config.context.project and config.context.dim != info.channels[-1]:
            why = f"must be {info.channels[-1]}, the width of {config.region_encoder}, where context.project is False"
            raise ModelError(f"context.dim = {config.context.dim}", why)

    def _local_maps(self) -> dict[int, int]:
        """Channels of the maps that local features come from, by stride; of several at one stride the last."""
        channels = dict(zip(self.info.strides, self.info.channels, strict=True))
        wanted = self.config.local.stride
        near = {s: c for s, c in channels.items() if wanted <= s <= COARSEST_LOCAL}
        if near:
            return near
        closest = min((s for s in channels if s >= wanted), default=max(channels))
        return {closest: channels[closest]}

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode regions, each for itself.

        Parameters
        ----------
        regions
            Normalised pixels with halo, ``(B, C, S + 2 halo, S + 2 halo)``.

        Returns
        -------
        tokens, local
            ``(B, n * n, D)`` and ``(B, c, S / s, S / s)``, both of the inner alone; c = 0 where no head wants any.
        """
        last, local = self._maps(regions, self.config.sub_regions_px)
        if self.queries is None:
            last = F.adaptive_avg_pool2d(last, self.config.context.tokens_per_side)
        tokens: Tensor = self.to_tokens(last.flatten(2).transpose(1, 2))
        return tokens if self.queries is None else self.queries(tokens), local

    def _maps(self, regions: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The last map and the local features of the inner, from sub-regions of the first of ``sizes``, and so on."""
        if not sizes:
            return self._encode(regions)
        some = 1 if regions.device.type == "cpu" and not self.training else TOGETHER
        rows = [
            self._row_of_maps(regions, row, some, sizes[1:])
            for row in cut_regions(regions, sizes[0], self.config.halo_px).unbind(1)
        ]
        last, local = (from_regions(torch.stack(maps, dim=1)) for maps in zip(*rows, strict=True))
        return last, local

    def _row_of_maps(self, like: Tensor, row: Tensor, some: int, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """A row of sub-regions ``(B, Q, C, P, P)``, some at a time: their maps, each ``(B, Q, *, h, h)``."""
        parts = torch.split(row.flatten(0, 1), some)
        maps = [self._maps(_laid_out_as(like, part), sizes) for part in parts]
        last, local = (rearrange(torch.cat(m), "(b q) c y x -> b q c y x", b=len(row)) for m in zip(*maps, strict=True))
        return last, local

    def _encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, P, P) ->`` the inner of its last map, and its local features."""
        features = dict(zip(self.info.strides, self.backbone(pixels), strict=True))
        last = self._inner(features[self.info.strides[-1]], self.info.strides[-1])
        stride = self.config.local.stride
        if self.pyramid is None:
            side = (pixels.shape[-1] - 2 * self.config.halo_px) // stride
            return last, pixels.new_empty(len(pixels), 0, side, side)
        return last, self._inner(self.pyramid(features, pixels.shape[-1] // stride), stride)

    def _inner(self, feature: Tensor, stride: int) -> Tensor:
        margin = self.config.halo_px // stride
        inner = slice(margin, feature.shape[-1] - margin)
        return feature[..., inner, inner]


class Queries(nn.Module):
    """Token summary by learned queries: n * n of them look at a region's map, wherever on it something is to be seen.

    One multi-head cross-attention (Vaswani et al., 2017, section 3.2.2) on normalised input, with a skip; keys know
    their place by sine-cosine positions, and query (i, j) begins as the mean of those of its part of the map.

    Parameters
    ----------
    dim
        D.
    tokens_per_side
        n.
    side
        h.
    """

    places: Tensor

    def __init__(self, dim: int, tokens_per_side: int, side: int) -> None:
        super().__init__()
        places = positions(side, side, dim)
        begin = F.adaptive_avg_pool2d(places.permute(2, 0, 1), tokens_per_side).flatten(1).T
        self.heads = max(h for h in range(1, max(1, dim // HEAD_DIM) + 1) if dim % h == 0)
        self.register_buffer("places", places.flatten(0, 1), persistent=False)
        self.queries = nn.Parameter(begin.clone())
        self.query_norm, self.map_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, h * h, D) -> (B, n * n, D)``."""
        x = self.map_norm(features)
        query = self.to_query(self.query_norm(self.queries)).expand(len(x), -1, -1)
        q, k, v = (
            rearrange(t, "b l (heads d) -> b heads l d", heads=self.heads)
            for t in (query, self.to_key(x + self.places), self.to_value(x))
        )
        seen = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads l d -> b l (heads d)")
        tokens: Tensor = self.queries + self.out(seen)
        return tokens


class LocalPyramid(nn.Module):
    """A feature pyramid (Lin et al., 2017): coarse maps are brought up and added to finer ones, then made compact.

    Of a backbone without a map at the local stride (a ViT has one at 16 alone) the result is brought there: bilinear
    from a coarser grid, the mean of areas from a finer one.

    Parameters
    ----------
    channels
        Channels of the backbone's map at each stride that is used.
    config
        ``config.local`` gives the widths.
    """

    def __init__(self, channels: dict[int, int], config: XTConfig) -> None:
        super().__init__()
        local = config.local
        self.strides = sorted(channels, reverse=True)
        self.lateral = nn.ModuleDict({str(s): PointwiseConv2d(c, local.hidden) for s, c in channels.items()})
        self.smooth = nn.ModuleDict({str(s): _conv(local.hidden) for s in channels})
        self.compact = PointwiseConv2d(local.hidden, local.channels)

    def forward(self, features: dict[int, Tensor], side: int) -> Tensor:
        """Maps by stride, ``(B, *, P / stride, P / stride)`` -> ``(B, c, side, side)``."""
        out: Tensor | None = None
        for stride in self.strides:
            x: Tensor = self.lateral[str(stride)](features[stride])
            if out is not None:
                x = x + _resized(out, x.shape[-1])
            out = self.smooth[str(stride)](x)
        compact: Tensor = self.compact(out)
        return _resized(compact, side)


def _conv(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def _resized(feature: Tensor, side: int) -> Tensor:
    """``(B, *, h, h) -> (B, *, side, side)``: bilinear up, mean over areas down."""
    if feature.shape[-1] >= side:
        return feature if feature.shape[-1] == side else F.adaptive_avg_pool2d(feature, side)
    return F.interpolate(feature, size=(side, side), mode="bilinear", align_corners=False)


def _laid_out_as(model: Tensor, x: Tensor) -> Tensor:
    """``x`` with its channels where those of ``model`` lie in memory: bits may depend on it."""
    last = model.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
