"""Where the masks of two predictions differ, as a layer that is made on demand and goes with the same button.

Joins predictions, a viewer and the hop between threads; must not know Qt, widgets or how masks are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from napari_xt.io.compare import BOTH, DIFFER, MEANINGS, NEITHER, ONLY_A, ONLY_B, UNKNOWN, difference
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import PALETTE
from napari_xt.plugin.layers.overlays import TAG, Place

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_xt.plugin.boxes.layer import LayerData

ROLE: Final = "difference"
ORANGE, BLUE, GREEN, VERMILION = PALETTE[1], PALETTE[2], PALETTE[3], PALETTE[6]
COLORS = {
    NEITHER: (0, 0, 0, 0),
    ONLY_A: ORANGE,
    ONLY_B: BLUE,
    BOTH: GREEN,
    DIFFER: VERMILION,
    UNKNOWN: (115, 115, 115, 204),
}  # by colour-blind people told apart; what is not known does not look like background

Given = Prediction | str | os.PathLike[str]


def difference_layer(a: Given, b: Given, class_name: str | None = None) -> LayerData:
    """The layer of where the masks of two predictions differ, as `difference` says; reads the coarsest level.

    Raises
    ------
    XTError
        As of `difference`.
    """
    one, other = (given if isinstance(given, Prediction) else open_prediction(given) for given in (a, b))
    levels: list[Any] = list(difference(one, other, class_name))
    levels[-1] = np.asarray(levels[-1])  # napari reads a computed coarsest level again and again
    names = [p.path.name.removesuffix(".zip").removesuffix(".xt.zarr") for p in (one, other)]
    meanings = [text.replace("only a", f"only {names[0]}").replace("only b", f"only {names[1]}") for text in MEANINGS]
    layout = one.layout
    style = {
        "name": f"{names[0]} against {names[1]}" + (f": {class_name}" if class_name else ""),
        "features": pd.DataFrame({"index": range(len(meanings)), "class": meanings}),
        "colormap": {value: tuple(v / 255 for v in color) for value, color in COLORS.items()} | {None: (0, 0, 0, 0)},
        "opacity": 0.6,
        "multiscale": len(levels) > 1,
        "metadata": {TAG: {"run_id": "", "store": str(one.path), "other": str(other.path), "role": ROLE}},
        **Place.of_frame(layout.frame).cells(*layout.frame.px_per_run),
    }
    return levels if len(levels) > 1 else levels[0], style, "labels"


def show_difference(
    viewer: Viewer,
    a: Given,
    b: Given,
    class_name: str | None = None,
    *,
    done: Callable[[Layer | None], None] | None = None,
) -> None:
    """Add the layer of `difference_layer` in a moment, in the place of an earlier one; where it can't be, say why.

    Parameters
    ----------
    viewer
        Where it appears.
    a, b, class_name
        As for `difference`.
    done
        Called on the viewer's thread with the layer, or None where there is none.
    """
    from napari_xt.plugin._thread import Pull

    def work() -> Iterator[LayerData]:
        yield difference_layer(a, b, class_name)

    shown: list[Layer] = []

    def end(error: Exception | None) -> None:
        if error is not None:
            from napari.utils.notifications import show_error

            show_error(str(error))
        if done is not None:
            done(shown[0] if shown else None)

    Pull(work, lambda data: shown.append(_put(viewer, data)), end, viewer)


def hide_difference(viewer: Viewer) -> bool:
    """Remove the layer again; whether there was one."""
    there = [layer for layer in viewer.layers if _is_difference(layer)]
    for layer in there:
        viewer.layers.remove(layer)
    return bool(there)


def shown_difference(viewer: Viewer) -> bool:
    """Whether there is such a layer."""
    return any(_is_difference(layer) for layer in viewer.layers)


def _is_difference(layer: Layer) -> bool:
    return bool(layer.metadata.get(TAG, {}).get("role") == ROLE)


def _put(viewer: Viewer, data: LayerData) -> Layer:
    from napari.layers import Layer as AnyLayer

    hide_difference(viewer)
    layer = viewer.add_layer(AnyLayer.create(*data))
    layer.editable = False
    return layer
