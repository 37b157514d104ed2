"""Batch norms worked into the convolutions before them: the same sums, one pass over the maps less.

Knows torch and timm's batch norm; knows no networks. For inference alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from napari_xt.model._timm import timm

layers: Any = timm.layers
ActivatedNorm = layers.BatchNormAct2d
CLOSE = 1e-3  # of the largest output: rounding is far below, another order of layers far above


class _Pair(NamedTuple):
    """A norm ``name`` of ``parent`` that is registered right behind ``conv``, and that one's own weights."""

    parent: nn.Module
    name: str
    conv: nn.Conv2d
    norm: Any
    weight: Any
    bias: Any


@torch.no_grad()
def fold_norms(net: nn.Module, sample: Tensor) -> None:
    """Fold each batch norm of ``net`` into the convolution that is registered right before it, in place.

    Nothing is changed where the maps of ``sample`` come out differently: that order is not the one of the calls then.

    Parameters
    ----------
    net
        In evaluation mode, float32; returns maps, or a batch of them.
    sample
        ``(1, C, y, x)``.
    """
    pairs = list(_pairs(net))
    if not pairs:
        return
    wanted = net(sample)
    for pair in pairs:
        _fold(pair)
    if not _close(net(sample), wanted):
        for pair in pairs:
            pair.conv.weight, pair.conv.bias = pair.weight, pair.bias
            setattr(pair.parent, pair.name, pair.norm)


def _pairs(net: nn.Module) -> Iterator[_Pair]:
    for parent in net.modules():
        for (_, conv), (name, norm) in pairwise(parent.named_children()):
            if not isinstance(conv, nn.Conv2d) or type(norm) not in (nn.BatchNorm2d, ActivatedNorm):
                continue
            if conv.out_channels == norm.num_features and norm.track_running_stats and norm.affine:
                yield _Pair(parent, name, conv, norm, conv.weight, conv.bias)


def _fold(pair: _Pair) -> None:
    conv, norm = pair.conv, pair.norm
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    start = 0 if conv.bias is None else conv.bias
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(norm.bias + (start - norm.running_mean) * scale, requires_grad=False)
    left = nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)
    setattr(pair.parent, pair.name, left.train(norm.training))


def _close(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(bool((a - b).abs().max() <= CLOSE * b.abs().max()) for a, b in zip(some, others, strict=True))
