"""What the verbs about corrections do: take them in, learn from them, give them out. Knows no tensors, no screens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from napari_xt.cli.printing import progress, table, warn
from napari_xt.errors import SettingsError

if TYPE_CHECKING:
    from napari_xt.io.prediction import Prediction
    from napari_xt.model.zoo import ModelInfo

DONE = 0


def take_in(chosen: argparse.Namespace) -> int:
    """Take the areas of a file as corrections, or only look at them."""
    from napari_xt.annotate.drawn import draw, read_drawn
    from napari_xt.io.corrections.corrections import corrections
    from napari_xt.io.prediction import open_prediction

    prediction = open_prediction(chosen.prediction)
    areas = read_drawn(prediction, chosen.file)
    if chosen.check:
        names = sorted({one.label for one in areas})
        new = [name for name in names if name not in (prediction.layout.mask or ())]
        more = [("new classes", ", ".join(new))] if new else []
        table([("areas", str(len(areas))), ("classes", ", ".join(names)), *more])
        return DONE
    with corrections(prediction, chosen.author) as known:
        drawn = draw(known, areas)
        known.flush()
        author = known.author
    table([(name, f"{count} areas, {pixels} px") for name, count, pixels in drawn.itertuples(index=False)])
    table([("by", author), ("taken back by", "undo, or by reverting the stroke 'import'")])
    return DONE


def refine(chosen: argparse.Namespace) -> int:
    """Have the model of a prediction learn from its corrections; run it again."""
    from napari_xt.io.prediction import open_prediction
    from napari_xt.model.checkpoint import load_model
    from napari_xt.train.lesson import RefineSettings
    from napari_xt.train.refine import predict_again, refine

    prediction = open_prediction(chosen.prediction)
    model = load_model(chosen.model or _model_of(prediction))
    given = {name: value for name in ("steps", "seed") if (value := getattr(chosen, name)) is not None}
    with progress(unit="step", leave=False) as show:
        refined = refine(
            model,
            prediction,
            RefineSettings(**given),
            out=chosen.out,
            progress=lambda told: show(told.done, told.total),
        )
    table([("learned from", ", ".join(f"{count} px {name}" for name, count in refined.labelled.items()))])
    table([(name, f"{value:.3f} -> {refined.after.get(name, 0):.3f}") for name, value in refined.before.items()])
    warn(refined.warnings)
    table([("model", str(refined.path)), ("time", f"{refined.seconds:.0f} s")])
    if chosen.predict:
        table([("prediction", str(predict_again(refined, prediction, progress=True).path))])
    return DONE


def training_set(chosen: argparse.Namespace) -> int:
    """Add corrected regions to a folder of training crops."""
    from napari_xt.annotate.training_set import training_set

    with progress(unit="crop", leave=False) as show:
        written = training_set(chosen.prediction, chosen.folder, progress=show)
    table([("written", str(written))])
    return DONE


def _model_of(prediction: Prediction) -> ModelInfo:
    """The model of a prediction, by its digest: bundled, or a file beside the store."""
    from napari_xt.model.zoo import SUFFIX, describe, list_models

    about = prediction.header.model
    beside = (describe(path) for path in sorted(prediction.path.parent.glob(f"*{SUFFIX}")))
    for info in (*list_models(), *beside):
        if info.digest == about["digest"]:
            return info
    why = "is neither bundled nor beside the prediction"
    raise SettingsError(f"its model {about['name']!r}", why, "say where it is: --model FILE")
