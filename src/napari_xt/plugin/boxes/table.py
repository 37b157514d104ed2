"""The boxes of a prediction as columns that a million rows are searched in: by place, score and class.

Knows arrays and tables; must not know predictions, layers, viewers or Qt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.stores.tables import class_codes

ColorBy = Literal["one", "class", "score"]
Kept = NDArray[np.bool_]

EDGES = ("y0", "x0", "y1", "x1")
CORNERS = ((0, 1), (0, 3), (2, 3), (2, 1))  # of a rectangle: which edges are its y and x


@dataclass(frozen=True, slots=True, eq=False)
class BoxTable:
    """Boxes at any score; never changed.

    Attributes
    ----------
    ids
        int64 ``(n,)``.
    edges
        float64 ``(4, n)``: y0, x0, y1, x1 in level-0 px, half-open.
    codes
        int64 ``(n,)``, indices into ``names``.
    scores
        float32 ``(n,)``; NaN where somebody corrected the box: it is there at any threshold.
    names
        The classes.
    colors
        float64 ``(classes, 4)``, red, green, blue, alpha in 0..1.
    threshold
        The run's: which boxes are shown unless another is wanted.
    shape
        The image's ``(height, width)``, level-0 px.
    """

    ids: NDArray[np.int64]
    edges: NDArray[np.float64]
    codes: NDArray[np.int64]
    scores: NDArray[np.float32]
    names: tuple[str, ...]
    colors: NDArray[np.float64]
    threshold: float
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        boxes: pd.DataFrame,
        names: Sequence[str],
        colors: Sequence[Sequence[int]],
        threshold: float,
        shape: tuple[int, int],
    ) -> Self:
        """The columns of ``prediction.boxes`` at any score; ``colors`` of the classes, red to alpha, 0..255."""
        codes = class_codes(boxes["class"], names)
        edges = np.stack([boxes[name].to_numpy(np.float64) for name in EDGES])
        shares = np.array(colors, np.float64).reshape(-1, 4) / 255
        scores = boxes["score"].to_numpy(np.float32)
        return cls(boxes["id"].to_numpy(np.int64), edges, codes, scores, tuple(names), shares, threshold, shape)

    def __len__(self) -> int:
        return len(self.ids)

    def kept(self, threshold: float | None = None, hidden: Collection[str] = ()) -> Kept:
        """Which boxes have at least this score (default: the run's) and a class that is not hidden."""
        kept: Kept = ~(self.scores < np.float32(self.threshold if threshold is None else threshold))
        if hidden:
            kept &= ~np.isin(self.names, list(hidden))[self.codes]
        return kept

    def with_others(self, others: Self, without: NDArray[np.int64]) -> Self:
        """The same without the ids ``without``, and with ``others``, whose classes begin with the ones here."""
        stay = ~_among(self.ids, np.sort(without))
        return replace(
            self,
            ids=np.concatenate([self.ids[stay], others.ids]),
            edges=np.concatenate([self.edges[:, stay], others.edges], axis=1),
            codes=np.concatenate([self.codes[stay], others.codes]),
            scores=np.concatenate([self.scores[stay], others.scores]),
            names=others.names,
            colors=others.colors,
        )

    def within(self, box: Box, kept: Kept) -> NDArray[np.int64]:
        """Rows of the ``kept`` ones that touch ``box`` (level-0 px)."""
        y0, x0, y1, x1 = self.edges
        return np.flatnonzero(kept & (y0 < box.y1) & (y1 > box.y0) & (x0 < box.x1) & (x1 > box.x0))

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each of these ``ids``, in their order; of those alone that are there."""
        found = np.flatnonzero(_among(self.ids, np.sort(ids)))
        order = pd.Index(self.ids[found]).get_indexer(pd.Index(ids))
        return found[order[order >= 0]]

    def rectangles(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corners ``(n, 4, 2)`` as napari counts: from the middle of the first pixel."""
        edges = self.edges[:, rows] - 0.5
        return np.stack([edges[list(corner)].T for corner in CORNERS], axis=1)

    def features(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """Columns ``id, class, score``."""
        classes = np.array(self.names, dtype=object)[self.codes[rows]] if len(rows) else np.array([], object)
        return pd.DataFrame({"id": self.ids[rows], "class": classes, "score": self.scores[rows]})


def _among(ids: NDArray[np.int64], few: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids are among few sorted ones: many times quicker than sorting a million."""
    if not len(few):
        return np.zeros(len(ids), np.bool_)
    found: NDArray[np.bool_] = few[np.searchsorted(few, ids).clip(max=len(few) - 1)] == ids
    return found
