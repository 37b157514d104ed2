"""Corrections that are no pixels: of boxes, of regions, of classes; each a small record under a key.

Knows records and tables; must not know journals, files or threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd

from napari_xt.errors import SettingsError, StoreError
from napari_xt.geometry import Box, Frame
from napari_xt.io.stores.layout import Layout
from napari_xt.io.stores.tables import EDGES

Kind = Literal["box", "region", "class"]
Record = dict[str, Any]
State = Literal["accepted", "fixed", "skipped"]

FIRST_ADDED = 1 << 48  # of the ids of boxes that people added
ADDED, CHANGED, ACCEPTED, DELETED = "added", "changed", "accepted", "deleted"
STATES = ("accepted", "fixed", "skipped")
MOST_TEXT = 1 << 14  # characters of a record


class Marks:
    """The records that stand, by kind and key: boxes by id, regions by row and column, classes by value."""

    def __init__(self) -> None:
        self.boxes: dict[int, Record] = {}
        self.regions: dict[tuple[int, int], Record] = {}
        self.classes: dict[int, Record] = {}

    def get(self, kind: str, key: str) -> Record | None:
        """A record, None where nothing was corrected."""
        found: Record | None = self._table(kind).get(_key(kind, key))
        return found

    def set(self, kind: str, key: str, record: Record | None) -> None:
        """Take a record, or None in its place."""
        table, place = self._table(kind), _key(kind, key)
        if record is None:
            table.pop(place, None)
        else:
            table[place] = record

    def become(self, other: Marks) -> None:
        """Take what ``other`` has."""
        self.boxes, self.regions, self.classes = other.boxes, other.regions, other.classes

    def items(self) -> Iterator[tuple[Kind, str, Record]]:
        """All that stand."""
        yield from (("box", str(key), record) for key, record in list(self.boxes.items()))
        yield from (("region", f"{row},{col}", record) for (row, col), record in list(self.regions.items()))
        yield from (("class", str(key), record) for key, record in list(self.classes.items()))

    def new_box(self) -> int:
        """An id that no box has."""
        return max((key for key in self.boxes if key >= FIRST_ADDED), default=FIRST_ADDED - 1) + 1

    def box_table(self) -> pd.DataFrame:
        """The boxes that were corrected: ``id, y0, x0, y1, x1, class, state``; level-0 px."""
        there = list(self.boxes.items())  # at once: another thread may ask
        rows = [(key, *(box[edge] for edge in EDGES), box["class"], box["state"]) for key, box in there]
        return pd.DataFrame(rows, columns=["id", *EDGES, "class", "state"])

    def region_table(self) -> pd.DataFrame:
        """The regions that were corrected: ``region_row, region_col, state, class``, None where one is not."""
        rows = [(*key, region["state"], region["class"]) for key, region in sorted(self.regions.items())]
        return pd.DataFrame(rows, columns=["region_row", "region_col", "state", "class"])

    def _table(self, kind: str) -> dict[Any, Record]:
        if kind == "box":
            return self.boxes
        return self.regions if kind == "region" else self.classes


def packed(record: Record | None) -> bytes | None:
    """A record as bytes."""
    return None if record is None else json.dumps(record, sort_keys=True).encode()


def unpacked(kind: str, data: bytes | None, where: object) -> Record | None:
    """The record that ``packed`` made bytes of, checked.

    Raises
    ------
    StoreError
        It is none.
    """
    if data is None:
        return None
    try:
        record = json.loads(data) if len(data) <= MOST_TEXT else None
        if isinstance(record, dict) and _sound(kind, record):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StoreError(where, f"the corrections are damaged: a {kind} makes no sense", "restore them from a copy")


def checked_edges(edges: tuple[float, ...], frame: Frame) -> dict[str, float]:
    """The edges of a box in level-0 px, cut at the image's.

    Raises
    ------
    SettingsError
        It is empty, outside the image, or no numbers.
    """
    numbers = [float(edge) for edge in edges]
    if not all(map(isfinite, numbers)):
        raise SettingsError(f"box {numbers}", "its edges are no numbers", "give y0, x0, y1, x1 in level-0 px")
    height, width = frame.shape_px
    y0, x0, y1, x1 = numbers
    cut = {"y0": max(y0, 0.0), "x0": max(x0, 0.0), "y1": min(y1, float(height)), "x1": min(x1, float(width))}
    if cut["y0"] >= cut["y1"] or cut["x0"] >= cut["x1"]:
        raise SettingsError(f"box {numbers}", f"holds nothing of the image of {height} x {width} px", "draw it anew")
    return cut


def place_of(kind: str, key: str, record: Record | None, layout: Layout) -> Box:
    """Where in the run's pixels a record is seen."""
    if kind == "region":
        row, col = _key(kind, key)
        return layout.grid.region(row, col).inner
    if kind == "box" and record is not None:
        y0, x0, y1, x1 = (record[edge] for edge in EDGES)
        return layout.frame.to_run(Box(int(y0), int(x0), int(np.ceil(y1)), int(np.ceil(x1))))
    return layout.grid.bounds


def summary(kind: str, key: str, before: Record | None, after: Record | None) -> str:
    """What a change of a record was, as JSON: two short texts."""
    return json.dumps([_short(kind, key, before), _short(kind, key, after)])


def _short(kind: str, key: str, record: Record | None) -> str:
    if record is None:
        return f"{kind} {key} as predicted" if kind != "box" or int(key) < FIRST_ADDED else "no box"
    told = [str(record[name]) for name in ("state", "class", "name") if record.get(name) is not None]
    return f"{kind} {key}: {' '.join(told)}"


def _sound(kind: str, record: Record) -> bool:
    if kind == "region":
        return record["state"] in (None, *STATES) and isinstance(record["class"], (str, type(None)))
    if kind == "class":
        color = record["color"]
        plain = isinstance(record["name"], str) and isinstance(record["hidden"], bool)
        in_range = len(color) == 4 and all(isinstance(part, int) and 0 <= part <= 255 for part in color)
        return plain and isinstance(record["locked"], bool) and in_range
    edges = [record[edge] for edge in EDGES] + list(record["was"] or ())
    named = isinstance(record["class"], str) and record["state"] in (ADDED, CHANGED, ACCEPTED, DELETED)
    return named and all(isinstance(edge, (int, float)) and isfinite(edge) for edge in edges)


def _key(kind: str, key: str) -> Any:
    if kind == "region":
        row, col = key.split(",")
        return int(row), int(col)
    return int(key)
