"""The objects of a prediction's mask one by one, measured across every border that the run had.

Knows predictions and images; must not know polygons, models, runs or screens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Source, of_source
from napari_xt.io.exports.wanted import SYMBOLS
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.resample import read_run
from napari_xt.io.measures.components import Ints, Sample, measure_components
from napari_xt.io.prediction import EDGES, Prediction, seen_at
from napari_xt.io.seen import known_classes

BAND_PX = 1 << 22  # pixels that are measured at once

Progress = Callable[[int, int], None]


def objects(
    prediction: Prediction | str | os.PathLike[str],
    image: Any = None,
    *,
    mask_threshold: float | None = None,
    source: Source = "final",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure every connected object of the mask (pixels of one class joined by their sides), across all borders.

    Parameters
    ----------
    prediction
        A prediction, or its path.
    image
        What `open_image` takes, for the mean intensity of each channel; default: not measured.
    mask_threshold
        What is seen of the mask, as `Prediction.at` has it; default: the prediction's.
    source
        ``"final"``: with corrections applied; ``"prediction"``: as the model said it.
    progress
        Called with rows of the mask that are done, and their number.

    Returns
    -------
    DataFrame
        A row an object, from top to bottom: ``id`` (its first pixel by row and column, ``y * width + x`` of the mask),
        ``class``, ``score`` (mean probability of the class), ``y, x`` (centroid) and ``y0, x0, y1, x1`` (half-open) in
        level-0 px, ``area_px``, ``perimeter_px`` (by Crofton's formula, four directions), ``holes``; ``area_um2`` and
        ``perimeter_um`` (or ``nm``, ``mm``, ``m``, ...) where the size of a pixel is known; ``mean:NAME`` of each
        channel of ``image``, NaN where it has no finite pixel.

    Raises
    ------
    StoreError
        The mask can't be read.
    SettingsError
        ``image`` is not of the prediction's size.
    ImageReadError
        ``image`` is damaged.
    """
    found = of_source(seen_at(prediction, mask_threshold), source)
    if not found.mask:
        return _table(found, [], ())
    opened = None if image is None else _same_size(found, open_image(image, plane=_plane(found)))
    try:
        names = () if opened is None else tuple(f"mean:{name}" for name in opened.channel_names)
        finite = tuple(f"finite:{name}" for name in names)
        bands = _bands(found, opened, progress)
        parts = list(measure_components(bands, found.layout.shape[1], ("score", *names, *finite)))
    finally:
        if opened is not None and not isinstance(image, Image):
            opened.close()
    return _table(found, parts, names)


def _bands(
    prediction: Prediction, image: Image | None, progress: Progress | None
) -> Iterator[tuple[NDArray[np.uint8], Sample]]:
    mask = prediction.mask[0]
    height, width = mask.shape
    side = mask.chunks[0]
    rows = max(1, BAND_PX // width)
    for first in range(0, height, side):
        if progress is not None:
            progress(first, height)
        try:
            strip = known_classes(np.asarray(mask[first : first + side]), len(prediction.layout.mask or ()))
            cells = _cells(prediction, first, first + len(strip))
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(prediction.path, f"its mask can't be read: {error}", "run it again") from error
        for top in range(0, len(strip), rows):
            band = strip[top : top + rows]
            box = Box(first + top, 0, first + top + len(band), width)
            yield (
                band,
                _sample(prediction, cells, first, top, None if image is None else _pixels(prediction, image, box)),
            )
    if progress is not None:
        progress(height, height)


def _cells(prediction: Prediction, first: int, last: int) -> NDArray[np.uint8]:
    """The probabilities ``(K, h, w)`` of rows of the mask, from the cell that holds the first."""
    stride, stored = prediction.layout.stride, prediction.probability
    assert stored is not None
    return np.asarray(stored[:, first // stride : -(-last // stride)])


def _pixels(prediction: Prediction, image: Image, box: Box) -> NDArray[np.generic]:
    level = prediction.header.job.get("level", 0)
    return read_run(image, int(level) if isinstance(level, int) else 0, prediction.layout.frame.shape_run, box)


def _sample(
    prediction: Prediction, cells: NDArray[np.uint8], first: int, top: int, pixels: NDArray[np.generic] | None
) -> Sample:
    """What is added up over the pixels of objects: their probability, and their finite values in each channel."""
    stride, above = prediction.layout.stride, first % prediction.layout.stride

    def sample(value: int, y: Ints, x: Ints) -> list[NDArray[np.number]]:
        there = value < len(cells)  # a class that was added by hand has no probability
        score = cells[value, (y + top + above) // stride, x // stride] / 255 if there else np.full(len(y), np.nan)
        if pixels is None:
            return [score]
        values = [channel[y, x].astype(np.float64) for channel in pixels]
        finite = [np.isfinite(some) for some in values]
        return [
            score,
            *(np.where(good, some, 0) for some, good in zip(values, finite, strict=True)),
            *(good.astype(np.float64) for good in finite),
        ]

    return sample


def _table(
    prediction: Prediction, parts: Sequence[tuple[int, Mapping[str, Any]]], names: Sequence[str]
) -> pd.DataFrame:
    classes, (fy, fx) = prediction.layout.mask or (), prediction.layout.frame.px_per_run
    sums = {name: np.concatenate([part[name] for _, part in parts]) for name in (parts[0][1] if parts else ())}
    if not sums:
        columns = ("id", "class", "score", "y", "x", *EDGES, "area_px", "perimeter_px", "holes", *names)
        return pd.DataFrame({name: np.zeros(0, object if name == "class" else float) for name in columns})
    px = sums["px"]
    value = np.repeat([value for value, _ in parts], [len(part["px"]) for _, part in parts])
    size = {edge: sums[edge] * (fy if edge[0] == "y" else fx) for edge in EDGES}
    table = {
        "id": sums["first"].astype(np.int64),
        "class": np.array(classes, object)[value],
        "score": sums["score"] / px,
        "y": (sums["y"] / px + 0.5) * fy,
        "x": (sums["x"] / px + 0.5) * fx,
        **size,
        "area_px": px * fy * fx,
        "perimeter_px": _perimeter(sums, fy, fx),
        "holes": (1 - sums["corners"] / 4).astype(np.int64),
    }
    (sy, sx), unit = prediction.layout.frame.scale, prediction.layout.frame.unit
    if unit != "pixel":
        symbol = SYMBOLS.get(unit, unit)
        table[f"area_{symbol}2"] = table["area_px"] * sy * sx
        table[f"perimeter_{symbol}"] = _perimeter(sums, fy * sy, fx * sx)
    with np.errstate(invalid="ignore"):
        table |= {name: sums[name] / sums[f"finite:{name}"] for name in names}
    return pd.DataFrame(table).sort_values("id", ignore_index=True)


def _perimeter(sums: Mapping[str, Any], height: float, width: float) -> NDArray[np.float64]:
    """Crofton's formula over lines in four directions, for pixels of ``height x width``."""
    angle, across = np.arctan2(height, width), height * width / np.hypot(height, width)
    lines = angle * height * sums["across"] + (np.pi / 2 - angle) * width * sums["down"]
    found: NDArray[np.float64] = (lines + np.pi / 4 * across * sums["diagonal"]) / 2
    return found


def _same_size(prediction: Prediction, image: Image) -> Image:
    shape = prediction.layout.frame.shape_px
    if image.shape != shape:
        why = f"has {image.shape[0]} x {image.shape[1]} px, the prediction {shape[0]} x {shape[1]}"
        raise SettingsError(f"image {image.name}", why, "pass the image that was run")
    return image


def _plane(prediction: Prediction) -> Mapping[str, int] | None:
    plane = prediction.header.job.get("plane")
    return plane if isinstance(plane, Mapping) else None
