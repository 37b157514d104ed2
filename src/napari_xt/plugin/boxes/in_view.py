"""What of many boxes is drawn: the rectangles in view where they are few, else one picture of how dense they lie.

Knows a viewer's camera, a layer of boxes and its table; must not know stores, runs or Qt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from napari.viewer import Viewer
from numpy.typing import NDArray
from psygnal import Signal

from napari_xt.geometry import Box
from napari_xt.plugin._loop import on_viewer_thread, weak
from napari_xt.plugin.boxes import layer as boxes
from napari_xt.plugin.boxes.density import Pyramid, density
from napari_xt.plugin.boxes.layer import box_colors, color_by, line_style, redraw, set_boxes
from napari_xt.plugin.boxes.table import BoxTable, ColorBy
from napari_xt.plugin.layers.moved import moved
from napari_xt.plugin.layers.overlays import TAG, Place
from napari_xt.plugin.view import FLAT, plain, seen

LOOK_S = 0.2  # the camera is followed at most so often
STEP_S = 0.03  # between portions of rectangles, so that the picture is drawn and events are handled
PAINT_SHARE = 10  # the picture of a growing table is made in one part in so many of the time
MARGIN = 0.5  # of the view, drawn around it in advance
_all: dict[Layer, BoxesInView] = {}  # until the layer leaves its viewer


class BoxesInView:
    """Draws the boxes of one layer as its viewer's camera needs it.

    At most `SHAPES_UP_TO` boxes are rectangles of the layer, with their ``id`` in its features: all there are, else
    those in view. Where more are in view, a second layer shows how many there are and of which class.

    All is called on the viewer's thread; the picture is made in one of its own.

    Attributes
    ----------
    table
        All boxes, at any score; set with `take`, corrected where `correct` was told how.
    threshold, color_by, hidden
        What is shown and how; set with `show`.
    total
        How many boxes there are at this threshold.
    density
        The layer that shows them where they are many, None as long as there is none.
    many
        Whether they are that now.
    drawing
        Whether it changes the layer at this moment.
    """

    changed = Signal()  # of total, text or what is shown

    def __init__(self, viewer: Viewer, layer: Layer, table: BoxTable) -> None:
        self.layer = layer
        self.density: Layer | None = None
        self._viewer = plain(viewer)
        self._wish: float | None = None
        self.color_by: ColorBy = color_by(table)
        self.hidden: frozenset[str] = frozenset()
        self._plain: Any = boxes.COLOR  # the layer's own colour
        self._selected: NDArray[np.int64] = np.array([], np.int64)
        self._over = self._asked = self.many = self._painting = self._stale = self._ours = False
        self.drawing = self._held = False
        self._change: Callable[[BoxTable], BoxTable] = _as_it_is
        self._outdated: NDArray[np.int64] = np.array([], np.int64)
        self._wanted = True  # the picture, by the user
        self._around: Box | None = None  # all boxes in it are drawn
        self._rows: NDArray[np.int64] = np.array([], np.int64)
        self._hurry = False
        self._given = self.table = table
        self._in_view, self._said, self._next, self._next_paint = 0, "", 0.0, 0.0
        self._set(table)
        camera, layers = self._viewer.scene.camera.events, self._viewer.layers.events
        self._connections = [(camera, self._move), (layers.removed, self._gone), (layer.events.visible, self._seen)]
        for events, call in self._connections:
            events.connect(call)
        _all[layer] = self

    @property
    def threshold(self) -> float:
        """Lowest score of what is shown: the run's unless another was chosen."""
        return self.table.threshold if self._wish is None else self._wish

    @property
    def text(self) -> str:
        """How many boxes there are and which are drawn, in words."""
        if self.many:
            return f"{self.total:,} boxes: zoom in to see each"
        if self.total > boxes.SHAPES_UP_TO:
            return f"{self._in_view:,} of {self.total:,} boxes in view"
        return f"{self.total:,} box{'es' if self.total != 1 else ''}"

    def counts(self) -> dict[str, int]:
        """How many boxes of each class there are at this threshold, hidden ones as well."""
        codes = self.table.codes[self.table.kept(self.threshold)]
        numbers = np.bincount(codes, minlength=len(self.table.names))
        return {name: int(number) for name, number in zip(self.table.names, numbers, strict=True)}

    def show(
        self,
        *,
        threshold: float | None = None,
        color_by: ColorBy | None = None,
        hidden: Collection[str] | None = None,
    ) -> None:
        """Change what is shown; what is None stays.

        Parameters
        ----------
        threshold
            Lowest score, 0..1. Merging stays the run's.
        color_by
            What a box's colour tells: its ``"class"``, its ``"score"``, or nothing (``"one"``: the layer's own colour).
        hidden
            Classes that are not shown.
        """
        self._wish = self._wish if threshold is None else threshold
        self.hidden = self.hidden if hidden is None else frozenset(hidden)
        if color_by is not None and color_by != self.color_by:
            self._recolor(color_by)
        self._sift()
        self._ask(0)
        if threshold is not None:
            moved.thresholds.emit()

    def select(self, ids: Iterable[int]) -> None:
        """Select boxes by id, those that are drawn now and those that will be."""
        self._selected = np.fromiter(ids, np.int64)
        self._mark_selected()
        self.changed.emit()

    @property
    def selected(self) -> NDArray[np.int64]:
        """The ids of the selected boxes; of those that are not drawn too, until the user selects others."""
        there = self.layer.features["id"].to_numpy(np.int64)
        now = there[sorted(index for index in self.layer.selected_data if index < len(there))]
        same = np.array_equal(np.unique(now), np.unique(there[np.isin(there, self._selected)]))
        return self._selected if same else now

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows of the table are shown."""
        return self._kept

    def correct(self, change: Callable[[BoxTable], BoxTable] | None, outdated: NDArray[np.int64]) -> None:
        """Show tables as ``change`` makes them (None: as they are), and draw the ``outdated`` ids anew."""
        self._change = change or _as_it_is
        self._set(self._given)
        self.again(outdated)

    def again(self, ids: NDArray[np.int64]) -> None:
        """Draw some boxes anew, soon."""
        self._outdated = np.union1d(self._outdated, ids)
        self._ask(0)

    def hold(self, held: bool) -> None:
        """Leave the layer alone while somebody drags in it."""
        self._held = held
        if not held:
            self._ask(0)

    def take(self, table: BoxTable, *, all: bool = False) -> None:
        """Show another table in which an id means the same box; at once and all of it, or in portions."""
        self._set(table, hurry=all)
        if all:
            self._look(all=True)
        else:
            self._ask(0)

    def end(self) -> None:
        """Leave the layer as it is; the picture goes."""
        if self._over:
            return
        self._over = True
        _all.pop(self.layer, None)
        for events, call in self._connections:
            events.disconnect(call)
        if self.density is not None and self.density in self._viewer.layers:
            self._viewer.layers.remove(self.density)

    def _set(self, table: BoxTable, *, hurry: bool = True) -> None:
        self._given, self.table = table, self._change(table)
        self._sift(hurry=hurry)

    def _sift(self, *, hurry: bool = True) -> None:
        self._kept = self.table.kept(self.threshold, self.hidden)
        self.total = int(np.count_nonzero(self._kept))
        self._around = None
        self._paint(hurry=hurry)

    def _move(self) -> None:
        if self.total > boxes.SHAPES_UP_TO and self.layer.visible:
            self._ask(max(0.0, self._next - monotonic()))

    def _seen(self) -> None:
        self._sync()
        self._move()

    def _ask(self, seconds: float) -> None:
        """Look in so many seconds, once for all who ask meanwhile."""
        if not self._asked and not self._over:
            self._asked = True
            on_viewer_thread(weak(self._due), seconds)

    def _due(self) -> None:
        self._asked = False
        self._look()

    def _look(self, *, all: bool = False) -> None:
        """Draw what is wanted, or a portion of it."""
        if self._over or self._held or self.layer not in self._viewer.layers:
            return
        self._next = monotonic() + LOOK_S
        self._choose()
        self._selected = self.selected
        self.drawing = True
        try:
            if not self._draw(all=all):
                self._ask(STEP_S)
        finally:
            self.drawing = False
        self._sync()
        self._say()

    def _draw(self, *, all: bool) -> bool:
        """Draw what is outdated anew, and what is wanted or a portion of it; whether that is all."""
        before = self.layer.features
        if len(self._outdated):
            redraw(self.layer, self.table, self._outdated, self.color_by)
            self._outdated = self._outdated[:0]
        done = set_boxes(self.layer, self.table, self._rows, self.color_by, all=all)
        if len(self._selected) and self.layer.features is not before:
            self._mark_selected()
        return done

    def _choose(self) -> None:
        """Find which boxes are rectangles now."""
        if self.total <= boxes.SHAPES_UP_TO:
            self._rows, self.many = np.flatnonzero(self._kept), False
            return
        view = seen(self._viewer, self.layer)
        there = self.table.within(view, self._kept)
        self._in_view = len(there)
        self.many = self._in_view > boxes.SHAPES_UP_TO or self._viewer.dims.ndisplay != FLAT
        if self.many:
            self._rows, self._around = there[:0], None
        elif self._around is None or view.clip(self._around) != view:
            wide = _grown(view)
            around = self.table.within(wide, self._kept)
            few = len(around) <= boxes.SHAPES_UP_TO
            self._rows, self._around = (around, wide) if few else (there, view)

    def _mark_selected(self) -> None:
        ids = self.layer.features["id"].to_numpy(np.int64)
        self.layer.selected_data = set(np.flatnonzero(np.isin(ids, self._selected)).tolist())

    def _recolor(self, by: ColorBy) -> None:
        if self.color_by == "one":
            self._plain = line_style(self.layer)["edge_color"]
        self.color_by = by
        if len(ids := self.layer.features["id"].to_numpy(np.int64)):
            colors = box_colors(self.table, self.table.rows(ids), by)
            self.layer.edge_color = self._plain if colors is None else colors

    def _paint(self, *, hurry: bool = False) -> None:
        """Make the picture anew in a thread, once for all changes that come meanwhile, and at a share of the time."""
        if self.total <= boxes.SHAPES_UP_TO or self._over:
            return
        pause = 0.0 if hurry else self._next_paint - monotonic()
        if self._painting or pause > 0:
            if not self._painting and not self._stale:
                on_viewer_thread(self._paint_again, pause)
            self._stale, self._hurry = True, self._hurry or hurry
            return
        self._painting, self._stale, self._hurry = True, False, False
        table, kept, by = self.table, self._kept, self.color_by
        one = _color(line_style(self.layer)["edge_color"])

        def work() -> None:
            began = monotonic()
            pyramid = density(table, kept, by, one)
            took = monotonic() - began
            on_viewer_thread(lambda: self._painted(pyramid, took))

        threading.Thread(target=work, name="napari-xt-density", daemon=True).start()

    def _paint_again(self) -> None:
        if self._stale and not self._painting:
            self._stale = False
            self._paint(hurry=self._hurry)

    def _painted(self, pyramid: Pyramid, took: float) -> None:
        self._painting, self._next_paint = False, monotonic() + PAINT_SHARE * took
        if self._over or self.layer not in self._viewer.layers:
            return
        self._paint_again()
        if self.density is None:
            self.density = self._density_layer(pyramid)
            self.density.events.visible.connect(self._wish_density)
            insert_quietly(self._viewer, self.density, self._viewer.layers.index(self.layer))
        elif self.density in self._viewer.layers:
            levels = pyramid.pictures
            self.density.data = levels if len(levels) > 1 else levels[0]
        self._ask(0)

    def _density_layer(self, pyramid: Pyramid) -> Layer:
        tag = {"run_id": "", **self.layer.metadata.get(TAG, {}), "role": "density"}
        several = len(pyramid.pictures) > 1
        return Image(
            pyramid.pictures if several else pyramid.pictures[0],
            rgb=True,
            multiscale=several,
            name=f"{self.layer.name} (density)",
            metadata={TAG: tag},
            visible=False,
            **Place.of_layer(self.layer).cells(pyramid.cell_px, pyramid.cell_px),
        )

    def _sync(self) -> None:
        """The picture is visible where boxes are many, unless the user hid one of the two layers."""
        if self.density is not None:
            self._ours = True
            self.density.visible = self.many and self._wanted and self.layer.visible
            self._ours = False

    def _wish_density(self) -> None:
        if self.density is not None and not self._ours:
            self._wanted = self.density.visible

    def _say(self) -> None:
        if self.text != self._said:
            self._said = self.text
            self._viewer.status = self.text
        self.changed.emit()

    def _gone(self, event: Any) -> None:
        if event.value is self.layer:
            self.end()


def _as_it_is(table: BoxTable) -> BoxTable:
    return table


def boxes_in_view(layer: Layer) -> BoxesInView | None:
    """What draws the boxes of a layer that is in a viewer; None where it is no layer of boxes of a prediction."""
    return _all.get(layer)


def follow_camera(viewer: Viewer, layer: Layer, table: BoxTable) -> BoxesInView:
    """Let a layer that shows ``table`` follow the camera of its viewer, unless it does; what it did before stays."""
    there = boxes_in_view(layer)
    if there is None:
        there = BoxesInView(viewer, layer, table)
        there.take(table)
    return there


def insert_quietly(viewer: Viewer, layer: Layer, place: int) -> None:
    """Insert a layer and leave what the user selected selected: napari selects what is inserted."""
    layers = viewer.layers
    active = layers.selection.active
    if active not in layers:
        layers.insert(place, layer)
        return
    with layers.selection.events.active.blocker():
        layers.insert(place, layer)
        layers.selection.active = active


def _grown(box: Box) -> Box:
    high, wide = round(box.height * MARGIN), round(box.width * MARGIN)
    return Box(box.y0 - high, box.x0 - wide, box.y1 + high, box.x1 + wide)


def _color(color: Any) -> NDArray[np.float64]:
    from napari.utils.colormaps.standardize_color import transform_color

    return np.asarray(transform_color(color)[0], np.float64)
