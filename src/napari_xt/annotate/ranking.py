"""How much each region of a prediction wants to be looked at: one number a region, the highest first.

Knows predictions; must not know corrections, models or screens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Layout

BAND_CELLS = 512  # rows of cells that are read at once
Values = NDArray[np.float32]
"""A value for each region of the grid, ``(rows, cols)``; NaN where there is nothing to say."""


def uncertainty(prediction: Prediction) -> Values:
    """How close the two likeliest classes are: 0 where one is certain, 1 where they are equal.

    The mean over a region's cells of the mask's probabilities; of the region's own scores where there is no mask.
    """
    layout, probability = prediction.layout, prediction.probability
    if probability is None:
        return _on_grid(prediction, lambda p: 1 - _lead(p.T))

    def doubt(rows: slice) -> NDArray[np.float32]:
        return np.float32(1) - _lead(np.asarray(probability[:, rows, :])) / np.float32(255)

    return _done(prediction, _means(layout, layout.stride, probability.shape[1:], doubt))


def disagreement(prediction: Prediction, other: Prediction) -> Values:
    """How far ``other`` says something else, a prediction of the same grid: with and without context, two models.

    The share of a region's mask that differs, on a coarse level; without masks half the sum of the differences of the
    region's scores (total variation).

    Raises
    ------
    SettingsError
        The grids or the classes differ.
    """
    layout = prediction.layout
    if not comparable(layout, other.layout):
        raise SettingsError(
            other.path.name, f"has not the grid and classes of {prediction.path.name}", "compare others"
        )
    if layout.mask is None:
        ours, theirs = (_probabilities(one) for one in (prediction, other))
        distances: Values = np.abs(ours - theirs).sum(axis=-1) / np.float32(2)
        return distances
    index = _level(layout)

    def differs(rows: slice) -> NDArray[np.float32]:
        pair = [np.asarray(one.mask[index][rows, :]) for one in (prediction, other)]
        return np.asarray(pair[0] != pair[1], np.float32)

    means = _means(layout, 1 << index, prediction.mask[index].shape, differs)
    return _done(other, _done(prediction, means))


def comparable(one: Layout, other: Layout) -> bool:
    """Whether two predictions have the same regions and classes; how much of the image each saw at once may differ."""
    about = [(x.grid.height, x.grid.width, x.grid.region_px, x.frame, x.mask, x.scores) for x in (one, other)]
    return about[0] == about[1]


def share(prediction: Prediction, class_name: str) -> Values:
    """The share of a region's mask that is of ``class_name``, on a coarse level; without one its score.

    Raises
    ------
    SettingsError
        There is no such class.
    """
    layout = prediction.layout
    if layout.mask is not None and class_name in layout.mask:
        index, value = _level(layout), layout.mask.index(class_name)

        def is_class(rows: slice) -> NDArray[np.float32]:
            return np.asarray(prediction.mask[index][rows, :] == value, np.float32)

        return _done(prediction, _means(layout, 1 << index, prediction.mask[index].shape, is_class))
    if layout.scores is not None and class_name in layout.scores:
        return np.asarray(_probabilities(prediction)[..., layout.scores.index(class_name)])
    known = dict.fromkeys((*(layout.mask or ()), *(layout.scores or ())))
    raise SettingsError(
        f"class_name = {class_name!r}", "is no class of this prediction", f"choose of {', '.join(known)}"
    )


def _lead(p: NDArray[np.generic]) -> NDArray[np.float32]:
    """By how much the largest along the first axis exceeds the second largest, float32; of one, its value.

    ``p`` is nowhere below 0. Pass by pass over whole arrays, which is quicker than to sort each cell.
    """
    first, second = p[0], np.zeros_like(p[0])
    for one in p[1:]:
        second = np.maximum(second, np.minimum(first, one))
        first = np.maximum(first, one)
    return np.asarray(first - second, np.float32)


def _level(layout: Layout) -> int:
    """The coarsest level whose cells lie within regions and are no larger than those of the decoder."""
    side, most = layout.grid.region_px, layout.stride
    fitting = [k for k in range(len(layout.mask_shapes)) if 1 << k <= most and side % (1 << k) == 0]
    return fitting[-1]


def _means(
    layout: Layout, cell_px: int, shape: tuple[int, ...], read: Callable[[slice], NDArray[np.float32]]
) -> Values:
    """The mean of each region of what ``read`` gives for rows of cells, ``(h, w)``, of ``shape`` in all."""
    side = layout.grid.region_px // cell_px
    rows, cols = layout.grid.shape
    means = np.full((rows, cols), np.nan, np.float32)
    at_once = max(1, BAND_CELLS // side)
    edges = np.arange(0, shape[1], side)
    for first in range(0, rows, at_once):
        start, stop = first * side, min((first + at_once) * side, shape[0])
        band = read(slice(start, stop))
        sums = np.add.reduceat(band, edges, axis=1, dtype=np.float64)
        sums = np.add.reduceat(sums, np.arange(0, stop - start, side), axis=0)
        heights = np.diff([*range(0, stop - start, side), stop - start])
        widths = np.diff([*edges, shape[1]])
        means[first : first + len(heights), : len(widths)] = sums / (heights[:, None] * widths[None, :])
    return means


def _done(prediction: Prediction, values: Values) -> Values:
    """``values`` where regions are done, NaN elsewhere."""
    table = prediction.scores
    table = table[table["status"] == "done"]
    known = np.zeros(values.shape, np.bool_)
    known[table["region_row"].to_numpy(), table["region_col"].to_numpy()] = True
    return np.where(known, values, np.float32(np.nan))


def _probabilities(prediction: Prediction) -> NDArray[np.float32]:
    """The scores of each region of the grid, ``(rows, cols, K)``, NaN where there are none."""
    names, table = prediction.layout.scores, prediction.scores
    if names is None:
        raise SettingsError(prediction.path.name, "has neither mask nor region scores", "run with outputs=mask,scores")
    grid = np.full((*prediction.layout.grid.shape, len(names)), np.nan, np.float32)
    columns = table[[f"p:{name}" for name in names]].to_numpy(np.float32)
    grid[table["region_row"].to_numpy(), table["region_col"].to_numpy()] = columns
    return grid


def _on_grid(prediction: Prediction, value: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Values:
    """What ``value`` makes of the scores ``(n, K)`` of all regions."""
    p = _probabilities(prediction)
    return value(p.reshape(-1, p.shape[-1])).reshape(p.shape[:2])
