"""Windows of the synthetic slide with their truth, and how well a model tells the classes that only context decides.

Knows arrays and networks; knows nothing of how they are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.synthetic import KINDS, MASK, NEIGHBOURHOOD, REGION_PX, SCORES, SyntheticSlide
from napari_xt.model.tokens import to_regions
from napari_xt.model.xt import XT

WINDOW_PX = NEIGHBOURHOOD * REGION_PX
MIN_CELLS = 16  # regions with cells in a window worth learning from


@dataclass(frozen=True, slots=True)
class Windows:
    """Neighbourhoods of a slide, each one window of R x R regions and S x S px.

    ``pixels (n, 3, S, S)`` uint8; ``mask (n, S / step, S / step)`` uint8, indices into `MASK`, one in the middle of
    each ``step x step`` px; ``classes (n, R, R)`` int64, indices into `SCORES`.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    classes: NDArray[np.int64]

    def regions(self, index: NDArray[np.int64]) -> Windows:
        """Single regions as windows of their own; ``index (m,)`` counts regions of all windows, row by row."""
        count = NEIGHBOURHOOD**2
        places = [(i // count, i % count // NEIGHBOURHOOD, i % NEIGHBOURHOOD) for i in index.tolist()]
        return Windows(
            np.stack([_square(self.pixels[i], row, col) for i, row, col in places]),
            np.stack([_square(self.mask[i], row, col) for i, row, col in places]),
            self.classes.reshape(-1, 1, 1)[index],
        )


def draw_windows(slide: SyntheticSlide, count: int, seed: int, step: int = 1) -> Windows:
    """Draw ``count`` different neighbourhoods with cells; ``step`` as `Windows` says."""
    down, across = (n // WINDOW_PX for n in slide.shape)
    grid = (down, NEIGHBOURHOOD, across, NEIGHBOURHOOD)
    layout = slide.layout(range(down * NEIGHBOURHOOD), range(across * NEIGHBOURHOOD))
    classes = layout.classes.reshape(grid).transpose(0, 2, 1, 3)
    full = np.argwhere(layout.cells.reshape(grid).sum(axis=(1, 3)) >= MIN_CELLS)
    chosen = np.random.default_rng(seed).choice(full, min(count, len(full)), replace=False)
    boxes = [Box(row, col, row + 1, col + 1).scale(WINDOW_PX, WINDOW_PX) for row, col in chosen.tolist()]
    return Windows(
        np.stack([slide.pixels(box).transpose(2, 0, 1) for box in boxes]),
        np.stack([slide.mask(box)[step // 2 :: step, step // 2 :: step] for box in boxes]),
        np.stack([classes[row, col] for row, col in chosen.tolist()]),
    )


@dataclass(frozen=True, slots=True)
class Quality:
    """Macro-F1, 0..1, of the classes that only context decides: of the mask's pixels, and of the regions' scores."""

    mask_f1: float
    score_f1: float


@torch.inference_mode()
def quality(model: XT, windows: Windows) -> tuple[Quality, Quality]:
    """How good a model is with context and without; ``windows`` with ``step`` 1."""
    model.eval()
    counts = [(_Counts(len(MASK)), _Counts(len(SCORES))) for _ in range(2)]
    for pixels, mask, classes in zip(windows.pixels, windows.mask, windows.classes, strict=True):
        regions = to_regions(model.prepare(pixels)[None], REGION_PX, model.config.halo_px)
        tokens, local = model.encode(regions.flatten(0, 2))
        tokens, local = (x.reshape(*regions.shape[:3], *x.shape[1:]) for x in (tokens, local))
        for (pixel_counts, region_counts), context in zip(counts, (True, False), strict=True):
            output = model.decode(local, model.contextualise(tokens, context=context))
            assert output.mask is not None
            assert output.scores is not None
            full = F.interpolate(output.mask, size=mask.shape, mode="bilinear", align_corners=False)
            pixel_counts.add(mask, full[0].argmax(0).numpy())
            region_counts.add(classes, output.scores[0].argmax(-1).numpy())
    decided = slice(1, 1 + len(KINDS))
    with_context, without = (Quality(p.macro_f1(decided), r.macro_f1(decided)) for p, r in counts)
    return with_context, without


class _Counts:
    """How often what was true was called what."""

    def __init__(self, classes: int) -> None:
        self._pairs = np.zeros((classes, classes), np.int64)

    def add(self, true: NDArray[np.integer], told: NDArray[np.integer]) -> None:
        classes = len(self._pairs)
        pairs = true.astype(np.int64).ravel() * classes + told.ravel()
        self._pairs += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def macro_f1(self, chosen: slice) -> float:
        """Mean F1 of some classes, false alarms on the others counted."""
        both = self._pairs.sum(0) + self._pairs.sum(1)
        return float((2 * self._pairs.diagonal() / np.maximum(both, 1))[chosen].mean())


def _square(array: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    """The part of ``array (..., R s, R s)`` that shows one region."""
    side = array.shape[-1] // NEIGHBOURHOOD
    return array[..., row * side : (row + 1) * side, col * side : (col + 1) * side]
