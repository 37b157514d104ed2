"""What the heads should say where something is known, and what that costs: nothing at all anywhere else.

Knows truths, arrays and tensors; knows nothing of files or of how heads are trained. Dimensions:

    N  regions    K  classes    s  local stride    S  side of a region    h = S / s
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.annotate.truth import EDGES, UNSURE, RegionTruth
from napari_xt.geometry import Box
from napari_xt.model.config import XTConfig
from napari_xt.train.losses import box_loss, heat_loss
from napari_xt.train.targets import make_targets

EVEN = 0.5  # how far rare classes are made to count as much as frequent ones: 0 not at all, 1 wholly


@dataclass(frozen=True, slots=True)
class Known:
    """Targets of regions, stacked.

    ``share (N, K, h, h)`` float32, how much of a cell is known to be of each class (a cell of which nothing is known
    has zeros); ``heat (N, Kb, h, h)``, ``boxes (N, 4, h, h)``, ``near (N, h, h)`` as in `targets.Targets`; ``valid
    (N, h, h)`` bool, where boxes are known; ``classes (N,)`` int64, -1 where unknown.
    """

    share: Tensor
    heat: Tensor
    boxes: Tensor
    near: Tensor
    valid: Tensor
    classes: Tensor

    def some(self, index: Tensor) -> Known:
        """Those at ``index``."""
        return Known(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def known(
    truths: Sequence[RegionTruth], mask: Mapping[int, int], config: XTConfig, px_per_run: tuple[float, float]
) -> Known:
    """Draw the targets of regions.

    Parameters
    ----------
    truths
        What is known of them.
    mask
        What each value of their labels is called in the model's mask; values that it lacks are unknown.
    config
        Of the model.
    px_per_run
        Level-0 pixels of a run pixel, ``(y, x)``.
    """
    parts = [_region(truth, mask, config, px_per_run) for truth in truths]
    return Known(*(torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True)))


def mask_cost(logits: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of ``logits (B, K, h, w)`` per known pixel, each class ``weights (K,)`` times, and Dice.

    Cross-entropy alone would call a rare class that is hard to tell background throughout.
    """
    weighed = share * weights[:, None, None]
    entropy = -(weighed * logits.log_softmax(1)).sum() / weighed.sum().clamp(min=1e-6)
    said = logits.softmax(1) * share.sum(1, keepdim=True)
    both, size = ((x).sum((0, 2, 3))[1:] for x in (said * share, said + share))
    there = share.sum((0, 2, 3))[1:] > 0
    dice = 1 - (2 * both + 1) / (size + 1)
    cost: Tensor = entropy + (dice * there).sum() / there.sum().clamp(min=1)
    return cost


def class_weights(share: Tensor) -> Tensor:
    """How much a known pixel of each class counts, ``(K,)``: more where there are few; 0 where there is none."""
    count = share.sum(dim=(0, 2, 3))
    even = (count.sum() / count.clamp(min=1e-6)) ** EVEN
    return torch.where(count > 0, even, 0.0) / even[count > 0].min() if (count > 0).any() else torch.zeros_like(count)


def boxes_cost(raw: Tensor, truth: Known, stride: int) -> Tensor:
    """What boxes cost, ``raw (B, Kb + 4, h, w)``."""
    heats = [heat_loss(raw[:, k], truth.heat[:, k], truth.valid) for k in range(truth.heat.shape[1])]
    return torch.stack(heats).sum() + box_loss(raw[:, -4:], truth.boxes, truth.near * truth.valid, stride)


def replay_cost(logits: Tensor, said: Tensor) -> Tensor:
    """How far ``logits (B, K, h, w)`` are from what was ``said (B, K0, h, w)``, probabilities of the first K0 classes.

    What new classes take from old ones is not held against them.
    """
    now = logits[:, : said.shape[1]].log_softmax(1)
    cost: Tensor = (said * (said.clamp(min=1e-6).log() - now)).sum(1).mean()
    return cost


def box_replay_cost(raw: Tensor, said: Tensor) -> Tensor:
    """How far the heat maps of ``raw (B, Kb + 4, h, w)`` are from what was ``said (B, K0, h, w)``, per box said."""
    now = raw[:, : said.shape[1]]
    entropy = F.binary_cross_entropy_with_logits(now, said, reduction="sum")
    least = F.binary_cross_entropy(said, said, reduction="sum")
    cost: Tensor = (entropy - least) / said.sum().clamp(min=8)
    return cost


_Arrays = tuple[NDArray[np.generic], ...]


def _region(truth: RegionTruth, mask: Mapping[int, int], config: XTConfig, px_per_run: tuple[float, float]) -> _Arrays:
    stride, side = config.local.stride, config.region_px
    share = _share(truth.labels, mask, len(config.mask or ()), side, stride)
    corner = np.array([truth.row * side, truth.col * side] * 2, np.float64)
    names = config.boxes or ()
    inside = Box(0, 0, *truth.labels.shape)
    classes = [_drawn(truth.boxes, name, px_per_run, corner) for name in names]
    targets = [make_targets(boxes, inside, (side, side), stride, side) for boxes in classes]
    heat = np.stack([t.heat for t in targets]) if targets else np.zeros((0, side // stride, side // stride), np.float32)
    near, boxes = np.zeros(heat.shape[1:], np.float32), np.zeros((4, *heat.shape[1:]), np.float32)
    for target in targets:
        closer = target.near > near
        near[closer], boxes[:, closer] = target.near[closer], target.boxes[:, closer]
    valid = targets[0].valid if targets and truth.complete else near > 0
    for name in names:
        gone = make_targets(_drawn(truth.deleted, name, px_per_run, corner), inside, (side, side), stride, side)
        valid = valid | (gone.near > 0)
    named = config.scores.index(truth.region_class) if config.scores and truth.region_class in config.scores else -1
    return share, heat, boxes, near, valid, np.array(named, np.int64)


def _share(
    labels: NDArray[np.uint8], mask: Mapping[int, int], classes: int, side: int, stride: int
) -> NDArray[np.float32]:
    table = np.full(256, 255, np.uint8)
    for value, index in mask.items():
        table[value] = index
    table[UNSURE:] = 255
    whole = np.full((side, side), 255, np.uint8)
    whole[: labels.shape[0], : labels.shape[1]] = table[labels]
    cells = whole.reshape(side // stride, stride, side // stride, stride)
    share = np.zeros((classes, side // stride, side // stride), np.float32)
    for index in np.unique(whole[whole < 255]):
        share[index] = (cells == index).mean(axis=(1, 3))
    return share


def _drawn(
    table: pd.DataFrame, name: str, px_per_run: tuple[float, float], corner: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Boxes of a class as ``(n, 4)`` run pixels from ``corner``."""
    chosen = table.loc[table["class"] == name, list(EDGES)].to_numpy(np.float64)
    return np.asarray(chosen / np.tile(px_per_run, 2) - corner)
