"""The region encoder: any timm backbone, turned into a few tokens and a compact map of local features per region.

Knows tensors; knows nothing of windows, context or heads. Dimensions:

    B  regions    C  input channels    P  side of the input, inner + 2 halo    D  token width
    n  tokens along a side    c  local channels    s  local stride    S  side of the inner
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.backbone import backbone
from napari_xt.model.config import XTConfig

COARSEST_LOCAL = 16  # coarser maps differ too much near a region's border; they reach the heads through the context


class RegionEncoder(nn.Module):
    """A backbone with two exits: tokens from its last stage, local features from its finer ones.

    Parameters
    ----------
    config
        Names the backbone, the sizes and the channels.

    Raises
    ------
    ModelError
        timm has no such backbone, it offers no feature maps, or the halo does not fit its strides.
    """

    def __init__(self, config: XTConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone(config.region_encoder, config.in_channels)
        info: Any = self.backbone.feature_info
        self.strides: tuple[int, ...] = tuple(info.reduction())
        channels = dict(zip(self.strides, info.channels(), strict=True))
        if config.halo_px % self.strides[-1] or config.region_px % self.strides[-1]:
            why = f"must be multiples of {config.region_encoder}'s stride {self.strides[-1]}"
            raise ModelError(f"region_px = {config.region_px}, halo_px = {config.halo_px}", why)
        self.to_tokens = nn.Linear(channels[self.strides[-1]], config.context.dim)
        self.pyramid = LocalPyramid({s: c for s, c in channels.items() if self._is_local(s)}, config)

    def _is_local(self, stride: int) -> bool:
        return self.config.local.stride <= stride <= COARSEST_LOCAL

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode regions, each for itself.

        Parameters
        ----------
        regions
            Normalised pixels with halo, ``(B, C, P, P)``.

        Returns
        -------
        tokens, local
            ``(B, n * n, D)`` and ``(B, c, S / s, S / s)``, both of the inner alone.
        """
        features = dict(zip(self.strides, self.backbone(regions), strict=True))
        last = self._inner(features[self.strides[-1]], self.strides[-1])
        pooled = F.adaptive_avg_pool2d(last, self.config.context.tokens_per_side)
        tokens = self.to_tokens(pooled.flatten(2).transpose(1, 2))
        local = self.pyramid({s: f for s, f in features.items() if self._is_local(s)})
        return tokens, self._inner(local, self.config.local.stride)

    def _inner(self, feature: Tensor, stride: int) -> Tensor:
        margin, side = self.config.halo_px // stride, self.config.region_px // stride
        return feature[..., margin : margin + side, margin : margin + side]


class LocalPyramid(nn.Module):
    """A feature pyramid (Lin et al., 2017): coarse maps are brought up and added to finer ones, then made compact.

    Parameters
    ----------
    channels
        Channels of the backbone's map at each stride, finest first.
    config
        ``config.local`` gives the widths.
    """

    def __init__(self, channels: dict[int, int], config: XTConfig) -> None:
        super().__init__()
        local = config.local
        if min(channels, default=0) != local.stride:
            raise ModelError(f"local.stride = {local.stride}", f"{config.region_encoder} has no map at that stride")
        self.lateral = nn.ModuleDict({str(s): nn.Conv2d(c, local.hidden, 1) for s, c in channels.items()})
        self.smooth = nn.ModuleDict({str(s): _conv(local.hidden) for s in channels})
        self.compact = nn.Conv2d(local.hidden, local.channels, 1)

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """Maps by stride, ``(B, *, P / stride, P / stride)`` -> ``(B, c, P / s, P / s)``."""
        out: Tensor | None = None
        for stride in sorted(features, reverse=True):
            x: Tensor = self.lateral[str(stride)](features[stride])
            if out is not None:
                x = x + F.interpolate(out, size=x.shape[-2:], mode="bilinear", align_corners=False)
            out = self.smooth[str(stride)](x)
        compact: Tensor = self.compact(out)
        return compact


def _conv(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
