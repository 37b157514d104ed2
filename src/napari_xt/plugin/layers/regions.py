"""What is known of each region of a prediction, at hand for whoever points at one: its state and its class scores.

Knows a layout and its table of scores; must not know stores, layers, viewers or Qt.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.io.stores.layout import Layout, Status

TOP = 5  # of many classes these are named
STATES = {
    Status.NOT_YET: "not computed",
    Status.PREVIEW: "not computed yet",
    Status.DONE: "done",
    Status.SKIPPED: "skipped as empty",
    Status.FAILED: "failed",
}


class Regions:
    """The states and scores of a prediction's regions.

    Attributes
    ----------
    status
        `Status` of each, uint8 ``(rows, cols)``.
    corrected
        What somebody said of some, by row and column: ``state`` and ``class``, None where nothing.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self._names = layout, layout.scores or ()
        self.status: NDArray[np.uint8] = np.full(layout.grid.shape, Status.NOT_YET, np.uint8)
        self._row: NDArray[np.int32] = np.full(layout.grid.shape, -1, np.int32)
        self._scores = np.zeros((0, len(self._names)), np.float32)
        self.corrected: Mapping[tuple[int, int], Mapping[str, str | None]] = {}

    def take(self, table: pd.DataFrame) -> None:
        """Take the rows of ``prediction.scores``."""
        rows, cols = table["region_row"].to_numpy(), table["region_col"].to_numpy()
        codes = {status.name.lower(): int(status) for status in Status}
        status, row = np.full_like(self.status, Status.NOT_YET), np.full_like(self._row, -1)
        status[rows, cols] = table["status"].map(codes).to_numpy(np.uint8)
        row[rows, cols] = np.arange(len(table))
        scores = table[[f"p:{name}" for name in self._names]].to_numpy(np.float32)
        self._scores = scores  # first: another thread may be asking, and there are never fewer than before
        self.status, self._row = status, row

    def of_class(self, name: str) -> NDArray[np.float32]:
        """How likely each region is of a class, float32 ``(rows, cols)``; NaN where that is not known."""
        found = np.full(self._row.shape, np.nan, np.float32)
        known = self._row >= 0
        if name in self._names:
            found[known] = self._scores[self._row[known], self._names.index(name)]
        for cell, said in self.corrected.items():
            if said["class"] is not None:
                found[cell] = float(said["class"] == name)
        return found

    def told(self, y: float, x: float) -> str:
        """What is known of the region at a level-0 pixel, in a few words; nothing outside the image."""
        (fy, fx), side = self._layout.frame.px_per_run, self._layout.grid.region_px
        row, col = int(y / fy // side), int(x / fx // side)
        rows, cols = self.status.shape
        height, width = self._layout.frame.shape_px
        if not (0 <= y < height and 0 <= x < width and row < rows and col < cols):
            return ""
        status, at = Status(int(self.status[row, col])), int(self._row[row, col])
        where = f"region {row}, {col}"
        said = self.corrected.get((row, col), {})
        if words := [word for word in (said.get("state"), said.get("class")) if word]:
            return f"{where}: {', '.join(words)}"
        if status != Status.DONE:
            return f"{where}: {STATES[status]}"
        if not self._names or at < 0 or np.isnan(self._scores[at]).all():
            return where
        scores = self._scores[at]
        return f"{where}: {top(dict(zip(self._names, map(float, scores), strict=True)))}"


def top(scores: dict[str, float], most: int = TOP) -> str:
    """The likeliest classes, ``dense 83 %, open 17 %``."""
    best = sorted(scores.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {score:.0%}".replace("%", " %") for name, score in best)
