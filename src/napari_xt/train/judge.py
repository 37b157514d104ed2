"""How right heads are where something is known. Knows tensors and truths; knows nothing of how heads are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_xt.annotate.truth import EDGES, UNSURE, RegionTruth
from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.stores.merge import box_rows, suppress
from napari_xt.model.heads import decode_boxes
from napari_xt.model.xt import XT
from napari_xt.train.cached import Cached, inner, joined
from napari_xt.train.evaluate import box_quality

Values = NDArray[np.float64]
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
FEWEST = 10  # boxes: of fewer no threshold is told


@torch.no_grad()
def judged(
    model: XT, truths: Sequence[RegionTruth], mask: Mapping[int, int], input: Cached, px_per_run: tuple[float, float]
) -> dict[str, float]:
    """Figures of a model on regions of which something is known.

    Parameters
    ----------
    truths, input
        The regions, in the same order.
    mask
        What each value of the labels is called in the model's mask.
    px_per_run
        Level-0 pixels of a run pixel, ``(y, x)``.

    Returns
    -------
    dict
        ``mask_f1``, the mean over the classes that are known, without background, pixel by pixel; ``box_f1`` at the
        model's threshold and IoU 0.4, of complete regions; ``score_accuracy``. Only what can be told is in it.
    """
    found: dict[str, float] = {}
    if model.mask_head is not None:
        found |= _mask(model, truths, mask, input)
    if model.box_head is not None:
        found |= _boxes(model, truths, input, px_per_run)
    if model.score_head is not None:
        found |= _scores(model, truths, input)
    return found


@torch.no_grad()
def best_threshold(
    model: XT, truths: Sequence[RegionTruth], input: Cached, px_per_run: tuple[float, float]
) -> float | None:
    """The threshold of boxes with the best F1 on complete regions; None where too few boxes are known."""
    if model.box_head is None or sum(len(_inside(model, t, px_per_run)) for t in truths if t.complete) < FEWEST:
        return None
    old = model.config
    figures: dict[float, float] = {}
    for threshold in THRESHOLDS:
        model.config = replace(old, threshold=threshold)
        figures[threshold] = _boxes(model, truths, input, px_per_run).get("box_f1", 0.0)
    model.config = old
    return max(figures, key=lambda threshold: figures[threshold])


def f1_of(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes ``1..`` that are known, of ``confusion[known, said]``."""
    hits = np.diag(confusion).astype(np.float64)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    there = confusion.sum(axis=1)[1:] > 0
    return float((2 * hits / np.maximum(both, 1))[1:][there].mean()) if there.any() else float("nan")


def _mask(model: XT, truths: Sequence[RegionTruth], mask: Mapping[int, int], input: Cached) -> dict[str, float]:
    assert model.mask_head is not None
    table = np.full(256, 255, np.uint8)
    for value, index in mask.items():
        table[value] = index
    table[UNSURE:] = 255
    size = len(model.config.mask or ())
    confusion = np.zeros((size, size), np.int64)
    for i, truth in enumerate(truths):
        labels = table[truth.labels]
        if not (labels < 255).any():
            continue
        seen = input.some(torch.tensor([i]))
        p = joined(model.mask_head, seen.local, seen.seen).softmax(1)
        wide = F.interpolate(p, scale_factor=model.config.local.stride, mode="bilinear", align_corners=False)
        said = wide[0].argmax(0).numpy()[: labels.shape[0], : labels.shape[1]]
        np.add.at(confusion, (labels[labels < 255], said[labels < 255]), 1)
    return {"mask_f1": f1_of(confusion)} if confusion[1:].any() else {}


def _boxes(
    model: XT, truths: Sequence[RegionTruth], input: Cached, px_per_run: tuple[float, float]
) -> dict[str, float]:
    hits = predicted = drawn = 0.0
    for i, truth in enumerate(truths):
        if truth.complete:
            true = _inside(model, truth, px_per_run)
            quality = box_quality(_found(model, input.some(torch.tensor([i])), truth), true)
            hits += quality.precision * quality.predicted
            predicted, drawn = predicted + quality.predicted, drawn + quality.drawn
    return {"box_f1": 2 * hits / (predicted + drawn)} if predicted + drawn else {}


def _inside(model: XT, truth: RegionTruth, px_per_run: tuple[float, float]) -> Values:
    """The drawn boxes whose centre lies in the region, in run pixels from its corner."""
    side = model.config.region_px
    boxes = truth.boxes[list(EDGES)].to_numpy(np.float64) / np.tile(px_per_run, 2)
    boxes = boxes - np.array([truth.row * side, truth.col * side] * 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(boxes[((centre >= 0) & (centre < truth.labels.shape)).all(axis=1)])


def _found(model: XT, seen: Cached, truth: RegionTruth) -> Values:
    assert model.box_head is not None
    detected = decode_boxes(joined(model.box_head, seen.local, seen.seen)[0], model.config.local.stride)
    kept = (detected.scores.numpy() >= model.config.threshold) & (
        (detected.centres.numpy() < truth.labels.shape).all(axis=1)
    )
    rows = box_rows(
        detected.boxes.numpy().astype(np.float64)[kept], detected.labels.numpy()[kept], detected.scores.numpy()[kept]
    )
    rows["id"] = np.arange(len(rows)) % IDS_PER_REGION
    rows = rows[suppress(rows, model.config.suppression_iou, across_regions=False)]
    return np.stack([rows[name] for name in EDGES], axis=1)


def _scores(model: XT, truths: Sequence[RegionTruth], input: Cached) -> dict[str, float]:
    assert model.score_head is not None
    names = model.config.scores or ()
    told = [i for i, truth in enumerate(truths) if truth.region_class in names]
    if not told:
        return {}
    seen = inner(input.some(torch.tensor(told)).seen)
    said = model.score_head(seen[:, None, None])[:, 0, 0].argmax(-1).tolist()
    right = [names[value] == truths[i].region_class for value, i in zip(said, told, strict=True)]
    return {"score_accuracy": sum(right) / len(right)}
