"""What a window's output costs, head by head. Knows tensors; knows no files.

Heat maps: the focal loss of Zhou et al. (2019), equation 1. Boxes: GIoU (Rezatofighi et al., 2019) at centres, and the
logarithm of the size around them. Masks: cross-entropy and Dice. Scores: cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_xt.model.heads import box_geometry
from napari_xt.model.xt import XTOutput


def heat_loss(logits: Tensor, heat: Tensor, valid: Tensor) -> Tensor:
    """Focal loss of heat maps, all ``(B, h, w)``, per centre; ``valid`` may say how much each cell counts."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = heat > 0.999
    hit = -((1 - p) ** 2) * p.log() * centre
    miss = -((1 - heat) ** 4) * p**2 * (1 - p).log() * ~centre
    total: Tensor = ((hit + miss) * valid).sum() / (centre * valid).sum().clamp(min=8)
    return total


def box_loss(raw: Tensor, boxes: Tensor, near: Tensor, stride: int) -> Tensor:
    """``raw (B, 4, h, w)`` of a box head against ``boxes (B, 4, h, w)``, where ``near (B, h, w)`` is positive."""
    centres, sizes = box_geometry(raw, stride)
    log_size = (sizes.clamp(min=1).log() - boxes[:, 2:].clamp(min=1).log()).abs().sum(1)
    size_loss = (log_size * near).sum() / near.sum().clamp(min=1)
    at = near > 0.999
    if not at.any():
        return size_loss
    giou = _giou(*(x.permute(0, 2, 3, 1)[at] for x in (centres, sizes, boxes[:, :2], boxes[:, 2:])))
    offset = (centres - boxes[:, :2]).permute(0, 2, 3, 1)[at].abs().mean() / stride
    return size_loss + 2 * (1 - giou).mean() + offset


def _giou(centre: Tensor, size: Tensor, true_centre: Tensor, true_size: Tensor) -> Tensor:
    """Generalised IoU of ``(n, 2)`` centres and sizes."""
    a0, a1, b0, b1 = centre - size / 2, centre + size / 2, true_centre - true_size / 2, true_centre + true_size / 2
    inter = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = size.prod(-1) + true_size.prod(-1) - inter
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(-1)
    return inter / union - (hull - union) / hull


def mask_loss(logits: Tensor, crown: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy and Dice of ``logits (B, 2, h, w)`` against ``crown (B, h, w)``."""
    entropy = F.cross_entropy(logits, crown.long(), reduction="none")
    p = logits.softmax(1)[:, 1] * valid
    dice = 1 - (2 * (p * crown).sum() + 1) / (p.sum() + (crown * valid).sum() + 1)
    total: Tensor = (entropy * valid).sum() / valid.sum().clamp(min=1) + dice
    return total


def window_loss(output: XTOutput, targets: dict[str, Tensor], stride: int) -> dict[str, Tensor]:
    """The losses of a batch of windows by head; ``targets`` are `targets.Targets`, field by field, stacked."""
    assert output.mask is not None
    assert output.boxes is not None
    assert output.scores is not None
    valid = targets["valid"]
    scores = F.cross_entropy(
        output.scores.flatten(0, 2), targets["classes"].flatten(), ignore_index=-1, reduction="sum"
    )
    return {
        "heat": heat_loss(output.boxes[:, 0], targets["heat"], valid),
        "boxes": box_loss(output.boxes[:, -4:], targets["boxes"], targets["near"] * valid, stride),
        "mask": mask_loss(output.mask, targets["crown"], valid),
        "scores": 0.3 * scores / (targets["classes"] >= 0).sum().clamp(min=1),
    }
