"""Heads that learn from what is known of some regions, on what a run kept of them, in seconds.

Knows truths, stores and networks; must not know screens, files of models, or how corrections are drawn and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.annotate.truth import Truths
from napari_xt.errors import ModelError, SettingsError
from napari_xt.io.prediction import Prediction
from napari_xt.model.grown import grown
from napari_xt.model.xt import XT
from napari_xt.train.cached import Cached, cached, inner, joined_at
from napari_xt.train.choose import Way, turns
from napari_xt.train.descent import Weights, follow, means, optimiser_of, put, set_rate, step_down, weights_of
from napari_xt.train.sparse import Known, boxes_cost, class_weights, drawn, known, mask_cost
from napari_xt.train.trial import WHAT, Trials

HEADS = ("mask", "boxes", "scores")
LEARNED: dict[str, Any] = {"steps": 400, "rate": 3e-3, "context_rate": 1.0}
NEW: dict[str, Any] = {"steps": 600, "rate": 3e-4, "kept": 0.0, "context_rate": 0.1}
KEPT = (0.0, 0.25, 0.5)  # shares of the old weights that are tried where nothing is said
CELLS = 512  # of a region that a step sees, at most
AVERAGE = 0.98  # of the running average of the weights, which is what is kept
EVERY = 10  # steps between two reports
Stage = Literal["read", "learn", "judge"]


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How heads learn.

    Parameters
    ----------
    steps, batch
        Optimiser steps, and regions of each. None: 400, more for a new model.
    rate
        Highest learning rate; None: higher for a model that has learned before.
    heads
        Which of ``mask``, ``boxes`` and ``scores``.
    held_out
        Share of the regions that is not learned from and tells how good the model is, before and after, and which way
        of learning is best. Of few regions each is held out once, and all are learned from in the end. 0: none.
    kept
        Share of the old weights in the new ones, against forgetting (Wortsman et al., 2022, "Robust fine-tuning of
        zero-shot models"); None: what serves each head best on regions held out, nothing for a new model. A head that
        is no better on these for any share stays as it was, and so do boxes where fewer than 100 are known.
    drop_context
        Share of the steps that see regions without context.
    context_rate
        How fast heads learn to listen to the context, against ``rate``; None: slower for a new model.
    seed
        Of everything random.
    """

    steps: int | None = None
    batch: int = 8
    rate: float | None = None
    heads: tuple[str, ...] = HEADS
    held_out: float = 0.2
    kept: float | None = None
    drop_context: float = 0.15
    context_rate: float | None = None
    seed: int = 0

    def of(self, learned: bool) -> RefineSettings:
        """With what is usual for a model that has learned before, or a new one."""
        usual = LEARNED if learned else NEW
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})


@dataclass(frozen=True, slots=True)
class Learning:
    """A report: what is done of a stage, the mean costs by head since the last one, seconds since the start."""

    stage: Stage
    done: int
    total: int
    costs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """What came of it.

    Attributes
    ----------
    model
        In evaluation mode; what was given stays as it is.
    path
        Its file; None where none was asked for, or where it was stopped.
    before, after
        Figures on the regions held out: ``mask_f1``, the mean over the classes that are known, without background, by
        pixels; ``box_f1`` at the model's threshold and an IoU of 0.4, in complete regions, class aside;
        ``score_accuracy`` of regions. What is not known is left out.
    seconds
        What it took.
    labelled
        Run pixels of each class that were known.
    warnings
        What was lacking.
    stopped
        Whether ``stop`` ended it early.
    """

    model: XT
    path: Path | None
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    labelled: dict[str, int]
    warnings: tuple[str, ...] = ()
    stopped: bool = False


class _Stopped(Exception):
    """Somebody asked for it."""


def learn(
    model: XT,
    prediction: Prediction,
    truths: Truths,
    settings: RefineSettings | None = None,
    *,
    progress: Callable[[Learning], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Refined:
    """Train the heads of a copy of ``model`` on what is known of a prediction; nothing is written.

    Parameters
    ----------
    model
        One with the region encoder of the prediction's.
    prediction
        Of a run that kept tokens and features.
    truths
        What is known of it.
    settings
        How.
    progress
        Told what happens, in this thread.
    stop
        Asked between two steps; once it is true, what has been learned so far is returned.

    Raises
    ------
    ModelError
        The region encoder is another one.
    StoreError
        The store does not keep what is needed.
    SettingsError
        Nothing is known, or a setting can't be used.
    """
    chosen = (settings or RefineSettings()).of(model.card is not None)
    _check(model, prediction, truths, chosen)
    return _Lesson(model, prediction, truths, chosen, progress or (lambda _: None), stop or (lambda: False)).run()


class _Lesson:
    """One call of `learn`."""

    def __init__(
        self,
        model: XT,
        prediction: Prediction,
        truths: Truths,
        settings: RefineSettings,
        progress: Callable[[Learning], None],
        stop: Callable[[], bool],
    ) -> None:
        self._old, self._prediction, self._truths, self._settings = model, prediction, truths, settings
        self._progress, self._stop, self._started = progress, stop, time.monotonic()
        px = prediction.layout.frame.px_per_run
        self._model = _with_classes(model, truths, settings.heads)
        self._heads = _heads(self._model, settings.heads)
        names = self._model.config.mask or ()
        self._names = {value: names.index(name) for value, name in enumerate(truths.mask) if name in names}
        self._told = [truth for truth in truths if truth.told]
        self._targets = known(self._told, self._names, self._model.config, px)
        kept = KEPT if settings.kept is None else (settings.kept,)
        self._new = model.card is None
        fixed = [name for name in self._heads if self._new or _grown(name, model, self._model)]
        self._trials = Trials(self._model, self._heads, self._names, px, kept, fixed)
        self._steps, self._done, self._total = settings.steps or 1, 0, 0

    def run(self) -> Refined:
        """Read, try in turns, and learn in the way that is best."""
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        ways: dict[str, Way] = {}
        stopped = False
        try:
            seen = self._read()
            learned = self._try(seen)
            ways, before, after = self._trials.ways()
            learned = learned or self._learn(seen, list(range(len(seen))))
            for name, way in ways.items():
                self._trials.take(name, way, learned)
        except _Stopped:
            stopped = True
        self._model.eval().requires_grad_(False)
        for head in self._heads.values():
            head.half().float()  # as it will be read from a file
        same = [
            f"{WHAT[name]}: nothing shows on regions held out that they would be better, so they stay"
            for name, way in ways.items()
            if self._trials.stays(way)
        ]
        warnings, seconds = (*self._truths.warnings(), *same), time.monotonic() - self._started
        self._model.blank = False
        return Refined(self._model, None, before, after, seconds, self._truths.labelled(), warnings, stopped)

    def _read(self) -> Cached:
        self._tell("read", 0, len(self._told))
        return cached(self._old, self._prediction, [(t.row, t.col) for t in self._told], self._check)

    def _try(self, seen: Cached) -> dict[str, Weights]:
        """Learn from some regions and judge by the others, in turns; what was learned where that was done once."""
        settings = self._settings
        tried = turns(len(seen), settings.held_out, settings.seed, spare=self._new)
        once = len(tried) == 1
        self._total = (len(tried) + (not once)) * self._steps
        for shown, held in tried:
            learned = self._learn(seen, shown)
            self._tell("judge", 0, len(held))
            self._trials.judge(learned, [self._told[i] for i in held], seen.some(torch.tensor(held)), self._check)
        return learned if once else {}

    def _learn(self, seen: Cached, shown: list[int]) -> dict[str, Weights]:
        """Learn from some regions, from the beginning: averaged weights."""
        settings, steps, heads = self._settings, self._steps, self._heads
        for name, head in heads.items():
            put(head, self._trials.start[name])
            head.requires_grad_(True)
        parameters = [p for head in heads.values() for p in head.parameters()]
        optimiser = optimiser_of(heads, settings.rate or 0.0, settings.context_rate or 0.0)
        rng, cells = np.random.default_rng(settings.seed), torch.Generator().manual_seed(settings.seed)
        places = torch.tensor(shown)
        weights = class_weights(self._targets.share[places])
        average = {name: weights_of(head) for name, head in heads.items()}
        costs: list[dict[str, float]] = []
        for step in range(1, steps + 1):
            self._check()
            set_rate(optimiser, (step - 1) / steps, step - 1)
            index = places[torch.from_numpy(_drawn(len(shown), settings.batch, step - 1, settings.seed))]
            by_itself = bool(rng.random() < settings.drop_context)
            cost = self._costs(seen.some(index), self._targets.some(index), weights, by_itself, cells)
            costs.append(step_down(cost, parameters, optimiser))
            follow(average, heads, min(AVERAGE, step / (step + 9)))
            if step % EVERY == 0 or step == steps:
                self._tell("learn", self._done + step, self._total, means(costs))
                costs = []
        self._done += steps
        return average

    def _costs(
        self, seen: Cached, targets: Known, weights: Tensor, by_itself: bool, generator: torch.Generator
    ) -> dict[str, Tensor]:
        patch, heads = seen.alone if by_itself else seen.seen, self._heads
        cost: dict[str, Tensor] = {}
        if "mask" in heads and targets.share.any():
            cells = drawn((targets.share.sum(1) > 0).float(), CELLS, generator)
            logits = joined_at(heads["mask"], seen.local, patch, cells.at)  # type: ignore[arg-type]
            cost["mask"] = mask_cost(logits, targets.at(cells).share, weights)
        if "boxes" in heads and targets.valid.any():
            cells = drawn(targets.valid * (1 + (targets.near > 0).float()), CELLS, generator)
            raw = joined_at(heads["boxes"], seen.local, patch, cells.at)  # type: ignore[arg-type]
            cost["boxes"] = boxes_cost(raw, targets.at(cells), self._model.config.local.stride)
        if "scores" in heads and (targets.classes >= 0).any():
            logits = heads["scores"](inner(patch)[:, None, None])[:, 0, 0]
            cost["scores"] = 0.3 * F.cross_entropy(logits, targets.classes, ignore_index=-1)
        return cost

    def _check(self) -> None:
        if self._stop():
            raise _Stopped

    def _tell(self, stage: Stage, done: int, total: int, costs: dict[str, float] | None = None) -> None:
        self._progress(Learning(stage, done, total, costs or {}, time.monotonic() - self._started))


def _check(model: XT, prediction: Prediction, truths: Truths, settings: RefineSettings) -> None:
    if model.encoder_digest != prediction.header.model.get("encoder"):
        why = f"has another region encoder than the one that made {prediction.path.name}"
        raise ModelError(f"model {model.name}", why, "run it over the image first")
    if not any(truth.told for truth in truths):
        raise SettingsError("corrections", "there is nothing to learn from", "paint, or accept regions first")
    if unknown := sorted(set(settings.heads) - set(HEADS)):
        raise SettingsError(f"heads = {unknown[0]!r}", "is none that learns", f"choose of {', '.join(HEADS)}")
    if not _heads(model, settings.heads):
        raise ModelError(f"model {model.name}", f"has none of the heads {', '.join(settings.heads)}")
    if not 0 <= settings.held_out < 1:
        raise SettingsError(f"held_out = {settings.held_out}", "must lie in 0..1, below 1")
    if settings.batch < 1 or (settings.steps is not None and settings.steps < 1):
        raise SettingsError(f"steps = {settings.steps}, batch = {settings.batch}", "must be at least 1")


def _with_classes(model: XT, truths: Truths, heads: Collection[str]) -> XT:
    boxes = [str(name) for truth in truths for name in truth.boxes["class"].unique()]
    scores = [truth.region_class for truth in truths if truth.region_class is not None]
    wanted = {"mask": truths.mask, "boxes": boxes, "scores": scores}
    return grown(model, **{head: names for head, names in wanted.items() if head in heads})


def _grown(name: str, old: XT, new: XT) -> bool:
    return bool(getattr(old.config, name) != getattr(new.config, name))


def _heads(model: XT, wanted: Collection[str]) -> dict[str, nn.Module]:
    found = {"mask": model.mask_head, "boxes": model.box_head, "scores": model.score_head}
    return {name: head for name, head in found.items() if head is not None and name in wanted}


def _drawn(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Which regions a step sees: each as often as any other, in an order that changes."""
    turns = max(1, -(-count // batch))
    order = np.random.default_rng((seed, step // turns)).permutation(count)
    at = step % turns * batch
    return order[at : at + batch]
