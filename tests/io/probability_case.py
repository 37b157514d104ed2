"""A prediction whose stored mask is that of its stored probability, with regions in any state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import export_case
import numpy as np
import store_case
from scipy import ndimage

from napari_xt.geometry import Box, Frame, Grid
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import BlockData, Layout, RegionData, Status
from napari_xt.io.stores.mask import mask_from_probability
from napari_xt.io.stores.store import Store

SIDE = 64


def stored(
    path: Path, shape: tuple[int, int], stride: int = 4, classes: int = 3, side: int = SIDE, **states: Status
) -> Prediction:
    """Write a prediction whose mask is that of its probability; ``states`` of regions as ``r0_1``."""
    frame = Frame(shape, shape, (0.5, 0.5), "micrometer")
    grid = Grid(*shape, region_px=side)
    layout = Layout(frame, grid, stride, ("background", "a", "b")[:classes], ("a", "b"), ("open", "dense"), 1, "uint8")
    cells = layout.probability_shape
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(classes, *cells)), (0, 3, 3))
    p = np.exp(30 * smooth)
    probability = np.rint(255 * p / p.sum(axis=0)).astype(np.uint8)
    whole = Box(0, 0, *shape)
    mask = mask_from_probability(probability, stride, whole, whole)
    header = replace(store_case.header(layout), plan={"regions": len(list(grid.regions()))})
    with Store.open_writer(path, header) as store:
        for key in store_case.blocks(layout):
            place = grid.block(*key)
            values, regions = mask[place.box.slices].copy(), []
            for region in grid.regions(place.box):
                status = states.get(f"r{region.row}_{region.col}", Status.DONE)
                if status != Status.DONE:
                    values[region.inner.shift(-place.box.y0, -place.box.x0).slices] = 0
                if status == Status.NOT_YET:
                    continue
                found = export_case._region(layout, region)
                regions.append(
                    RegionData(region, status, found.scores, found.boxes, "x" if status == Status.FAILED else "")
                )
            part = probability[(slice(None), *layout.cells(place.box).slices)].copy()
            store.commit([BlockData(place, None, values, part, tuple(regions))])
        if Status.NOT_YET not in states.values():
            store.finish(0.5)
    return open_prediction(path)
