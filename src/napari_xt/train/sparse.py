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
    has zeros); ``heat (N, Kb, h, h)``, ``boxes (N, 4, h, h)``, ``near (N, h, h)`` as in `targets.Targets`, but centres
    from each cell's own corner; ``valid (N, h, h)``, where boxes are known (bool, or how much that counts); ``classes
    (N,)`` int64, -1 where unknown.
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

    def at(self, cells: Cells) -> Known:
        """At some cells of each region: maps ``(N, ..., 1, P)``, in which a cell counts as often as it stands for."""
        share, heat, boxes = (_gathered(x, cells.at) for x in (self.share, self.heat, self.boxes))
        near, valid = (_gathered(x[:, None], cells.at)[:, 0] for x in (self.near, self.valid))
        times = cells.times[:, None]
        return Known(share * times[:, None], heat, boxes, near, valid * times, self.classes)


@dataclass(frozen=True, slots=True)
class Cells:
    """Some cells of regions: ``at (N, P)`` int64 in the flattened map, ``times (N, P)`` how many each stands for."""

    at: Tensor
    times: Tensor


def drawn(kinds: Tensor, count: int, generator: torch.Generator) -> Cells:
    """Draw cells of each region: heads work point by point, so some are enough.

    Parameters
    ----------
    kinds
        ``(N, h, h)``: 2 where a cell is wanted as long as there is room, 1 where any will do, 0 where none will.
    count
        P, at most.
    """
    flat = kinds.flatten(1).float()
    chance = (flat + torch.rand(flat.shape, generator=generator)) * (flat > 0)
    at = chance.topk(min(count, flat.shape[1])).indices
    taken, times = flat.gather(1, at), torch.zeros(at.shape)
    for kind in (1, 2):
        there, some = ((x == kind).sum(1, keepdim=True) for x in (flat, taken))
        times = times + (taken == kind) * (there / some.clamp(min=1))
    return Cells(at, times)


def _gathered(maps: Tensor, at: Tensor) -> Tensor:
    """``maps (N, c, h, h)`` at ``at (N, P)``: ``(N, c, 1, P)``."""
    return maps.flatten(2).gather(2, at[:, None].expand(-1, maps.shape[1], -1))[:, :, None]


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
    """What boxes cost, ``raw (B, Kb + 4, h, w)``: heat maps everywhere, centres and sizes in the cells of a box."""
    heats = [heat_loss(raw[:, k], truth.heat[:, k], truth.valid) for k in range(truth.heat.shape[1])]
    there = (truth.near > 0) & (truth.valid > 0)
    raws, boxes = (x.permute(0, 2, 3, 1)[there][:, :, None, None] for x in (raw[:, -4:], truth.boxes))
    return torch.stack(heats).sum() + box_loss(raws, boxes, truth.near[there][:, None, None], stride)


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
    boxes[:2] -= np.indices(near.shape, np.float32) * stride
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
