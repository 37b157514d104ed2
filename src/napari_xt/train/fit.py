"""The training loop: random windows in, a trained network out, with checkpoints on the way.

Knows torch; knows nothing of where scenes come from.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from napari_xt.model.tokens import cut_regions
from napari_xt.model.xt import XT, XTOutput
from napari_xt.train.losses import window_loss
from napari_xt.train.scenes import Scene, draw_sample
from napari_xt.train.targets import make_targets

Shape = tuple[int, int, int]  # windows in a batch, rows and columns of regions of each
Losses = Callable[[XT, "FitSettings", np.random.Generator], dict[str, Tensor]]
"""Draws a batch, runs the model on it, and returns what that costs, by name."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to train.

    Parameters
    ----------
    steps, warmup
        Optimiser steps, and how many of them the learning rate climbs.
    shapes
        ``(windows, rows, cols)`` of a batch, one drawn for each step.
    rate, encoder_rate
        Learning rate of new parts and of the pretrained backbone; 0 freezes the region encoder (batch statistics too).
    frozen
        Prefixes of the backbone's parameters that stay as they were pretrained: what an early layer sees is general,
        and its gradients cost the most.
    drop_context, drop_region
        Share of windows without context, and of regions whose tokens are replaced by the background token.
    average
        Decay of the running average of the weights, which is what is kept.
    seed
        Of everything random.
    """

    steps: int = 6000
    warmup: int = 200
    shapes: tuple[Shape, ...] = ((8, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 4), (1, 4, 2))
    rate: float = 1e-3
    encoder_rate: float = 3e-4
    frozen: tuple[str, ...] = ("conv_stem", "bn1", "blocks.0", "blocks.1")
    drop_context: float = 0.15
    drop_region: float = 0.05
    average: float = 0.998
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a training: the step, mean losses since the last report, seconds since the start."""

    step: int
    losses: dict[str, float]
    seconds: float


def fit(
    model: XT,
    scenes: Sequence[tuple[Scene, float]],
    settings: FitSettings,
    report: Callable[[Progress, XT], None],
    every: int = 100,
    checkpoint: Path | None = None,
) -> XT:
    """Train ``model`` in place on scenes with boxes; return the running average of its weights.

    Parameters
    ----------
    model
        To be trained.
    scenes
        Where samples come from, each with its share; intensities as a run of the model over the whole scene has them.
    settings, report, every, checkpoint
        As `optimise` takes them.
    """
    measured = [(scene.measured(model.config), share) for scene, share in scenes]

    def losses(model: XT, settings: FitSettings, rng: np.random.Generator) -> dict[str, Tensor]:
        images, targets = draw_batch(model, measured, settings.shapes[rng.integers(len(settings.shapes))], rng)
        train_mode(model, settings.encoder_rate == 0)
        return window_loss(forward_window(model, images, settings, rng), targets, model.config.local.stride)

    return optimise(model, losses, settings, report, every, checkpoint)


def optimise(
    model: XT,
    losses: Losses,
    settings: FitSettings,
    report: Callable[[Progress, XT], None],
    every: int = 100,
    checkpoint: Path | None = None,
) -> XT:
    """Train ``model`` in place; return the running average of its weights.

    Parameters
    ----------
    model
        To be trained.
    losses
        Called at each step, with what is random at that step; their sum is what is made smaller.
    settings
        How.
    report
        Called every ``every`` steps with the averaged model.
    checkpoint
        A file to continue from where it is there, written at each report (``weights_only`` tensors).
    """
    average = copy.deepcopy(model).eval().requires_grad_(False)
    average.blank = False
    optimiser = _optimiser(model, settings)
    first = _resume(checkpoint, model, average, optimiser)
    started, costs = time.monotonic(), []
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, step))  # so that a resumed training draws what it would have drawn
        _set_rate(optimiser, settings, step)
        costs.append(_train_step(model, losses(model, settings, rng), optimiser))
        _follow(average, model, min(settings.average, (step + 1) / (step + 10)))
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            means = {key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]}
            report(Progress(step + 1, means, time.monotonic() - started), average)
            costs = []
            _save(checkpoint, model, average, optimiser, step + 1)
    return average


def train_mode(model: XT, frozen: bool) -> None:
    """Training mode but for the backbone's batch statistics, which stay those it was pretrained with."""
    model.train()
    _backbone(model).eval()
    if frozen:
        model.region.eval()


def forward_window(model: XT, images: Tensor, settings: FitSettings, rng: np.random.Generator) -> XTOutput:
    """Run windows ``(B, C, H + 2 halo, W + 2 halo)`` with context and regions dropped at random, at a random origin."""
    regions = cut_regions(images, model.config.region_px, model.config.halo_px)
    grid = regions.shape[:3]
    flat = regions.flatten(0, 2).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(settings.encoder_rate > 0):
        tokens, local = model.region(flat)
        overview = model.overview(_without_halo(images, model.config.halo_px))
    tokens, local = tokens.unflatten(0, grid), local.unflatten(0, grid)
    if grid[1] * grid[2] > 1:
        drop = torch.from_numpy(rng.random(grid) < settings.drop_region)[..., None, None]
        tokens = torch.where(drop, model.background_token, tokens)
    span = model.config.window
    start = tuple(int(rng.integers(0, max(1, span - n + 1))) for n in grid[1:])
    kept = bool(rng.random() >= settings.drop_context)
    return model.decode(local, model.contextualise(tokens, (start[0], start[1]), kept, overview))


def _without_halo(images: Tensor, halo: int) -> Tensor:
    return images[..., halo : images.shape[-2] - halo, halo : images.shape[-1] - halo]


def _train_step(model: XT, losses: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, float]:
    optimiser.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    return {key: float(value.detach()) for key, value in losses.items()}


def draw_batch(
    model: XT, scenes: Sequence[tuple[Scene, float]], shape: Shape, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw ``shape[0]`` windows of ``shape[1:]`` regions: normalised images with halo, and stacked targets by field."""
    config = model.config
    count, rows, cols = shape
    shape_px = rows * config.region_px, cols * config.region_px
    shares = np.array([share for _, share in scenes])
    images, targets = [], []
    for _ in range(count):
        scene = scenes[rng.choice(len(scenes), p=shares / shares.sum())][0]
        sample = draw_sample(scene, shape_px, config.halo_px, rng)
        images.append(model.prepare(sample.pixels.numpy()))
        targets.append(make_targets(sample.boxes, sample.valid, shape_px, config.local.stride, config.region_px))
    names = ("heat", "boxes", "near", "crown", "valid", "classes")
    stacked = {name: torch.from_numpy(np.stack([getattr(t, name) for t in targets])) for name in names}
    return torch.stack(images), stacked


def _backbone(model: XT) -> nn.Module:
    """What may be pretrained; a region encoder of the user's own is taken as a whole."""
    backbone: nn.Module = getattr(model.region, "backbone", model.region)
    return backbone


def _optimiser(model: XT, settings: FitSettings) -> torch.optim.Optimizer:
    for name, parameter in _backbone(model).named_parameters():
        parameter.requires_grad_(not name.startswith(settings.frozen))
    backbone = list(_backbone(model).parameters())
    known = {id(p) for p in backbone}
    rest = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": rest, "base": settings.rate}, {"params": backbone, "base": settings.encoder_rate}]
    return torch.optim.AdamW(groups, lr=settings.rate, weight_decay=0.01)


def _set_rate(optimiser: torch.optim.Optimizer, settings: FitSettings, step: int) -> None:
    done = step / max(1, settings.steps)
    factor = min(1.0, (step + 1) / max(1, settings.warmup)) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor


@torch.no_grad()
def _follow(average: XT, model: XT, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _save(path: Path | None, model: XT, average: XT, optimiser: torch.optim.Optimizer, step: int) -> None:
    if path is None:
        return
    state = {"step": step, "model": model.state_dict(), "average": average.state_dict()}
    aside = path.with_name(f".{path.name}.partial")
    torch.save(state | {"optimiser": optimiser.state_dict()}, aside)
    aside.replace(path)


def _resume(path: Path | None, model: XT, average: XT, optimiser: torch.optim.Optimizer) -> int:
    if path is None or not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
