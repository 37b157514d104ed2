"""One step that can be undone, while it is made. Knows corrections; must not know journals, files or viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.corrections import marks
from napari_xt.io.corrections.journal import Part, StrokeRow
from napari_xt.io.corrections.marks import ACCEPTED, ADDED, CHANGED, DELETED, Record, State
from napari_xt.io.corrections.sparse import NONE, SIDE, groups, pieces

if TYPE_CHECKING:
    from napari_xt.io.corrections.corrections import Corrections

Pixels = NDArray[np.integer[Any]]


class Stroke:
    """One step that can be undone, one row of the log; made by `Corrections.stroke`.

    Attributes
    ----------
    row
        Its number, when, who and with what.
    marked
        Where boxes, regions or classes changed, in run pixels, which is told when it ends; pixels are at once.
    """

    def __init__(self, corrections: Corrections, row: StrokeRow) -> None:
        self._c, self.row = corrections, row
        self.depth = 0
        self.empty = True
        self.marked: Box | None = None
        self._parts: list[Part] = []

    @property
    def id(self) -> int:
        """Its number in the log."""
        return self.row.id

    def put(self, rows: Any, cols: Any, values: Any) -> None:
        """Correct single pixels; those outside the image are left out.

        Parameters
        ----------
        rows, cols
            Whole numbers ``(n,)`` in run pixels of the finest level.
        values
            One or ``(n,)``: a class, 254 for "don't know", 255 to go back to the prediction. Where the region is
            committed and the prediction says the same already, this is no correction.

        Raises
        ------
        SettingsError
            They are no such values or places.
        """
        y, x = (_whole(name, places) for name, places in (("rows", rows), ("cols", cols)))
        wanted = np.broadcast_to(self._c.classes.checked(values), y.shape)
        height, width = self._c.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        if not inside.all():
            y, x, wanted = y[inside], x[inside], wanted[inside]
        if not y.size:
            return
        for key, chosen in groups(y, x, SIDE):
            r, c = y[chosen], x[chosen]
            self._c.edits.put(key, r, c, self._c.predicted.without(r, c, wanted[chosen]))
        self._touched(Box(int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1))

    def fill(self, box: Box, values: Any) -> None:
        """Correct a part; the image's edge cuts it.

        Parameters
        ----------
        box
            In run pixels of the finest level.
        values
            ``(h, w)`` as for `put`, but that 255 leaves what is there.
        """
        wanted = self._c.classes.checked(values)
        if wanted.shape != box.shape:
            raise SettingsError(f"values {wanted.shape}", f"the box has {box.shape}", "give one value a pixel")
        inside = box.clip(Box(0, 0, *self._c.shape))
        for part in pieces(inside):
            new = wanted[part.shift(-box.y0, -box.x0).slices]
            if (new != NONE).any():
                kept = self._c.predicted.without_all(part, new)
                self._c.edits.write(part, np.where(new == NONE, self._c.edits.read(0, part), kept))
        self._touched(inside)

    def clear(self, box: Box) -> None:
        """Go back to the prediction in a part, in run pixels."""
        inside = box.clip(Box(0, 0, *self._c.shape))
        there = set(self._c.edits.chunks())
        for part in pieces(inside):
            if (part.y0 // SIDE, part.x0 // SIDE) in there and (self._c.edits.read(0, part) != NONE).any():
                self._c.edits.write(part, np.full(part.shape, NONE, np.uint8))
        self._touched(inside)

    def restore(self, box: Box, edits: NDArray[np.uint8]) -> None:
        """Take ``edits`` as they are, in a part that lies in one chunk."""
        self._c.edits.write(box, edits)
        self._touched(box)

    def box_add(self, y0: float, x0: float, y1: float, x1: float, class_name: str) -> int:
        """Add a box, in level-0 px, and return its id."""
        edges = marks.checked_edges((y0, x0, y1, x1), self._c.layout.frame)
        key = self._c.marks.new_box()
        record = {**edges, "class": self._c.classes.checked_name(class_name), "state": ADDED, "was": None}
        self.mark("box", str(key), record)
        return key

    def box_move(self, id: int, y0: float, x0: float, y1: float, x1: float) -> None:
        """Give a box other edges, in level-0 px."""
        edges = marks.checked_edges((y0, x0, y1, x1), self._c.layout.frame)
        self._box(id, {**edges, "state": CHANGED})

    def box_class(self, id: int, name: str) -> None:
        """Give a box another class."""
        self._box(id, {"class": self._c.classes.checked_name(name), "state": CHANGED})

    def box_accept(self, id: int) -> None:
        """Say that a box is right; whatever its score, it is seen."""
        self._box(id, {"state": ACCEPTED})

    def box_delete(self, id: int) -> None:
        """Take a box away."""
        added = self._c.box(id)["state"] == ADDED
        if added:
            self.mark("box", str(int(id)), None)
        else:
            self._box(id, {"state": DELETED})

    def region(self, row: int, col: int, state: State | None = None, class_name: str | None = None) -> None:
        """Say what is known of a region: its ``state``, its class; None is nothing.

        Raises
        ------
        SettingsError
            There is no such region, state or class.
        """
        rows, cols = self._c.layout.grid.shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise SettingsError(f"region {row}, {col}", f"the image has {rows} x {cols}", "give a row and column there")
        if state not in (None, *marks.STATES):
            raise SettingsError(f"state {state!r}", "is not known", f"choose of {', '.join(marks.STATES)} or None")
        named = None if class_name is None else self._c.classes.checked_name(class_name)
        known = None if state is None and named is None else {"state": state, "class": named}
        self.mark("region", f"{int(row)},{int(col)}", known)

    def mark(self, kind: str, key: str, record: Record | None) -> None:
        """Take a record in the place of what stood under its key."""
        before = self._c.marks.get(kind, key)
        if before == record:
            return
        place = marks.place_of(kind, key, record or before, self._c.layout)
        told = marks.summary(kind, key, before, record)
        with self._c.lock:
            self._c.marks.set(kind, key, record)
            self._parts.append(Part(kind, key, place, 0, told, marks.packed(before), marks.packed(record)))
        self.empty = False
        self.marked = place if self.marked is None else _both(self.marked, place)

    def take_parts(self) -> list[Part]:
        """What was marked since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def _box(self, id: int, changes: Record) -> None:
        self.mark("box", str(int(id)), {**self._c.box(id), **changes})

    def _touched(self, box: Box) -> None:
        self.empty = False
        self._c.tell(box)


def _both(a: Box, b: Box) -> Box:
    """The box around two."""
    return Box(min(a.y0, b.y0), min(a.x0, b.x0), max(a.y1, b.y1), max(a.x1, b.x1))


def _whole(name: str, places: Any) -> NDArray[np.intp]:
    found = np.asarray(places)
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise SettingsError(f"{name} of {found.dtype}", "are no whole numbers", "round them")
    return found.ravel().astype(np.intp, copy=False)
