"""A network as small as one can be, for tests that need one but no trained weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from napari_xt.model.config import ContextConfig, XTConfig
from napari_xt.model.presets import CANOPY
from napari_xt.model.xt import XT

SMALL = replace(CANOPY, region_px=64, halo_px=32, window=4, context=ContextConfig(layers=2, dim=32), threshold=0.1)


def small_model(config: XTConfig = SMALL, seed: int = 0) -> XT:
    """Random weights, with heads loud and balanced enough that masks, boxes and scores differ from place to place."""
    torch.manual_seed(seed)
    model = XT(config).eval().requires_grad_(False)
    model.name = "small"
    output = model(torch.randn(1, config.in_channels, 4 * config.region_px, 4 * config.region_px))
    for head, logits, wanted in ((model.mask_head, output.mask, 0.0), (model.box_head, output.boxes, -1.0)):
        if head is not None and logits is not None:
            scale = 2 / logits.std(dim=(0, 2, 3))
            head.out.weight.mul_(scale[:, None, None, None])
            head.out.bias.copy_(wanted + (head.out.bias - logits.mean(dim=(0, 2, 3))) * scale)
    if model.box_head is not None:
        model.box_head.out.bias[-2:] = 1.5  # boxes of some 18 px
    return model


def squares(shape: tuple[int, int]) -> np.ndarray:
    """Return an image ``(*shape, 3)`` of squares of 8 x 8 pixels, each of one colour, the same at each call."""
    coarse = np.random.default_rng(0).integers(0, 256, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].copy()
