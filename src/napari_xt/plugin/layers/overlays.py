"""What a prediction looks like in napari: its mask, boxes and scores as layer data, growing while a run writes them.

Knows predictions and what layers take; must not know viewers, Qt or threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import Frame, Region
from napari_xt.io.computed.swatches import COLOURS
from napari_xt.io.computed.synthetic import MASK
from napari_xt.io.prediction import EDGES, Prediction
from napari_xt.io.stores.layout import Layout, Status
from napari_xt.plugin.boxes.density import SCORES
from napari_xt.plugin.boxes.layer import LayerData, boxes_layer
from napari_xt.plugin.boxes.table import BoxTable
from napari_xt.plugin.layers.composed import FAILED, NAMES, UNKNOWN, ComposedMask, Part
from napari_xt.plugin.layers.regions import Regions

Role = Literal["scores", "preview", "mask", "boxes"]

TAG = "napari_xt"
FINAL = "final"  # role of the corrected mask, which is seen in the place of the predicted one
TABLES_EVERY_S = 1.0
TABLES_SHARE = 10  # reading the tables takes at most one part in so many of the time
SCORE_CELLS = 2048  # of the scores' picture along a side, at most
CLASS_COLORS = {name: (*color, 255) for name, color in zip(MASK[1:], COLOURS, strict=True)}  # synthetic: of its rings
STRIPES = {UNKNOWN: (0.5, 0.5, 0.5, 1.0), FAILED: (0.85, 0.15, 0.15, 1.0)}  # over what is not known
SCORE_SPLIT = 16  # cells of it along a region's side, so that it ends where the image ends


@dataclass(frozen=True, slots=True)
class Place:
    """Where level-0 pixels lie in the world: ``scale``, ``translate`` and ``units`` ``(y, x)`` of the image's layer.

    ``linear`` is its 2 x 2 matrix (rotation, shear, scale), ``more`` its further transforms as layer arguments.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    units: tuple[Any, Any] = ("pixel", "pixel")
    linear: NDArray[np.float64] = field(default_factory=lambda: np.eye(2))
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_layer(cls, layer: Any) -> Self:
        """The place of an image layer; of further axes (time, z) nothing is kept."""
        scale, translate = np.asarray(layer.scale)[-2:], np.asarray(layer.translate)[-2:]
        units = tuple(layer.units)[-2:]
        linear, more = np.diag(scale), {}
        if layer.ndim == 2:
            more = {"rotate": layer.rotate, "shear": layer.shear, "affine": layer.affine}
            shear = np.array([[1.0, float(np.ravel(layer.shear)[0])], [0.0, 1.0]])
            linear = np.asarray(layer.rotate) @ shear @ linear
        return cls(tuple(map(float, scale)), tuple(map(float, translate)), units, linear, more)  # type: ignore[arg-type]

    @classmethod
    def of_frame(cls, frame: Frame) -> Self:
        """The place of an image whose origin is the world's."""
        return cls(frame.scale, units=(frame.unit, frame.unit), linear=np.diag(frame.scale))

    def cells(self, fy: float, fx: float) -> dict[str, Any]:
        """Layer arguments of an array whose cells are ``fy x fx`` pixels, the first at the image's corner."""
        # napari counts from the middle of the first pixel
        middle = self.linear @ np.array([(fy - 1) / 2, (fx - 1) / 2])
        scale = (self.scale[0] * fy, self.scale[1] * fx)
        translate = tuple(np.array(self.translate) + middle)
        return {"scale": scale, "translate": translate, "units": self.units, **self.more}


class Overlay:
    """The arrays and tables that a prediction's layers show, brought up to date when told so.

    One thread reads (`mark`, `read`), another may show what is there.

    Parameters
    ----------
    prediction
        What they show.
    filled
        Whether it is read here; else `fill` does that, in another thread, and nothing is there until it has.

    Attributes
    ----------
    roles
        Which layers the prediction has, lowest first.
    mask
        uint8 levels ``(y, x)`` in run pixels, finest first, of ``composed``; empty where there is no mask.
    composed
        The mask at a threshold, see `ComposedMask`; None where there is none.
    scores
        float32 ``(y, x)``, how likely each region is of ``score_class``; NaN where that is not known.
    score_class
        One of ``layout.scores``; set it with `choose`.
    regions
        What is known of each region, see `Regions`.
    label
        The image's, ``prediction.label``.
    table
        The prediction's boxes at any score; where ``roles`` has them.
    mask_version, tables_version
        Numbers that grow when `read` found something new.
    followers
        Called with each part of the mask's coarsest level that was read again, on the thread that read it.
    filled
        Whether all was read once.
    """

    def __init__(self, prediction: Prediction, *, filled: bool = True) -> None:
        self.prediction = prediction
        self.label: dict[str, float] | None = None
        layout = prediction.layout
        there = {"scores": layout.scores, "mask": layout.mask, "boxes": layout.boxes}
        self.roles: tuple[Role, ...] = tuple(role for role, names in there.items() if names)  # type: ignore[misc]
        self.composed = ComposedMask(prediction) if prediction.mask else None
        self.mask: list[Any] = self.composed.levels if self.composed else []
        self.regions = Regions(layout)
        self.score_class = (layout.scores or ("",))[-1]
        self._split = max(1, min(SCORE_SPLIT, SCORE_CELLS // max(layout.grid.shape)))
        self.score_cell_px = layout.grid.region_px / self._split
        shape = tuple(int(np.ceil(size / self.score_cell_px)) for size in layout.shape)
        self.scores = np.full(shape, np.nan, np.float32)
        self.mask_version = self.tables_version = 0
        self.followers: list[Callable[[Part], None]] = []
        self._dirty: set[tuple[int, int]] = set()
        self._next_tables = 0.0
        self.filled = False
        if filled:
            self.fill()
            return
        self.table = box_table(prediction, pd.DataFrame({name: [] for name in ("id", *EDGES, "class", "score")}))
        if self.composed is not None:
            self.composed.hides_rest = True  # what is not known yet is not what was not run

    def fill(self) -> None:
        """Read all that there is."""
        if self.composed is not None:
            self.composed.hides_rest = False
        try:
            self.read(all=True)
            if not self.mask_version:
                self._redraw()
        finally:
            self.filled = True

    def __deepcopy__(self, memo: object) -> Overlay:
        return self  # a copy of a layer shows the same store

    def mark(self, region: Region, status: Status = Status.DONE) -> None:
        """``region`` (run px) is in the store."""
        if self.composed is None:
            return
        self.composed.settle(region, status)
        side = self._coarse_chunk * self._factor
        cells = region.inner.scale(1 / side, 1 / side)
        self._dirty |= {(r, c) for r in range(cells.y0, cells.y1) for c in range(cells.x0, cells.x1)}

    def read(self, *, all: bool = False) -> None:
        """Read what is new: the marked parts of the mask, and the tables when it is time or ``all`` is wanted."""
        if self._dirty:
            self._read_mask()
        began = time.monotonic()
        if all or began >= self._next_tables:
            self._read_tables()
            took = time.monotonic() - began
            self._next_tables = began + max(TABLES_EVERY_S, TABLES_SHARE * took)

    def choose(self, name: str) -> None:
        """Show the scores of the class ``name`` of ``layout.scores``."""
        self.score_class = name
        self.scores[:] = self._score_cells()
        self.tables_version += 1

    def px_per_cell(self, role: Role) -> tuple[float, float]:
        """Level-0 pixels ``(y, x)`` along the sides of a cell of a layer's finest level."""
        if role == "boxes":
            return 1.0, 1.0
        fy, fx = self.prediction.layout.frame.px_per_run
        side = self.score_cell_px if role == "scores" else 1.0
        return fy * side, fx * side

    def show_rest(self, *, hatched: bool) -> None:
        """Hatch the regions that are not settled in the mask, or leave them to previews."""
        if self.composed is not None and self.composed.hides_rest == hatched:
            self.composed.hides_rest = not hatched
            self._redraw()

    def _redraw(self) -> None:
        """Read all of the coarsest level again."""
        if self.composed is not None:
            for part in self.composed.parts():
                self._update(self.composed, part)
            self.mask_version += 1

    def _update(self, composed: ComposedMask, part: Part) -> None:
        composed.update(part)
        for follow in self.followers:
            follow(part)

    @property
    def _factor(self) -> int:
        return 1 << (len(self.mask) - 1)

    @property
    def _coarse_chunk(self) -> int:
        return int(self.prediction.mask[-1].chunks[0])

    def _read_mask(self) -> None:
        side, (height, width) = self._coarse_chunk, self.mask[-1].shape
        while self._dirty:
            row, col = self._dirty.pop()
            y, x = row * side, col * side
            if self.composed is not None:
                self._update(self.composed, (slice(y, min(y + side, height)), slice(x, min(x + side, width))))
        self.mask_version += 1

    def _read_tables(self) -> None:
        self.regions.take(self.prediction.scores)
        self.label = self.prediction.label
        if self.composed is not None and self.composed.take_states(self.regions.status):
            self._redraw()
        if "scores" in self.roles:
            self.scores[:] = self._score_cells()
        if "boxes" in self.roles:
            self.table = box_table(self.prediction)
        self.tables_version += 1

    def _score_cells(self) -> NDArray[np.float32]:
        regions = self.regions.of_class(self.score_class)
        cells = regions.repeat(self._split, axis=0).repeat(self._split, axis=1)
        return cells[: self.scores.shape[0], : self.scores.shape[1]]


def layer_data(overlay: Overlay, role: Role, place: Place, name: str, tag: Mapping[str, Any]) -> LayerData:
    """The layer of one role.

    Parameters
    ----------
    overlay
        What it shows.
    role
        One of ``overlay.roles``.
    place
        Where the image's pixels lie.
    name
        The image's.
    tag
        Told in ``layer.metadata["napari_xt"]``, with the role.
    """
    make = {"mask": _mask_layer, "boxes": _boxes_layer, "scores": _scores_layer}[role]
    data, meta, kind = make(overlay, place)
    about = {"name": f"{name} - xT {role}", "metadata": {TAG: {**tag, "role": role, "overlay": overlay}}}
    return data, {**meta, **about}, kind


def class_colors(layout: Layout) -> list[tuple[int, int, int, int]]:
    """The colour of each mask class, ``(r, g, b, a)`` in 0..255."""
    return [CLASS_COLORS.get(name, layout.rgba(value)) for value, name in enumerate(layout.mask or ())]


def box_table(prediction: Prediction, boxes: pd.DataFrame | None = None) -> BoxTable:
    """Boxes of a prediction, all of them at any score by default; a class has the mask's colour where it is in both."""
    layout, masked = prediction.layout, prediction.layout.mask or ()
    names = layout.boxes or ()
    of_mask = dict(zip(masked, class_colors(layout), strict=True))
    colors = [of_mask.get(name, layout.rgba(len(masked) + i)) for i, name in enumerate(names, start=not masked)]
    boxes = prediction.merged() if boxes is None else boxes
    return BoxTable.of(boxes, names, colors, prediction.threshold, layout.frame.shape_px)


def mask_style(names: Sequence[str], colors: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Layer arguments of a mask: the class names of its values and their colours, ``(r, g, b, a)`` in 0..255."""
    shares: dict[int | None, Any] = {value: tuple(v / 255 for v in color) for value, color in enumerate(colors)}
    return {
        "features": pd.DataFrame({"index": range(len(names)), "class": names}),
        "colormap": shares | {None: (0.0, 0.0, 0.0, 0.0)},
        "opacity": 0.45,
    }


def _boxes_layer(overlay: Overlay, place: Place) -> LayerData:
    data, style, kind = boxes_layer(overlay.table)
    return data, {**style, **place.cells(1, 1)}, kind


def _mask_layer(overlay: Overlay, place: Place) -> LayerData:
    layout = overlay.prediction.layout
    meta = {
        "multiscale": len(overlay.mask) > 1,
        **_hatched(mask_style(layout.mask or (), class_colors(layout))),
        **place.cells(*layout.frame.px_per_run),
    }
    return overlay.mask if len(overlay.mask) > 1 else overlay.mask[0], meta, "labels"


def _hatched(style: dict[str, Any]) -> dict[str, Any]:
    """With the names and colours of what is not known."""
    rest = pd.DataFrame({"index": list(NAMES), "class": list(NAMES.values())})
    features = pd.concat([style["features"], rest], ignore_index=True)
    return {**style, "features": features, "colormap": style["colormap"] | STRIPES}


def _scores_layer(overlay: Overlay, place: Place) -> LayerData:
    fy, fx = (overlay.score_cell_px * f for f in overlay.prediction.layout.frame.px_per_run)
    fading = np.column_stack([SCORES / 255, np.linspace(0, 1, len(SCORES))])  # what is not there hides nothing
    style = {"colormap": {"name": "xT scores", "colors": fading}, "contrast_limits": (0.0, 1.0), "opacity": 0.5}
    return overlay.scores, {**style, "blending": "translucent", "rgb": False, **place.cells(fy, fx)}, "image"
