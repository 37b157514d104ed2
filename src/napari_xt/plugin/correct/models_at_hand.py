"""The model that a prediction was made with: from its file wherever that is known, or made again where it is new.

Knows predictions and models; must not know viewers, layers or Qt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_xt.errors import ModelNotFoundError, XTError
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import XTConfig
from napari_xt.model.zoo import SUFFIX, ModelInfo, describe
from napari_xt.plugin.runs.known_models import known_models

if TYPE_CHECKING:
    from napari_xt.model.xt import XT

NEVER = -30.0  # as a logit
NEW = "new-"  # how the names of models begin that have learned nothing yet


def model_of(prediction: Prediction) -> XT:
    """The model that made a prediction; imports torch.

    Raises
    ------
    ModelNotFoundError
        It is not at hand.
    """
    from napari_xt.model.checkpoint import load_model

    about = prediction.header.model
    for info in _near(prediction):
        if info.digest == about["digest"]:
            return load_model(info)
    if is_new(prediction) and (made := _made_again(about)) is not None:
        return made
    raise ModelNotFoundError(
        str(about["name"]), "the model of this prediction is not at hand", "choose its file in Run xT (Browse...)"
    )


def python_of(model: XT) -> str:
    """What gives the model in Python."""
    if model.given:
        return repr(str(model.given))
    config = model.config
    return f"xt.new_model({list((config.mask or ())[1:])}, outputs={config.outputs}, in_channels={config.in_channels})"


def is_new(prediction: Prediction) -> bool:
    """Whether the model of a prediction has learned nothing yet."""
    return bool(prediction.header.model.get("blank"))


def scribble_model(classes: tuple[str, ...], channels: int) -> XT:
    """A new model for ``classes`` that a few scribbles are enough for; the same at each call."""
    from napari_xt.model.new import new_model

    model = new_model(classes, outputs=("mask", "boxes"), in_channels=channels)
    kept = ("".join(c if c.isalnum() else "_" for c in name) for name in classes)
    model.name = (NEW + "-".join(kept))[:60]
    return model


def silent(model: XT) -> XT:
    """A copy that says background everywhere and finds no box, with the same region encoder."""
    from copy import deepcopy

    found = deepcopy(model)
    found.blank = True
    for head, classes in ((found.mask_head, slice(1, None)), (found.box_head, slice(None, -4))):
        if head is not None and head.out.bias is not None:
            head.out.weight.zero_()
            head.out.bias.zero_()[classes] = NEVER
    return found


def _near(prediction: Prediction) -> Iterator[ModelInfo]:
    yield from known_models()
    for path in prediction.path.parent.glob(f"*{SUFFIX}"):
        with suppress(XTError):
            yield describe(path)


def _made_again(about: Mapping[str, Any]) -> XT | None:
    config = XTConfig.from_json(about["config"])
    model = scribble_model((config.mask or ("",))[1:], config.in_channels)
    return model if silent(model).digest == about["digest"] else None
