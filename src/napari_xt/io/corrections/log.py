"""The log of corrections as a table. Knows rows of the journal; must not know arrays or files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from napari_xt.io.corrections.journal import StrokeRow
from napari_xt.io.corrections.pixels import told
from napari_xt.io.stores.layout import Layout

Summary = tuple[int, int, int, int, int, int, str]


def log_table(
    strokes: Sequence[StrokeRow], summaries: Sequence[Summary], layout: Layout, names: Mapping[int, str]
) -> pd.DataFrame:
    """A row a stroke: ``id, time, author, tool, y0, x0, y1, x1, pixels, before, after, undone``."""
    by_stroke: dict[int, list[Summary]] = {}
    for summary in summaries:
        by_stroke.setdefault(summary[0], []).append(summary)
    fy, fx = layout.frame.px_per_run
    rows = []
    for stroke in strokes:
        parts = by_stroke.get(stroke.id, [])
        places = np.array([part[1:5] for part in parts], float).reshape(-1, 4)
        low, high = (places[:, :2].min(0), places[:, 2:].max(0)) if parts else (np.full(2, np.nan),) * 2
        edges = (low[0] * fy, low[1] * fx, high[0] * fy, high[1] * fx)
        pixels = sum(part[5] for part in parts)
        before, after = (_words([json.loads(part[6])[side] for part in parts], names) for side in (0, 1))
        rows.append((stroke.id, stroke.time, stroke.author, stroke.tool, *edges, pixels, before, after, stroke.undone))
    columns = ["id", "time", "author", "tool", "y0", "x0", "y1", "x1", "pixels", "before", "after", "undone"]
    table = pd.DataFrame(rows, columns=columns)
    table["time"] = pd.to_datetime(table["time"].astype(float), unit="s", utc=True)
    kinds = dict.fromkeys(("y0", "x0", "y1", "x1"), float) | {"id": np.int64, "pixels": np.int64, "undone": bool}
    return table.astype(kinds)


def _words(sides: Sequence[object], names: Mapping[int, str]) -> str:
    """Counts of pixels and texts of records as one text."""
    counts = [side for side in sides if isinstance(side, dict)]
    texts = [str(side) for side in sides if isinstance(side, str)]
    return "; ".join([*([told(counts, names)] if counts else []), *texts])
