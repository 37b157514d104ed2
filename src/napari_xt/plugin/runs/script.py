"""What is chosen in a viewer as a script. Knows layers and models by name; must not know Qt, runs or stores."""

from __future__ import annotations

import os
from collections.abc import Sequence

from napari.layers import Layer
from napari.viewer import Viewer

from napari_xt.engine.script import Script
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError
from napari_xt.model.zoo import ModelInfo
from napari_xt.plugin.images.channels import open_layers
from napari_xt.plugin.run import wanted


def script_of(
    viewer: Viewer,
    layers: Sequence[Layer],
    model: ModelInfo | None,
    options: dict[str, object],
    out: str | os.PathLike[str] | None,
) -> Script:
    """The script for what `run` would do with the same arguments.

    Raises
    ------
    SettingsError
        No image or no model is chosen, or an option can't be used.
    """
    if not layers or model is None:
        raise SettingsError("image" if not layers else "model", "there is none", "choose one")
    settings: RunSettings = wanted(viewer, layers, options)
    image = open_layers(layers)
    source = image.source if image is not None else None
    return Script(source or layers[0].name, model.given, settings, None if out is None else os.fspath(out))
