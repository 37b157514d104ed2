"""Heads that learn from what is known of some regions, on what a run kept of them, in seconds.

Knows truths, stores and networks; must not know screens, files of models, or how corrections are drawn and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.annotate.truth import RegionTruth, Truths
from napari_xt.errors import ModelError, SettingsError
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.kept import Kept
from napari_xt.model.grown import grown
from napari_xt.model.xt import XT
from napari_xt.train.cached import Cached, Place, cached, cells_of, inner, joined
from napari_xt.train.descent import means, optimiser_of, set_rate, step_down
from napari_xt.train.judge import best_threshold, judged
from napari_xt.train.sparse import Known, box_replay_cost, boxes_cost, class_weights, known, mask_cost, replay_cost

HEADS = ("mask", "boxes", "scores")
FEWEST = 5  # regions: of fewer none is held out
REPLAYED = 64  # unlabelled regions, at most, that what was said of is held on to
LEARNED: dict[str, Any] = {"steps": 200, "rate": 1e-3, "kept": 0.4, "context_rate": 0.0}
NEW: dict[str, Any] = {"steps": 600, "rate": 3e-4, "kept": 0.0, "context_rate": 0.1}
EVERY = 10  # steps between two reports
Stage = Literal["read", "learn", "judge"]


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """How heads learn.

    Parameters
    ----------
    steps, batch
        Optimiser steps, and regions of each. None: few for a model that has learned before, more for a new one.
    rate
        Highest learning rate; None: as above.
    heads
        Which of ``mask``, ``boxes`` and ``scores``.
    held_out
        Share of the regions that is not learned from and tells how good the model is, before and after.
    replay
        How much what the old model said of regions without any truth counts, against forgetting; 0: nothing.
    kept
        Share of the old weights in the new ones, against forgetting (Wortsman et al., 2022, "Robust fine-tuning of
        zero-shot models"); None: some of a model that has learned before, nothing of a new one.
    drop_context
        Share of the steps that see regions without context.
    context_rate
        How fast heads learn to listen to the context, against ``rate``; None: not at all where they have learned it.
    seed
        Of everything random.
    """

    steps: int | None = None
    batch: int = 8
    rate: float | None = None
    heads: tuple[str, ...] = HEADS
    held_out: float = 0.2
    replay: float = 0.0
    kept: float | None = None
    drop_context: float = 0.15
    context_rate: float | None = None
    seed: int = 0

    def of(self, learned: bool) -> RefineSettings:
        """With nothing left open, for a model that has learned before or a new one."""
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
        Figures on the regions held out, see `judge.judged`; empty where none were.
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


@dataclass(frozen=True, slots=True)
class _Replay:
    """Regions without truth, and what was said of them: class probabilities and heat maps."""

    seen: Cached
    mask: Tensor | None
    heat: Tensor | None


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
        self._px = prediction.layout.frame.px_per_run
        self._model = _with_classes(model, truths, settings.heads)
        names = self._model.config.mask or ()
        self._names = {value: names.index(name) for value, name in enumerate(truths.mask) if name in names}

    def run(self) -> Refined:
        """Read, judge, learn and judge again."""
        told = [truth for truth in self._truths if truth.told]
        shown, held = _split(told, self._settings)
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        stopped = False
        try:
            self._tell("read", 0, len(told))
            seen, apart = self._read(shown), self._read(held) if held else None
            targets = known(shown, self._names, self._model.config, self._px)
            replay = self._replay(told)
            before = self._judge(self._old, held, apart)
            self._learn(seen, targets, replay)
            self._keep()
            self._choose_threshold(shown, seen)
            after = self._judge(self._model, held, apart)
        except _Stopped:
            stopped = True
        self._model.eval().requires_grad_(False)
        for head in _heads(self._model, self._settings.heads).values():
            head.half().float()  # as it will be read from a file
        labelled = self._truths.labelled()
        seconds = time.monotonic() - self._started
        return Refined(self._model, None, before, after, seconds, labelled, self._truths.warnings(), stopped)

    def _read(self, truths: Sequence[RegionTruth]) -> Cached:
        return cached(self._old, self._prediction, [(t.row, t.col) for t in truths], self._check)

    def _replay(self, told: Sequence[RegionTruth]) -> _Replay | None:
        """Regions of which nothing is known, and what the old model says of them."""
        if not self._settings.replay:
            return None
        taken = {(t.row, t.col) for t in told}
        rows, cols = np.nonzero(Kept(self._prediction.path).features)
        free = [p for p in zip(rows.tolist(), cols.tolist(), strict=True) if p not in taken]
        if not free:
            return None
        rng = np.random.default_rng(self._settings.seed)
        count = min(len(free), REPLAYED, max(len(told), self._settings.batch))
        places: list[Place] = [free[i] for i in sorted(rng.choice(len(free), count, replace=False))]
        seen = cached(self._old, self._prediction, places, self._check)
        return _Replay(seen, *_said(self._old, seen, self._settings))

    def _learn(self, seen: Cached, targets: Known, replay: _Replay | None) -> None:
        settings = self._settings
        steps, heads = settings.steps or 1, _heads(self._model, settings.heads)
        parameters = [p for head in heads.values() for p in head.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimiser = optimiser_of(heads, settings.rate or 0.0, settings.context_rate or 0.0)
        weights, rng = class_weights(targets.share), np.random.default_rng(settings.seed)
        costs: list[dict[str, float]] = []
        for step in range(steps):
            self._check()
            set_rate(optimiser, step / steps, step)
            index = torch.from_numpy(_drawn(len(seen), settings.batch, step, settings.seed))
            by_itself = bool(rng.random() < settings.drop_context)
            cost = self._costs(heads, seen.some(index), targets.some(index), weights, by_itself)
            if replay is not None:
                some = torch.from_numpy(rng.integers(0, len(replay.seen), max(1, settings.batch // 2)))
                cost["replay"] = self._replayed(heads, replay, some)
            costs.append(step_down(cost, parameters, optimiser))
            if (step + 1) % EVERY == 0 or step + 1 == steps:
                self._tell("learn", step + 1, steps, means(costs))
                costs = []

    def _choose_threshold(self, shown: Sequence[RegionTruth], seen: Cached) -> None:
        """Scores of boxes that nothing ties to the old ones have moved: the threshold is what serves best now."""
        if "boxes" in self._settings.heads and not self._settings.kept:
            found = best_threshold(self._model, shown, seen, self._px)
            self._model.config = replace(self._model.config, threshold=found or self._model.config.threshold)

    @torch.no_grad()
    def _keep(self) -> None:
        """Move the weights back towards what they were; a head with new classes stays as learned."""
        old = _heads(self._old, self._settings.heads)
        for name, head in _heads(self._model, self._settings.heads).items():
            pairs = list(zip(head.parameters(), old[name].parameters(), strict=True))
            if all(new.shape == kept.shape for new, kept in pairs):
                for new, kept in pairs:
                    new.lerp_(kept, self._settings.kept or 0.0)

    def _costs(
        self, heads: dict[str, nn.Module], seen: Cached, targets: Known, weights: Tensor, by_itself: bool
    ) -> dict[str, Tensor]:
        patch = seen.alone if by_itself else seen.seen
        cost: dict[str, Tensor] = {}
        if "mask" in heads and targets.share.any():
            at = targets.share.sum(1) > 0  # elsewhere nothing is known, and nothing need be worked out
            logits = joined(heads["mask"], seen.local, patch, at)  # type: ignore[arg-type]
            cost["mask"] = mask_cost(logits, cells_of(targets.share, at), weights)
        if "boxes" in heads and targets.valid.any():
            stride = self._model.config.local.stride
            cost["boxes"] = boxes_cost(joined(heads["boxes"], seen.local, patch), targets, stride)  # type: ignore[arg-type]
        if "scores" in heads and (targets.classes >= 0).any():
            logits = heads["scores"](inner(patch)[:, None, None])[:, 0, 0]
            cost["scores"] = 0.3 * F.cross_entropy(logits, targets.classes, ignore_index=-1)
        return cost

    def _replayed(self, heads: dict[str, nn.Module], replay: _Replay, index: Tensor) -> Tensor:
        seen, costs = replay.seen.some(index), []
        if "mask" in heads and replay.mask is not None:
            costs.append(replay_cost(joined(heads["mask"], seen.local, seen.seen), replay.mask[index].float()))  # type: ignore[arg-type]
        if "boxes" in heads and replay.heat is not None:
            costs.append(box_replay_cost(joined(heads["boxes"], seen.local, seen.seen), replay.heat[index].float()))  # type: ignore[arg-type]
        return self._settings.replay * torch.stack(costs).sum()

    def _judge(self, model: XT, held: Sequence[RegionTruth], input: Cached | None) -> dict[str, float]:
        if input is None:
            return {}
        self._check()
        self._tell("judge", 0, len(held))
        return judged(model, held, self._names, input, self._px)

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
    if (settings.steps or 0) < 1 or settings.batch < 1:
        raise SettingsError(f"steps = {settings.steps}, batch = {settings.batch}", "must be at least 1")


@torch.no_grad()
def _said(model: XT, seen: Cached, settings: RefineSettings) -> tuple[Tensor | None, Tensor | None]:
    """Class probabilities ``(N, K, h, h)`` and heat maps ``(N, Kb, h, h)`` of regions, float16."""
    heads = _heads(model, settings.heads)
    parts = [seen.some(i) for i in torch.split(torch.arange(len(seen)), settings.batch)]

    def all_of(name: str) -> Tensor | None:
        head = heads.get(name)
        return None if head is None else torch.cat([joined(head, p.local, p.seen) for p in parts])  # type: ignore[arg-type]

    mask, boxes = all_of("mask"), all_of("boxes")
    return None if mask is None else mask.softmax(1).half(), None if boxes is None else boxes[:, :-4].sigmoid().half()


def _with_classes(model: XT, truths: Truths, heads: Collection[str]) -> XT:
    boxes = [str(name) for truth in truths for name in truth.boxes["class"].unique()]
    scores = [truth.region_class for truth in truths if truth.region_class is not None]
    wanted = {"mask": truths.mask, "boxes": boxes, "scores": scores}
    return grown(model, **{head: names for head, names in wanted.items() if head in heads})


def _split(told: Sequence[RegionTruth], settings: RefineSettings) -> tuple[list[RegionTruth], list[RegionTruth]]:
    """What is learned from, and what is held out."""
    count = round(len(told) * settings.held_out) if len(told) >= FEWEST else 0
    rng = np.random.default_rng(settings.seed)
    held = set(rng.permutation(len(told))[:count].tolist())
    return [t for i, t in enumerate(told) if i not in held], [told[i] for i in sorted(held)]


def _heads(model: XT, wanted: Collection[str]) -> dict[str, nn.Module]:
    found = {"mask": model.mask_head, "boxes": model.box_head, "scores": model.score_head}
    return {name: head for name, head in found.items() if head is not None and name in wanted}


def _drawn(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Which regions a step sees: each as often as any other, in an order that changes."""
    turns = max(1, -(-count // batch))
    order = np.random.default_rng((seed, step // turns)).permutation(count)
    at = step % turns * batch
    return order[at : at + batch]
