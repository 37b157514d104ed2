"""What a model said of an image, read from a store, beside a run that is still writing it or after.

Knows stores and tables; must not know models, runs or screens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.html import html_table
from napari_xt.io.images.files import FileStore
from napari_xt.io.stores.layout import FEATURES, TOKENS, Header, Layout, Status
from napari_xt.io.stores.ledger import Ledger, RegionRow
from napari_xt.io.stores.merge import IOU, suppress
from napari_xt.io.stores.place import ledger_path
from napari_xt.io.stores.shelf import open_shelf
from napari_xt.io.stores.store import candidate_boxes
from napari_xt.io.stores.tree import Tree, open_tree, read_header

PACKED = ".xt.zarr.zip"
EDGES = ("y0", "x0", "y1", "x1")
TOLD = 5  # labels, the likeliest


def open_prediction(path: str | os.PathLike[str], threshold: float | None = None) -> Prediction:
    """The prediction in the store at ``path``, read-only.

    Parameters
    ----------
    path
        ``NAME.xt.zarr``, which may be growing, or what `pack` made of one, ``NAME.xt.zarr.zip``.
    threshold
        Boxes below this score are left out; default: what the run was asked for.

    Raises
    ------
    StoreError
        Where there is no store, a damaged one, or one of a newer format.
    """
    place = Path(os.path.abspath(path))
    if place.name.lower().endswith(PACKED) and place.is_file():
        from napari_xt.io.pack import open_packed

        return open_packed(place, threshold)
    header = read_header(place)
    tree = open_tree(FileStore(place, read_only=True), header.layout, "r")
    with Ledger(ledger_path(place), read_only=True):
        return Prediction(place, header, tree, threshold)


@dataclass(slots=True)
class _State:
    """What the journal said at one moment, and the tables that were made of it."""

    revision: int
    complete: bool
    blocks: Sequence[tuple[int, int]]
    rows: list[RegionRow]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class Prediction:
    """What a model said of an image; immutable once it is complete, growing while a run writes it.

    Attributes
    ----------
    path
        The store's folder, or the file in which it is packed.
    header
        What the run was: ``layout``, ``job``, ``settings``, ``plan``, ``model``, ``notes``.
    mask
        uint8 Zarr arrays ``(y, x)`` in run pixels, finest first; level k is ``level0[::2**k, ::2**k]``. 0 is background
        or not computed, which ``scores.status`` tells apart. Empty where the model has no mask.
    probability
        uint8 ``(K, y, x)``, a cell per ``layout.stride`` run pixels; None where the model has no mask.
    overview
        A small picture of the source, ``(c, y, x)`` or ``(y, x)``.
    threshold
        Lowest score of ``boxes``.
    """

    def __init__(
        self, path: Path, header: Header, tree: Tree, threshold: float | None = None, *, journal: Path | None = None
    ) -> None:
        self.path = path
        self._journal = journal or ledger_path(path)
        self.header = header
        self.mask: list[zarr.Array[Any]] = list(tree.mask)
        self.probability: zarr.Array[Any] | None = tree.probability
        self.overview: zarr.Array[Any] = tree.overview
        self.threshold = self._number("threshold", 0.0) if threshold is None else threshold
        self._last: _State | None = None

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{self.coverage:.0%} done"
        return f"Prediction({str(self.path)!r}, {state})"

    def _repr_html_(self) -> str:
        lines = [("prediction", str(self.path)), ("model", str(self.header.model.get("name", "")))]
        lines += [("state", "complete" if self.complete else f"{self.coverage:.0%} done")]
        lines += [("failed", f"{len(self.failed)} regions")] if len(self.failed) else []
        if self.layout.boxes is not None:
            counts = self.boxes["class"].value_counts()
            lines.append(("boxes", ", ".join(f"{counts.get(name, 0)} {name}" for name in self.layout.boxes)))
        label = (self.label if self.layout.scores else None) or {}
        likely = sorted(label.items(), key=lambda item: -item[1])[:TOLD]
        lines += [("label", ", ".join(f"{name} {p:.2f}" for name, p in likely))] if likely else []
        return html_table(lines)

    @property
    def tokens(self) -> zarr.Array[Any] | None:
        """What the region encoder says of each region, ``(rows, cols, L, D)``, where the run kept it (``keep``).

        The model's stored type (float16). Those of a region count where its ``scores.status`` is ``done``; what was not
        run is zeros, and of one that failed the background token.
        """
        return self._kept(TOKENS)

    @property
    def features(self) -> zarr.Array[Any] | None:
        """The local features of each region, ``(rows, cols, c, h, w)``, where the run kept them; else as ``tokens``."""
        return self._kept(FEATURES)

    @property
    def layout(self) -> Layout:
        """The arrays of the store and how they lie in the image."""
        return self.header.layout

    @property
    def settings(self) -> Mapping[str, object]:
        """What the user of the run wanted."""
        return self.header.settings

    @property
    def complete(self) -> bool:
        """Whether the run is finished and its boxes are merged."""
        return self._state().complete

    @property
    def coverage(self) -> float:
        """The share of the run's regions that are settled, done or skipped: 0..1.

        The run's regions are ``plan["regions"]``, a number; all of the grid where the plan says nothing.
        """
        rows, cols = self.layout.grid.shape
        total = self.header.plan.get("regions")
        total = total if isinstance(total, int) and total > 0 else rows * cols
        return min(1.0, sum(_settled(row) for row in self._state().rows) / total)

    @property
    def boxes(self) -> pd.DataFrame:
        """The boxes after merging, with a score of at least ``threshold``, by id.

        Columns ``id, y0, x0, y1, x1, class, score, region_row, region_col``; float64 level-0 px, half-open.
        """
        return self._table("boxes", self._make_boxes)

    def merged(self) -> pd.DataFrame:
        """``boxes`` at any score: those of a higher threshold are the rows that have it, as merging goes by score."""
        return self._table("merged", lambda state: self._box_table(self._merge(state)))

    def candidates(self) -> pd.DataFrame:
        """Every box that is stored, unmerged and at any score, with the columns of ``boxes``."""
        return self._table("candidates", lambda state: self._box_table(candidate_boxes(state.rows)))

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each region that the journal knows, by row and column.

        Columns ``region_row, region_col``; ``y0, x0, y1, x1`` of its inner in float64 level-0 px; ``class`` and
        ``score``, the most likely and its probability; ``entropy`` in nats; ``status`` (``done``, ``skipped``,
        ``failed``); one ``p:NAME`` per class. NaN (``class`` None) where a region has no scores.
        """
        return self._table("scores", self._make_scores)

    @property
    def settled(self) -> NDArray[np.bool_]:
        """Which regions of the grid are done or were skipped, ``(rows, cols)``; the others are not background."""
        settled = np.zeros(self.layout.grid.shape, np.bool_)
        for row in self._state().rows:
            settled[row.row, row.col] = _settled(row)
        return settled

    @property
    def label(self) -> dict[str, float] | None:
        """The image's class probabilities: the mean over the done regions; None where there are no scores.

        Of a model with a label head it is the mean of what each region's window was said to be.
        """
        names = self.layout.label or self.layout.scores
        done = [row.scores for row in self._state().rows if row.status == Status.DONE and row.scores is not None]
        if names is None or not done:
            return None
        means = np.frombuffer(b"".join(done), np.float32).reshape(len(done), -1).mean(axis=0, dtype=np.float64)
        return {name: float(value) for name, value in zip(names, means[-len(names) :], strict=True)}

    @property
    def failed(self) -> pd.DataFrame:
        """The regions that failed: ``region_row, region_col, y0, x0, y1, x1, error, attempts``."""
        rows = [row for row in self._state().rows if row.status == Status.FAILED]
        table = self._region_table(rows)
        table["error"] = pd.Series([row.error for row in rows], dtype=object)
        table["attempts"] = np.array([row.attempts for row in rows], np.int64)
        return table

    def area(self) -> dict[str, int]:
        """Level-0 pixels of each mask class in the settled regions, counted chunk by chunk; empty without a mask."""
        if self.layout.mask is None:
            return {}
        state = self._state()
        counts = np.zeros(256, np.int64)
        for key in state.blocks:
            block = np.asarray(self.mask[0][self.layout.grid.block(*key).box.slices])
            counts += np.bincount(block.ravel(), minlength=256)
        counts[0] = self._settled_px(state) - counts[1:].sum()
        size = float(np.prod(self.layout.frame.px_per_run))
        return {name: round(int(counts[value]) * size) for value, name in enumerate(self.layout.mask)}

    def _kept(self, name: str) -> zarr.Array[Any] | None:
        """An array of the shelf that is there to stay; looked up each time, since a writer may remove it."""
        shelf = self.layout.shelf
        if shelf is None or self.path.is_file() or (name not in shelf.kept and not self.complete):
            return None
        return open_shelf(FileStore(self.path, read_only=True), self.layout, "r").get(name)

    def _state(self) -> _State:
        """What the journal says now; read again only if it has changed."""
        with Ledger(self._journal, read_only=True) as ledger, ledger.snapshot():
            last, revision = self._last, ledger.revision
            if last is None or last.revision != revision:
                last = _State(revision, ledger.complete, sorted(ledger.blocks()), ledger.regions())
                self._last = last
            return last

    def _table(self, name: str, make: Any) -> pd.DataFrame:
        state = self._state()
        if name not in state.tables:
            state.tables[name] = make(state)
        return state.tables[name].copy()

    def _make_boxes(self, state: _State) -> pd.DataFrame:
        boxes = self._merge(state)
        return self._box_table(boxes[boxes["score"] >= np.float32(self.threshold)])

    def _merge(self, state: _State) -> NDArray[np.void]:
        boxes = candidate_boxes(state.rows)
        if state.complete:
            keep = np.frombuffer(b"".join(row.kept or b"" for row in state.rows), np.bool_)
        else:
            keep = suppress(boxes, self._number("iou", IOU), across_regions=True)
        merged: NDArray[np.void] = boxes[keep]
        return merged

    def _box_table(self, boxes: NDArray[np.void]) -> pd.DataFrame:
        boxes = boxes[np.argsort(boxes["id"], kind="stable")]
        names = np.array(self.layout.boxes or (), dtype=object)
        region = boxes["id"] // IDS_PER_REGION
        cols = self.layout.grid.shape[1]
        columns = {name: boxes[name] for name in ("id", *EDGES)}
        columns |= {"class": names[boxes["label"]] if len(boxes) else names[:0], "score": boxes["score"]}
        return pd.DataFrame(columns | {"region_row": region // cols, "region_col": region % cols})

    def _make_scores(self, state: _State) -> pd.DataFrame:
        table = self._region_table(state.rows)
        names = self.layout.scores or ()
        p = _probabilities(state.rows, len(names))
        known = np.array([row.scores is not None for row in state.rows], np.bool_)
        best = np.where(known, np.nan_to_num(p).argmax(axis=1), 0) if names else np.zeros(len(p), np.int64)
        classes = [names[index] if found else None for index, found in zip(best, known, strict=True)]
        table["class"] = pd.Series(classes, dtype=object)
        table["score"] = p[np.arange(len(p)), best] if names else np.nan
        table["entropy"] = _entropy(p, known)
        table["status"] = [Status(row.status).name.lower() for row in state.rows]
        return table.assign(**{f"p:{name}": p[:, index] for index, name in enumerate(names)})

    def _region_table(self, rows: Sequence[RegionRow]) -> pd.DataFrame:
        """Where the regions of ``rows`` lie: ``region_row, region_col`` and the inner in level-0 px."""
        grid, (fy, fx) = self.layout.grid, self.layout.frame.px_per_run
        row = np.array([found.row for found in rows], np.int64)
        col = np.array([found.col for found in rows], np.int64)
        side = grid.region_px
        edges = {
            "y0": row * side * fy,
            "x0": col * side * fx,
            "y1": np.minimum((row + 1) * side, grid.height) * fy,
            "x1": np.minimum((col + 1) * side, grid.width) * fx,
        }
        return pd.DataFrame({"region_row": row, "region_col": col} | edges)

    def _settled_px(self, state: _State) -> int:
        """The run pixels of the regions that are done or skipped."""
        grid = self.layout.grid
        inners = (grid.region(row.row, row.col).inner for row in state.rows if _settled(row))
        return sum(inner.height * inner.width for inner in inners)

    def _number(self, name: str, default: float) -> float:
        """A number of the run, by its resolved value, else by the one that was wanted."""
        for part in (self.header.settings, self.header.job):
            value = part.get(name)
            if isinstance(value, int | float):
                return float(value)
        return default


def _settled(row: RegionRow) -> bool:
    return row.status in (Status.DONE, Status.SKIPPED)


def _probabilities(rows: Sequence[RegionRow], classes: int) -> NDArray[np.float64]:
    """The scores of ``rows`` as float64 ``(rows, classes)``, NaN where there are none."""
    table = np.full((len(rows), classes), np.nan)
    for index, row in enumerate(rows):
        if row.scores is not None:
            table[index] = np.frombuffer(row.scores, np.float32)[:classes]
    return table


def _entropy(p: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The entropy of each row of ``p`` in nats, NaN where it is not ``known``."""
    safe = np.where(p > 0, p, 1.0)
    return np.where(known, -(p * np.log(safe)).sum(axis=1), np.nan)
