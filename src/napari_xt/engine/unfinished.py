"""Whether a run that is about to begin would go on with one that was stopped. Imports no torch; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from napari_xt.engine.header import header_of
from napari_xt.engine.output import default_out
from napari_xt.engine.plan import Model, Plan
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import XTError
from napari_xt.io.image import Image
from napari_xt.io.prediction import open_prediction
from napari_xt.io.stores.layout import Header
from napari_xt.io.stores.place import same_job


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that was stopped: its store, and the share of its regions that is done, 0..1."""

    path: Path
    done: float


def unfinished(
    image: Image, model: Model, settings: RunSettings, resolved: Plan, out: str | os.PathLike[str] | None = None
) -> Unfinished | None:
    """The stopped run that these settings go on with; None where there is none, or it is complete.

    Parameters
    ----------
    image, model, settings
        What is to be run, as `stream` takes it.
    resolved
        Its plan.
    out
        The store; default: as a run without ``out`` chooses it.
    """
    if settings.restart:
        return None
    for header in _headers(image, model, settings, resolved):
        path = default_out(image, model.name, header) if out is None else Path(os.path.expanduser(out))
        if path.exists() and same_job(path, header):
            return _state(path)
    return None


def _headers(image: Image, model: Model, settings: RunSettings, resolved: Plan) -> Iterator[Header]:
    """What the run may be: until PyTorch is loaded it is not known what ``auto`` stands for."""
    other = "float32" if resolved.precision == "bfloat16" else "bfloat16"
    precisions = (resolved.precision, other) if settings.precision == "auto" else (resolved.precision,)
    return (header_of(image, model, settings, replace(resolved, precision=precision)) for precision in precisions)


def _state(path: Path) -> Unfinished | None:
    try:
        found = open_prediction(path)
    except XTError:
        return None
    return None if found.complete else Unfinished(path, found.coverage)
