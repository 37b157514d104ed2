"""Corrections given to another prediction of the same image: pixels by place, boxes by overlap, the log as it is.

Knows corrections and predictions; must not know models or viewers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_xt.errors import SettingsError, StoreError
from napari_xt.io.corrections.journal import Journal, Part, StrokeRow
from napari_xt.io.corrections.marks import ADDED, CHANGED, DELETED, FIRST_ADDED, Record, packed, place_of, summary
from napari_xt.io.corrections.pixels import part_of
from napari_xt.io.corrections.sparse import NONE, Edits, pieces
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.durable import appearing
from napari_xt.io.stores.layout import MAX_CLASSES, Layout
from napari_xt.io.stores.place import CORRECTIONS
from napari_xt.io.stores.tables import EDGES

if TYPE_CHECKING:
    from napari_xt.io.corrections.corrections import Corrections

SAME_BOX = 0.5  # of intersection over union

Key = tuple[str, str]


def carry(source: Corrections, other: Prediction) -> None:
    """Give ``source`` to ``other``; see `Corrections.carry`."""
    target = other.journal / CORRECTIONS
    _check(source, other)
    values, classes = _classes(source, other.layout)
    plain = source.shape == other.layout.shape and all(values[one.value] == one.value for one in source.classes)
    before: dict[Key, Record] = {(kind, key): record for kind, key, record in source.marks.items()}
    after = {**classes, **_regions(source, other.layout), **_boxes(source, other)}
    with appearing(target) as aside:
        if source.journal is None:
            Journal.create(aside)
        else:
            source.journal.copy_to(aside)
        journal = Journal(aside)
        try:
            number = journal.newest() + 1
            parts = [] if plain else list(_pixels(source, other.layout, values))
            parts += list(_changes(before if plain else {}, after, other.layout))
            with journal.exclusive():
                if not plain:
                    journal.make_remarks(number - 1)
                journal.add(StrokeRow(number, time.time(), source.author, "carry"), parts)
                journal.set("floor", number)
        finally:
            journal.settle()


def _check(source: Corrections, other: Prediction) -> None:
    ours, theirs = source.layout.frame.shape_px, other.layout.frame.shape_px
    if ours != theirs:
        why = f"is of an image of {theirs[0]} x {theirs[1]} px, not {ours[0]} x {ours[1]}"
        raise SettingsError(other.path, why, "give a prediction of the same image")
    if other.path.is_file():
        raise StoreError(other.path, "it is packed", "unpack it first")
    if (other.journal / CORRECTIONS).exists():
        raise SettingsError(other.path, "it has corrections of its own", "give a new prediction")


def _classes(source: Corrections, layout: Layout) -> tuple[NDArray[np.uint8], dict[Key, Record]]:
    """The value of each class in the other mask, by name, and the records of classes there."""
    values, records = np.arange(256, dtype=np.uint8), {}
    names, own = list(layout.mask or ()), source.layout.mask or ()
    for one in source.classes:
        known = [name for name in (one.name, own[one.value] if one.value < len(own) else "") if name in names]
        if not known:
            names.append(one.name)
        value = names.index(known[0] if known else one.name)
        if value >= MAX_CLASSES:
            raise SettingsError(f"class {one.name!r}", f"a mask holds {MAX_CLASSES} classes", "rename classes first")
        values[one.value] = value
        if one.value in source.marks.classes:
            records["class", str(value)] = source.marks.classes[one.value]
        elif not known:
            plain = {"name": one.name, "color": list(one.color), "hidden": False, "locked": False}
            records["class", str(value)] = plain
    return values, records


def _pixels(source: Corrections, layout: Layout, values: NDArray[np.uint8]) -> Iterator[Part]:
    """Corrected pixels by place, where the other mask has another size or other values."""
    out = Edits([layout.shape])
    fy, fx = (new / old for new, old in zip(layout.shape, source.shape, strict=True))
    for chunk in source.edits.chunks():
        covered = source.edits.levels[0].box(chunk).scale(fy, fx).clip(layout.grid.bounds)
        for piece in pieces(covered):
            y = ((np.arange(piece.y0, piece.y1) + 0.5) / fy).astype(np.intp).clip(0, source.shape[0] - 1)
            x = ((np.arange(piece.x0, piece.x1) + 0.5) / fx).astype(np.intp).clip(0, source.shape[1] - 1)
            found = source.diff[0][y[0] : y[-1] + 1, x[0] : x[-1] + 1][np.ix_(y - y[0], x - x[0])]
            out.write(piece, np.where(found == NONE, out.read(0, piece), values[found]))
    yield from (part for part in map(part_of, out.freeze()) if part is not None)


def _regions(source: Corrections, layout: Layout) -> dict[Key, Record]:
    """Each region that lies in regions of which the same was said."""
    same = (source.layout.grid.region_px, source.shape) == (layout.grid.region_px, layout.shape)
    if same:
        return {("region", key): record for kind, key, record in source.marks.items() if kind == "region"}
    fy, fx = (old / new for old, new in zip(source.shape, layout.shape, strict=True))
    side, found = source.layout.grid.region_px, {}
    for region in layout.grid.regions() if source.marks.regions else ():
        inner = region.inner
        corners = [(y * fy // side, x * fx // side) for y in (inner.y0, inner.y1 - 1) for x in (inner.x0, inner.x1 - 1)]
        records = [source.marks.regions.get((int(row), int(col))) for row, col in corners]
        if records[0] is not None and all(record == records[0] for record in records):
            found["region", f"{region.row},{region.col}"] = records[0]
    return found


def _boxes(source: Corrections, other: Prediction) -> dict[Key, Record]:
    """Each corrected box under the id of its partner, as an added one where it has none."""
    records = list(source.marks.boxes.values())
    table, found = other.merged(), {}
    edges = table[list(EDGES)].to_numpy(float)
    by_now = _partners(edges, np.array([[box[edge] for edge in EDGES] for box in records]))
    by_then = _partners(edges, np.array([box["was"] or [box[edge] for edge in EDGES] for box in records]))
    taken: set[int] = set()
    for record, now, then in zip(records, by_now, by_then, strict=True):
        row = next((at for at in (now, then) if at >= 0 and at not in taken), None)
        if row is not None:
            taken.add(row)
            state = CHANGED if record["state"] == ADDED else record["state"]
            found["box", str(int(table["id"].iloc[row]))] = {**record, "state": state, "was": edges[row].tolist()}
        elif record["state"] != DELETED:
            found["box", str(FIRST_ADDED + len(found))] = {**record, "state": ADDED, "was": None}
    return found


def _partners(boxes: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[int]:
    """For each wanted box the row of that with the largest overlap of at least `SAME_BOX`, -1 where there is none."""
    found = [-1] * len(wanted)
    if not len(boxes) or not len(wanted):
        return found
    theirs, ours = (shapely.box(some[:, 1], some[:, 0], some[:, 3], some[:, 2]) for some in (boxes, wanted))
    best = np.full(len(wanted), SAME_BOX)
    for own, row in shapely.STRtree(theirs).query(ours).T:
        shared = shapely.area(shapely.intersection(ours[own], theirs[row]))
        iou = shared / (shapely.area(ours[own]) + shapely.area(theirs[row]) - shared)
        if iou >= best[own]:
            best[own], found[own] = iou, int(row)
    return found


def _changes(before: dict[Key, Record], after: dict[Key, Record], layout: Layout) -> Iterator[Part]:
    """What makes ``after`` of ``before``."""
    for kind, key in {**before, **after}:
        old, new = before.get((kind, key)), after.get((kind, key))
        if old != new:
            place = place_of(kind, key, new or old, layout)
            yield Part(kind, key, place, 0, summary(kind, key, old, new), packed(old), packed(new))
