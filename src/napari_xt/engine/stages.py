"""The stages of a run, window by window: read, encode, contextualise, decode. The border between numpy and tensors.

Knows images and networks; knows nothing of stores, events or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.engine.plan import Plan
from napari_xt.errors import XTError
from napari_xt.geometry import IDS_PER_REGION, Box, Region, Window
from napari_xt.io.image import Image
from napari_xt.io.mask import mask_from_probability
from napari_xt.io.merge import BOX_DTYPE, box_rows, suppress
from napari_xt.io.resample import read_run
from napari_xt.io.store import RegionData, Status
from napari_xt.model.heads import Detections, decode_boxes
from napari_xt.model.tokens import from_regions, to_full
from napari_xt.model.xt import STORED, XT, XTOutput

Pixels = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels ``(C, Y, X)`` of ``box`` (run px, which may reach outside the image: filled by replication)."""

    box: Box
    pixels: Pixels

    def cut(self, box: Box) -> Pixels:
        """The pixels of ``box``, which lies inside."""
        rows, cols = box.shift(-self.box.y0, -self.box.x0).slices
        return self.pixels[:, rows, cols]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded region: ``tokens (L, D)``, ``local (c, h, w)``, ``pixels (C, Y, X)`` of its inner; or an error."""

    region: Region
    tokens: Tensor | None
    local: Tensor | None
    pixels: Pixels | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A window after the heads: ``box`` in run px, cut at the image's edge; ``probability (K, h, w)`` and ``mask``."""

    box: Box
    probability: NDArray[np.uint8] | None
    mask: NDArray[np.uint8] | None
    regions: tuple[RegionData, ...]


def read_patch(image: Image, plan: Plan, box: Box) -> Patch:
    """Read ``box`` (run px); what lies outside the image is the nearest pixel inside.

    Raises
    ------
    ImageReadError
        The image is damaged there.
    """
    inside = box.clip(plan.grid.bounds)
    pixels = read_run(image, plan.level, plan.frame.shape_run, inside)
    lacking = [(inside.y0 - box.y0, box.y1 - inside.y1), (inside.x0 - box.x0, box.x1 - inside.x1)]
    if any(n for pair in lacking for n in pair):
        pixels = np.pad(pixels, [(0, 0), *lacking], mode="edge")
    return Patch(box, pixels)


def window_outer(plan: Plan, window: Window) -> Box:
    """The pixels that a window's regions see, run px."""
    first = plan.grid.region(window.row0, window.col0).outer
    last = plan.grid.region(window.row1 - 1, window.col1 - 1).outer
    return Box(first.y0, first.x0, last.y1, last.x1)


def encode(model: XT, plan: Plan, patch: Patch, regions: Sequence[Region]) -> list[Encoded]:
    """Encode regions in one call.

    Parameters
    ----------
    patch
        Holds the outer of every region.
    """
    inputs = [model.prepare(patch.cut(region.outer), plan.channels) for region in regions]
    batch = torch.stack(inputs).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        tokens, local = model.encode(batch.to(next(model.parameters()).device))
    return [Encoded(region, t, f, patch.cut(region.inner)) for region, t, f in zip(regions, tokens, local, strict=True)]


def encode_safely(model: XT, image: Image, plan: Plan, patch: Patch | None, regions: Sequence[Region]) -> list[Encoded]:
    """`encode`, where a region that can't be read or encoded becomes an `Encoded` with an error, alone.

    ``patch`` is None where the window could not be read in one go.
    """
    if patch is not None:
        try:
            return encode(model, plan, patch, regions)
        except (XTError, RuntimeError):
            if len(regions) > 1:
                return [e for region in regions for e in encode_safely(model, image, plan, patch, [region])]
    return [_encode_alone(model, image, plan, region) for region in regions]


def _encode_alone(model: XT, image: Image, plan: Plan, region: Region) -> Encoded:
    try:
        return encode(model, plan, read_patch(image, plan, region.outer), [region])[0]
    except (XTError, RuntimeError) as error:
        return Encoded(region, None, None, None, str(error) or type(error).__name__)


@torch.inference_mode()
def decode(model: XT, plan: Plan, window: Window, encoded: Sequence[Encoded]) -> Decoded:
    """Contextualise and decode a window from its regions, row by row.

    A failed region stands in the window with the background token and no local features; its mask stays 0.
    """
    tokens, local = zip(*(_features(model, e) for e in encoded), strict=True)
    view = _overview(model, plan, window, encoded)
    context = model.contextualise(_window(tokens, window), window.start, plan.context, view)
    output = model.decode(_window(local, window), context)
    box, stride = _window_box(plan, window), model.config.local.stride
    probability = mask = boxes = None
    if "mask" in plan.outputs and output.mask is not None:
        probability = _quantise(output.mask[0], box, stride)
        mask = mask_from_probability(probability, stride, box, box)
        _blank(mask, box, plan.roi_run, [e.region for e in encoded if e.error])
    scores = _scores(output, plan, len(encoded))
    if "boxes" in plan.outputs and output.boxes is not None:
        boxes = _candidates(decode_boxes(output.boxes[0], stride), plan, box, model.config.suppression_iou)
    rows = [_region_data(e, i, scores, boxes) for i, e in enumerate(encoded)]
    return Decoded(box, probability, mask, tuple(rows))


def _scores(output: XTOutput, plan: Plan, regions: int) -> NDArray[np.float32] | None:
    """Class scores of each region, and behind them or in their stead those of the window: ``(regions, K)``."""
    parts = []
    if "scores" in plan.outputs and output.scores is not None:
        parts.append(output.scores[0].softmax(-1).flatten(0, 1))
    if "label" in plan.outputs and output.label is not None:
        parts.append(output.label[0].softmax(-1).expand(regions, -1))
    return torch.cat(parts, dim=1).cpu().numpy() if parts else None


def _overview(model: XT, plan: Plan, window: Window, encoded: Sequence[Encoded]) -> Tensor | None:
    """Tokens of the whole window at low resolution, where the model wants them; what could not be read is the mean."""
    config = model.config
    if not config.context.overview_tokens:
        return None
    lacking = torch.zeros(config.in_channels, config.region_px, config.region_px)
    known = [None if e.pixels is None else model.prepare(e.pixels, plan.channels)[None] for e in encoded]
    pixels = [lacking if p is None else to_full(p, config.region_px)[0] for p in known]
    return model.overview(from_regions(_window(pixels, window)).to(model.background_token.device))


def _window(rows: Sequence[Tensor], window: Window) -> Tensor:
    """``(1, R, Q, ...)`` of the regions of a window, row by row."""
    return torch.stack(list(rows)).reshape(1, *window.shape, *rows[0].shape)


def _features(model: XT, encoded: Encoded) -> tuple[Tensor, Tensor]:
    if encoded.tokens is not None and encoded.local is not None:
        return encoded.tokens, encoded.local
    config = model.config
    side = config.region_px // config.local.stride
    tokens = model.background_token.to(STORED[config.stored]).float().expand(config.tokens_per_region, -1)
    return tokens, tokens.new_zeros(config.local.channels if config.dense else 0, side, side)


def _window_box(plan: Plan, window: Window) -> Box:
    first, last = plan.grid.region(window.row0, window.col0), plan.grid.region(window.row1 - 1, window.col1 - 1)
    return Box(first.inner.y0, first.inner.x0, last.inner.y1, last.inner.x1)


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
    encoded: Encoded, place: int, scores: NDArray[np.float32] | None, boxes: NDArray[np.void] | None
) -> RegionData:
    region = encoded.region
    if encoded.error or boxes is None:
        own = np.zeros(0, BOX_DTYPE)
    else:
        own = boxes[boxes["id"] // IDS_PER_REGION == region.index]
    status = Status.FAILED if encoded.error else Status.DONE
    values = None if scores is None or encoded.error else scores[place]
    return RegionData(region, status, values, own, encoded.error)
