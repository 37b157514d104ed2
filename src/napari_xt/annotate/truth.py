"""What is known of a prediction's regions since somebody corrected it, and what is not.

Knows corrections, arrays and tables; must not know networks, training or screens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import Box, Grid
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.corrections.sparse import SIDE

UNSURE, UNKNOWN = 254, 255  # of labels: somebody looked and does not know; nobody said anything
EDGES = ("y0", "x0", "y1", "x1")
BOX_COLUMNS = (*EDGES, "class")
COMPLETE = ("accepted", "fixed")  # states of a region in which all is truth


def no_boxes() -> pd.DataFrame:
    """A table of boxes without any."""
    return pd.DataFrame({name: pd.Series(dtype=object if name == "class" else np.float64) for name in BOX_COLUMNS})


@dataclass(frozen=True, slots=True, eq=False)
class RegionTruth:
    """What is known of one region.

    Attributes
    ----------
    row, col
        Of the region in the prediction's grid.
    labels
        uint8 ``(h, w)`` of its inner in run pixels, as much as lies in the image: a class of `Truths.mask`, ``UNSURE``
        or ``UNKNOWN``; neither of these two is ever learned from.
    complete
        Somebody accepted or fixed the region: every pixel and every box of it is truth, background included. Else only
        what is labelled is, and all the rest is unknown.
    boxes
        ``y0, x0, y1, x1`` (float64 level-0 px) and ``class`` of boxes that are right: all of them where ``complete``,
        else those that were edited.
    deleted
        The same of boxes that are wrong.
    region_class
        Of the region as a whole; None where nobody gave it one.
    """

    row: int
    col: int
    labels: NDArray[np.uint8]
    complete: bool = False
    boxes: pd.DataFrame = field(default_factory=no_boxes)
    deleted: pd.DataFrame = field(default_factory=no_boxes)
    region_class: str | None = None

    @property
    def told(self) -> bool:
        """Whether anything can be learned from it."""
        said = self.complete or self.region_class is not None or len(self.boxes) > 0 or len(self.deleted) > 0
        return bool(said or (self.labels < UNSURE).any())


@dataclass(frozen=True, slots=True, eq=False)
class Truths:
    """What is known of a prediction.

    Attributes
    ----------
    regions
        Those of which something is known.
    mask
        Names of the classes that ``labels`` hold, from 0, ``background``; empty where there is no mask.
    authors
        Who said so.
    """

    regions: Sequence[RegionTruth]
    mask: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[RegionTruth]:
        return iter(self.regions)

    def labelled(self) -> dict[str, int]:
        """How many run pixels of each class of the mask are known."""
        counts = np.zeros(256, np.int64)
        for region in self.regions:
            counts += np.bincount(region.labels.ravel(), minlength=256)
        return {name: int(counts[value]) for value, name in enumerate(self.mask)}

    def warnings(self) -> tuple[str, ...]:
        """What is lacking: a class, or the background, of which no pixel is labelled."""
        known = self.labelled()
        if not any(known.values()):
            return ()
        return tuple(f"no pixel is labelled {name}: it is not learned" for name, count in known.items() if not count)


def cut(labels: NDArray[np.uint8], grid: Grid) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """Labels of a whole image, ``(y, x)`` in run pixels, by region: those in which anything is known."""
    found = {(r.row, r.col): labels[r.inner.slices] for r in grid.regions()}
    return {place: part for place, part in found.items() if (part < UNSURE).any()}


def truths(corrections: Corrections) -> Truths:
    """What is known of a prediction since it was corrected.

    In regions that were accepted or fixed all is truth, background included; elsewhere only what was painted and the
    boxes that were edited are. Regions that the run has not done yet are left out.
    """
    grid = corrections.layout.grid
    final = corrections.final
    edits, boxes, said = corrections.boxes, final.boxes, corrections.regions
    about = {(row, col): (state, name) for row, col, state, name in said.itertuples(index=False)}
    run_px = corrections.layout.frame.px_per_run
    found = []
    for place in sorted({*about, *_painted(corrections), *_touched(edits, grid, run_px)}):
        if not corrections.prediction.settled[place]:
            continue
        region = grid.region(*place)
        state, name = about.get(place, (None, None))
        complete = state in COMPLETE
        levels = corrections.mask if complete else corrections.diff
        labels = (
            np.asarray(levels[0][region.inner.slices]) if levels else np.full(region.inner.shape, UNKNOWN, np.uint8)
        )
        near = _near(region.inner, run_px)
        right = boxes if complete else edits[edits["state"] != "deleted"]
        wrong = edits[edits["state"] == "deleted"]
        truth = RegionTruth(*place, labels, complete, near(right), near(wrong), name)
        found += [truth] if truth.told else []
    log = corrections.log()
    authors = tuple(sorted(set(log.loc[~log["undone"].astype(bool), "author"])))
    return Truths(found, tuple(corrections.classes.names) if corrections.mask else (), authors)


def _painted(corrections: Corrections) -> set[tuple[int, int]]:
    """The regions in which a pixel was corrected."""
    diff, grid = corrections.diff[0], corrections.layout.grid
    found: set[tuple[int, int]] = set()
    for key in corrections.edits.chunks():
        chunk = Box(key[0] * SIDE, key[1] * SIDE, (key[0] + 1) * SIDE, (key[1] + 1) * SIDE).clip(grid.bounds)
        for region in grid.regions(chunk):
            part = region.inner.clip(chunk)
            if (np.asarray(diff[part.slices]) != UNKNOWN).any():
                found.add((region.row, region.col))
    return found


def _touched(boxes: pd.DataFrame, grid: Grid, px_per_run: tuple[float, float]) -> set[tuple[int, int]]:
    """The regions that hold the centre of a box."""
    centres = boxes[list(EDGES)].to_numpy(np.float64) / np.tile(px_per_run, 2)
    cells = (centres[:, :2] + centres[:, 2:]) / 2 // grid.region_px
    rows, cols = grid.shape
    return {(min(int(y), rows - 1), min(int(x), cols - 1)) for y, x in cells}


def _near(inner: Box, px_per_run: tuple[float, float]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Those of some boxes that touch a region."""
    (fy, fx), names = px_per_run, list(BOX_COLUMNS)

    def near(table: pd.DataFrame) -> pd.DataFrame:
        below = (table["y1"] > inner.y0 * fy) & (table["y0"] < inner.y1 * fy)
        return table.loc[below & (table["x1"] > inner.x0 * fx) & (table["x0"] < inner.x1 * fx), names]

    return near
