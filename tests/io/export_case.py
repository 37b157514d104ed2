"""A small prediction with areas, boxes and scores, and the runs that export it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
import store_case
from scipy import ndimage

from napari_xt.geometry import IDS_PER_REGION, Frame, Grid, Region
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import BlockData, Layout, RegionData, Status
from napari_xt.io.stores.merge import BOX_DTYPE
from napari_xt.io.stores.store import Store

SHAPE = (600, 1100)  # 2 x 3 blocks of 512 px
GRID = Grid(*SHAPE, region_px=64)
FAILED = 7
UTM = {"transform": [0.5, 0.1, 500_000.0, 0.1, -0.5, 4_900_000.0], "epsg": 32612}  # a little rotated


def layout() -> Layout:
    frame = Frame(SHAPE, SHAPE, (0.5, 0.25), "micrometer")
    return Layout(frame, GRID, 4, ("background", "crown", "rock"), ("crown", "bush"), ("open", "dense"), 3, "uint8")


def mask(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Areas of two classes, with holes, islands in them, and touching corners, over all seams."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 8)
    found = np.zeros(shape, np.uint8)
    found[smooth > 0.01] = 1
    found[smooth < -0.03] = 2
    found[100:120, 500:520] = rng.integers(0, 3, (20, 20))
    return found


def prediction(
    path: Path,
    pixels: np.ndarray | None = None,
    found: Layout | None = None,
    notes: Mapping[str, object] | None = None,
    **parts: object,
) -> Prediction:
    found = replace(found or layout(), **parts)
    header = replace(store_case.header(found), notes=notes or {}, plan={"regions": len(list(found.grid.regions()))})
    pixels = mask(found.shape) if pixels is None else pixels
    with Store.open_writer(path, header) as store:
        store.commit([block(found, pixels, *key) for key in store_case.blocks(found)])
        store.finish(0.5)
    return open_prediction(path)


def block(found: Layout, pixels: np.ndarray, row: int, col: int) -> BlockData:
    place = found.grid.block(row, col)
    classes = len(found.mask or ())
    values = np.zeros((classes, *found.cells(place.box).shape), np.uint8) if classes else None
    regions = tuple(_region(found, region) for region in found.grid.regions(place.box))
    return BlockData(place, None, pixels[place.box.slices].copy() if classes else None, values, regions)


def _region(found: Layout, region: Region) -> RegionData:
    if region.index == FAILED:
        return RegionData(region, Status.FAILED, None, np.zeros(0, BOX_DTYPE), error="can't be read")
    rng = np.random.default_rng(region.index)
    fy, fx = found.frame.px_per_run
    boxes = np.zeros(2 if found.boxes else 0, BOX_DTYPE)
    boxes["id"] = region.index * IDS_PER_REGION + np.arange(len(boxes))
    boxes["y0"] = region.inner.y0 * fy + rng.uniform(0, 9)
    boxes["x0"] = region.inner.x0 * fx + 3 + 27 * np.arange(len(boxes))
    boxes["y1"], boxes["x1"] = boxes["y0"] + rng.uniform(5, 20), boxes["x0"] + 20
    boxes["label"], boxes["score"] = np.arange(len(boxes)) % 2, rng.uniform(0.1, 1, len(boxes))
    scores = rng.dirichlet(np.ones(len(found.scores))).astype(np.float32) if found.scores else None
    return RegionData(region, Status.DONE, scores, boxes)


def drawn(polygon: shapely.Polygon, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie in the polygon, by another's arithmetic."""
    found = np.zeros(shape, np.bool_)
    x0, y0, x1, y1 = (int(edge) for edge in polygon.bounds)
    rows, cols = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    inside = shapely.contains_xy(polygon, cols.ravel() + 0.5, rows.ravel() + 0.5).reshape(rows.shape)
    part = found[y0 : y1 + 1, x0 : x1 + 1]
    part |= inside[: part.shape[0], : part.shape[1]]
    return found
