"""Convolutions that torch is slow at on one CPU thread, another way: 1 x 1, and TensorFlow's SAME padding.

Knows torch and timm's padded convolution; knows no networks. Names of parameters stay, training is torch's own.

A 1 x 1 convolution of few images, in float32 on one thread, is handed to a plain matrix product by torch; oneDNN's own
convolution takes half the time. SAME padding at a stride of 2 needs one row more behind than before: timm copies the
whole map to fill it up, where a kernel with a first row and column of zeros gives the same sums without a copy.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.model._timm import timm

layers: Any = timm.layers
PaddedConv2d: Any = layers.Conv2dSame
ONEDNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")  # type: ignore[no-untyped-call]


class PointwiseConv2d(nn.Conv2d):
    """A convolution of 1 x 1 without padding and groups: ``(B, c, y, x) -> (B, d, y / stride, x / stride)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not ONEDNN or x.dim() != 4 or x.dtype != torch.float32 or not _plain_inference(self, x):
            return super().forward(x)
        return torch.mkldnn_convolution(x, self.weight, self.bias, (0, 0), self.stride, (1, 1), 1)


class DepthwiseConv2dSame(PaddedConv2d):  # type: ignore[misc]
    """timm's convolution with SAME padding, one channel at a time: ``(B, c, y, x) -> (B, c, ceil(y / s), ...)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        sizes = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        lacking = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in sizes]
        if any(n % 2 == 0 for n in lacking) or not _plain_inference(self, x):
            plain: Tensor = super().forward(x)
            return plain
        after = [n // 2 + 1 for n in lacking]
        return F.conv2d(x, F.pad(self.weight, (1, 0, 1, 0)), self.bias, self.stride, after, groups=self.groups)


def hasten_convolutions(net: nn.Module) -> None:
    """Give the convolutions inside ``net`` that these classes are for their forward."""
    for module in net.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1 and not _padded(module):
            module.__class__ = PointwiseConv2d
        elif type(module) is PaddedConv2d and module.groups == module.in_channels and module.dilation == (1, 1):
            module.__class__ = DepthwiseConv2dSame


def _padded(module: nn.Conv2d) -> bool:
    return module.padding not in ((0, 0), "valid") or module.padding_mode != "zeros"


def _plain_inference(module: nn.Conv2d, x: Tensor) -> bool:
    """Whether nothing is asked for that only torch's own way gives: gradients, autocast, another device or type."""
    if x.device.type != "cpu" or module.weight.dtype != x.dtype or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or module.weight.requires_grad))
