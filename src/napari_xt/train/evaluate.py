"""How good a model is on a scene with boxes drawn by hand. Knows networks and arrays; knows no stores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from napari_xt.geometry import IDS_PER_REGION, Box
from napari_xt.io.stores.merge import box_rows, suppress
from napari_xt.model.heads import decode_boxes
from napari_xt.model.xt import XT
from napari_xt.train.scenes import Scene
from napari_xt.train.targets import make_targets

MATCH_IOU = 0.4


@dataclass(frozen=True, slots=True)
class BoxQuality:
    """Precision, recall and F1 of boxes matched one to one at an IoU of at least ``MATCH_IOU``."""

    precision: float
    recall: float
    f1: float
    predicted: int
    drawn: int


def box_quality(predicted: NDArray[np.float64], drawn: NDArray[np.float64], iou: float = MATCH_IOU) -> BoxQuality:
    """Match boxes one to one so that the sum of their IoU is largest, and count the pairs of at least ``iou``.

    Parameters
    ----------
    predicted, drawn
        ``(n, 4)`` and ``(m, 4)``: y0, x0, y1, x1 in one frame.
    iou
        Pairs below it do not count.
    """
    overlap = pairwise_iou(predicted, drawn)
    hits = int((overlap[linear_sum_assignment(overlap, maximize=True)] >= iou).sum())
    precision, recall = hits / max(1, len(predicted)), hits / max(1, len(drawn))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return BoxQuality(precision, recall, f1, len(predicted), len(drawn))


def pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box of ``a (n, 4)`` with every box of ``b (m, 4)``: ``(n, m)``."""
    first = np.maximum(a[:, None, :2], b[None, :, :2])
    last = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(last - first, 0, None).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return np.asarray(inter / np.maximum(areas[0][:, None] + areas[1][None] - inter, 1e-9))


@torch.inference_mode()
def scene_metrics(model: XT, scene: Scene) -> dict[str, float]:
    """Figures of a model on a whole scene, as one window.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1`` of boxes at the model's threshold and IoU 0.4; ``best_f1`` over thresholds and
        the ``best_threshold``; ``crown_iou`` of the mask against the ellipses; ``score_accuracy`` over whole regions.
    """
    config = model.config
    model.eval()
    output = model(model.prepare(scene.pixels, limits=scene.measured(config).limits)[None])
    assert output.mask is not None
    assert output.boxes is not None
    assert output.scores is not None
    boxes, scores = scene_boxes(model, output.boxes[0], scene)
    by_threshold = {t: box_quality(boxes[scores >= t], scene.boxes) for t in np.arange(0.1, 0.6, 0.05).round(2)}
    best = max(by_threshold, key=lambda t: by_threshold[t].f1)
    quality = box_quality(boxes[scores >= config.threshold], scene.boxes)
    shape = tuple(n * config.local.stride for n in output.mask.shape[-2:])
    extent = Box(0, 0, *scene.pixels.shape[1:])
    truth = make_targets(scene.boxes, extent, (shape[0], shape[1]), config.local.stride, config.region_px)
    crown, drawn = output.mask[0].argmax(0).numpy() == 1, truth.crown > 0
    known = truth.classes >= 0
    return {
        "precision": quality.precision,
        "recall": quality.recall,
        "f1": quality.f1,
        "best_f1": by_threshold[best].f1,
        "best_threshold": float(best),
        "crown_iou": float((crown & drawn & truth.valid).sum() / max(1, ((crown | drawn) & truth.valid).sum())),
        "score_accuracy": float((output.scores[0].argmax(-1).numpy() == truth.classes)[known].mean()),
    }


def scene_boxes(model: XT, raw: torch.Tensor, scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes ``(n, 4)`` and scores of a box head's output on a whole scene, all competing with each other."""
    found = decode_boxes(raw, model.config.local.stride)
    corners = found.boxes.numpy().astype(np.float64).clip(0, np.tile(scene.pixels.shape[1:], 2))
    rows = box_rows(corners, found.labels.numpy(), found.scores.numpy())
    rows["id"] = np.arange(len(rows)) % IDS_PER_REGION  # all of one region
    keep = suppress(rows, model.config.suppression_iou, across_regions=False)
    return corners[keep], rows["score"][keep].astype(np.float64)
