"""Images and predictions as napari layers: lazy levels in the colours, scale and units that their files state.

Knows what napari's layers take; must not know Qt, models or runs.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError, XTError
from napari_xt.io.image import Image
from napari_xt.io.images.intensity import measured_limits
from napari_xt.io.images.pyramid import is_computed
from napari_xt.io.images.source import Window, window
from napari_xt.io.prediction import PACKED, Prediction, open_prediction
from napari_xt.plugin.boxes.layer import LayerData
from napari_xt.plugin.images.filling import Filling, coarsest, is_heavy
from napari_xt.plugin.images.level import Level, is_colour
from napari_xt.plugin.images.opening import opened
from napari_xt.plugin.layers.adopt import Made, adopt_soon, new_overlay
from napari_xt.plugin.layers.overlays import Place, layer_data
from napari_xt.plugin.preferences import use_cache_folder
from napari_xt.plugin.runs.reopen import find_image

T = TypeVar("T")

PREDICTION = ".xt.zarr"
SLIDES = (".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".mrxs", ".vms", ".vmu", ".svslide")
SUFFIXES = (".zarr", ".xt.zarr.zip", ".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".npy", *SLIDES)
PATIENCE_S = 10.0  # the coarsest level must come within this time
SOON_S = 0.5  # the squares that tell what is to be shown of a large image
SHOWN = (0.1, 99.9)  # percentiles of what is shown, where the file does not say it
LOOKED_AT_PX = 1024  # along a side, for these
MANY_CHANNELS = 8  # more than these share a layer with a slider
NO_LAYERS: list[Any] = [(None,)]  # what a reader returns that was asked for nothing to be shown
COLORS = ("cyan", "magenta", "yellow", "green", "red", "blue", "gray", "gray")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads ``path`` (or each of several), None where it is not for this reader."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    return read_paths if all(_suits(os.fspath(p)) for p in paths) else None


def read_paths(path: str | Sequence[str]) -> list[LayerData]:
    """Read what `get_reader` accepted."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    found = [layers for p in paths if (layers := read_layers(p)) is not NO_LAYERS]
    return [layer for layers in found for layer in layers] or NO_LAYERS


def read_layers(path: str | os.PathLike[str]) -> list[LayerData]:
    """The layers of the image or prediction at ``path``; `NO_LAYERS` where the user stopped its decoding.

    Raises
    ------
    XTError
        There is nothing that can be shown; it names the file.
    """
    if os.fspath(path).rstrip("/\\").endswith((PREDICTION, PACKED)):
        return prediction_layers(open_prediction(path))
    use_cache_folder()
    image = opened(os.fspath(path))
    return NO_LAYERS if image is None else image_layers(image)


def image_layers(image: Image) -> list[LayerData]:
    """The layers of an open image: one in colour, or one for each channel. They close it when they are gone."""
    together = "c" not in image.axes or is_colour(image) or image.channels > MANY_CHANNELS
    # napari breaks on a layer whose coarsest level can't be read (it stays half-registered): it is read here, once
    heavy = is_heavy(image)
    pixels = None if heavy else _probed(image)
    held, filling = dict[int, NDArray[Any]](), None
    if set(image.axes) <= set("cyx"):
        last = is_colour(image) or (together and image.axes.endswith("c"))
        filling = Filling(image, last=last) if heavy else None
        held = filling.levels if filling else {} if pixels is None else {len(image.levels) - 1: pixels}
    weakref.finalize(image, image.with_plane(image.plane).close)
    layers = [_together(image, held, pixels)] if together else _apart(image, held, pixels)
    if filling is not None:
        filling.start([data[0].watch for data, *_ in layers])
    return layers


def _together(image: Image, held: Mapping[int, NDArray[Any]], pixels: NDArray[Any] | None) -> LayerData:
    colour = is_colour(image)
    return _layer(image, None, held, {"name": image.name, "rgb": colour} | ({} if colour else _limits(image, pixels)))


def _apart(image: Image, held: Mapping[int, NDArray[Any]], pixels: NDArray[Any] | None) -> list[LayerData]:
    layers = []
    for channel, name in enumerate(image.channel_names):
        color = image.channel_colors[channel] or COLORS[channel]
        style = {"name": f"{image.name} - {name}", "blending": "additive", "colormap": color, "rgb": False}
        limits = _limits(image, None if pixels is None else pixels[channel], channel)
        layers.append(_layer(image, channel, held, style | limits))
    return layers


def prediction_layers(prediction: Prediction) -> list[LayerData]:
    """The image (its overview where it has gone), mask, boxes and scores of a prediction.

    In a viewer they come as they were seen last, and grow where another process is writing the prediction.
    """
    whole = _source_layers(prediction)
    shown = whole or [_overview(prediction)]
    name = str(shown[0][1]["name"]).removesuffix(" - overview")
    place = Place.of_frame(prediction.layout.frame)
    made = Made(new_overlay(prediction), shown, bool(whole), uuid4().hex)
    tag = {"run_id": "", "store": str(prediction.path), "image": made.token}
    layers = [layer_data(made.overlay, role, place, name, tag) for role in made.overlay.roles]
    adopt_soon(made)
    return shown + layers


def shown_image(layer: Any) -> Any:
    """What `open_image` should take for a layer: the opened file where this reader made it, else the layer itself.

    So a run sees all channels of a file, and is the same job as one that was started with its path.
    """
    finest = layer.data[0] if layer.multiscale else layer.data
    return finest.image if isinstance(finest, Level) else layer


def _layer(
    image: Image, channel: int | None, held: Mapping[int, NDArray[Any]], style: Mapping[str, object]
) -> LayerData:
    """A layer; ``held`` are levels in memory, ``(c, y, x)``."""
    levels: list[Any] = [Level(image, index, channel) for index in range(len(image.levels))]
    spatial = levels[0].axes.removesuffix("c") if style["rgb"] else levels[0].axes
    if held and len(levels) > 1:
        _hold(image, levels, held, channel)
    place = {"scale": [dict(zip("yx", image.scale, strict=True)).get(axis, 1.0) for axis in spatial]}
    units = {} if image.unit == "pixel" else {"units": [image.unit if axis in "yx" else "pixel" for axis in spatial]}
    about = {"multiscale": len(levels) > 1, "axis_labels": tuple(spatial), "metadata": {"path": image.source}}
    data = levels if len(levels) > 1 else levels[0]
    return data, {**style, **about, **place, **units}, "image"


def _hold(image: Image, levels: list[Any], held: Mapping[int, NDArray[Any]], channel: int | None) -> None:
    """Put what is in memory in the place of these ``levels``, and behind the finer ones."""
    for index, pixels in held.items():
        levels[index] = _like(levels[index], pixels, channel)
    first = min(held)
    stored = sum(not is_computed(level) for level in image.levels)
    for index, level in enumerate(levels[:first]):
        level.behind, level.work = levels[first], 4 ** max(0, index + 1 - stored)


def _like(level: Level, pixels: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """Pixels ``(c, y, x)`` in the order of ``level``, contiguous."""
    if channel is not None:
        return np.ascontiguousarray(pixels[channel])
    order = ["cyx".index(axis) for axis in level.axes]
    return np.ascontiguousarray(pixels.transpose(order) if len(order) == 3 else pixels[0])


def _limits(image: Image, pixels: NDArray[Any] | None, channel: int = 0) -> dict[str, object]:
    """What is shown black and in full colour: as the file says, else by what is looked at; 8 bits as they are."""
    stated = image.channel_windows[channel]
    if stated is None and image.dtype == np.uint8:
        stated = (0.0, 255.0)
    elif stated is None and pixels is None:
        stated = _measured(image, channel)
    elif stated is None and pixels is not None:
        step = max(1, max(pixels.shape[-2:]) // LOOKED_AT_PX)
        thinned = pixels[..., ::step, ::step]
        finite = thinned[np.isfinite(thinned)].astype(np.float64)
        low, high = np.percentile(finite, SHOWN) if finite.size else (0.0, 0.0)
        stated = window(low, high)
    return {} if stated is None else {"contrast_limits": stated}


def _measured(image: Image, channel: int) -> Window:
    """By a few chunks at fixed places; all that the type holds where these don't come soon."""
    channels = range(image.channels) if image.channels > MANY_CHANNELS else [channel]
    try:
        found = _in_time(lambda: measured_limits(image, channels, SHOWN), SOON_S) or ()
    except XTError:
        found = ()
    limits = window(min((low for low, _ in found), default=0), max((high for _, high in found), default=0))
    whole = image.dtype.kind in "iu"
    return limits or ((float(np.iinfo(image.dtype).min), float(np.iinfo(image.dtype).max)) if whole else (0.0, 1.0))


def _probed(image: Image) -> NDArray[Any]:
    """The coarsest level ``(c, y, x)`` of the plane, read with a time limit.

    Raises
    ------
    ImageReadError
        It is damaged, or does not come.
    """
    try:
        pixels = _in_time(lambda: coarsest(image), PATIENCE_S)
    except XTError:
        image.close()
        raise
    if pixels is None:
        raise ImageReadError(image.source or image.name, f"no pixels came within {PATIENCE_S:.0f} s", "try again later")
    return pixels


def _in_time(read: Callable[[], T], seconds: float) -> T | None:
    """What ``read`` returns or raises; None where it takes longer."""
    pixels: list[T] = []
    errors: list[XTError] = []

    def work() -> None:
        try:
            pixels.append(read())
        except XTError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="napari-xt-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return pixels[0] if pixels else None


def _source_layers(prediction: Prediction) -> list[LayerData]:
    """The image that was run, none where it has gone: the overview shows what it was."""
    image = find_image(prediction, opened, _asker())
    try:
        return [] if image is None else image_layers(image)
    except XTError:
        return []


def _asker() -> Callable[[str], str | None] | None:
    """What asks the user for a path; None where nobody sits before a window that lives."""
    if "qtpy.QtCore" not in sys.modules:
        return None
    from napari_xt.plugin._loop import is_handling_events

    if not is_handling_events():
        return None
    from napari_xt.plugin.widgets.where import ask_for_image

    return ask_for_image


def _overview(prediction: Prediction) -> LayerData:
    layout, pixels = prediction.layout, np.asarray(prediction.overview)
    rgb = pixels.ndim == 3 and len(pixels) == 3
    if rgb:
        pixels = np.moveaxis(pixels, 0, -1)
    elif pixels.ndim == 3:
        pixels = pixels[0]
    fy, fx = (f * layout.overview_factor for f in layout.frame.px_per_run)
    place = Place.of_frame(layout.frame).cells(fy, fx)
    name = Path(prediction.path).name.removesuffix(".zip").removesuffix(PREDICTION)
    return pixels, {"name": f"{name} - overview", "rgb": rgb, **place}, "image"


def _suits(path: str) -> bool:
    return path.rstrip("/\\").lower().endswith(SUFFIXES)
