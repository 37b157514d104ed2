"""What of a viewer is synthetic: images whose pixels are computed, and models that know nothing else.

Knows the synthetic slide and layers; must not know Qt, runs or stores.
"""

from __future__ import annotations

from typing import Any

from napari_xt.errors import ModelError
from napari_xt.io.computed.synthetic import SyntheticArray
from napari_xt.plugin.images.level import Level

WORD = "synthetic"


def is_synthetic(layer: Any) -> bool:
    """Whether an image layer shows the synthetic slide: its data tell, as a name or a mark could be on any image."""
    finest = layer.data[0] if layer.multiscale else layer.data
    return isinstance(finest.image.levels[0] if isinstance(finest, Level) else finest, SyntheticArray)


def synthetic_name(layer: Any) -> str:
    """The name of an image layer, which says of the synthetic slide what it is even where the user renamed it."""
    name = str(layer.name)
    return f"{name} ({WORD})" if is_synthetic(layer) and WORD not in name.lower() else name


def refuse_real(model: Any, layer: Any) -> None:
    """Refuse a synthetic model for a real image.

    Parameters
    ----------
    model
        What has a card that may call it synthetic (`ModelInfo`), or has none.
    layer
        The image layer that is to be run.

    Raises
    ------
    ModelError
        The model was trained on made-up images alone and the image is none.
    """
    card = getattr(model, "card", None)
    if card is not None and card.synthetic and not is_synthetic(layer):
        why = f"is {WORD}: it knows made-up images alone, and {layer.name} is none"
        raise ModelError(f"model {model.name}", why, "choose another model")
