"""What regions look like on their own, before the rest of their window is known.

Knows networks and plans; knows nothing of images, stores, events or threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from napari_xt.engine.plan import Plan
from napari_xt.engine.stages import Encoded
from napari_xt.geometry import Region
from napari_xt.model.tokens import token_map
from napari_xt.model.xt import XT


def preview(model: XT, plan: Plan, encoded: Sequence[Encoded]) -> list[tuple[Region, NDArray[np.uint8]]]:
    """Decode the mask of some encoded regions, each without any other.

    Parameters
    ----------
    model, plan
        Of the run; a model without a mask has no previews.
    encoded
        Some regions, in any order. Failed ones are left out, skipped ones are background.

    Returns
    -------
    list
        Regions, and the class of each cell of their inner, uint8 ``(h, w)`` at ``plan.stride``; background outside the
        region of interest, as in the mask.
    """
    if model.mask_head is None:
        return []
    skipped = [region for region in plan.wanted(e.region for e in encoded) if plan.skips(region.index)]
    ran = [e for e in encoded if e.tokens is not None and e.local is not None and not plan.skips(e.region.index)]
    classes = _classes(model, plan, ran) if ran else ()
    found = [(e.region, _cut(plan, e.region, values)) for e, values in zip(ran, classes, strict=True)]
    return found + [(region, np.zeros(_cells(plan, region), np.uint8)) for region in skipped]


@torch.inference_mode()
def _classes(model: XT, plan: Plan, encoded: Sequence[Encoded]) -> NDArray[np.uint8]:
    """Classes ``(B, h, w)`` of whole regions, each a window of its own; few at a time stay in the cache."""
    assert model.mask_head is not None
    tokens = torch.stack([e.tokens for e in encoded if e.tokens is not None])
    local = torch.stack([e.local for e in encoded if e.local is not None])
    alone = plan.context and model.config.context.kind == "none"  # such a model has learned no sign of being alone
    context = token_map(model.contextualise(tokens[:, None, None], context=alone).regions)
    parts = zip(torch.split(local, plan.batch), torch.split(context, plan.batch), strict=True)
    classes: NDArray[np.uint8] = torch.cat([model.mask_head(*part).argmax(1) for part in parts]).byte().cpu().numpy()
    return classes


def _cut(plan: Plan, region: Region, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The cells ``(h, w)`` that touch the image, 0 where they lie outside the region of interest."""
    rows, cols = _cells(plan, region)
    inside = plan.roi_run.clip(region.inner).shift(-region.inner.y0, -region.inner.x0)
    seen = inside.scale(1 / plan.stride, 1 / plan.stride).slices
    cut = np.zeros((rows, cols), np.uint8)
    cut[seen] = classes[:rows, :cols][seen]
    return cut


def _cells(plan: Plan, region: Region) -> tuple[int, int]:
    return -(-region.inner.height // plan.stride), -(-region.inner.width // plan.stride)
