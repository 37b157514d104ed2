"""What the journal says of regions and boxes as tables, in level-0 pixels.

Knows rows of the journal and the layout; must not know files, arrays or thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.stores.layout import Layout, Status
from napari_xt.io.stores.ledger import RegionRow

PORTION = 50_000
EDGES = ("y0", "x0", "y1", "x1")


def box_table(layout: Layout, boxes: NDArray[np.void]) -> pd.DataFrame:
    """Boxes by id: ``id, y0, x0, y1, x1, class, score, region_row, region_col``."""
    order = np.argsort(boxes["id"], kind="stable")
    found = {name: boxes[name][order] for name in ("id", *EDGES, "label", "score")}  # whole rows hold other threads up
    names = np.array(layout.boxes or (), dtype=object)
    region = found["id"] // IDS_PER_REGION
    cols = layout.grid.shape[1]
    columns = {name: found[name] for name in ("id", *EDGES)}
    columns |= {"class": names[found["label"]] if len(boxes) else names[:0], "score": found["score"]}
    return pd.DataFrame(columns | {"region_row": region // cols, "region_col": region % cols})


def class_codes(values: pd.Series[str], names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each value in ``names``, -1 where it is not there; in portions, as words hold other threads up."""
    portions = (values.iloc[first : first + PORTION] for first in range(0, len(values), PORTION))
    codes = [pd.Categorical(some, categories=list(names)).codes.astype(np.int64) for some in portions]
    return np.concatenate([np.zeros(0, np.int64), *codes])


def score_table(layout: Layout, rows: Sequence[RegionRow]) -> pd.DataFrame:
    """What each region was said to be; the columns of ``prediction.scores``."""
    table = region_table(layout, rows)
    names = layout.scores or ()
    p = _probabilities(rows, len(names))
    known = np.array([row.scores is not None for row in rows], np.bool_)
    best = np.where(known, np.nan_to_num(p).argmax(axis=1), 0) if names else np.zeros(len(p), np.int64)
    classes = [names[index] if found else None for index, found in zip(best, known, strict=True)]
    table["class"] = pd.Series(classes, dtype=object)
    table["score"] = p[np.arange(len(p)), best] if names else np.nan
    table["entropy"] = _entropy(p, known)
    table["status"] = [Status(row.status).name.lower() for row in rows]
    return table.assign(**{f"p:{name}": p[:, index] for index, name in enumerate(names)})


def region_table(layout: Layout, rows: Sequence[RegionRow]) -> pd.DataFrame:
    """Where regions lie: ``region_row, region_col`` and the inner in level-0 px."""
    grid, (fy, fx) = layout.grid, layout.frame.px_per_run
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
