"""The first half of a run: pixels to tokens and local features. The border between numpy and tensors.

Knows images and networks; knows nothing of stores, events or threads. The second half is `decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_xt.engine.batch import out_of_memory
from napari_xt.engine.device import uploaded
from napari_xt.engine.faults import FAILURES, device_lost
from napari_xt.engine.plan import Plan
from napari_xt.engine.reading import Patch, Pixels, read_patch
from napari_xt.errors import XTError
from napari_xt.geometry import Box, Region, Window
from napari_xt.io.image import Image
from napari_xt.io.images.nodata import hidden_pixels
from napari_xt.io.stores.kept import Kept
from napari_xt.model.tokens import from_regions, to_full
from napari_xt.model.xt import STORED, XT


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded region: ``tokens (L, D)``, ``local (c, h, w)``, ``pixels (C, Y, X)`` of its inner; or an error.

    ``local`` alone is None where only tokens are known of it, which are all that is asked for. ``kept`` is the store of
    an earlier run that it was taken from.
    """

    region: Region
    tokens: Tensor | None
    local: Tensor | None
    pixels: Pixels | None
    error: str = ""
    kept: Kept | None = None


def encode(model: XT, plan: Plan, patch: Patch, regions: Sequence[Region]) -> list[Encoded]:
    """Encode regions in one call.

    Parameters
    ----------
    patch
        Holds the outer of every region.
    """
    place = model.background_token.device
    batch = _empty_batch(len(regions), len(plan.channels), regions[0].outer, model.region_dtype, place.type == "cuda")
    for region, out in zip(regions, batch, strict=True):
        _prepared(model, plan, patch.cut(region.outer), out)
    with torch.inference_mode():
        tokens, local = model.encode(uploaded(batch, place))
    return [Encoded(region, t, f, patch.cut(region.inner)) for region, t, f in zip(regions, tokens, local, strict=True)]


def _prepared(model: XT, plan: Plan, pixels: Pixels, out: Tensor | None = None) -> Tensor:
    """`XT.prepare`, where what alpha hides or the file calls no-data is no picture."""
    hidden = hidden_pixels(pixels, plan.channels, plan.alpha, plan.nodata)
    return model.prepare(pixels, plan.channels, out, hidden, plan.limits)


def _empty_batch(count: int, channels: int, box: Box, dtype: torch.dtype, pinned: bool) -> Tensor:
    """Room for regions ``(count, C, P, P)``, channels-last; ``pinned`` for a GPU, which then fetches them by itself."""
    return torch.empty(count, *box.shape, channels, dtype=dtype, pin_memory=pinned).permute(0, 3, 1, 2)


def encode_safely(model: XT, image: Image, plan: Plan, patch: Patch | None, regions: Sequence[Region]) -> list[Encoded]:
    """`encode`, where a region that can't be read or encoded becomes an `Encoded` with an error, alone.

    ``patch`` is None where the window could not be read in one go.
    """
    if patch is not None:
        try:
            return encode(model, plan, patch, regions)
        except FAILURES as error:
            if device_lost(error):
                raise
            if len(regions) > 1:
                if out_of_memory(error):
                    raise
                return [e for region in regions for e in encode_safely(model, image, plan, patch, [region])]
    return [_encode_alone(model, image, plan, region) for region in regions]


def _encode_alone(model: XT, image: Image, plan: Plan, region: Region) -> Encoded:
    try:
        return encode(model, plan, read_patch(image, plan, region.outer), [region])[0]
    except FAILURES as error:
        if device_lost(error):
            raise
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


def _overview(model: XT, plan: Plan, window: Window, regions: Sequence[Pixels | None]) -> Tensor | None:
    """Tokens of the whole window at low resolution, where the model wants them; what could not be read is the mean."""
    config = model.config
    if not config.context.overview_tokens:
        return None
    lacking = torch.zeros(config.in_channels, config.region_px, config.region_px)
    known = [None if p is None else _prepared(model, plan, p)[None] for p in regions]
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
        seen = [not plan.skips(region.index) for region in row_regions(plan, window, row)]
        if not any(seen):
            continue
        try:
            patch = read(Box(top + y, left, top + y + inner, left + width))
        except XTError:
            continue
        pixels = _prepared(model, plan, patch.pixels) * torch.tensor(seen).repeat_interleave(inner)
        view += torch.einsum("iy,cyx,jx->cij", _pooling(height, side, range(y, y + inner)), pixels, across)
    with torch.inference_mode():
        return model.overview(view[None].to(model.background_token.device))


def row_regions(plan: Plan, window: Window, row: int) -> list[Region]:
    """The regions of a row of a window, counted from its first."""
    part = replace(window, row0=window.row0 + row, row1=window.row0 + row + 1)
    return list(plan.grid.window_regions(part))


def _pooling(length: int, cells: int, part: range) -> Tensor:
    """What each place of ``part`` of an axis counts in each of ``cells`` means, as in adaptive average pooling."""
    cell = torch.arange(cells)
    first = (cell * length).div(cells, rounding_mode="floor")[:, None]
    last = ((cell + 1) * length + cells - 1).div(cells, rounding_mode="floor")[:, None]
    place = torch.arange(part.start, part.stop)
    return ((place >= first) & (place < last)) / (last - first)


def blank(model: XT) -> tuple[Tensor, Tensor]:
    """Tokens ``(L, D)`` and local features ``(c, h, w)`` of a region in which every pixel is the mean."""
    side = model.config.outer_px
    nothing = torch.zeros(1, model.config.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        tokens, local = model.encode(nothing.to(model.background_token.device))
    return tokens[0], local[0]


def features(model: XT, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Tokens ``(L, D)`` and local features ``(c, h, w)`` of a region, also of one that has none: it failed, perhaps."""
    if encoded.tokens is not None and encoded.local is not None:
        return encoded.tokens, encoded.local
    config = model.config
    side = config.region_px // config.local.stride
    tokens = encoded.tokens
    if tokens is None:
        tokens = model.background_token.to(STORED[config.stored]).float().expand(config.tokens_per_region, -1)
    return tokens, tokens.new_zeros(config.local.channels if config.dense else 0, side, side)
