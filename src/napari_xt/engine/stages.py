"""The stages of a run, window by window: read, encode, contextualise, decode. The border between numpy and tensors.

Knows images and networks; knows nothing of stores, events or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.engine.plan import Plan
from napari_xt.engine.reading import Patch, Pixels, read_patch
from napari_xt.errors import XTError
from napari_xt.geometry import IDS_PER_REGION, Box, Region, Window
from napari_xt.io.image import Image
from napari_xt.io.mask import mask_from_probability
from napari_xt.io.merge import BOX_DTYPE, box_rows, suppress
from napari_xt.io.store import RegionData, Status
from napari_xt.model.heads import Detections, decode_boxes
from napari_xt.model.tokens import from_regions, to_full
from napari_xt.model.xt import STORED, XT, Context

_Row: TypeAlias = tuple[NDArray[np.uint8] | None, Tensor | None]  # probability (K, h, w), box logits (K + 4, h, w)


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
    """Part of a window after the heads: ``box`` in run px, cut at the image; ``probability (K, h, w)`` and ``mask``."""

    box: Box
    probability: NDArray[np.uint8] | None
    mask: NDArray[np.uint8] | None
    regions: tuple[RegionData, ...]


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


@dataclass(frozen=True, slots=True)
class Held:
    """A window between the halves of the network.

    ``tokens (R, Q, L, D)``; ``local(row)`` gives the local features ``(Q, c, h, w)`` of a row of its regions, counted
    from the window's first; ``errors`` tells why a region failed, by its index; ``view`` is what `XT.overview` gave.
    """

    window: Window
    tokens: Tensor
    local: Callable[[int], Tensor]
    errors: Mapping[int, str]
    view: Tensor | None = None


def held(model: XT, plan: Plan, window: Window, encoded: Sequence[Encoded]) -> Held:
    """A window from its encoded regions, row by row, in memory.

    A failed region stands in it with the background token and no local features; its mask stays 0.
    """
    tokens, local = zip(*(features(model, e) for e in encoded), strict=True)
    cols = window.shape[1]
    pixels = [None if plan.skips(e.region.index) else e.pixels for e in encoded]
    return Held(
        window,
        torch.stack(tokens).reshape(*window.shape, *tokens[0].shape),
        lambda row: torch.stack(local[row * cols : (row + 1) * cols]),
        {e.region.index: e.error for e in encoded if e.error},
        _overview(model, plan, window, pixels),
    )


def bands(plan: Plan, window: Window) -> list[range]:
    """The rows of a window's regions, counted from its first, by the row of blocks that they lie in."""
    k = plan.grid.block_regions
    starts = [window.row0, *range((window.row0 // k + 1) * k, window.row1, k), window.row1]
    return [range(first - window.row0, last - window.row0) for first, last in pairwise(starts)]


def decode(
    model: XT, plan: Plan, held: Held, wanted: Sequence[range], pool: Executor | None = None
) -> Iterator[Decoded]:
    """Let a window's regions see each other, and decode those rows of it that are ``wanted`` (some of `bands`).

    What is decoded of a row of regions does not depend on which others are wanted. A ``pool`` works one band ahead.
    A band of skipped regions alone is not decoded.
    """
    needed = [band for band in wanted if any(not plan.skips(r.index) for r in _regions(plan, held.window, band))]
    decoded = _decode(model, plan, held, needed, pool)
    for band in wanted:
        yield next(decoded) if band in needed else _skipped(plan, held.window, band)


@torch.inference_mode()
def _decode(model: XT, plan: Plan, held: Held, wanted: Sequence[range], pool: Executor | None) -> Iterator[Decoded]:
    context = model.contextualise(held.tokens[None], held.window.start, plan.context, held.view)
    scores = _scores(*model.classify(context), plan, held.tokens.shape[0] * held.tokens.shape[1])
    rows = _Rows(model, plan, held, context, pool)
    for band, ahead in zip_longest(wanted, wanted[1:]):
        probability, boxes, box = rows.around(band, ahead or band)
        yield _decoded(model, plan, held, band, probability, boxes, box, scores)


class _Rows:
    """Rows of a window's regions after the dense heads, each decoded once while bands come from top to bottom."""

    def __init__(self, model: XT, plan: Plan, held: Held, context: Context, pool: Executor | None) -> None:
        self._model, self._plan, self._held, self._context, self._pool = model, plan, held, context, pool
        self._cells = plan.grid.region_px // plan.stride
        self._last = held.window.shape[0] - 1
        self._begun: dict[int, Callable[[], _Row]] = {}

    def around(self, band: range, ahead: range) -> tuple[NDArray[np.uint8] | None, Tensor | None, Box]:
        """Probability ``(K, h, w)`` and box logits of ``band`` and of a row of cells around it, and where that lies.

        Rows around ``ahead`` are begun.
        """
        above, below = min(1, band.start), min(1, self._last + 1 - band.stop)
        numbers = range(band.start - above, band.stop + below)
        coming = range(ahead.start, min(ahead.stop, self._last) + 1) if self._pool else numbers
        self._begun = {row: self._begun.get(row) or self._begin(row) for row in sorted({*numbers, *coming})}
        probability, boxes = zip(*(self._begun[row]() for row in numbers), strict=True)
        spare = (self._cells - 1) * above, (self._cells - 1) * below
        box = _rows_box(self._plan, self._held.window, band)
        stride = self._plan.stride
        ring = Box(box.y0 - above * stride, box.x0, box.y1 + below * stride, box.x1).clip(self._plan.grid.bounds)
        return _joined(probability, ring.height, stride, spare[0]), _trimmed(boxes, spare), ring

    def _begin(self, row: int) -> Callable[[], _Row]:
        if self._pool is not None:
            return self._pool.submit(self._decode, row).result
        done = self._decode(row)
        return lambda: done

    @torch.inference_mode()
    def _decode(self, row: int) -> _Row:
        local = from_regions(self._held.local(row)[None, None])
        first, height = row * self._cells, (self._last + 1) * self._cells
        mask, boxes = self._model.decode_rows(local, self._context, first, height)
        box = _rows_box(self._plan, self._held.window, range(row, row + 1))
        wanted = self._plan.outputs
        probability = _quantise(mask[0], box, self._plan.stride) if mask is not None and "mask" in wanted else None
        return probability, boxes[0] if boxes is not None and "boxes" in wanted else None


def _joined(rows: Sequence[NDArray[np.uint8] | None], height: int, stride: int, skip: int) -> NDArray[np.uint8] | None:
    if rows[0] is None:
        return None
    whole = np.concatenate([row for row in rows if row is not None], axis=1)
    return whole[:, skip : skip - (-height // stride)]


def _trimmed(rows: Sequence[Tensor | None], spare: tuple[int, int]) -> Tensor | None:
    if rows[0] is None:
        return None
    whole = torch.cat([row for row in rows if row is not None], dim=1)
    return whole[:, spare[0] : whole.shape[1] - spare[1]]


def _decoded(
    model: XT,
    plan: Plan,
    held: Held,
    band: range,
    probability: NDArray[np.uint8] | None,
    boxes: Tensor | None,
    ring: Box,
    scores: NDArray[np.float32] | None,
) -> Decoded:
    """One band from what is known of it and of the cells around it, which lie in ``ring``."""
    window, cols = held.window, held.window.shape[1]
    box, mask, own, found = _rows_box(plan, window, band), None, None, None
    regions = _regions(plan, window, band)
    status = [_status(plan, region, held.errors) for region in regions]
    if probability is not None:
        mask = mask_from_probability(probability, plan.stride, box, ring)
        _blank(mask, box, plan.roi_run, [r for r, s in zip(regions, status, strict=True) if s != Status.DONE])
        first = (box.y0 - ring.y0) // plan.stride
        own = probability[:, first : first - (-box.height // plan.stride)]
    if boxes is not None:
        found = _candidates(decode_boxes(boxes, plan.stride), plan, ring, model.config.suppression_iou)
    places = range(band.start * cols, band.stop * cols)
    rows = [
        _region_data(r, s, held.errors.get(r.index, ""), None if scores is None else scores[i], found)
        for r, s, i in zip(regions, status, places, strict=True)
    ]
    return Decoded(box, own, mask, tuple(rows))


def _skipped(plan: Plan, window: Window, band: range) -> Decoded:
    """A band of which nothing is run."""
    rows = [_region_data(r, Status.SKIPPED, "", None, None) for r in _regions(plan, window, band)]
    return Decoded(_rows_box(plan, window, band), None, None, tuple(rows))


def _regions(plan: Plan, window: Window, band: range) -> list[Region]:
    """The regions of some rows of a window."""
    return [plan.grid.region(window.row0 + r, c) for r in band for c in range(window.col0, window.col1)]


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


def _overview(model: XT, plan: Plan, window: Window, regions: Sequence[Pixels | None]) -> Tensor | None:
    """Tokens of the whole window at low resolution, where the model wants them; what could not be read is the mean."""
    config = model.config
    if not config.context.overview_tokens:
        return None
    lacking = torch.zeros(config.in_channels, config.region_px, config.region_px)
    known = [None if p is None else model.prepare(p, plan.channels)[None] for p in regions]
    pixels = torch.stack([lacking if p is None else to_full(p, config.region_px)[0] for p in known])
    whole = from_regions(pixels.reshape(1, *window.shape, *lacking.shape))
    with torch.inference_mode():
        return model.overview(whole.to(model.background_token.device))


def streamed_overview(model: XT, plan: Plan, window: Window, read: Callable[[Box], Patch]) -> Tensor | None:
    """`XT.overview` of a window that is too large for memory, from its rows of regions one by one.

    What is skipped or can't be read is the mean.
    """
    config = model.config
    if not config.context.overview_tokens:
        return None
    side, inner = config.context.overview_side * config.region_px, config.region_px
    height, width = (n * inner for n in window.shape)
    top, left = window.row0 * inner, window.col0 * inner
    across = _pooling(width, side, range(width))
    view = torch.zeros(config.in_channels, side, side)
    for y in range(0, height, inner):
        row = y // inner
        seen = [not plan.skips(region.index) for region in _regions(plan, window, range(row, row + 1))]
        if not any(seen):
            continue
        try:
            patch = read(Box(top + y, left, top + y + inner, left + width))
        except XTError:
            continue
        pixels = model.prepare(patch.pixels, plan.channels) * torch.tensor(seen).repeat_interleave(inner)
        view += torch.einsum("iy,cyx,jx->cij", _pooling(height, side, range(y, y + inner)), pixels, across)
    with torch.inference_mode():
        return model.overview(view[None].to(model.background_token.device))


def _pooling(length: int, cells: int, part: range) -> Tensor:
    """What each place of ``part`` of an axis counts in each of ``cells`` means, as in adaptive average pooling."""
    cell = torch.arange(cells)
    first = (cell * length).div(cells, rounding_mode="floor")[:, None]
    last = ((cell + 1) * length + cells - 1).div(cells, rounding_mode="floor")[:, None]
    place = torch.arange(part.start, part.stop)
    return ((place >= first) & (place < last)) / (last - first)


def features(model: XT, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Tokens ``(L, D)`` and local features ``(c, h, w)`` of a region, those of a failed one without any."""
    if encoded.tokens is not None and encoded.local is not None:
        return encoded.tokens, encoded.local
    config = model.config
    side = config.region_px // config.local.stride
    tokens = model.background_token.to(STORED[config.stored]).float().expand(config.tokens_per_region, -1)
    return tokens, tokens.new_zeros(config.local.channels if config.dense else 0, side, side)


def _rows_box(plan: Plan, window: Window, rows: range) -> Box:
    """Some rows of a window's regions, cut at the image's edge."""
    first = plan.grid.region(window.row0 + rows.start, window.col0).inner
    last = plan.grid.region(window.row0 + rows.stop - 1, window.col1 - 1).inner
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
    own = found[found["id"] // IDS_PER_REGION == region.index]
    return RegionData(region, status, scores if done else None, own, error)
