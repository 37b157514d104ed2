"""What heads see of regions, once for all steps: their local features and the context around them.

Knows stores and networks; reads no image. Dimensions:

    N  regions    c  local channels    h  side of a region at the local stride    n  tokens along a side    D  width
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.engine.context_map import window_around, window_tokens
from napari_xt.errors import StoreError
from napari_xt.geometry import Window
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.kept import Kept
from napari_xt.io.stores.layout import FEATURES
from napari_xt.model.heads import DenseHead
from napari_xt.model.tokens import token_map
from napari_xt.model.xt import XT, Context

Place = tuple[int, int]  # row and column of a region


@dataclass(frozen=True, slots=True)
class Cached:
    """Input of the heads.

    ``local (N, c, h, h)``; ``seen`` and ``alone`` ``(N, n + 2, n + 2, D)``, the context of a region and of a ring of
    tokens around it, and the same of a run without context; at the edge of the window the ring repeats what is inside.
    """

    local: Tensor
    seen: Tensor
    alone: Tensor

    def __len__(self) -> int:
        return len(self.local)

    def some(self, index: Tensor) -> Cached:
        """Those at ``index``, float32."""
        return Cached(self.local[index].float(), self.seen[index].float(), self.alone[index].float())


def cached(model: XT, prediction: Prediction, places: Sequence[Place], check: Callable[[], None]) -> Cached:
    """Read what a run kept of regions, and contextualise each of their windows once.

    Parameters
    ----------
    check
        Called now and then; raises to end it.

    Raises
    ------
    StoreError
        The store does not keep their tokens and local features.
    """
    windows: defaultdict[Window, list[Place]] = defaultdict(list)
    for place in places:
        windows[window_around(prediction, place)].append(place)
    seen, alone = dict[Place, Tensor](), dict[Place, Tensor]()
    used = bool(prediction.header.job.get("context", True))
    for window, inside in windows.items():
        check()
        tokens = window_tokens(prediction, model, window)[None]
        with torch.no_grad():
            around = _ringed(model.contextualise(tokens, window.start, used))
            by_itself = _ringed(model.contextualise(tokens, window.start, context=False))
        for place in inside:
            seen[place], alone[place] = (_patch(model, ring, window, place) for ring in (around, by_itself))
    local = _local(prediction, places, check)
    return Cached(local, *(torch.stack([found[place] for place in places]) for found in (seen, alone)))


def joined(head: DenseHead, local: Tensor, patch: Tensor) -> Tensor:
    """What `DenseHead.forward` gives of a region inside its window, ``(B, K, h, h)``, from `Cached` alone."""
    tokens = head.from_context(patch).permute(0, 3, 1, 2)
    weights = _spread(local.shape[-1], patch.shape[1]).to(tokens)
    x = head.from_local(local) + weights @ tokens @ weights.T
    logits: Tensor = head.out(head.mix(x.relu()).relu())
    return logits


def joined_at(head: DenseHead, local: Tensor, patch: Tensor, at: Tensor) -> Tensor:
    """The same of some cells alone, ``at (B, P)`` in the flattened map: ``(B, K, 1, P)``."""
    side, ring = local.shape[-1], patch.shape[1]
    across = _spread(side, ring).to(local)
    weights = (across[at // side, :, None] * across[at % side, None]).flatten(2)  # (B, P, ring * ring)
    points = local.flatten(2).gather(2, at[:, None].expand(-1, local.shape[1], -1)).mT  # (B, P, c)
    x = _linear(head.from_local, points) + weights @ head.from_context(patch).flatten(1, 2)
    return _linear(head.out, _linear(head.mix, x.relu()).relu()).mT[:, :, None]


def _linear(layer: nn.Conv2d, points: Tensor) -> Tensor:
    return F.linear(points, layer.weight[:, :, 0, 0], layer.bias)


def _spread(cells: int, ringed: int) -> Tensor:
    """How much of each of a ringed row of tokens each cell of the region gets, ``(cells, ringed)``: bilinear."""
    at = (torch.arange(cells) + 0.5) * ((ringed - 2) / cells) + 0.5
    return (1 - (at[:, None] - torch.arange(ringed)).abs()).clamp(min=0)


def inner(patch: Tensor) -> Tensor:
    """The tokens of the regions themselves, ``(B, n * n, D)``."""
    return patch[:, 1:-1, 1:-1].flatten(1, 2)


def _ringed(context: Context) -> Tensor:
    wide = token_map(context.regions).permute(0, 3, 1, 2)
    return F.pad(wide, (1, 1, 1, 1), mode="replicate")[0].permute(1, 2, 0)


def _patch(model: XT, ringed: Tensor, window: Window, place: Place) -> Tensor:
    n = model.config.context.tokens_per_side
    top, left = (place[0] - window.row0) * n, (place[1] - window.col0) * n
    return ringed[top : top + n + 2, left : left + n + 2].half()


def _local(prediction: Prediction, places: Sequence[Place], check: Callable[[], None]) -> Tensor:
    kept, k = Kept(prediction.path), prediction.layout.grid.block_regions
    if any(not kept.features[place] for place in places):
        raise StoreError(prediction.path, "it keeps no local features", "run again with keep='features'")
    found: dict[Place, Tensor] = {}
    for block, inside in groupby(
        sorted(places, key=lambda p: (p[0] // k, p[1] // k)), lambda p: (p[0] // k, p[1] // k)
    ):
        check()
        read = kept.block(*block, FEATURES)
        if read is None:
            raise StoreError(prediction.path, f"local features of block {block} can't be read", "run it again")
        found |= {place: torch.from_numpy(np.ascontiguousarray(read[place[0] % k, place[1] % k])) for place in inside}
    return torch.stack([found[place] for place in places])
