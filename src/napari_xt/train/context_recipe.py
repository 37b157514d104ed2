"""How the context proof's networks are trained: first on single regions without context, then their context alone.

The first half is the same for all context encoders. Knows the recipe; the loop is in `fit`, what it is for in
`context_proof`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_xt.io.computed.synthetic import MASK, NEIGHBOURHOOD, REGION_PX, SCORES
from napari_xt.model.config import ContextConfig, ContextKind, LocalConfig, XTConfig
from napari_xt.model.tokens import to_regions
from napari_xt.model.xt import XT, Context, XTOutput
from napari_xt.train.fit import FitSettings, Progress, optimise
from napari_xt.train.synthetic_windows import Windows

MASK_WINDOWS = 2  # of a batch are decoded to a mask, which costs more than all the rest

CONFIG = XTConfig(
    region_encoder="test_convnext",
    region_px=REGION_PX,
    halo_px=0,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    window=NEIGHBOURHOOD,
    # spans shorter than the 64 tokens of a window, so that segments and sliding windows are put to the test
    context=ContextConfig(
        layers=4, dim=64, tokens_per_side=1, segment_tokens=32, memory_tokens=32, attention_window=32
    ),
    local=LocalConfig(channels=8, stride=4, hidden=24),
    mask=MASK,
    scores=SCORES,
)
REGIONS = FitSettings(
    steps=100, warmup=20, shapes=((96, 1, 1),), rate=3e-3, encoder_rate=3e-3, frozen=(), drop_context=1.0, average=0.98
)
CONTEXT = FitSettings(
    steps=300, warmup=20, shapes=((16, 8, 8),), rate=3e-3, encoder_rate=0.0, drop_context=0.15, average=0.98
)


def config_of(kind: ContextKind) -> XTConfig:
    """The network with a context encoder of that kind."""
    return replace(CONFIG, context=replace(CONFIG.context, kind=kind))


class Encoded(NamedTuple):
    """Windows as the frozen region encoder sees them: ``tokens (n, R, Q, L, D)``, ``local (n, R, Q, c, h, w)``."""

    tokens: Tensor
    local: Tensor


def train_regions(windows: Windows, settings: FitSettings) -> XT:
    """Teach a new network what single regions show: as many markers, cells and other regions, no context."""
    torch.manual_seed(settings.seed)
    model = XT(config_of("none"))
    classes = windows.classes.ravel()
    marker = classes > len(MASK) - 1
    groups = [np.flatnonzero(group) for group in (classes == 0, marker, (classes > 0) & ~marker)]

    def losses(model: XT, settings: FitSettings, rng: np.random.Generator) -> dict[str, Tensor]:
        count = settings.shapes[0][0] // len(groups)
        part = windows.regions(np.concatenate([rng.choice(group, count) for group in groups]))
        model.train()
        tokens, local = model.region(torch.stack([model.prepare(pixels) for pixels in part.pixels]))
        output = model.decode(local[:, None, None], model.contextualise(tokens[:, None, None], context=False))
        return _costs(output, torch.from_numpy(part.mask), torch.from_numpy(part.classes))

    return optimise(model, losses, settings, _quiet)


@torch.inference_mode()
def encode(model: XT, windows: Windows) -> Encoded:
    """Encode all regions of windows, as they are stored in a run."""
    model.eval()
    parts = []
    for pixels in windows.pixels:
        regions = to_regions(model.prepare(pixels)[None], REGION_PX, model.config.halo_px)
        tokens, local = model.region(regions.flatten(0, 2))
        parts.append([x.half().unflatten(0, regions.shape[:3])[0] for x in (tokens, local)])
    tokens, local = (torch.stack(x) for x in zip(*parts, strict=True))
    return Encoded(tokens, local)


def train_context(base: XT, kind: ContextKind, encoded: Encoded, windows: Windows, settings: FitSettings) -> XT:
    """Teach a new context encoder, and the heads of ``base``, on windows as ``base`` has encoded them."""
    torch.manual_seed(settings.seed)
    model = XT(config_of(kind))
    kept = {name: value for name, value in base.state_dict().items() if not name.startswith("context.")}
    model.load_state_dict(model.state_dict() | kept)
    mask, classes = torch.from_numpy(windows.mask), torch.from_numpy(windows.classes)

    def losses(model: XT, settings: FitSettings, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = torch.from_numpy(rng.integers(len(classes), size=settings.shapes[0][0]))
        few = chosen[:MASK_WINDOWS]
        model.train()
        with_context = bool(rng.random() >= settings.drop_context)
        seen = model.contextualise(encoded.tokens[chosen].float(), context=with_context)
        assert model.score_head is not None
        scores = model.score_head(seen.regions)
        output = model.decode(encoded.local[few].float(), Context(seen.regions[: len(few)], seen.summary[: len(few)]))
        return _costs(output._replace(scores=scores), mask[few], classes[chosen])

    return optimise(model, losses, settings, _quiet)


def _costs(output: XTOutput, mask: Tensor, classes: Tensor) -> dict[str, Tensor]:
    assert output.mask is not None
    assert output.scores is not None
    return {
        "mask": F.cross_entropy(output.mask, mask.long()),
        "scores": F.cross_entropy(output.scores.flatten(0, 2), classes.flatten()),
    }


def _quiet(_progress: Progress, _model: XT) -> None:
    """A training of a minute needs no report."""
