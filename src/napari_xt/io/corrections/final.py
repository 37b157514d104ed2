"""A prediction with corrections on top, composed where it is read. Knows both; must not know files or journals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.corrections.classes import Classes
from napari_xt.io.corrections.levels import edited
from napari_xt.io.corrections.marks import DELETED, FIRST_ADDED, Marks, Record
from napari_xt.io.corrections.sparse import Edits
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.tables import EDGES


def final(prediction: Prediction, edits: Edits, marks: Marks, classes: Classes) -> Prediction:
    """``prediction`` as it is with what was corrected until it is read."""
    layout = final_layout(prediction.layout, marks, classes)
    return prediction.seen_as(
        mask=(lambda beneath: edited(edits, beneath)) if prediction.mask else None,
        boxes=(lambda: final_boxes(prediction, marks, layout)) if marks.boxes or layout.boxes else None,
        scores=(lambda: final_scores(prediction.scores, marks, layout)) if marks.regions else None,
        layout=layout,
    )


def final_layout(layout: Layout, marks: Marks, classes: Classes) -> Layout:
    """The layout with the classes' names and colours, and with classes that only corrections have."""
    mask, colors = layout.mask, layout.colors
    if mask is not None and marks.classes:
        mask, colors = classes.names, tuple(one.color for one in classes)
    boxes = _with(layout.boxes, [box["class"] for box in marks.boxes.values()])
    scores = _with(layout.scores, [region["class"] for region in marks.regions.values() if region["class"]])
    label = layout.label if scores == layout.scores else layout.label or layout.scores
    return replace(layout, mask=mask, colors=colors, boxes=boxes, scores=scores, label=label)


def final_boxes(prediction: Prediction, marks: Marks, layout: Layout) -> pd.DataFrame:
    """The predicted boxes of any score without those that were touched, and these as they are now, without a score."""
    table = prediction.merged()
    if not marks.boxes:
        return table
    records = dict(marks.boxes)
    rows = [(key, *(box[edge] for edge in EDGES), box["class"]) for key, box in records.items()]
    rows = [row for row in rows if records[row[0]]["state"] != DELETED]
    touched = pd.DataFrame(rows, columns=["id", *EDGES, "class"]).assign(score=np.float32(np.nan))
    touched["region_row"], touched["region_col"] = _regions(touched, layout)
    table = table[~table["id"].isin(list(records))]
    if touched.empty:
        return table.reset_index(drop=True)
    touched = touched.astype({name: kind for name, kind in table.dtypes.items() if name != "class"})
    joined = pd.concat([table, touched], ignore_index=True) if len(table) else touched
    return joined.sort_values("id", ignore_index=True)[list(table.columns)]


def final_scores(table: pd.DataFrame, marks: Marks, layout: Layout) -> pd.DataFrame:
    """The scores with the classes that regions were given: certain."""
    table = table.copy()
    for name in layout.scores or ():
        if f"p:{name}" not in table:
            table[f"p:{name}"] = np.where(table["class"].isna(), np.nan, 0.0)
    columns = [name for name in map(str, table) if name.startswith("p:")]
    places = {key: index for index, key in enumerate(zip(table["region_row"], table["region_col"], strict=True))}
    for key, region in list(marks.regions.items()):
        if region["class"] is not None and key in places:
            index = places[key]
            table.loc[index, columns] = 0.0
            table.loc[index, ["class", "score", "entropy", f"p:{region['class']}"]] = [region["class"], 1.0, 0.0, 1.0]
    return table


class PredictedBoxes:
    """The predicted boxes by id, at any score."""

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction
        self._ids: NDArray[np.int64] | None = None
        self._table = pd.DataFrame()

    def get(self, id: int) -> Record | None:
        """The record of a box that nobody touched; None where there is none."""
        row = self._row(id)
        if row is None and (self._ids is None or not self._prediction.complete):
            self._table = self._prediction.merged().sort_values("id", ignore_index=True)
            self._ids = self._table["id"].to_numpy(np.int64)
            row = self._row(id)
        if row is None:
            return None
        edges = {edge: float(self._table[edge].to_numpy(float)[row]) for edge in EDGES}
        return {**edges, "class": str(self._table["class"].iat[row]), "state": "", "was": list(edges.values())}

    def _row(self, id: int) -> int | None:
        if self._ids is None:
            return None
        row = int(np.searchsorted(self._ids, id))
        return row if row < len(self._ids) and self._ids[row] == id else None


def _with(names: tuple[str, ...] | None, more: list[str]) -> tuple[str, ...] | None:
    added = tuple(dict.fromkeys(name for name in more if name not in (names or ())))
    return (*(names or ()), *added) if added else names


def _regions(boxes: pd.DataFrame, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The region of each box: that of its id, or where its middle lies where somebody added it."""
    (fy, fx), side, (rows, cols) = layout.frame.px_per_run, layout.grid.region_px, layout.grid.shape
    row = ((boxes["y0"] + boxes["y1"]).to_numpy(float) / 2 / fy // side).astype(np.int64).clip(0, rows - 1)
    col = ((boxes["x0"] + boxes["x1"]).to_numpy(float) / 2 / fx // side).astype(np.int64).clip(0, cols - 1)
    ids = boxes["id"].to_numpy(np.int64)
    own = ids < FIRST_ADDED
    index = ids // IDS_PER_REGION
    return np.where(own, index // cols, row), np.where(own, index % cols, col)
