"""Images and predictions as napari layers: lazy levels in the colours, scale and units that their files state.

Knows what napari's layers take; must not know Qt, models or runs.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError, XTError
from napari_xt.geometry import Box
from napari_xt.io.image import Image, open_image
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.source import window
from napari_xt.plugin.boxes import LayerData
from napari_xt.plugin.level import Level, is_colour
from napari_xt.plugin.overlays import Overlay, Place, layer_data

PREDICTION = ".xt.zarr"
SLIDES = (".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".mrxs", ".vms", ".vmu", ".svslide")
SUFFIXES = (".zarr", ".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".npy", *SLIDES)
PATIENCE_S = 10.0  # a level that is stored must come within this time
LONG_PATIENCE_S = 600.0  # one that is computed from all pixels may take longer
SHOWN = (0.1, 99.9)  # percentiles of what is shown, where the file does not say it
LOOKED_AT_PX = 1024  # along a side, for these
MANY_CHANNELS = 8  # more than these share a layer with a slider
COLORS = ("cyan", "magenta", "yellow", "green", "red", "blue", "gray", "gray")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads ``path`` (or each of several), None where it is not for this reader."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    return read_paths if all(_suits(os.fspath(p)) for p in paths) else None


def read_paths(path: str | Sequence[str]) -> list[LayerData]:
    """Read what `get_reader` accepted."""
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    return [layer for p in paths for layer in read_layers(p)]


def read_layers(path: str | os.PathLike[str]) -> list[LayerData]:
    """The layers of the image or prediction at ``path``.

    Raises
    ------
    XTError
        There is nothing that can be shown; it names the file.
    """
    if os.fspath(path).rstrip("/\\").endswith(PREDICTION):
        return prediction_layers(open_prediction(path))
    return image_layers(open_image(path))


def image_layers(image: Image) -> list[LayerData]:
    """The layers of an open image: one in colour, or one for each channel. They close it when they are gone."""
    # napari breaks on a layer whose coarsest level can't be read (it stays half-registered): read it here, once
    pixels = _probed(image)
    coarsest = pixels if set(image.axes) <= set("cyx") else None
    weakref.finalize(image, image.with_plane(image.plane).close)
    if "c" not in image.axes or is_colour(image) or image.channels > MANY_CHANNELS:
        style = {"name": image.name, "rgb": is_colour(image)}
        return [_layer(image, None, coarsest, style | ({} if is_colour(image) else _limits(image, pixels)))]
    layers = []
    for channel, name in enumerate(image.channel_names):
        color = image.channel_colors[channel] or COLORS[channel]
        style = {"name": f"{image.name} - {name}", "blending": "additive", "colormap": color, "rgb": False}
        layers.append(_layer(image, channel, coarsest, style | _limits(image, pixels[channel], channel)))
    return layers


def prediction_layers(prediction: Prediction) -> list[LayerData]:
    """The image (its overview where it has gone), mask, boxes and scores of a prediction."""
    shown = _source_layers(prediction)
    name = str(shown[0][1]["name"]).removesuffix(" - overview")
    place = Place.of_frame(prediction.layout.frame)
    tag = {"run_id": "", "store": str(prediction.path)}
    overlay = Overlay(prediction)
    return shown + [layer_data(overlay, role, place, name, tag) for role in overlay.roles]


def shown_image(layer: Any) -> Any:
    """What `open_image` should take for a layer: the opened file where this reader made it, else the layer itself.

    So a run sees all channels of a file, and is the same job as one that was started with its path.
    """
    finest = layer.data[0] if layer.multiscale else layer.data
    return finest.image if isinstance(finest, Level) else layer


def _layer(image: Image, channel: int | None, coarsest: NDArray[Any] | None, style: Mapping[str, object]) -> LayerData:
    levels: list[Any] = [Level(image, index, channel) for index in range(len(image.levels))]
    spatial = levels[0].axes.removesuffix("c") if style["rgb"] else levels[0].axes
    if coarsest is not None and len(levels) > 1:
        levels[-1] = _like(levels[-1], coarsest, channel)
    place = {"scale": [dict(zip("yx", image.scale, strict=True)).get(axis, 1.0) for axis in spatial]}
    units = {} if image.unit == "pixel" else {"units": [image.unit if axis in "yx" else "pixel" for axis in spatial]}
    about = {"multiscale": len(levels) > 1, "axis_labels": tuple(spatial), "metadata": {"path": image.source}}
    data = levels if len(levels) > 1 else levels[0]
    return data, {**style, **about, **place, **units}, "image"


def _like(level: Level, pixels: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """Pixels ``(c, y, x)`` in the order of ``level``, contiguous."""
    if channel is not None:
        return np.ascontiguousarray(pixels[channel])
    order = ["cyx".index(axis) for axis in level.axes]
    return np.ascontiguousarray(pixels.transpose(order) if len(order) == 3 else pixels[0])


def _limits(image: Image, pixels: NDArray[Any], channel: int = 0) -> dict[str, object]:
    """What is shown black and in full colour: as the file says, else by the coarsest level; 8 bits as they are."""
    stated = image.channel_windows[channel]
    if stated is None and image.dtype != np.uint8:
        step = max(1, max(pixels.shape[-2:]) // LOOKED_AT_PX)
        thinned = pixels[..., ::step, ::step]
        finite = thinned[np.isfinite(thinned)].astype(np.float64)
        low, high = np.percentile(finite, SHOWN) if finite.size else (0.0, 0.0)
        stated = window(low, high)
    elif stated is None:
        stated = (0.0, 255.0)
    return {} if stated is None else {"contrast_limits": stated}


def _probed(image: Image) -> NDArray[Any]:
    """The coarsest level ``(c, y, x)`` of the plane, read with a time limit.

    Raises
    ------
    ImageReadError
        It is damaged, or does not come.
    """
    last = len(image.levels) - 1
    box = Box(0, 0, *image.level_shapes[last])
    computed = last > 0 and type(image.levels[last]).__module__.startswith("dask")
    try:
        pixels = _in_time(lambda: image.read(box, last), LONG_PATIENCE_S if computed else PATIENCE_S)
    except XTError:
        image.close()
        raise
    if pixels is None:
        raise ImageReadError(image.source or image.name, f"no pixels came within {PATIENCE_S:.0f} s", "try again later")
    return pixels


def _in_time(read: Callable[[], NDArray[Any]], seconds: float) -> NDArray[Any] | None:
    """What ``read`` returns or raises; None where it takes longer."""
    pixels: list[NDArray[Any]] = []
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
    """The image that was run, where it is still there, else the overview in the store."""
    path = prediction.header.notes.get("image")
    if isinstance(path, str) and os.path.isabs(path) and os.path.exists(path):
        try:
            image = open_image(path)
            if image.shape == prediction.layout.frame.shape_px:
                return image_layers(image)
            image.close()
        except XTError:
            pass  # the overview shows what it was
    return [_overview(prediction)]


def _overview(prediction: Prediction) -> LayerData:
    layout, pixels = prediction.layout, np.asarray(prediction.overview)
    rgb = pixels.ndim == 3 and len(pixels) == 3
    if rgb:
        pixels = np.moveaxis(pixels, 0, -1)
    elif pixels.ndim == 3:
        pixels = pixels[0]
    fy, fx = (f * layout.overview_factor for f in layout.frame.px_per_run)
    place = Place.of_frame(layout.frame).cells(fy, fx)
    name = Path(prediction.path).name.removesuffix(PREDICTION)
    return pixels, {"name": f"{name} - overview", "rgb": rgb, **place}, "image"


def _suits(path: str) -> bool:
    return path.rstrip("/\\").lower().endswith(SUFFIXES)
