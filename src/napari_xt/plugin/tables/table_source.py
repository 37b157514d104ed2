"""Tables of regions, boxes and objects as columns that are sorted and filtered whole, so that a million rows are quick.

Knows predictions and numpy; must not know Qt, layers or viewers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.io.exports.wanted import SYMBOLS
from napari_xt.io.prediction import EDGES, Prediction
from napari_xt.io.stores.tables import class_codes

BINS = 50  # of the histogram
COPIED = 100_000  # rows that may be copied at once

NEW: dict[str, object] = {"sort": None, "keep": ((), (0.0, 1.0))}  # what needs nothing to be done

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``values``, or places in ``words`` where these are there (-1: nothing)."""

    name: str
    values: NDArray[np.generic]
    words: tuple[str, ...] | None = None

    def text(self, row: int) -> str:
        """What is shown of one row; nothing where it is not known."""
        value = self.values[row]
        if self.words is not None:
            return self.words[int(value)] if value >= 0 else ""
        if self.values.dtype.kind in "iu":
            return str(value)
        return "" if np.isnan(value) else f"{value:.4g}"

    def order(self, *, descending: bool) -> Ints:
        """Rows by value, equal ones as they were; what is not known comes last."""
        keys = self.values if self.words is None else _ranks(self.words)[self.values]
        keys = -keys.astype(np.float64) if descending else keys
        unknown = self.values < 0 if self.words is not None else np.isnan(self.values)  # type: ignore[operator]
        if self.words is not None and unknown.any():
            keys = np.where(unknown, np.iinfo(np.int32).max, keys)
        found: Ints = np.argsort(keys, kind="stable")
        return found


@dataclass(slots=True)
class Rows:
    """A table as its user wants to see it.

    Parameters
    ----------
    columns
        All of one length.
    edges
        float64 ``(n, 4)``: where each row's thing lies, ``y0, x0, y1, x1`` in level-0 px, half-open.
    cells
        ``(n, 2)``, row and column in the grid, where the things are regions.

    Attributes
    ----------
    shown
        The rows that pass the filter, in the order that is wanted.
    """

    columns: tuple[Column, ...]
    edges: NDArray[np.float64]
    cells: Ints | None = None
    shown: Ints = field(init=False)
    _order: Ints = field(init=False)
    _kept: NDArray[np.bool_] = field(init=False)
    _done: dict[str, Any] = field(init=False, default_factory=dict)  # what was wanted last, so that it is done once

    def __post_init__(self) -> None:
        self._order = self.shown = np.arange(len(self.edges))
        self._kept = np.ones(len(self.edges), np.bool_)

    def __len__(self) -> int:
        return len(self.edges)

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)

    def sort(self, index: int, *, descending: bool = False) -> None:
        """Order the rows by a column; as they are stored where there is no such column."""
        known = 0 <= index < len(self.columns)
        if self._is_done("sort", (index, descending) if known else None):
            return
        self._order = self.columns[index].order(descending=descending) if known else np.arange(len(self))
        self.shown = self._order[self._kept[self._order]]

    def keep(self, words: dict[str, Collection[str]], scores: tuple[float, float] = (0.0, 1.0)) -> None:
        """Show only rows that have one of the ``words`` in each column named, and a score within ``scores``.

        The whole range holds rows without a score as well.
        """
        if self._is_done("keep", (_key(words), scores)):
            return
        self._kept = self._having(words)
        score = self.column("score")
        if score is not None and scores != (0.0, 1.0):
            low, high = scores
            self._kept &= (score.values >= low) & (score.values <= high)  # type: ignore[operator]
        self.shown = self._order[self._kept[self._order]]

    def histogram(self, words: dict[str, Collection[str]]) -> Ints:
        """How many rows with these words have a score in each of `BINS` parts of 0..1."""
        if not self._is_done("histogram", _key(words)):
            score = self.column("score")
            values = np.zeros(0) if score is None else np.asarray(score.values, np.float64)[self._having(words)]
            bins = np.clip((values[~np.isnan(values)] * BINS).astype(np.int64), 0, BINS - 1)
            self._done["counts"] = np.bincount(bins, minlength=BINS)
        counts: Ints = self._done["counts"]
        return counts

    def position(self, row: int) -> int | None:
        """Where a row is among those that are shown."""
        found = np.flatnonzero(self.shown == row)
        return int(found[0]) if len(found) else None

    def at(self, y: float, x: float) -> int | None:
        """The row of the smallest thing around a point (level-0 px)."""
        y0, x0, y1, x1 = self.edges.T
        around = np.flatnonzero((y0 <= y) & (y < y1) & (x0 <= x) & (x < x1))
        if not len(around):
            return None
        sizes = (self.edges[around, 2:] - self.edges[around, :2]).prod(axis=1)
        return int(around[sizes.argmin()])

    def tsv(self, positions: Ints) -> str:
        """The shown rows at ``positions`` as text that a spreadsheet takes: a line of names, tabs between values."""
        rows = self.shown[positions]
        columns = {column.name: _told(column, rows) for column in self.columns}
        return pd.DataFrame(columns).to_csv(sep="\t", index=False, lineterminator="\n")

    def _is_done(self, what: str, wanted: object) -> bool:
        """Whether that was done last; it counts as done from now on. New rows are neither sorted nor filtered."""
        done = bool(self._done.get(what, NEW.get(what, self)) == wanted)
        self._done[what] = wanted
        return done

    def _having(self, words: dict[str, Collection[str]]) -> NDArray[np.bool_]:
        kept = np.ones(len(self), np.bool_)
        for name, wanted in words.items():
            column = self.column(name)
            if column is not None and column.words is not None:
                allowed = np.array([*(word in wanted for word in column.words), "" in wanted])
                kept &= allowed[column.values]  # -1, nothing, is the last
        return kept


def _key(words: dict[str, Collection[str]]) -> tuple[object, ...]:
    return tuple((name, tuple(wanted)) for name, wanted in sorted(words.items()))


def regions_of(prediction: Prediction) -> Rows:
    """The regions of a prediction: class, score, entropy, the probability of each class, and what became of them."""
    table = prediction.scores
    cells = table[["region_row", "region_col"]].to_numpy(np.int64)
    numbers = ["entropy", *(name for name in map(str, table) if name.startswith("p:"))]
    columns = [
        Column("row", cells[:, 0]),
        Column("column", cells[:, 1]),
        _words("class", table, prediction.layout.scores or ()),
        Column("score", table["score"].to_numpy(np.float64)),
        _words("status", table, ("done", "skipped", "failed")),
        *(Column(name, table[name].to_numpy(np.float64)) for name in numbers),
    ]
    return Rows(tuple(columns), _edges(table), cells)


def boxes_of(prediction: Prediction) -> Rows:
    """The boxes of a prediction: class, score and size."""
    table = prediction.boxes
    edges, (scale, unit) = _edges(table), _scale(prediction)
    side = np.sqrt((edges[:, 2:] - edges[:, :2]).prod(axis=1) * np.prod(scale))
    columns = [
        _words("class", table, prediction.layout.boxes or ()),
        Column("score", table["score"].to_numpy(np.float64)),
        Column(f"size ({unit})", side),
        *_middles(edges),
        Column("id", table["id"].to_numpy(np.int64)),
    ]
    return Rows(tuple(columns), edges)


def objects_of(prediction: Prediction, table: pd.DataFrame) -> Rows:
    """What `objects` has measured; in physical units alone where these are known."""
    physical = _scale(prediction)[1] != "px"
    sizes = [name for name in map(str, table) if name.startswith(("area_", "perimeter_"))]
    shown = [name for name in sizes if not (physical and name.endswith("_px"))]
    means = [name for name in map(str, table) if name.startswith("mean:")]
    columns = [
        _words("class", table, (prediction.layout.mask or ())[1:]),
        Column("score", table["score"].to_numpy(np.float64)),
        *(Column(head(name), table[name].to_numpy(np.float64)) for name in (*shown, "holes", *means)),
        Column("y (px)", table["y"].to_numpy(np.float64)),
        Column("x (px)", table["x"].to_numpy(np.float64)),
        Column("id", table["id"].to_numpy(np.int64)),
    ]
    return Rows(tuple(columns), _edges(table))


def summary_of(table: pd.DataFrame) -> Rows:
    """What `measure` has counted, with the units in the names."""
    columns = [
        _words(name, table, tuple(dict.fromkeys(table[name])))
        if name in ("shape", "kind", "class")
        else Column(head(name), table[name].to_numpy(np.int64 if name == "count" else np.float64))
        for name in map(str, table)
    ]
    return Rows(tuple(columns), np.zeros((len(table), 4)))


def head(name: str) -> str:
    """A name of a measured column with its unit apart: ``area_um2`` is "area (µm²)"."""
    if name == "per_mm2":
        return "per mm²"
    if "_" not in name or ":" in name:
        return name
    what, unit = name.rsplit("_", 1)
    plain = unit.removesuffix("2")
    return f"{what} ({plain.replace('um', 'µm')}{'²' if plain not in (unit, 'px') else ''})"


def _scale(prediction: Prediction) -> tuple[tuple[float, float], str]:
    frame = prediction.layout.frame
    if frame.unit == "pixel":
        return (1.0, 1.0), "px"
    return frame.scale, SYMBOLS.get(frame.unit, frame.unit).replace("um", "µm")


def _middles(edges: NDArray[np.float64]) -> list[Column]:
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    return [Column(f"{axis} (px)", middle[:, i]) for i, axis in enumerate("yx")]


def _edges(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[list(EDGES)].to_numpy(np.float64)


def _words(name: str, table: pd.DataFrame, words: tuple[str, ...]) -> Column:
    return Column(name, class_codes(table[name], words).astype(np.int32), words)


def _ranks(words: tuple[str, ...]) -> Ints:
    """The place of each word in the alphabet, and of nothing (-1) behind all."""
    ranks = np.full(len(words) + 1, len(words))
    ranks[np.argsort(np.array(words, str), kind="stable") if words else []] = np.arange(len(words))
    return ranks


def _told(column: Column, rows: Ints) -> NDArray[np.generic]:
    values = column.values[rows]
    return values if column.words is None else np.array([*column.words, ""], object)[values]
