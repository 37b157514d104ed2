"""What a run sees of each region while it still encodes, as a picture for a layer that goes with the end of the run.

Knows predictions and what layers take; must not know viewers, Qt or threads.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.geometry import Box, Region
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Status
from napari_xt.io.stores.patches import cells, every
from napari_xt.io.stores.preview import NONE, UNREADABLE, open_previews
from napari_xt.plugin.boxes.layer import LayerData
from napari_xt.plugin.layers.composed import pattern
from napari_xt.plugin.layers.overlays import TAG, Place, class_colors, mask_style

MOST_CELLS = 8192  # of the picture along a side: of a larger image every n-th cell is shown
COARSEST_CELLS = 2048  # the picture's levels end at the first that is not larger
PALE = 0.5  # of the mask's opacity
NOT_COMPUTED = (0.5, 0.5, 0.5, 0.8)  # stripes: what is not known does not look like background
BETWEEN, GAP = 254, (0.5, 0.5, 0.5, 0.25)  # the value and colour between the stripes


class PreviewPicture:
    """The previews of a run as levels of a picture, brought up to date when told so.

    One thread reads (`mark`, `read`), another may show what is there.

    Attributes
    ----------
    levels
        uint8 ``(y, x)``, finest first, views of one array in memory: the class that a region has on its own; 0 where it
        is background or where the mask shows what is known; in stripes `NONE` and `BETWEEN` where nothing is known.
    cell_px
        Run pixels along a side of a cell of the finest level.
    version
        A number that grows when there is something new.
    """

    def __init__(self, prediction: Prediction) -> None:
        layout = prediction.layout
        self._path, self._layout = prediction.path, layout
        self._step = -(-max(layout.probability_shape) // MOST_CELLS)
        self.cell_px = layout.stride * self._step
        shape = [-(-cells // self._step) for cells in layout.probability_shape]
        self.levels: list[NDArray[np.uint8]] = [_striped((slice(0, shape[0]), slice(0, shape[1])))]
        while max(self.levels[-1].shape) > COARSEST_CELLS:
            self.levels.append(self.levels[-1][::2, ::2])
        self.version = 0
        self._marked: dict[int, tuple[Region, str]] = {}
        self._take_up(prediction)

    def mark(self, region: Region, kind: str) -> None:
        """``region`` (run px) has a preview, or is settled: ``kind`` is that of its event."""
        self._marked[region.index] = region, kind

    def read(self) -> None:
        """Bring the regions that were marked up to date; a preview that can't be read stays unknown."""
        marked, self._marked = self._marked, {}
        if not marked:
            return
        previews: dict[int, list[Region]] = {}  # by row of blocks
        for region, kind in marked.values():
            if kind == "preview":
                previews.setdefault(region.row // self._layout.grid.block_regions, []).append(region)
            else:
                cut = cells(self._layout.cells(region.inner), self._step).slices
                self.levels[0][cut] = 0
        for regions in previews.values():
            with suppress(*UNREADABLE):
                self._read(regions)
        self.version += 1

    def _read(self, regions: Sequence[Region]) -> None:
        boxes = [self._layout.cells(region.inner) for region in regions]
        y0, x0 = min(box.y0 for box in boxes), min(box.x0 for box in boxes)
        bounds = Box(y0, x0, max(box.y1 for box in boxes), max(box.x1 for box in boxes))
        classes = np.asarray(open_previews(self._path, self._layout)[bounds.slices])
        for box in boxes:
            to, values = every(classes[box.shift(-y0, -x0).slices], box, self._step)
            self.levels[0][to.slices] = np.where(values == NONE, _striped(to.slices), values)

    def _take_up(self, prediction: Prediction) -> None:
        """Take what a stopped run has left."""
        grid = self._layout.grid
        for region in grid.regions():
            self.mark(region, "preview")
        known = prediction.scores
        for row, col, status in zip(known["region_row"], known["region_col"], known["status"], strict=True):
            self.mark(grid.region(int(row), int(col)), status)
        self.read()


def preview_layer(
    picture: PreviewPicture, prediction: Prediction, place: Place, name: str, tag: Mapping[str, Any]
) -> LayerData:
    """The layer of ``picture``: the mask's colours, paler, and stripes over what is not known. See `layer_data`."""
    layout = prediction.layout
    names = layout.mask or ()
    style = mask_style(names, class_colors(layout))
    colormap = {value: _pale(color) for value, color in style["colormap"].items()}
    rest = [BETWEEN, NONE]
    classes = pd.DataFrame({"index": [*range(len(names)), *rest], "class": [*names, *["not computed yet"] * len(rest)]})
    fy, fx = (picture.cell_px * f for f in layout.frame.px_per_run)
    several = len(picture.levels) > 1
    meta = {
        **style,
        "features": classes,
        "colormap": colormap | {NONE: NOT_COMPUTED, BETWEEN: GAP},
        "multiscale": several,
        "name": f"{name} - xT preview",
        "metadata": {TAG: {**tag, "role": "preview"}},
        **place.cells(fy, fx),
    }
    return picture.levels if several else picture.levels[0], meta, "labels"


def follow_colors(preview: Any, mask: Any) -> None:
    """Let the layer of previews show the classes that the mask's layer shows, in its colours, as long as it lives."""
    known = weakref.ref(preview)
    classes = [value for value in preview.features["index"].tolist() if value not in (BETWEEN, NONE)]

    def take(_event: object = None) -> None:
        layer = known()
        if layer is None:
            mask.events.colormap.disconnect(take)
            return
        wanted = mask.colormap.color_dict
        colors = {value: _pale(wanted.get(value, wanted[None])) for value in classes}
        layer.colormap = {**layer.colormap.color_dict, **colors}

    mask.events.colormap.connect(take)
    take()


def _pale(color: Any) -> tuple[float, ...]:
    *rgb, alpha = map(float, color)
    return (*rgb, PALE * alpha)


def _striped(part: tuple[slice, slice]) -> NDArray[np.uint8]:
    """What a part of the picture is where nothing is known."""
    (y0, y1), (x0, x1) = ((cut.start, cut.stop) for cut in part)
    stripes = pattern(Status.NOT_YET, (y1 - y0, x1 - x0), y0, x0)
    return np.where(stripes, np.uint8(NONE), np.uint8(BETWEEN))
