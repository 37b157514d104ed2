"""Parts of strokes, done and taken back. Knows edits, records and parts; must not know files or threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import StoreError
from napari_xt.geometry import Box
from napari_xt.io.corrections.journal import REMARK, Journal, Part
from napari_xt.io.corrections.marks import Marks, place_of, unpacked
from napari_xt.io.corrections.pixels import PIXELS, part_of, pixels_of
from napari_xt.io.corrections.sparse import Change, Edits
from napari_xt.io.corrections.stroke import Stroke
from napari_xt.io.stores.layout import Layout

KINDS = ("box", "region", "class")


def parts_of(changes: Sequence[Change], marked: Sequence[Part]) -> list[Part]:
    """Changed chunks and records as parts."""
    found = (part_of(change) for change in changes)
    return [*(part for part in found if part is not None), *marked]


def read(journal: Journal, edits: Edits, marks: Marks, layout: Layout, *, pixels_too: bool) -> None:
    """Do all that stands again.

    Raises
    ------
    StoreError
        The journal is damaged.
    """
    for part in journal.standing():
        if part.kind == PIXELS:
            if pixels_too:
                _put(part, edits, layout.shape, journal.path, back=False)
        elif part.kind in KINDS:
            _set(part, marks, journal.path, back=False)
        elif not part.kind.startswith(REMARK):
            raise StoreError(journal.path, f"the corrections are damaged: {part.kind[:40]!r}", "restore them")
    _check(marks, layout, journal.path)


def apply(
    parts: Sequence[Part], edits: Edits, marks: Marks, shape: tuple[int, int], where: object, *, back: bool
) -> list[Box]:
    """Do the parts of a stroke again, or take them ``back``; return where."""
    for part in reversed(parts) if back else parts:
        if part.kind == PIXELS:
            _put(part, edits, shape, where, back=back)
        elif part.kind in KINDS:
            _set(part, marks, where, back=back)
    return [part.box for part in parts]


def take_back(stroke: Stroke, parts: Sequence[Part], edits: Edits, marks: Marks, where: object) -> None:
    """Take back what a stroke changed, with another one, where nothing came after it."""
    for part in reversed(parts):
        if part.kind == PIXELS:
            before, after = pixels_of(part, edits.levels[0].shape, where)
            now = edits.read(0, part.box)
            still = (now == after) & (before != after)
            stroke.restore(part.box, np.where(still, before, now))
        elif part.kind in KINDS and marks.get(part.kind, part.key) == unpacked(part.kind, part.after, where):
            stroke.mark(part.kind, part.key, unpacked(part.kind, part.before, where))


def clear(stroke: Stroke, edits: Edits, marks: Marks, layout: Layout, region: tuple[int, int] | None) -> None:
    """Take back all corrections of pixels, boxes and regions, or those in one region."""
    within = layout.grid.bounds if region is None else layout.grid.region(*region).inner
    for chunk in edits.chunks():
        part = edits.levels[0].box(chunk).clip(within)
        if not part.empty:
            stroke.clear(part)
    for kind, key, record in list(marks.items()):
        place = place_of(kind, key, record, layout)
        middle = Box((place.y0 + place.y1) // 2, (place.x0 + place.x1) // 2, 0, 0)
        inside = within.y0 <= middle.y0 < within.y1 and within.x0 <= middle.x0 < within.x1
        if kind != "class" and inside:
            stroke.mark(kind, key, None)


def check_values(edits: Edits, known: NDArray[np.bool_], where: object) -> None:
    """Refuse corrections of classes that there are none of; of what is in memory."""
    for chunk in edits.levels[0].chunks.values():
        if not known[chunk].all():
            wrong = int(chunk[~known[chunk]][0])
            raise StoreError(where, f"the corrections are damaged: {wrong} is no class", "restore them from a copy")


def _put(part: Part, edits: Edits, shape: tuple[int, int], where: object, *, back: bool) -> None:
    before, after = pixels_of(part, shape, where)
    old, new = (after, before) if back else (before, after)
    edits.write(part.box, np.where(old != new, new, edits.read(0, part.box)))


def _set(part: Part, marks: Marks, where: object, *, back: bool) -> None:
    record = unpacked(part.kind, part.before if back else part.after, where)
    try:
        marks.set(part.kind, part.key, record)
    except ValueError as error:
        raise StoreError(where, f"the corrections are damaged: {part.kind} {part.key[:40]!r}") from error


def _check(marks: Marks, layout: Layout, where: object) -> None:
    rows, cols = layout.grid.shape
    outside = [key for key in marks.regions if not (0 <= key[0] < rows and 0 <= key[1] < cols)]
    if outside or any(not 0 <= value < 254 for value in marks.classes):
        raise StoreError(where, "the corrections are damaged: they are of another image", "restore them from a copy")
