"""One step after the other down the cost of some heads. Knows modules and numbers; must not know what is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

WARM = 20  # steps that the rate climbs
Weights = list[Tensor]  # of a head, in the order of its parameters


def optimiser_of(heads: dict[str, nn.Module], rate: float, context_rate: float) -> torch.optim.Optimizer:
    """AdamW at ``rate``, and at ``context_rate`` times that for how heads listen to the context."""
    parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for head in heads.values():
        for name, parameter in head.named_parameters():
            parts[name.startswith("from_context.")].append(parameter)
    groups = [
        {"params": parts[False], "base": rate},
        {"params": parts[True], "base": rate * context_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, weight_decay=0.01)


def set_rate(optimiser: torch.optim.Optimizer, done: float, step: int) -> None:
    """The rate at a share ``done`` (0..1) of the steps: up for `WARM` steps, then down along a cosine."""
    factor = min(1.0, (step + 1) / WARM) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    for group in optimiser.param_groups:
        group["lr"] = group["base"] * factor


def step_down(
    cost: dict[str, Tensor], parameters: list[nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, float]:
    """One step; the costs as numbers."""
    if not cost:
        return {}
    optimiser.zero_grad(set_to_none=True)
    torch.stack(list(cost.values())).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimiser.step()
    return {name: float(value.detach()) for name, value in cost.items()}


def means(costs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each cost over the steps that had it."""
    names = {name for cost in costs for name in cost}
    return {name: float(np.mean([cost[name] for cost in costs if name in cost])) for name in sorted(names)}


def weights_of(head: nn.Module) -> Weights:
    """A copy."""
    return [parameter.detach().clone() for parameter in head.parameters()]


@torch.no_grad()
def put(head: nn.Module, weights: Weights) -> None:
    """Give a head other weights."""
    for parameter, weight in zip(head.parameters(), weights, strict=True):
        parameter.copy_(weight)


@torch.no_grad()
def follow(average: Mapping[str, Weights], heads: Mapping[str, nn.Module], decay: float) -> None:
    """Move running averages towards what heads are now."""
    for name, head in heads.items():
        for mean, parameter in zip(average[name], head.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)
