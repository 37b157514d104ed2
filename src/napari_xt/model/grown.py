"""A model with further classes, which says of the old ones what it said before.

Knows tensors and configurations; knows nothing of what the classes are learned from.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from napari_xt.model.xt import XT

UNLIKELY = -4.0  # logit that a new class begins with, against those of old ones


def grown(model: XT, *, mask: Sequence[str] = (), boxes: Sequence[str] = (), scores: Sequence[str] = ()) -> XT:
    """A copy of a model whose heads have further classes.

    Parameters
    ----------
    model
        Stays as it is.
    mask, boxes, scores
        Names to be added to a head's; those that it has are left out, and so are all where there is no such head.

    Returns
    -------
    XT
        Old classes keep their numbers and weights, new ones are unlikely everywhere until they are learned.
    """
    config, wanted = model.config, {"mask": mask, "boxes": boxes, "scores": scores}
    named = {head: getattr(config, head) for head in wanted}
    added = {
        head: tuple(dict.fromkeys(n for n in names if n not in (named[head] or ())))
        for head, names in wanted.items()
        if named[head] is not None
    }
    copied = copy.deepcopy(model)
    if not any(added.values()):
        return copied
    heads = {"mask": copied.mask_head, "boxes": copied.box_head, "scores": copied.score_head}
    for head, names in added.items():
        found = heads[head]
        if names and found is not None:
            _widen(found, len(named[head] or ()), len(names))
    wider: dict[str, Any] = {head: (*(named[head] or ()), *names) for head, names in added.items()}
    copied.config = replace(config, **wider)
    return copied


def _widen(head: nn.Module, at: int, more: int) -> None:
    """Put ``more`` outputs behind the first ``at`` of a head."""
    old = head.out
    assert isinstance(old, nn.Conv2d | nn.Linear)
    bias = old.bias if old.bias is not None else old.weight.new_zeros(len(old.weight))
    weight = torch.cat(
        [old.weight[:at], torch.zeros_like(old.weight[:1]).expand(more, *old.weight.shape[1:]), old.weight[at:]]
    )
    first = torch.full((more,), UNLIKELY).to(bias)
    new = copy.deepcopy(old)
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    new.bias = nn.Parameter(torch.cat([bias[:at], first, bias[at:]]).detach().clone(), requires_grad=False)
    if isinstance(new, nn.Conv2d):
        new.out_channels = len(weight)
    else:
        new.out_features = len(weight)
    head.out = new
