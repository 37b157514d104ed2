"""A new model from scribbles: its image is encoded by a model that says background everywhere, to be scribbled on.

Knows models, layers and runs; must not know Qt or how it learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.errors import SettingsError
from napari_xt.plugin.correct.models_at_hand import scribble_model, silent
from napari_xt.plugin.images.channels import open_layers
from napari_xt.plugin.run import Job, RunHandle, start, wanted

if TYPE_CHECKING:
    from napari_xt.model.xt import XT

TAKEN: Final = ("roi", "pixel_size", "device")  # of what was chosen for another model


def class_names(text: str) -> tuple[str, ...]:
    """The names in ``text``, between commas.

    Raises
    ------
    SettingsError
        There is none, one stands there twice, or one is ``background``, which each mask has.
    """
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise SettingsError("classes", "no name is given", "give one or more, as: tumour, stroma")
    twice = next((name for i, name in enumerate(names) if name in (*names[:i], "background")), None)
    if twice is not None:
        why = "is a class of each model" if twice == "background" else "stands there twice"
        raise SettingsError(f"class {twice!r}", why, "leave it out")
    return names


def colours_of(layers: Sequence[Layer]) -> int:
    """How many channels the image has that layers are, without alpha.

    Raises
    ------
    SettingsError
        They are no image.
    """
    image = open_layers(layers)
    if image is None:
        raise SettingsError("image", "can't be opened as one", "choose another layer")
    return image.channels - (image.alpha is not None)


def blank_model(classes: tuple[str, ...], channels: int) -> XT:
    """What encodes an image and says background everywhere; imports torch, so in a thread."""
    return silent(scribble_model(classes, channels))


def encode(viewer: Viewer, layers: Sequence[Layer], model: XT, options: Mapping[str, Any]) -> RunHandle:
    """Run it over the layers of an image; what can be scribbled on grows meanwhile.

    Raises
    ------
    XTError
        As `run` would.
    """
    taken = {name: options[name] for name in TAKEN if name in options}
    fixed = {"channels": tuple(range(model.config.in_channels)), "preview": False, "skip_background": False}
    return start(viewer, layers, Job(model, wanted(viewer, layers, taken | fixed | {"keep": "features"})))
