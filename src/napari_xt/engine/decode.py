"""The second half of a run: tokens and local features to masks, boxes and scores, a row of regions after the other.

Knows networks and plans; knows nothing of images, stores or events. The border between tensors and numpy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.engine.plan import Plan
from napari_xt.engine.stages import Held, row_regions
from napari_xt.geometry import IDS_PER_REGION, Box, Region, Window
from napari_xt.io.stores.mask import mask_from_probability
from napari_xt.io.stores.merge import BOX_DTYPE, box_rows, suppress
from napari_xt.io.stores.store import RegionData, Status
from napari_xt.model.heads import Detections, decode_boxes
from napari_xt.model.tokens import from_regions
from napari_xt.model.xt import XT, Context

_Row: TypeAlias = tuple[NDArray[np.uint8] | None, Tensor | None]  # probability (K, h, w), box logits (K + 4, h, w)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Part of a window after the heads: ``box`` in run px, cut at the image; ``probability (K, h, w)`` and ``mask``."""

    box: Box
    probability: NDArray[np.uint8] | None
    mask: NDArray[np.uint8] | None
    regions: tuple[RegionData, ...]


def decode(model: XT, plan: Plan, held: Held, wanted: Sequence[int], pool: Executor | None = None) -> Iterator[Decoded]:
    """Let a window's regions see each other, and decode the rows of them that are ``wanted``, counted from the first.

    What is decoded of a row does not depend on which others are wanted. A ``pool`` works one row ahead. A row of
    skipped regions alone is not decoded.
    """
    needed = [row for row in wanted if any(not plan.skips(r.index) for r in row_regions(plan, held.window, row))]
    decoded = _decode(model, plan, held, needed, pool)
    for row in wanted:
        yield next(decoded) if row in needed else _skipped(plan, held.window, row)


@torch.inference_mode()
def _decode(model: XT, plan: Plan, held: Held, wanted: Sequence[int], pool: Executor | None) -> Iterator[Decoded]:
    context = model.contextualise(held.tokens[None], held.window.start, plan.context, held.view)
    scores = _scores(*model.classify(context), plan, held.tokens.shape[0] * held.tokens.shape[1])
    rows = _Rows(model, plan, held, context, pool)
    begun: deque[Future[Decoded]] = deque()
    for row, ahead in zip_longest(wanted, wanted[1:]):
        parts = rows.around(row, row if ahead is None else ahead)
        if pool is None:
            yield _decoded(model, plan, held, row, *parts, scores)
        else:
            begun.append(pool.submit(_decoded, model, plan, held, row, *parts, scores))
        if len(begun) > 1:
            yield begun.popleft().result()
    yield from (part.result() for part in begun)


class _Rows:
    """Rows of a window's regions after the dense heads, each decoded once while asked for from top to bottom."""

    def __init__(self, model: XT, plan: Plan, held: Held, context: Context, pool: Executor | None) -> None:
        self._model, self._plan, self._held, self._context, self._pool = model, plan, held, context, pool
        self._cells = plan.grid.region_px // plan.stride
        self._last = held.window.shape[0] - 1
        self._begun: dict[int, Callable[[], _Row]] = {}

    def around(self, row: int, ahead: int) -> tuple[NDArray[np.uint8] | None, Tensor | None, Box]:
        """Probability ``(K, h, w)`` and box logits of ``row`` and of a line of cells around it, and where that lies.

        Rows around ``ahead`` are begun.
        """
        above, below = min(1, row), min(1, self._last - row)
        numbers = range(row - above, row + below + 1)
        coming = range(ahead, min(ahead + 1, self._last) + 1) if self._pool else numbers
        self._begun = {near: self._begun.get(near) or self._begin(near) for near in sorted({*numbers, *coming})}
        probability, boxes = zip(*(self._begun[near]() for near in numbers), strict=True)
        lines = [slice(-1, None)] * above + [slice(None)] + [slice(1)] * below
        box = _row_box(self._plan, self._held.window, row)
        stride = self._plan.stride
        ring = Box(box.y0 - above * stride, box.x0, box.y1 + below * stride, box.x1).clip(self._plan.grid.bounds)
        masks = [found[:, part] for found, part in zip(probability, lines, strict=True) if found is not None]
        logits = [found[:, part] for found, part in zip(boxes, lines, strict=True) if found is not None]
        return np.concatenate(masks, axis=1) if masks else None, torch.cat(logits, dim=1) if logits else None, ring

    def _begin(self, row: int) -> Callable[[], _Row]:
        if self._pool is not None:
            return self._pool.submit(self._decode, row).result
        done = self._decode(row)
        return lambda: done

    @torch.inference_mode()
    def _decode(self, row: int) -> _Row:
        wanted = self._plan.outputs
        if not {"mask", "boxes"} & set(wanted):
            return None, None
        local = from_regions(self._held.local(row)[None, None])
        first, height = row * self._cells, (self._last + 1) * self._cells
        mask, boxes = self._model.decode_rows(local, self._context, first, height, wanted)
        box = _row_box(self._plan, self._held.window, row)
        probability = None if mask is None else _quantise(mask[0], box, self._plan.stride)
        return probability, None if boxes is None else boxes[0]


@torch.inference_mode()
def _decoded(
    model: XT,
    plan: Plan,
    held: Held,
    row: int,
    probability: NDArray[np.uint8] | None,
    boxes: Tensor | None,
    ring: Box,
    scores: NDArray[np.float32] | None,
) -> Decoded:
    """One row from what is known of it and of the cells around it, which lie in ``ring``."""
    window, cols = held.window, held.window.shape[1]
    box, mask, own, found = _row_box(plan, window, row), None, None, None
    regions = row_regions(plan, window, row)
    status = [_status(plan, region, held.errors) for region in regions]
    if probability is not None:
        mask = mask_from_probability(probability, plan.stride, box, ring)
        _blank(mask, box, plan.roi_run, [r for r, s in zip(regions, status, strict=True) if s != Status.DONE])
        first = (box.y0 - ring.y0) // plan.stride
        own = probability[:, first : first - (-box.height // plan.stride)]
    if boxes is not None:
        found = _candidates(decode_boxes(boxes, plan.stride), plan, ring, model.config.suppression_iou)
    places = range(row * cols, (row + 1) * cols)
    done = [
        _region_data(r, s, held.errors.get(r.index, ""), None if scores is None else scores[i], found)
        for r, s, i in zip(regions, status, places, strict=True)
        if plan.wanted([r])
    ]
    return Decoded(box, own, mask, tuple(done))


def _skipped(plan: Plan, window: Window, row: int) -> Decoded:
    """A row of which nothing is run."""
    regions = [_region_data(r, Status.SKIPPED, "", None, None) for r in plan.wanted(row_regions(plan, window, row))]
    return Decoded(_row_box(plan, window, row), None, None, tuple(regions))


def _status(plan: Plan, region: Region, errors: Mapping[int, str]) -> Status:
    if region.index in errors:
        return Status.FAILED
    return Status.SKIPPED if plan.skips(region.index) else Status.DONE


def _scores(scores: Tensor | None, label: Tensor | None, plan: Plan, regions: int) -> NDArray[np.float32] | None:
    """Class scores of each region, and behind them or in their stead those of the window: ``(regions, K)``."""
    parts = []
    if "scores" in plan.outputs and scores is not None:
        parts.append(scores[0].softmax(-1).flatten(0, 1))
    if "label" in plan.outputs and label is not None:
        parts.append(label[0].softmax(-1).expand(regions, -1))
    return torch.cat(parts, dim=1).cpu().numpy() if parts else None


def _row_box(plan: Plan, window: Window, row: int) -> Box:
    """A row of a window's regions, cut at the image's edge."""
    first = plan.grid.region(window.row0 + row, window.col0).inner
    last = plan.grid.region(window.row0 + row, window.col1 - 1).inner
    return Box(first.y0, first.x0, last.y1, last.x1)


def _quantise(logits: Tensor, box: Box, stride: int) -> NDArray[np.uint8]:
    """Class probabilities ``(K, h, w)`` as uint8, 255 = 1, cut to the cells that touch the image."""
    rows, cols = -(-box.height // stride), -(-box.width // stride)
    probability = logits[:, :rows, :cols].softmax(0)
    return (probability * 255).round().to(torch.uint8).cpu().numpy()


def _blank(mask: NDArray[np.uint8], box: Box, roi: Box, failed: Sequence[Region]) -> None:
    """Set to 0 what lies outside the region of interest and in failed regions."""
    inside = roi.clip(box).shift(-box.y0, -box.x0)
    mask[: inside.y0], mask[inside.y1 :], mask[:, : inside.x0], mask[:, inside.x1 :] = 0, 0, 0, 0
    for region in failed:
        mask[region.inner.shift(-box.y0, -box.x0).slices] = 0


def _candidates(found: Detections, plan: Plan, box: Box, iou: float) -> NDArray[np.void]:
    """Boxes of a window as `BOX_DTYPE` rows in level-0 pixels, competing within their regions, ranked and numbered."""
    origin = np.array([box.y0, box.x0], np.float64)
    centres = found.centres.cpu().numpy().astype(np.float64) + origin
    first, last = np.array([plan.roi_run.y0, plan.roi_run.x0]), np.array([plan.roi_run.y1, plan.roi_run.x1])
    inside = ((centres >= first) & (centres < last)).all(axis=1)
    cells = (centres[inside] // plan.grid.region_px).astype(np.int64)
    corners = found.boxes.cpu().numpy().astype(np.float64)[inside] + np.tile(origin, 2)
    corners = corners.clip(0, np.tile(plan.frame.shape_run, 2)) * np.tile(plan.frame.px_per_run, 2)
    rows = box_rows(corners, found.labels.cpu().numpy()[inside], found.scores.cpu().numpy()[inside])
    rows = _numbered(rows, cells[:, 0] * plan.grid.shape[1] + cells[:, 1])
    kept = rows[suppress(rows, iou, across_regions=False)]
    return _numbered(kept, kept["id"] // IDS_PER_REGION)


def _numbered(rows: NDArray[np.void], region: NDArray[np.int64]) -> NDArray[np.void]:
    """Rows with their ids, region index * 4096 + rank by (score, y0, x0), in that order."""
    order = np.lexsort((rows["x0"], rows["y0"], -rows["score"], region))
    rows, region = rows[order], region[order]
    rank = np.arange(len(rows)) - np.searchsorted(region, region)
    rows["id"] = region * IDS_PER_REGION + rank
    return rows[rank < IDS_PER_REGION]


def _region_data(
    region: Region, status: Status, error: str, scores: NDArray[np.float32] | None, boxes: NDArray[np.void] | None
) -> RegionData:
    done = status == Status.DONE
    found = boxes if done and boxes is not None else np.zeros(0, BOX_DTYPE)
    first, last = np.searchsorted(found["id"], [region.index * IDS_PER_REGION, (region.index + 1) * IDS_PER_REGION])
    return RegionData(region, status, scores if done else None, found[first:last], error)
