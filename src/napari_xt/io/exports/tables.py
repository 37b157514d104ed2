"""Boxes, regions and areas of a prediction as tables: CSV that any tool opens, and Parquet.

Knows pandas; must not know polygons or maps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from napari_xt.errors import MissingDependencyError
from napari_xt.io.exports.wanted import SYMBOLS, Wanted, provenance
from napari_xt.io.objects import objects
from napari_xt.io.prediction import EDGES, Prediction

ROWS = 100_000  # that are written together


def write_csv(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """Write a table with a line of names, and in each row the source that it is of and the run's coverage.

    The columns are those of ``table``, then ``source`` and ``coverage``: a comment above the names would keep other
    tools from reading them.
    """
    rows = table(prediction, wanted).assign(source=wanted.source, coverage=prediction.coverage)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows.iloc[:0].to_csv(file, index=False)
        for first in range(0, len(rows), ROWS):
            wanted.tell(first, len(rows))
            rows.iloc[first : first + ROWS].to_csv(file, index=False, header=False)
    wanted.tell(len(rows), len(rows))


def write_parquet(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """Write a table; the schema's metadata ``napari_xt`` is JSON that says what it is of.

    Raises
    ------
    MissingDependencyError
        Without pyarrow, of the extra ``export``.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        do = 'pip install "napari-xt[export]"'
        raise MissingDependencyError("Parquet", "pyarrow is not installed", do) from error
    rows = pa.Table.from_pandas(table(prediction, wanted), preserve_index=False)
    told = {b"napari_xt": json.dumps(provenance(prediction, wanted)).encode()}
    rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), **told})
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for first in range(0, max(1, rows.num_rows), ROWS):
            writer.write_table(rows.slice(first, ROWS))
            wanted.tell(min(first + ROWS, rows.num_rows), rows.num_rows)


def table(prediction: Prediction, wanted: Wanted) -> pd.DataFrame:
    """The table that is wanted, with edges and area in physical units where the size of a pixel is known.

    ``boxes`` has the columns of ``prediction.boxes``, ``regions`` those of ``prediction.scores``; ``mask`` has a row
    for each connected area, as `objects` measures it. Behind them stand
    ``y0_um, x0_um, y1_um, x1_um, area_um2`` (or ``nm``, ``mm``, ``cm``, ``m``, or the unit's name).
    """
    if wanted.what == ("mask",):
        rows = objects(prediction, source=wanted.source, progress=wanted.progress)
        size = rows["area_px"]
    else:
        rows = prediction.boxes if wanted.what == ("boxes",) else prediction.scores
        size = (rows["y1"] - rows["y0"]) * (rows["x1"] - rows["x0"])
    return rows.assign(**_physical(prediction, rows, size))


def _physical(prediction: Prediction, rows: pd.DataFrame, size: pd.Series[float]) -> dict[str, pd.Series[float]]:
    """Edges and ``size`` in units; none where the image has no scale."""
    (sy, sx), unit = prediction.layout.frame.scale, prediction.layout.frame.unit
    if unit == "pixel":
        return {}
    name = SYMBOLS.get(unit, unit)
    columns = {f"{edge}_{name}": rows[edge] * (sy if edge[0] == "y" else sx) for edge in EDGES}
    return columns | {f"area_{name}2": size * sy * sx}
