"""Heads tried on regions that they did not learn from, and what is made of each.

Knows networks, truths and ways; must not know how heads learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from napari_xt.annotate.truth import RegionTruth
from napari_xt.model.xt import XT
from napari_xt.train.cached import Cached
from napari_xt.train.choose import Values, Way, best
from napari_xt.train.descent import Weights, put, weights_of
from napari_xt.train.judge import accuracy, box_counts, box_f1, mask_counts, mask_f1, score_counts

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
FEWEST = 100  # boxes: of fewer no better head is told, what seems so finds next to nothing elsewhere
FIRST = 10  # boxes: of fewer a head that can't stay keeps its threshold
UNTRIED = 0.5  # share of the old weights where nothing tells which is best
FIGURES = {"mask": ("mask_f1", mask_f1), "boxes": ("box_f1", box_f1), "scores": ("score_accuracy", accuracy)}
WHAT = {"mask": "the mask", "boxes": "boxes", "scores": "classes of regions"}


class Trials:
    """How right each head was in each way.

    Parameters
    ----------
    model, heads
        Whose heads, by name, are tried: as they are now is how they were before.
    names
        What each value of labels is called in the model's mask.
    px_per_run
        Level-0 pixels of a run pixel, ``(y, x)``.
    kept
        The shares of the old weights that are tried.
    fixed
        Heads that can't stay as they were, and of which nothing old is kept.
    """

    def __init__(
        self,
        model: XT,
        heads: Mapping[str, nn.Module],
        names: Mapping[int, int],
        px_per_run: tuple[float, float],
        kept: Sequence[float],
        fixed: Sequence[str] = (),
    ) -> None:
        self.start = {name: weights_of(head) for name, head in heads.items()}
        self.threshold = model.config.threshold
        self._model, self._heads, self._names, self._px = model, heads, names, px_per_run
        self._kept, self._fixed = kept, fixed
        self._counts: dict[str, dict[Way, list[Values]]] = {name: {} for name in heads}

    def judge(
        self, learned: Mapping[str, Weights], held: Sequence[RegionTruth], seen: Cached, check: Callable[[], None]
    ) -> None:
        """Add what regions say that nothing was learned from; ``check`` may raise to end it."""
        for name in self._heads:
            for kept in self._shares(name):
                check()
                self.take(name, Way(kept), learned)
                for way, counts in self._judged(name, kept, held, seen):
                    self._counts[name].setdefault(way, []).append(counts)

    def ways(self) -> tuple[dict[str, Way], dict[str, float], dict[str, float]]:
        """The best way of each head, and its figures before and after; what can't be told is done as is usual."""
        ways: dict[str, Way] = {}
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        for name, tried in self._counts.items():
            title, figure = FIGURES[name]
            counts = {way: np.concatenate(parts) for way, parts in tried.items()}
            old = Way(1.0, self.threshold if name == "boxes" else None)
            known = counts[old][:, 2].sum() if counts and name == "boxes" else np.inf
            if name in self._fixed:
                ways_of = {w: found for w, found in counts.items() if w.kept < 1}
                few = {w: found for w, found in ways_of.items() if w.threshold in (None, self.threshold)}
                chosen = best(ways_of if known >= FIRST else few, None, figure)
            else:
                chosen = best(counts, old, figure) if known >= FEWEST else old
            usual = 0.0 if name in self._fixed else self._usual(name)
            ways[name] = chosen or Way(usual)
            told = [] if chosen is None else [figure(counts[way].sum(0)) for way in (old, chosen)]
            if told and not np.isnan(told).any():
                before[title], after[title] = told
        return ways, before, after

    def stays(self, way: Way) -> bool:
        """Whether nothing changes about a head."""
        return way.kept == 1 and way.threshold in (None, self.threshold)

    @torch.no_grad()
    def take(self, name: str, way: Way, learned: Mapping[str, Weights]) -> None:
        """Make of a head what a way says."""
        pairs = zip(learned[name], self.start[name], strict=True)
        put(self._heads[name], [new.lerp(old, way.kept) for new, old in pairs])
        if way.threshold is not None:
            self._model.config = replace(self._model.config, threshold=way.threshold)

    def _usual(self, name: str) -> float:
        """The share of the old weights where nothing tells which is best: boxes go wrong too easily."""
        return self._kept[0] if len(self._kept) == 1 else 1.0 if name == "boxes" else UNTRIED

    def _shares(self, name: str) -> list[float]:
        return [1.0, *({0.0} if name in self._fixed else set(self._kept) - {1.0})]

    def _judged(
        self, name: str, kept: float, held: Sequence[RegionTruth], seen: Cached
    ) -> Iterator[tuple[Way, Values]]:
        if name == "mask":
            yield Way(kept), mask_counts(self._model, held, seen, self._names)
        elif name == "scores":
            yield Way(kept), score_counts(self._model, held, seen)
        else:
            thresholds = sorted({*THRESHOLDS, self.threshold})
            counts = box_counts(self._model, held, seen, thresholds, self._px)
            yield from ((Way(kept, threshold), counts[i]) for i, threshold in enumerate(thresholds))
