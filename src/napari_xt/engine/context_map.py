"""Which regions another one's scores hang on: a few backward passes through the tokens that a run has kept.

Gradient times token along the way from nothing to what is there, all regions at once (integrated gradients,
Sundararajan et al., 2017, "Axiomatic attribution for deep networks"), the same for every context encoder. Knows stores
and networks; reads no image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.engine.background import Runs
from napari_xt.engine.stages import blank
from napari_xt.errors import ModelError, SettingsError, StoreError
from napari_xt.geometry import Box, Window
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.model.checkpoint import load_model
from napari_xt.model.xt import XT

STEPS = 4  # backward passes; the values' sum is then within a few percent of what it stands for
MANY = 1024  # regions: of larger windows one pass, half way


@dataclass(frozen=True, slots=True, eq=False)
class ContextMap:
    """What the regions of a window add to what is said of one of them.

    Attributes
    ----------
    region
        ``(row, col)`` of the one that is asked about.
    name, score
        The class, and the probability that the region has it.
    values
        float32 ``(rows, cols)`` of the grid: what each region adds to the log-odds of the class, against the background
        token in its place. Negative where it speaks against the class; NaN outside the window.
    """

    region: tuple[int, int]
    name: str
    score: float
    values: NDArray[np.float32]


def context_map(
    prediction: Prediction | str | os.PathLike[str],
    region: tuple[int, int],
    class_name: str | None = None,
    model: XT | str | os.PathLike[str] | None = None,
) -> ContextMap:
    """Find out which regions the scores of a region hang on.

    Parameters
    ----------
    prediction
        A prediction, or its path; its run kept tokens (``keep``), as runs do unless they are told otherwise.
    region
        ``(row, col)`` in the grid.
    class_name
        The class that is asked about; default: the region's most likely one.
    model
        That of the run; default: the bundled one of its name.

    Returns
    -------
    ContextMap
        One value for each region of the window. Of a model that has no region scores it is about the window's label.

    Raises
    ------
    StoreError
        The store keeps no tokens, or is damaged.
    ModelError
        The model is not that of the run, has no classes, or needs more than tokens.
    SettingsError
        There is no such region, it was not run, or there is no such class.
    """
    found = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    network = _model(found, model)
    names = network.config.scores or network.config.label
    if names is None:
        raise ModelError(f"model {network.name}", "has neither region scores nor a label", "choose another model")
    if class_name is not None and class_name not in names:
        raise SettingsError(f"class_name = {class_name!r}", f"{network.name} has the classes {', '.join(names)}")
    window = window_around(found, region)
    tokens = window_tokens(found, network, window)
    logits = partial(_logits, found, network, window, (region[0] - window.row0, region[1] - window.col0))
    with torch.no_grad():
        probability = logits(tokens).softmax(0)
    index = int(probability.argmax()) if class_name is None else names.index(class_name)
    values = np.full(found.layout.grid.shape, np.nan, np.float32)
    steps = STEPS if tokens.shape[0] * tokens.shape[1] <= MANY else 1
    added = _added(lambda some: _log_odds(logits(some), index), tokens, network.background_token, steps)
    values[window.row0 : window.row1, window.col0 : window.col1] = added.cpu().numpy()
    return ContextMap(region, names[index], float(probability[index]), values)


def _model(prediction: Prediction, model: XT | str | os.PathLike[str] | None) -> XT:
    about = prediction.header.model
    network = model if isinstance(model, XT) else load_model(str(about["name"]) if model is None else model)
    if network.digest != about["digest"]:
        raise ModelError(f"model {network.name}", f"is not the one that made {prediction.path.name}", "pass that one")
    if network.config.context.overview_tokens:
        raise ModelError(f"model {network.name}", "also sees an overview of the window, which no store keeps")
    return network


def _added(score: Callable[[Tensor], Tensor], tokens: Tensor, nothing: Tensor, steps: int) -> Tensor:
    """What each region of ``tokens (R, Q, L, D)`` adds to a score, against ``nothing (D,)``: ``(R, Q)``."""
    there, gradient = tokens - nothing, torch.zeros_like(tokens)
    for step in range(steps):
        seen = torch.add(nothing, there, alpha=(step + 0.5) / steps).requires_grad_()
        with torch.enable_grad():
            gradient += torch.autograd.grad(score(seen), seen)[0]
    return (gradient * there).sum((-1, -2)) / steps


def _log_odds(logits: Tensor, index: int) -> Tensor:
    others = torch.cat([logits[:index], logits[index + 1 :]])
    return logits[index] - others.logsumexp(0) if len(others) else logits[index]


def _logits(prediction: Prediction, model: XT, window: Window, place: tuple[int, int], tokens: Tensor) -> Tensor:
    """Class logits ``(K,)`` of the region at ``place`` of the window, or of the window itself."""
    with_context = bool(prediction.header.job["context"])
    scores, label = model.classify(model.contextualise(tokens[None], window.start, with_context))
    found = label[0] if scores is None and label is not None else cast("Tensor", scores)[(0, *place)]
    return found.float()


def window_around(prediction: Prediction, region: tuple[int, int]) -> Window:
    """The window that the run saw the region in."""
    grid, (row, col) = prediction.layout.grid, region
    if not (0 <= row < grid.shape[0] and 0 <= col < grid.shape[1]):
        raise SettingsError(f"region = {region}", f"the grid has {grid.shape[0]} x {grid.shape[1]} regions")
    roi = Box(**cast("Mapping[str, int]", prediction.header.job["roi_run"]))
    for step in grid.steps(roi):
        for window in step.windows:
            if window.row0 <= row < window.row1 and window.col0 <= col < window.col1:
                return window
    raise SettingsError(f"region = {region}", "lies outside of what was run", "choose another one")


def window_tokens(prediction: Prediction, model: XT, window: Window) -> Tensor:
    """``(R, Q, L, D)`` float32 of a window, as the context encoder of the run saw them."""
    stored = prediction.tokens
    if stored is None:
        raise StoreError(prediction.path, "it keeps no tokens", "run again with keep='tokens'")
    rows, cols = slice(window.row0, window.row1), slice(window.col0, window.col1)
    tokens = torch.from_numpy(np.asarray(stored[rows, cols])).to(model.background_token)
    status = _status(prediction)[rows, cols]
    if (status == "").any():
        raise StoreError(prediction.path, "the window is not complete yet", "wait for the run, or resume it")
    if (status == "skipped").any():
        tokens[torch.from_numpy(status == "skipped")] = blank(model)[0]
    return tokens


def _status(prediction: Prediction) -> NDArray[np.str_]:
    """What is known of each region of the grid, "" where that is nothing; what was not asked for counts as skipped."""
    table = prediction.scores
    status = np.full(prediction.layout.grid.shape, "", "U16")
    status[table["region_row"], table["region_col"]] = table["status"]
    for first, stop in cast("Runs", prediction.header.plan.get("left_out", ())):
        status.flat[first:stop] = "skipped"
    return status
