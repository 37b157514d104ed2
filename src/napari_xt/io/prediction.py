"""What a model said of an image, read from a store, beside a run that is still writing it or after.

Knows stores and tables; must not know models, runs or screens.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.html import html_table
from napari_xt.io.images.files import FileStore
from napari_xt.io.seen import Levels, LevelsOver, Seen, Table
from napari_xt.io.stores.layout import FEATURES, TOKENS, Header, Layout, Status
from napari_xt.io.stores.ledger import Ledger, RegionRow
from napari_xt.io.stores.merge import IOU, suppress
from napari_xt.io.stores.place import ledger_path
from napari_xt.io.stores.shelf import open_shelf
from napari_xt.io.stores.store import candidate_boxes
from napari_xt.io.stores.tables import EDGES as EDGES  # noqa: PLC0414 - a door
from napari_xt.io.stores.tables import box_table, region_table, score_table
from napari_xt.io.stores.tree import Tree, open_tree, read_header
from napari_xt.io.thresholds import RUN_THRESHOLD, MaskLevel, Weighing

PACKED = ".xt.zarr.zip"
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


def seen_at(
    prediction: Prediction | str | os.PathLike[str],
    mask_threshold: float | None = None,
    box_threshold: float | None = None,
) -> Prediction:
    """A prediction, or the one at a path, at other thresholds where these are given; see `Prediction.at`."""
    found = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    if mask_threshold is None and box_threshold is None:
        return found
    return found.at(mask_threshold=mask_threshold, box_threshold=box_threshold)


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
        uint8 arrays ``(y, x)`` in run pixels, finest first, stored ones (Zarr) or composed where they are read, see
        `at`; level k is ``level0[::2**k, ::2**k]``. 0 is background or not computed, which ``scores.status`` tells
        apart. Empty where the model has no mask.
    probability
        uint8 ``(K, y, x)``, a cell per ``layout.stride`` run pixels; None where the model has no mask.
    overview
        A small picture of the source, ``(c, y, x)`` or ``(y, x)``.
    threshold
        Lowest score of ``boxes``.
    mask_threshold
        What a class needs against the background to be in ``mask``, 0..1; the stored mask is that of 0.5.
    """

    def __init__(
        self, path: Path, header: Header, tree: Tree, threshold: float | None = None, *, journal: Path | None = None
    ) -> None:
        self.path = path
        self._journal = journal or ledger_path(path)
        self.header = header
        self._stored: Levels = tree.mask
        self.mask: list[Any] = list(tree.mask)
        self.probability: zarr.Array[Any] | None = tree.probability
        self.overview: zarr.Array[Any] = tree.overview
        self.threshold = self._number("threshold", 0.0) if threshold is None else threshold
        self.mask_threshold = RUN_THRESHOLD
        self._seen = Seen()
        self._beneath: Prediction | None = None  # kept, since what it was made of may go with it
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

    def at(self, *, mask_threshold: float | None = None, box_threshold: float | None = None) -> Prediction:
        """The prediction as it is seen at other thresholds; whatever takes a prediction takes this one.

        Parameters
        ----------
        mask_threshold
            What the likeliest class needs against the background, 0..1, to be in ``mask``, which is then composed of
            ``probability`` where it is read; at 0.5 it is the stored one. Default: as it is.
        box_threshold
            Lowest score of ``boxes``, 0..1. Default: as it is.

        Raises
        ------
        SettingsError
            A threshold is no number in 0..1, or the mask was given and has no other.
        """
        changes: dict[str, Any] = {}
        if box_threshold is not None:
            changes["threshold"] = _checked("box_threshold", box_threshold)
        if mask_threshold is not None and mask_threshold != self.mask_threshold:
            threshold = _checked("mask_threshold", mask_threshold)
            changes |= {"mask_threshold": threshold, "mask": self._levels(threshold, self._seen)}
        return self._other(**changes)

    def seen_as(
        self,
        *,
        mask: Levels | LevelsOver | None = None,
        boxes: Table | None = None,
        scores: Table | None = None,
        layout: Layout | None = None,
    ) -> Prediction:
        """The prediction with other things in place of what the store says: how corrections are seen.

        Parameters
        ----------
        mask
            Levels that stand for ``mask``, of its shapes; or a function that makes them of the levels beneath, which
            thresholds go on to act on. Values that are no class (254: not known) count as none.
        boxes
            A table with the columns of ``boxes``, of any score, or what gives one each time it is asked for. Rows
            without a score (NaN) are above every threshold.
        scores
            A table with the columns of ``scores``, or what gives one.
        layout
            One with other names of classes or colours.
        """
        seen = self._seen.but(mask, boxes, scores)
        header = self.header if layout is None else replace(self.header, layout=layout)
        return self._other(header=header, mask=self._levels(self.mask_threshold, seen), _seen=seen)

    def _other(self, **changes: Any) -> Prediction:
        """One more of the same, that shares what was read already."""
        other = copy.copy(self)
        last = None if self._last is None or "header" in changes else replace(self._last)
        vars(other).update(_beneath=self, _last=last, **changes)
        return other

    def _levels(self, threshold: float, seen: Seen) -> list[Any]:
        """The mask at a threshold, as it is seen."""
        levels = self._stored
        if threshold != RUN_THRESHOLD and self.probability is not None:
            weighing = Weighing(self.layout, self.header.plan, self.probability)
            levels = [MaskLevel(one, k, weighing, threshold, self._states) for k, one in enumerate(self._stored)]
        return seen.levels(levels)

    def _states(self) -> NDArray[np.uint8]:
        """The `Status` of each region of the grid."""
        states = np.full(self.layout.grid.shape, Status.NOT_YET, np.uint8)
        for row in self._state().rows:
            states[row.row, row.col] = row.status
        return states

    @property
    def journal(self) -> Path:
        """The folder of what is no array: of a packed prediction, where that was taken out."""
        return self._journal.parent

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
    def journal_bytes(self) -> int:
        """How large the journal is, by which the time is known that boxes and scores take to read."""
        return self._journal.stat().st_size

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
        found = self._merged()
        low = found["score"].to_numpy(np.float32) < np.float32(self.threshold)
        return found[~low].reset_index(drop=True)

    def merged(self) -> pd.DataFrame:
        """``boxes`` at any score: those of a higher threshold are the rows that have it, as merging goes by score."""
        return self._merged().copy()

    def _merged(self) -> pd.DataFrame:
        if self._seen.boxes is not None:
            return self._seen.boxes()
        return self._table("merged", lambda state: box_table(self.layout, self._merge(state)))

    def candidates(self) -> pd.DataFrame:
        """Every box that is stored, unmerged and at any score, with the columns of ``boxes``."""
        return self._table("candidates", lambda state: box_table(self.layout, candidate_boxes(state.rows))).copy()

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each region that the journal knows, by row and column.

        Columns ``region_row, region_col``; ``y0, x0, y1, x1`` of its inner in float64 level-0 px; ``class`` and
        ``score``, the most likely and its probability; ``entropy`` in nats; ``status`` (``done``, ``skipped``,
        ``failed``); one ``p:NAME`` per class. NaN (``class`` None) where a region has no scores.
        """
        if self._seen.scores is not None:
            return self._seen.scores().copy()
        return self._table("scores", lambda state: score_table(self.layout, state.rows)).copy()

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
        table = region_table(self.layout, rows)
        table["error"] = pd.Series([row.error for row in rows], dtype=object)
        table["attempts"] = np.array([row.attempts for row in rows], np.int64)
        return table

    def area(self) -> dict[str, int]:
        """Level-0 pixels of each mask class in the settled regions, counted chunk by chunk; empty without a mask."""
        if self.layout.mask is None:
            return {}
        state = self._state()
        counts = np.zeros(256, np.int64)
        for key in state.blocks if self._seen.mask is None else np.ndindex(self.layout.grid.block_shape):
            block = np.asarray(self.mask[0][self.layout.grid.block(*key).box.slices])
            counts += np.bincount(block.ravel(), minlength=256)
        counts[0] = max(0, self._settled_px(state) - counts[1:].sum())
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
        return state.tables[name]

    def _merge(self, state: _State) -> NDArray[np.void]:
        boxes = candidate_boxes(state.rows)
        if state.complete:
            keep = np.frombuffer(b"".join(row.kept or b"" for row in state.rows), np.bool_)
        else:
            keep = suppress(boxes, self._number("iou", IOU), across_regions=True)
        merged: NDArray[np.void] = boxes[keep]
        return merged

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


def _checked(name: str, threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise SettingsError(f"{name} = {threshold!r}", "is no threshold", "give a number in 0..1")
    return float(threshold)


def _settled(row: RegionRow) -> bool:
    return row.status in (Status.DONE, Status.SKIPPED)
