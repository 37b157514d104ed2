"""Two predictions of one grid side by side: of two models, with and without context, of two dates.

Knows predictions, classes by name and pixels; must not know models, runs or screens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.prediction import EDGES, Prediction, open_prediction
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.merge import BOX_DTYPE, overlapping

MATCH_IOU: Final = 0.5
COUNTED_AT_ONCE_PX = 1 << 22
COLUMNS = ("kind", "class", "a", "b", "both", "either", "iou", "precision", "recall", "f1")
NEITHER, ONLY_A, ONLY_B, BOTH, DIFFER, UNKNOWN = range(6)
MEANINGS = ("neither", "only a", "only b", "both", "both, of different classes", "not in both predictions")

Flags = NDArray[np.bool_]
Progress = Callable[[int, int], None]
Given = Prediction | str | os.PathLike[str]


def compare(a: Given, b: Given, *, progress: Progress | None = None) -> pd.DataFrame:
    """Say by class how far two predictions of one grid agree, where both of them are done.

    Parameters
    ----------
    a, b
        Predictions, or their paths. Classes are the same that have the same name.
    progress
        Called with ``(done, total)`` rows of pixels.

    Returns
    -------
    DataFrame
        A row for each class of masks, boxes and region scores: ``kind`` (``"mask"``, ``"boxes"``, ``"regions"``),
        ``class``, what there is of it in ``a``, in ``b``, in ``both`` and in ``either``, and their ratio ``iou``. A
        mask's are level-0 px, the others counts. Boxes are in both where they overlap by more than `MATCH_IOU`, one to
        one; ``precision, recall, f1`` are those of ``b`` were ``a`` the truth.

    Raises
    ------
    SettingsError
        They have different grids, or nothing to be compared.
    StoreError
        One of them can't be read.
    """
    pair = _opened(a, b)
    rows = [*_mask_rows(*pair, progress), *_box_rows(*pair), *_region_rows(*pair)]
    if not rows:
        raise SettingsError(pair[1].path, f"has no output of the kinds that {pair[0].path.name} has", "compare others")
    return pd.DataFrame([_row(*row) for row in rows], columns=list(COLUMNS))


def difference(a: Given, b: Given, class_name: str | None = None) -> list[ComputedArray]:
    """Where the masks of two predictions of one grid differ: at every level, computed where it is read.

    Parameters
    ----------
    a, b
        Predictions, or their paths.
    class_name
        The class that is looked at; default: all but the background.

    Returns
    -------
    list of ComputedArray
        uint8 ``(y, x)`` in run pixels, finest first; each value is an index of `MEANINGS`.

    Raises
    ------
    SettingsError
        They have different grids, or no mask or class in common.
    """
    one, other = _opened(a, b)
    names = _names(one.layout.mask, other.layout.mask)
    if not one.mask or not other.mask:
        raise SettingsError((one if other.mask else other).path, "has no mask", "compare others")
    if class_name is not None and class_name not in names:
        raise SettingsError(f"class {class_name!r}", "is in neither mask", f"choose of {', '.join(names)}")
    wanted = names if class_name is None else [class_name]
    sides = [(p.mask, _values(p.layout.mask or (), wanted), _Settled(p)) for p in (one, other)]
    return [
        ComputedArray(level.shape, partial(_difference, [(mask[k], values, done) for mask, values, done in sides], k))
        for k, level in enumerate(one.mask)
    ]


class _Settled:
    """Which run pixels of a prediction are done or were skipped, as its journal says now."""

    def __init__(self, prediction: Prediction) -> None:
        self.regions, self._side = prediction.settled, prediction.layout.grid.region_px

    def at(self, y: NDArray[np.int64], x: NDArray[np.int64]) -> Flags:
        """Of the pixels in rows ``y`` and columns ``x``: ``(y, x)``."""
        found: Flags = self.regions[np.ix_(y // self._side, x // self._side)]
        return found

    def points(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Flags:
        """Of points ``(n,)`` in run pixels."""
        rows, cols = ((edge // self._side).astype(np.int64) for edge in (y, x))
        height, width = self.regions.shape
        found: Flags = self.regions[rows.clip(0, height - 1), cols.clip(0, width - 1)]
        return found


def _opened(a: Given, b: Given) -> tuple[Prediction, Prediction]:
    one, other = (given if isinstance(given, Prediction) else open_prediction(given) for given in (a, b))
    first, second = (_grid(p.layout) for p in (one, other))
    if first != second:
        why = f"has another grid ({second}) than {one.path.name} ({first})"
        raise SettingsError(other.path, why, "compare predictions of one size, level and pixel size")
    return one, other


def _grid(layout: Layout) -> str:
    """What two predictions must have in common, in words."""
    (height, width), (rows, cols), frame = layout.frame.shape_px, layout.shape, layout.frame
    scale = " x ".join(f"{size:.6g}" for size in frame.scale)
    return f"{width} x {height} px of {scale} {frame.unit}, run at {cols} x {rows}"


def _names(*several: Sequence[str] | None) -> list[str]:
    """The classes of two masks but for their backgrounds, each once."""
    return list(dict.fromkeys(name for names in several for name in (names or ())[1:]))


def _values(own: Sequence[str], names: Sequence[str]) -> NDArray[np.uint8]:
    """For each value of a mask of the classes ``own`` the place of its name in ``names`` from 1, 0 for no such."""
    places = np.zeros(256, np.uint8)
    for value, name in enumerate(own):
        places[value] = names.index(name) + 1 if value and name in names else 0
    return places


def _pixels(sides: Sequence[tuple[Any, NDArray[np.uint8], _Settled]], level: int, box: Box) -> tuple[Any, Any, Flags]:
    """Places of the classes of both masks in ``box`` of a level, and which pixels are done in both."""
    y, x = (np.arange(first, last) << level for first, last in ((box.y0, box.y1), (box.x0, box.x1)))
    try:
        one, other = (values[np.asarray(mask[box.slices])] for mask, values, _ in sides)
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError("mask", f"it can't be read: {error}", "run it again") from error
    return one, other, sides[0][2].at(y, x) & sides[1][2].at(y, x)


def _difference(sides: Sequence[tuple[Any, NDArray[np.uint8], _Settled]], level: int, box: Box) -> NDArray[np.uint8]:
    one, other, known = _pixels(sides, level, box)
    said = np.where(one == other, BOTH, DIFFER).astype(np.uint8)
    said[(one > 0) & (other == 0)] = ONLY_A
    said[(one == 0) & (other > 0)] = ONLY_B
    said[(one == 0) & (other == 0)] = NEITHER
    said[~known] = UNKNOWN
    return said


def _mask_rows(a: Prediction, b: Prediction, progress: Progress | None) -> list[tuple[Any, ...]]:
    if not a.mask or not b.mask:
        return []
    names = _names(a.layout.mask, b.layout.mask)
    sides = [(p.mask[0], _values(p.layout.mask or (), names), _Settled(p)) for p in (a, b)]
    counts = np.zeros((len(names) + 1) ** 2, np.int64)
    height, width = a.layout.shape
    step = max(1, COUNTED_AT_ONCE_PX // width)
    chunk = a.layout.grid.block_px
    step = max(chunk, step // chunk * chunk)
    for y0 in range(0, height, step):
        box = Box(y0, 0, min(height, y0 + step), width)
        one, other, known = _pixels(sides, 0, box)
        codes = one[known].astype(np.int64) * (len(names) + 1) + other[known]
        counts += np.bincount(codes, minlength=len(counts))
        if progress is not None:
            progress(box.y1, height)
    table = counts.reshape(len(names) + 1, -1) * float(np.prod(a.layout.frame.px_per_run))
    sums = zip(names, table.sum(axis=1)[1:], table.sum(axis=0)[1:], np.diag(table)[1:], strict=True)
    return [("mask", name, round(ours), round(theirs), round(both)) for name, ours, theirs, both in sums]


def _box_rows(a: Prediction, b: Prediction) -> list[tuple[Any, ...]]:
    if a.layout.boxes is None or b.layout.boxes is None:
        return []
    names = list(dict.fromkeys((*a.layout.boxes, *b.layout.boxes)))
    done = _Settled(a), _Settled(b)
    places = {name: place for place, name in enumerate(names)}
    one, other = (_comparable(p, done, places) for p in (a, b))
    matched = _matched(one, other)
    labels = [np.bincount(found, minlength=len(names)) for found in (one["label"], other["label"], matched)]
    return [("boxes", name, *map(int, counts)) for name, *counts in zip(names, *labels, strict=True)]


def _comparable(prediction: Prediction, done: Sequence[_Settled], places: Mapping[str, int]) -> NDArray[np.void]:
    """The boxes whose centre lies where both are done; ``label`` is the place of its class."""
    table, (fy, fx) = prediction.boxes, prediction.layout.frame.px_per_run
    y, x = (table["y0"] + table["y1"]).to_numpy() / 2 / fy, (table["x0"] + table["x1"]).to_numpy() / 2 / fx
    table = table[done[0].points(y, x) & done[1].points(y, x)]
    rows = np.zeros(len(table), BOX_DTYPE)
    for name in (*EDGES, "score"):
        rows[name] = table[name]
    rows["label"] = table["class"].map(places).to_numpy(np.int32) if len(table) else 0
    return rows


def _matched(one: NDArray[np.void], other: NDArray[np.void]) -> NDArray[np.int32]:
    """The labels of the boxes that are in both, one to one: the pairs that overlap most first."""
    first, second, iou = overlapping(one, other, MATCH_IOU)
    order = np.lexsort((second, first, -iou))
    taken: tuple[set[int], set[int]] = (set(), set())
    labels = []
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            labels.append(i)
    found: NDArray[np.int32] = one["label"][np.array(labels, np.int64)]
    return found


def _region_rows(a: Prediction, b: Prediction) -> list[tuple[Any, ...]]:
    if a.layout.scores is None or b.layout.scores is None or a.layout.grid.shape != b.layout.grid.shape:
        return []
    keys = ["region_row", "region_col"]
    one, other = (p.scores.dropna(subset=["class"])[[*keys, "class"]] for p in (a, b))
    both = one.merge(other, on=keys, suffixes=("_a", "_b"))
    names = dict.fromkeys((*a.layout.scores, *b.layout.scores))
    ours, theirs = both["class_a"], both["class_b"]
    return [
        (
            "regions",
            name,
            int((ours == name).sum()),
            int((theirs == name).sum()),
            int((ours[ours == theirs] == name).sum()),
        )
        for name in names
    ]


def _row(kind: str, name: str, a: int, b: int, both: int) -> tuple[Any, ...]:
    """A row of the table; a ratio of nothing to nothing is NaN."""
    either = a + b - both
    precision, recall, f1 = (
        (_share(both, b), _share(both, a), _share(2 * both, a + b)) if kind == "boxes" else [np.nan] * 3
    )
    return kind, name, a, b, both, either, _share(both, either), precision, recall, f1


def _share(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
