"""The door to learning from corrections: a prediction's corrections in, a new model file and a new prediction out.

Knows corrections, models and runs; must not know screens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch

from napari_xt.annotate.truth import Truths, truths
from napari_xt.engine.run import predict
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError
from napari_xt.io.corrections.corrections import corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.tree import SUFFIX as STORE
from napari_xt.model.checkpoint import load_model, save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.xt import XT
from napari_xt.model.zoo import SUFFIX, list_models
from napari_xt.train.lesson import Learning, Refined, RefineSettings, learn
from napari_xt.train.pinned import pin


def refine(
    model: XT | str | os.PathLike[str],
    prediction: Prediction | str | os.PathLike[str],
    settings: RefineSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    known: Truths | None = None,
    progress: Callable[[Learning], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Refined:
    """Have a model learn from the corrections of a prediction.

    The heads alone learn, from the tokens and local features that the run kept (``keep="features"``); the model that is
    given, its file and the prediction stay as they are. In regions that were accepted or fixed all is truth, elsewhere
    only what was painted and the boxes that were edited; classes that are new to the model are added to it.

    Parameters
    ----------
    model
        The prediction's, or another one with the same region encoder.
    prediction
        A prediction, or its path.
    settings
        How.
    out
        The file to write, ``NAME.safetensors``, which must not be there; default: beside the prediction, by the
        model's name and the first free number: ``canopy+1.safetensors``.
    known
        What is known, if it is not to be taken from the corrections.
    progress
        Told what happens, in this thread.
    stop
        Asked between two steps, at most some tenths of a second apart; once it is true, what has been learned so far is
        returned, and nothing is written.

    Raises
    ------
    SettingsError
        Nothing was corrected, the file is there already, or a setting can't be used.
    StoreError
        The store does not keep what is needed, or is damaged.
    ModelError
        The region encoder is another one.
    """
    found = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    old = model if isinstance(model, XT) else load_model(model)
    path = _free(found.path.parent, old.name, SUFFIX) if out is None else Path(os.path.expanduser(out))
    if path.exists():
        raise SettingsError(f"out = {path}", "is there already", "give a new name: the old model stays")
    told = _told(found) if known is None else known
    learned = learn(old, found, told, settings, progress=progress, stop=stop)
    learned.model.name = path.stem
    learned.model.card = _card(old, learned, told, path.stem)
    if learned.stopped:
        return learned
    save_model(learned.model, path, learned.model.card, _dtype(learned.model))
    return replace(learned, path=path)


def predict_again(
    refined: Refined,
    prediction: Prediction,
    image: object = None,
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Prediction:
    """Run a refined model over the image of a prediction, in its settings and with what it kept; into a new store.

    The corrections are carried over; the old store stays.

    Parameters
    ----------
    refined, prediction
        What `refine` returned, and what it learned from.
    image
        What `open_image` takes; default: where the image was.
    out
        The store; default: beside the old one, ``NAME+1.xt.zarr``.
    progress
        Show a bar.
    """
    place = next_store(prediction) if out is None else Path(os.path.expanduser(out))
    source = prediction.header.notes.get("image") if image is None else image
    new = predict(source, refined.model, again(prediction), out=place, progress=progress)
    hand_on(prediction, new)
    return new


def again(prediction: Prediction) -> RunSettings:
    """The settings with which a refined model runs over the image of a prediction, with what that kept."""
    return replace(_settings(prediction), keep="features", reuse=str(prediction.path), restart=False)


def next_store(prediction: Prediction) -> Path:
    """Where the prediction of a refined model goes: ``NAME+1.xt.zarr`` beside the old one, or the next free number."""
    return _free(prediction.path.parent, prediction.path.name.removesuffix(STORE), STORE)


def hand_on(prediction: Prediction, new: Prediction) -> None:
    """Carry the corrections of a prediction, as the disk has them, to that of a refined model; what was accepted stays.

    Raises
    ------
    SettingsError
        The new one has corrections of its own.
    """
    with corrections(prediction, read_only=True) as old:
        log = old.log()
        if len(log):
            old.author = str(log["author"].iloc[-1])  # what is carried is still the work of who corrected
            old.carry(new)
            pin(old, new)


def _told(prediction: Prediction) -> Truths:
    with corrections(prediction, read_only=True) as found:
        return truths(found)


def _settings(prediction: Prediction) -> RunSettings:
    known = {f.name for f in fields(RunSettings)} - {"threshold"}  # it is the refined model's
    return RunSettings.of(**{name: value for name, value in prediction.settings.items() if name in known})


def _dtype(model: XT) -> torch.dtype:
    """Half precision where the region encoder loses nothing by it, so that what was encoded can be used again."""
    exact = all(torch.equal(p, p.half().float()) for p in model.region.state_dict().values() if p.is_floating_point())
    return torch.float16 if exact else torch.float32


def _free(folder: Path, name: str, suffix: str) -> Path:
    """``NAME+1``, or the first of such a name that is not there."""
    base, taken = re.sub(r"\+\d+$", "", name), {info.name for info in list_models()}
    number = 1
    while (folder / f"{base}+{number}{suffix}").exists() or f"{base}+{number}" in taken:
        number += 1
    return folder / f"{base}+{number}{suffix}"


def _card(old: XT, learned: Refined, told: Truths, name: str) -> ModelCard:
    labelled = ", ".join(f"{count} px {label}" for label, count in learned.labelled.items() if count)
    complete = sum(region.complete for region in told)
    who = f" by {', '.join(told.authors)}" if told.authors else ""
    what = f"{complete} whole regions, {labelled or 'no mask'}"
    said = f"Refined from {old.name} ({old.digest}) on corrections{who}: {what}."
    before = old.card or ModelCard(name=name, title=old.name)
    metrics = {f"held_out_{figure}": value for figure, value in learned.after.items()}
    return replace(before, name=name, provenance=f"{before.provenance} {said}".strip(), metrics=metrics)
