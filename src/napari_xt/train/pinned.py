"""What was accepted of a prediction stays as it was seen then, whatever a later model says of the same image.

Knows corrections; must not know models or networks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from napari_xt.annotate.truth import COMPLETE, EDGES
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Corrections, corrections
from napari_xt.io.corrections.stroke import Stroke
from napari_xt.io.prediction import Prediction
from napari_xt.train.evaluate import pairwise_iou

SAME_BOX = 0.5  # of intersection over union


def pin(old: Corrections, new: Prediction) -> None:
    """Write what ``old`` says of regions that were accepted or fixed, mask and boxes, to the corrections of ``new``."""
    said = old.regions
    places = said.loc[said["state"].isin(COMPLETE), ["region_row", "region_col"]].to_numpy(int).tolist()
    if not places:
        return
    with corrections(new, author=old.author) as carried, carried.stroke(tool="refine") as stroke:
        boxes = [found.final.boxes for found in (old, carried)] if old.layout.boxes and carried.layout.boxes else None
        for row, col in places:
            inner = old.layout.grid.region(row, col).inner
            if old.mask and carried.mask:
                stroke.fill(inner, np.asarray(old.mask[0][inner.slices]))
            px = inner.scale(*old.layout.frame.px_per_run)
            if boxes is not None:
                _pin_boxes(_inside(boxes[0], px), _inside(boxes[1], px), stroke)


def _inside(boxes: pd.DataFrame, part: Box) -> pd.DataFrame:
    """Those whose centre lies in a part."""
    y, x = (boxes["y0"] + boxes["y1"]) / 2, (boxes["x0"] + boxes["x1"]) / 2
    return boxes[(y >= part.y0) & (y < part.y1) & (x >= part.x0) & (x < part.x1)]


def _pin_boxes(before: pd.DataFrame, after: pd.DataFrame, stroke: Stroke) -> None:
    """Each box of before is there again, under the id of its partner where it has one; others are taken away."""
    was, now = (table[list(EDGES)].to_numpy(np.float64) for table in (before, after))
    overlap = pairwise_iou(was, now)
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    partner = {int(i): int(j) for i, j in pairs if overlap[i, j] >= SAME_BOX}
    for j in sorted(set(range(len(now))) - set(partner.values())):
        stroke.box_delete(int(after["id"].iloc[j]))
    for i, name in enumerate(before["class"]):
        y0, x0, y1, x1 = was[i].tolist()
        if i not in partner:
            stroke.box_add(y0, x0, y1, x1, str(name))
            continue
        number = int(after["id"].iloc[partner[i]])
        if not np.allclose(was[i], now[partner[i]]):
            stroke.box_move(number, y0, x0, y1, x1)
        if name != after["class"].iloc[partner[i]]:
            stroke.box_class(number, str(name))
        stroke.box_accept(number)
