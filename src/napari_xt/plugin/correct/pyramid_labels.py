"""A mask of any size that napari's own tools paint on: brush, eraser, fill, polygon, picker, undo and redo.

Hands what is painted to the corrections of a prediction and shows them. Must not know viewers, Qt or how they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from app_model.types import KeyCode, KeyMod
from napari.layers import Labels
from napari.utils.notifications import show_error, show_info

from napari_xt.errors import XTError
from napari_xt.geometry import Box
from napari_xt.plugin.correct.levels import DONT_KNOW, NO_CORRECTION, Bytes, Corrected, ShownLevels, Stroke
from napari_xt.plugin.correct.pen import Mask, inside, swept
from napari_xt.plugin.correct.private import PaintableLabels
from napari_xt.plugin.correct.rules import Rules

FILL_PX = 4096  # along the sides of what is filled at once
SPLIT_PX = 3  # so wide a line leaves no pixel of an object touching one beyond, not even at a corner
TOOLS = {"erase": "eraser", "fill": "fill"}  # by napari's mode; all else is a brush
REST = {DONT_KNOW: ("don't know", (0.7, 0.7, 0.7, 1.0)), NO_CORRECTION: ("not computed", (0.5, 0.5, 0.5, 1.0))}

Brush = Literal["paint", "merge", "split"]
Color = tuple[float, float, float, float]


class PyramidLabels(PaintableLabels):
    """The corrected mask of a prediction as a layer to paint on.

    One drag, polygon or fill is one stroke: one step of undo, one row of the log. `Labels.undo` and `Labels.redo` are
    those of the corrections.

    Parameters
    ----------
    corrections
        What is painted goes there.
    shown
        Its levels.
    view
        What is in view, in pixels of level 0: no fill leaves it. None: all.
    **style
        As of napari's Labels.

    Attributes
    ----------
    corrections
        As given.
    rules
        What may be painted over.
    brush
        What napari's brush does: ``"paint"``, ``"merge"`` objects by painting over the border between them in the class
        of the first, or ``"split"`` the first that is met by a line of background.
    choices
        The values that Ctrl+1 to Ctrl+9 choose.
    """

    def __init__(
        self, corrections: Corrected, shown: ShownLevels, *, view: Callable[[], Box] | None = None, **style: Any
    ) -> None:
        self.corrections, self.rules = corrections, Rules()
        self.brush: Brush = "paint"
        self.choices: list[int] = []
        self._met = 0  # class of the object that a stroke merges or splits
        self._shown, self._view = shown, view
        self._open: ExitStack | None = None  # around the stroke that is being made
        self._stroke: Stroke | None = None
        self._depth = 0  # of calls that make one stroke
        self._writing = False
        super().__init__(**shown.as_data(), **style)
        corrections.changed.append(self._changed)

    def close(self) -> None:
        """End the stroke that is being made, and hear no more of the corrections."""
        self._depth = min(self._depth, 1)
        self.end_stroke()
        if self._changed in self.corrections.changed:
            self.corrections.changed.remove(self._changed)

    @property
    def image(self) -> Box:
        """All of the mask, in pixels of level 0."""
        return Box(0, 0, *map(int, self.data.shape))

    @property
    def selected_label(self) -> int:
        """What is painted: a class, `DONT_KNOW`, or `NO_CORRECTION` to go back to the prediction."""
        return int(Labels.selected_label.fget(self))

    @selected_label.setter
    def selected_label(self, value: Any) -> None:
        if isinstance(value, tuple):  # napari's picker hands the level with the value
            value = value[-1] or 0
            if value == NO_CORRECTION:
                return  # what is hatched is no class
        Labels.selected_label.fset(self, int(value))

    # What napari's tools call

    def segment(self, start: Sequence[float], end: Sequence[float], label: int) -> None:
        """Brush from one pixel to another, or fill there."""
        if self.mode == "fill":
            self.fill(end, label)
            return
        with self._refusals():
            if self.mode == "paint" and self.brush != "paint":
                self._rejoin(start, end)
            else:
                self._brush(start, end, label, self.brush_size, self.rules, TOOLS.get(str(self.mode), "brush"))
            self._show()

    def paint(self, coord: Sequence[float], new_label: int, refresh: bool = True) -> None:
        """Paint one dab of the brush at a pixel."""
        with self._refusals():
            self._brush(coord, coord, new_label, self.brush_size, self.rules, "brush" if new_label else "eraser")
            if refresh:
                self._show()

    def paint_polygon(self, points: Any, new_label: int) -> None:
        """Paint what a polygon covers, ``(n, 2)`` corners in pixels."""
        with self._refusals(), self.block_history():
            for box, mask in inside(points, self.image):
                self._put(box, mask, new_label, self.rules, "polygon")
            self._show()

    def fill(self, coord: Sequence[float], new_label: int, refresh: bool = True) -> None:
        """Fill what hangs together around a pixel, or all that is alike, as far as it is in view."""
        y, x = (int(np.round(c)) for c in coord)
        part = self._around(y, x)
        if part.clip(Box(y, x, y + 1, x + 1)).empty:
            return
        mask, cut = self._alike(part, y, x)
        with self._refusals(), self.block_history():
            self._put(part, mask, new_label, self.rules, "fill")
            if refresh:
                self._show()
        if cut:
            show_info("Filled as far as it is in view: zoom out or fill again to go on.")

    def data_setitem(self, indices: Any, value: Any, refresh: bool = True) -> None:
        """Set single pixels: ``indices`` are rows and columns."""
        rows, cols = (np.atleast_1d(np.asarray(i)) for i in indices)
        chosen = self.rules.allowed(np.asarray(self.corrections.mask[0][rows, cols]))
        values = np.broadcast_to(np.asarray(value, np.uint8), rows.shape)[chosen]
        with self._refusals(), self.block_history():
            self._started("pixels").put(rows[chosen], cols[chosen], values)
            if refresh:
                self._show()

    def undo(self) -> None:
        """Take back the last stroke, of whatever tool."""
        self._step(self.corrections.undo)

    def redo(self) -> None:
        """Make it again."""
        self._step(self.corrections.redo)

    @contextmanager
    def block_history(self) -> Iterator[None]:
        """All that is painted inside is one stroke."""
        self.begin_stroke()
        try:
            yield
        finally:
            self.end_stroke()

    def begin_stroke(self) -> None:
        """What is painted from now on is one stroke, until the outermost `end_stroke`."""
        self._depth += 1

    def end_stroke(self) -> None:
        """The stroke ends, where it was the outermost."""
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            self._met = 0
        if self._depth == 0 and self._open is not None:
            stack, self._open, self._stroke = self._open, None, None
            with self._refusals():
                stack.close()
            self.events.paint(value=[])

    def show_classes(
        self, names: Mapping[int, str], colors: Mapping[int, Color], hidden: Collection[int] = (), locked: Any = ()
    ) -> None:
        """Show classes by their values; what is locked can't be painted, what is hidden isn't seen.

        Parameters
        ----------
        names, colors
            Of each value, colours ``(r, g, b, a)`` in 0..1.
        hidden, locked
            Values.
        """
        names = {**names, **{value: name for value, (name, _) in REST.items()}}
        colors = {**colors, **{value: color for value, (_, color) in REST.items()}}
        clear = (0.0, 0.0, 0.0, 0.0)
        self.features = pd.DataFrame({"index": list(names), "class": list(names.values())})
        self.colormap = {value: clear if value in hidden else color for value, color in colors.items()} | {None: clear}
        self.rules = replace(self.rules, locked=frozenset(locked))
        self.choices = sorted(value for value in names if 0 < value < DONT_KNOW)

    def choose(self, place: int) -> None:
        """Paint with one of `choices`, the first is 1; 0 is "don't know". Where there is none nothing happens."""
        if place <= len(self.choices):
            self.selected_label = self.choices[place - 1] if place else DONT_KNOW

    # What is painted

    def _rejoin(self, start: Sequence[float], end: Sequence[float]) -> None:
        """Merge or split objects on the way from one pixel to another."""
        self._met = self._met or self._first_class(start, end)
        if not self._met:
            return
        if self.brush == "merge":
            self._brush(start, end, self._met, self.brush_size, self.rules.only_over(0), "merge")
        else:
            self._brush(start, end, 0, SPLIT_PX, self.rules.only_over(self._met), "split")

    def _first_class(self, start: Sequence[float], end: Sequence[float]) -> int:
        """The first class on the way, 0 where there is none."""
        ends = np.rint(np.array([start, end], float))
        steps = int(np.abs(ends[1] - ends[0]).max())
        way = np.linspace(ends[0], ends[1], steps + 1).round().astype(int)
        rows, cols = way[((way >= 0) & (way < self.data.shape)).all(axis=1)].T
        if not rows.size:
            return 0
        box = Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
        there = np.asarray(self.corrections.mask[0][box.slices])[rows - box.y0, cols - box.x0]
        classes = there[(there > 0) & (there < DONT_KNOW)]
        return int(classes[0]) if classes.size else 0

    def _brush(
        self, start: Sequence[float], end: Sequence[float], label: int, size: float, rules: Rules, tool: str
    ) -> None:
        covered = swept(start, end, size, self.scale[-2:], self.image)
        if covered is not None:
            self._put(*covered, label, rules, tool)

    def _put(self, box: Box, mask: Mask, label: int, rules: Rules, tool: str) -> None:
        """Paint what may be of a part, as a stroke of its own where none was begun."""
        self._validate_label_in_range(label)
        chosen = mask & self._paintable(np.asarray(self.corrections.mask[0][box.slices]), label, rules)
        if label in rules.locked or not chosen.any():
            return
        with self.block_history():
            stroke = self._started(tool)
            self._writing = True
            try:
                if label == NO_CORRECTION:
                    rows, cols = np.nonzero(chosen)
                    stroke.put(rows + box.y0, cols + box.x0, NO_CORRECTION)
                else:
                    stroke.fill(box, np.where(chosen, np.uint8(label), np.uint8(NO_CORRECTION)))
            finally:
                self._writing = False

    def _started(self, tool: str) -> Stroke:
        if self._stroke is None:
            stack = ExitStack()
            self._stroke = stack.enter_context(self.corrections.stroke(tool=tool))
            self._open = stack
        return self._stroke

    def _paintable(self, there: Bytes, label: int, rules: Rules) -> Mask:
        """By the rules, and by napari's own switch that preserves labels."""
        allowed = rules.allowed(there)
        if self.preserve_labels:
            allowed &= there == (0 if label else self._prev_selected_label or self.selected_label)
        return allowed

    def _around(self, y: int, x: int) -> Box:
        """What may be filled from a pixel."""
        near = Box(y, x, y, x).grow(FILL_PX // 2).clip(self.image)
        return near if self._view is None else near.clip(self._view())

    def _alike(self, part: Box, y: int, x: int) -> tuple[Mask, bool]:
        """What is filled from a pixel, and whether it goes on beyond the part."""
        from skimage.segmentation import flood

        there = np.asarray(self.corrections.mask[0][part.slices])
        seed = y - part.y0, x - part.x0
        mask: Mask = there == there[seed]
        if self.contiguous:
            mask = np.asarray(flood(there, seed, connectivity=1))  # type: ignore[no-untyped-call]
        image = self.image
        edges = [
            part.y0 > image.y0 and mask[0].any(),
            part.x0 > image.x0 and mask[:, 0].any(),
            part.y1 < image.y1 and mask[-1].any(),
            part.x1 < image.x1 and mask[:, -1].any(),
        ]
        return mask, any(map(bool, edges))

    # What is shown

    def _changed(self, box: Box) -> None:
        self._shown.follow(box)
        if not self._writing:
            self._show()

    def _show(self) -> None:
        self.refresh(extent=False, thumbnail=False)

    def _step(self, step: Callable[[], object]) -> None:
        """Take a step through the strokes, unless one is being made."""
        if self._depth:
            return
        self._writing = True
        try:
            with self._refusals():
                step()
        finally:
            self._writing = False
        self._show()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Say why corrections take nothing, once: the tool is put down."""
        try:
            yield
        except XTError as error:
            self.mode = "pan_zoom"
            show_error(str(error))

    @property
    def _type_string(self) -> str:
        """What napari makes of a copy, and of what is saved: plain labels."""
        return "labels"


def _bind(place: int) -> None:
    keys = KeyMod.CtrlCmd | getattr(KeyCode, f"Digit{place}")
    PyramidLabels.bind_key(keys, lambda layer: layer.choose(place), overwrite=True)


for _place in range(10):
    _bind(_place)
