"""How right heads are where something is known, counted region by region.

Knows tensors and truths; knows nothing of how heads are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_xt.annotate.truth import EDGES, UNSURE, RegionTruth
from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.stores.merge import box_rows, suppress
from napari_xt.model.heads import CANDIDATE, decode_boxes
from napari_xt.model.xt import XT
from napari_xt.train.cached import Cached, inner, joined
from napari_xt.train.evaluate import box_quality

Values = NDArray[np.float64]


@torch.no_grad()
def mask_counts(model: XT, truths: Sequence[RegionTruth], input: Cached, names: Mapping[int, int]) -> Values:
    """Known pixels by what they are and what is said of them, ``(N, K, K)``.

    Parameters
    ----------
    truths, input
        N regions, in the same order.
    names
        What each value of the labels is called in the model's mask.
    """
    assert model.mask_head is not None
    table = np.full(256, 255, np.uint8)
    for value, index in names.items():
        table[value] = index
    table[UNSURE:] = 255
    size, stride = len(model.config.mask or ()), model.config.local.stride
    counts = np.zeros((len(truths), size, size))
    for i, truth in enumerate(truths):
        labels = table[truth.labels]
        if not (labels < 255).any():
            continue
        seen = input.some(torch.tensor([i]))
        p = joined(model.mask_head, seen.local, seen.seen).softmax(1)
        wide = F.interpolate(p, scale_factor=stride, mode="bilinear", align_corners=False)
        said = wide[0].argmax(0).numpy()[: labels.shape[0], : labels.shape[1]]
        pairs = labels[labels < 255] * np.int64(size) + said[labels < 255]
        counts[i] = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return counts


@torch.no_grad()
def box_counts(
    model: XT,
    truths: Sequence[RegionTruth],
    input: Cached,
    thresholds: Sequence[float],
    px_per_run: tuple[float, float],
) -> Values:
    """Boxes that are right, found, and drawn in complete regions at each of T thresholds, ``(T, N, 3)``.

    Those count whose centre lies in the region; right is one at an IoU of 0.4, class aside.
    """
    counts = np.zeros((len(thresholds), len(truths), 3))
    for i, truth in enumerate(truths):
        if not truth.complete:
            continue
        drawn = drawn_inside(model, truth, px_per_run)
        found, scores = _found(model, input.some(torch.tensor([i])), truth)
        for at, threshold in enumerate(thresholds):
            quality = box_quality(found[scores >= threshold], drawn)
            counts[at, i] = quality.precision * quality.predicted, quality.predicted, quality.drawn
    return counts


@torch.no_grad()
def score_counts(model: XT, truths: Sequence[RegionTruth], input: Cached) -> Values:
    """Whether the class of a region is right, and whether it is known, ``(N, 2)``."""
    assert model.score_head is not None
    names, counts = model.config.scores or (), np.zeros((len(truths), 2))
    said = model.score_head(inner(input.seen.float())[:, None, None])[:, 0, 0].argmax(-1).tolist()
    for i, (truth, value) in enumerate(zip(truths, said, strict=True)):
        if truth.region_class in names:
            counts[i] = names[value] == truth.region_class, 1
    return counts


def mask_f1(counts: Values) -> float:
    """Mean F1 over the classes ``1..`` that are known, of ``counts (K, K)``.

    Not a number where only one class is known: whoever says that everywhere would be right.
    """
    hits, both = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    there = counts.sum(axis=1) > 0
    return float((2 * hits / np.maximum(both, 1))[1:][there[1:]].mean()) if there.sum() > 1 else float("nan")


def box_f1(counts: Values) -> float:
    """F1 of ``counts (3,)``; not a number where there is no box at all."""
    hits, found, drawn = counts
    return float(2 * hits / (found + drawn)) if found + drawn else float("nan")


def accuracy(counts: Values) -> float:
    """Of ``counts (2,)``; not a number where nothing is known."""
    right, known = counts
    return float(right / known) if known else float("nan")


def drawn_inside(model: XT, truth: RegionTruth, px_per_run: tuple[float, float]) -> Values:
    """The drawn boxes whose centre lies in the region, ``(n, 4)`` in run pixels from its corner."""
    side = model.config.region_px
    boxes = truth.boxes[list(EDGES)].to_numpy(np.float64) / np.tile(px_per_run, 2)
    boxes = boxes - np.array([truth.row * side, truth.col * side] * 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(boxes[((centre >= 0) & (centre < truth.labels.shape)).all(axis=1)])


def _found(model: XT, seen: Cached, truth: RegionTruth) -> tuple[Values, Values]:
    """Boxes ``(n, 4)`` and their scores, those that compete with better ones left out."""
    assert model.box_head is not None
    detected = decode_boxes(joined(model.box_head, seen.local, seen.seen)[0], model.config.local.stride)
    inside = (detected.centres.numpy() < truth.labels.shape).all(axis=1) & (detected.scores.numpy() >= CANDIDATE)
    rows = box_rows(*(x.numpy()[inside] for x in (detected.boxes.double(), detected.labels, detected.scores)))
    rows["id"] = np.arange(len(rows)) % IDS_PER_REGION
    rows = rows[suppress(rows, model.config.suppression_iou, across_regions=False)]
    return np.stack([rows[name] for name in EDGES], axis=1).astype(np.float64), rows["score"].astype(np.float64)
