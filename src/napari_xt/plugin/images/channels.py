"""Which layers of a viewer are one image, and which of its channels a model takes: offered, guessed, remembered.

Knows layers and names; must not know Qt, models or runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from napari.layers import Layer

from napari_xt.errors import XTError
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.channels import guess
from napari_xt.io.images.formats import names_of_channels, open_layer
from napari_xt.io.images.stacked import stacked_parts
from napari_xt.io.stores.durable import write_file
from napari_xt.plugin.images.level import Level
from napari_xt.plugin.reader import shown_image

REMEMBERED = 200  # models, the last ones
MAX_BYTES = 2**20  # of the file that holds what is remembered


@dataclass(frozen=True, slots=True)
class Offer:
    """One image as the viewer shows it: a layer, or several that are its channels. Overlays attach to the first."""

    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer:
        """The layer that stands for all."""
        return self.layers[0]

    @property
    def label(self) -> str:
        """What it is called in a list."""
        image = _shown(self.first)
        if image is not None and _level(self.first).channel is not None:
            return f"{_file(image.source) or image.name}: {', '.join(image.channel_names)}"
        names = ", ".join(layer.name for layer in self.layers)
        path = _file(_path(self.first))
        return f"{path}: {names}" if path and len(self.layers) > 1 else names


def offers(layers: Iterable[Layer], wanted: int | None = None) -> list[Offer]:
    """The images that some image layers are, in the order of the layers.

    The channels of a file that our reader opened are one image. Other layers are one each; those of equal shape, type,
    place and source are offered together as well where one alone has fewer channels than are ``wanted``.
    """
    known = list(layers)
    found: dict[Any, list[Layer]] = {}
    for layer in known:
        image = _shown(layer)
        found.setdefault(layer if image is None else id(image), []).append(layer)
    single = [Offer(tuple(together)) for together in found.values()]
    return single + _joined([layer for layer in known if _shown(layer) is None], wanted)


def preferred(among: Sequence[Offer], layer: Layer, wanted: int | None) -> Offer | None:
    """The offer that ``layer`` stands for: itself where it has the channels that are ``wanted``, else with others."""
    fitting = [offer for offer in among if layer in offer.layers]
    alone = wanted is None or _channels(layer) >= wanted
    return None if not fitting else fitting[0] if alone else fitting[-1]


def image_of(layers: Sequence[Layer]) -> Any:
    """What `open_image` should take for layers that are one image: their file, where our reader opened it."""
    shown = [shown_image(layer) for layer in layers]
    return shown[0] if all(one is shown[0] for one in shown) else list(layers)


def open_layers(layers: Sequence[Layer]) -> Image | None:
    """The image that layers are, None where they are none that can be opened."""
    try:
        return open_image(image_of(layers))
    except XTError:
        return None


def axes_of(layer: Any) -> str:
    """One letter for each of a layer's own axes, those that have a slider included."""
    axes = _level(layer).axes if _shown(layer) is not None else open_layer(layer).axes
    return axes.removesuffix("c") if layer.rgb else axes


def contrast_limits(layers: Sequence[Any], channels: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """What the layers show black and in full colour of some channels of the image that they are."""
    image = _shown(layers[0])
    if image is not None:
        by_channel = {_level(layer).channel: layer for layer in layers}
        shown = [by_channel.get(channel, layers[0]) for channel in channels]
    else:
        opened = [open_image(layer) for layer in layers]
        parts = stacked_parts([one.channels for one in opened], [one.alpha for one in opened])
        shown = [layers[parts[channel][0]] if len(layers) > 1 else layers[0] for channel in channels]
    return tuple((float(low), float(high)) for low, high in (layer.contrast_limits for layer in shown))


def first_choice(model: str, wanted: Sequence[str], image: Image) -> tuple[int, ...] | None:
    """The channels of an image that a model takes: as remembered, as their names say, else as they come where they fit.

    Parameters
    ----------
    model
        Its name.
    wanted
        Names of its channels.
    image
        Whose channels are to be chosen of.

    Returns
    -------
    tuple of int or None
        One for each of ``wanted``; None where nothing tells.
    """
    names = image.channel_names
    before = _read().get(model, ())
    if len(before) == len(wanted) and all(names.count(name) == 1 for name in before):
        return tuple(names.index(name) for name in before)
    guessed = guess(wanted, names)
    there = image.channels if image.alpha is None else image.channels - 1
    return guessed or (tuple(range(there)) if there == len(wanted) else None)


def remember(model: str, names: Sequence[str]) -> None:
    """Let `first_choice` choose the channels of these names for a model from now on; nothing where that can't be."""
    kept = {name: chosen for name, chosen in _read().items() if name != model}
    kept = dict(list(kept.items())[-REMEMBERED + 1 :]) | {model: list(names)}
    with suppress(OSError):
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_file(_place(), json.dumps(kept, indent=1).encode())


def _place() -> Path:
    return platformdirs.user_config_path("napari-xt") / "channels.json"


def _read() -> dict[str, list[str]]:
    """Names of channels by model; of a damaged file what makes sense."""
    try:
        found = json.loads(_place().read_bytes()) if _place().stat().st_size <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {
        model: names for model, names in pairs if isinstance(names, list) and all(isinstance(n, str) for n in names)
    }


def _joined(layers: Sequence[Layer], wanted: int | None) -> list[Offer]:
    """Layers of equal shape and place that make an image of at least ``wanted`` channels only together."""
    groups: dict[Any, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(_likeness(layer), []).append(layer)
    several = [tuple(group) for group in groups.values() if len(group) > 1]
    return [Offer(group) for group in several if wanted is not None and _needed(group, wanted)]


def _needed(layers: Sequence[Layer], wanted: int) -> bool:
    channels = [_channels(layer) for layer in layers]
    return min(channels) < wanted <= sum(channels)


def _channels(layer: Layer) -> int:
    """How many it has without alpha, none where it can't be opened."""
    try:
        return sum(name != "alpha" for name in names_of_channels(open_layer(layer)))
    except XTError:
        return 0


def _likeness(layer: Any) -> object:
    """What layers of one image have in common."""
    finest = layer.data[0] if layer.multiscale else layer.data
    shape = finest.shape[:-1] if layer.rgb else finest.shape
    place = [layer.scale, layer.translate, layer.rotate, layer.shear, layer.affine.affine_matrix]
    numbers = tuple(float(number) for part in place for number in np.ravel(np.round(part, 9)))
    return tuple(shape), str(finest.dtype), numbers, tuple(map(str, layer.units)), _path(layer)


def _path(layer: Any) -> str | None:
    path = getattr(layer.source, "path", None)
    return str(path) if path else None


def _file(path: str | None) -> str:
    return os.path.basename((path or "").rstrip("/\\"))


def _level(layer: Any) -> Any:
    """The finest level, whatever it is."""
    return layer.data[0] if layer.multiscale else layer.data


def _shown(layer: Any) -> Image | None:
    """The image that our reader opened for a layer, None for other layers."""
    finest = _level(layer)
    return finest.image if isinstance(finest, Level) else None
