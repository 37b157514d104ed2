"""The doors of the engine, `stream` and `predict`: what the user gave becomes a job, which `pipeline` carries out.

Knows images, networks and stores; knows no Qt, no napari and no command line.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from napari_xt.engine.events import Event, RunFailed, RunStarted, StageProgress
from napari_xt.engine.focus import Focus
from napari_xt.engine.header import header_of
from napari_xt.engine.limits import check_disk
from napari_xt.engine.output import default_out
from napari_xt.engine.pipeline import Job, carry_out
from napari_xt.engine.plan import plan, shelf_layout
from napari_xt.engine.probe import learning, ready
from napari_xt.engine.reuse import best_sibling, facts_of
from napari_xt.engine.settings import RunSettings
from napari_xt.engine.telling import Teller
from napari_xt.io.image import Image, open_image
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.store import Header
from napari_xt.model.checkpoint import load_model
from napari_xt.model.xt import XT


def stream(
    image: Any,
    model: XT | str | os.PathLike[str] = "canopy",
    settings: RunSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    focus: Focus | None = None,
    **options: object,
) -> Generator[Event]:
    """Run a model over an image, event by event.

    Validates and raises at the call; opens no store and computes nothing before the first ``next``. Closing the
    iterator cancels the run, not pulling pauses it; what is done stays in the store, and a later call goes on there.

    Parameters
    ----------
    image
        What `open_image` takes.
    model
        A loaded model, or what `load_model` takes.
    settings
        All settings at once, or
    **options
        its fields one by one (see `RunSettings`).
    out
        The store, ``NAME.xt.zarr``; default: beside the image, see `default_out`.
    focus
        What is in view: it is run first, also when it moves meanwhile. The prediction does not depend on it.

    Yields
    ------
    Event
        `RunStarted`, then `StageProgress`, `RegionDone`, `Notice`, then `RunFinished`; or `RunFailed`, and it raises.

    Raises
    ------
    XTError
        The image, the model or a setting can't be used.
    """
    return _events(_resolve(image, model, RunSettings.merged(settings, options), out, focus))


def predict(
    image: Any,
    model: XT | str | os.PathLike[str] = "canopy",
    settings: RunSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **options: object,
) -> Prediction:
    """Run a model over an image and return its prediction; a stopped run of the same kind is gone on with.

    Parameters and errors are those of `stream`; ``progress`` shows a bar.
    """
    job = _resolve(image, model, RunSettings.merged(settings, options), out)
    with tqdm(total=job.plan.regions, unit="region", disable=not progress) as bar:
        for event in _events(job):
            if isinstance(event, RunStarted):
                bar.update(event.done)
            elif isinstance(event, StageProgress) and event.stage == "encode":
                bar.update(event.done - bar.n)
    return open_prediction(job.out, threshold=job.plan.threshold)


def _resolve(
    image: Any, model: Any, settings: RunSettings, out: str | os.PathLike[str] | None, focus: Focus | None = None
) -> Job:
    opened = open_image(image, pixel_size=settings.pixel_size, plane=settings.plane)
    own = not isinstance(image, Image)
    try:
        return replace(_job(opened, model, settings, out), focus=focus or Focus(), own_image=own)
    except BaseException:
        if own:
            opened.close()
        raise


def _job(opened: Image, model: Any, settings: RunSettings, out: str | os.PathLike[str] | None) -> Job:
    loaded = model if isinstance(model, XT) else load_model(model)
    found = ready(loaded, settings)
    resolved = plan(opened, loaded, settings, found)
    header = header_of(opened, loaded, settings, resolved)
    place = default_out(opened, loaded.name, header) if out is None else Path(os.path.expanduser(out))
    looks = out is None and settings.reuse == "auto" and not settings.restart
    if looks and (sibling := best_sibling(resolved, place, facts_of(header))):
        resolved = plan(opened, loaded, replace(settings, reuse=str(sibling)), found)
        layout = replace(header.layout, shelf=shelf_layout(loaded.config, resolved))
        header = replace(header, layout=layout, plan=resolved.to_json())
    if not settings.restart:
        check_disk(resolved, place, lambda **changed: plan(opened, loaded, replace(settings, **changed), found))
    return Job(opened, loaded, settings, resolved, place, _with_way_to(opened, header, place))


def _with_way_to(image: Image, header: Header, place: Path) -> Header:
    """The header with the image's path as it is seen from the store's folder, so that both may move together."""
    if image.source is None or "://" in image.source:
        return header
    try:
        way = os.path.relpath(image.source, os.path.abspath(place.parent))
    except ValueError:  # on another drive
        return header
    return replace(header, notes={**header.notes, "image_relative": Path(way).as_posix()})


def _events(job: Job) -> Generator[Event]:
    """Carry the job out; an error is told before it is raised."""
    teller = Teller()
    try:
        yield from learning(carry_out(job, teller), job.model.config)
    except Exception as error:
        yield teller.tell(RunFailed, error=error)
        raise
    finally:
        if job.own_image:
            job.image.close()
