"""Whether regions meet without a seam: a labelled scene, run with the grid where it is and shifted by half a region.

The bundled aerial scene with its hand-drawn crowns, whole, by the bundled model. The grid is anchored at the image's
corner, so the image is grown by half a region (mirrored) above, to the left, or both: four runs, in each of which other
crowns are cut by a border of regions. A crown is found where a box matches it one to one at an IoU of 0.4. Large crowns
are cut more often than small ones, so beside all of them those are compared that are cut in one run and whole in
another. A pixel changes where its class is not the one of the run with the grid as it is; it is near where a border of
either grid is less than 16 px away.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from figures import Figures, options
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import napari_xt as xt
from napari_xt.geometry import Box
from napari_xt.io.computed.mirrored import SCENE
from napari_xt.io.image import open_image
from napari_xt.train.canopy import HELD_OUT_FROM
from napari_xt.train.evaluate import MATCH_IOU, pairwise_iou

CROWNS = "samples/yellowstone.csv"
CORNERS = ["y0", "x0", "y1", "x1"]
NEAR = 16
Shift = tuple[int, int]
Boxes = NDArray[np.float64]


def scene(rows: int) -> tuple[NDArray[np.uint8], Boxes]:
    """Pixels ``(Y, X, 3)`` of the first rows, and the crowns ``(n, 4)`` that lie in them."""
    with open_image(str(files("napari_xt") / SCENE)) as image:
        pixels = image.read(Box(0, 0, min(rows, image.shape[0]), image.shape[1]))
    crowns = pd.read_csv(str(files("napari_xt") / CROWNS))[CORNERS].to_numpy(np.float64)
    return pixels.transpose(1, 2, 0), crowns[crowns[:, 2] <= rows]


def run(model: xt.XT, pixels: NDArray[np.uint8], shift: Shift) -> tuple[Boxes, NDArray[np.uint8]]:
    """Boxes and mask in the scene's own pixels, of a run whose grid lies ``shift`` before the scene's corner."""
    grown = np.pad(pixels, [(shift[0], 0), (shift[1], 0), (0, 0)], mode="symmetric")
    with TemporaryDirectory() as folder:
        prediction = xt.predict(grown, model, out=Path(folder, "out.xt.zarr"))
        boxes = prediction.boxes[CORNERS].to_numpy(np.float64) - np.array([*shift, *shift])
        mask = np.asarray(prediction.mask[0])[shift[0] :, shift[1] :]
    inside = ((boxes[:, :2] + boxes[:, 2:]) / 2 >= 0).all(axis=1)
    return boxes[inside], mask


def found(predicted: Boxes, drawn: Boxes) -> NDArray[np.bool_]:
    """Which of ``drawn`` a box of ``predicted`` matches."""
    overlap = pairwise_iou(predicted, drawn)
    pairs = linear_sum_assignment(overlap, maximize=True)
    hit = np.zeros(len(drawn), np.bool_)
    hit[pairs[1][overlap[pairs] >= MATCH_IOU]] = True
    return hit


def cut(drawn: Boxes, shift: Shift, side: int) -> NDArray[np.bool_]:
    """Which of ``drawn`` lie in more than one region."""
    first, last = np.floor((drawn[:, :2] + shift) / side), np.ceil((drawn[:, 2:] + shift) / side) - 1
    return np.asarray((first != last).any(axis=1))


def near(shape: tuple[int, int], shifts: tuple[Shift, ...], side: int) -> NDArray[np.bool_]:
    """Which pixels have a border of any of the grids less than `NEAR` away."""
    close = [np.zeros(n, np.bool_) for n in shape]
    for shift in shifts:
        for axis in (0, 1):
            place = (np.arange(shape[axis]) + 0.5 + shift[axis]) % side
            close[axis] |= np.minimum(place, side - place) < NEAR
    return close[0][:, None] | close[1]


def recall(figures: Figures, hit: NDArray[np.bool_], cuts: NDArray[np.bool_], name: str) -> None:
    """Add the recall of crowns that are cut over that of whole ones; ``hit`` and ``cuts`` are ``(runs, crowns)``."""
    of_cut, of_whole = hit[cuts].mean(), hit[~cuts].mean()
    both = cuts.any(axis=0) & ~cuts.all(axis=0)
    same_cut, same_whole = (
        float(np.average([hit[which[:, i], i].mean() for i in np.flatnonzero(both)])) for which in (cuts, ~cuts)
    )
    counts = {"crowns_cut": int(cuts.sum()), "crowns_whole": int((~cuts).sum())}
    figures.add(f"seams.recall.{name}", of_cut / of_whole, "of whole crowns", cut=of_cut, whole=of_whole, **counts)
    figures.add(
        f"seams.recall_same.{name}",
        same_cut / same_whole,
        "of the same, whole",
        cut=same_cut,
        whole=same_whole,
        crowns=int(both.sum()),
    )


def measure(figures: Figures, rows: int) -> None:
    """Add all figures."""
    model = xt.load_model("canopy")
    side = model.config.region_px
    pixels, drawn = scene(rows)
    shifts = [(y, x) for y in (0, side // 2) for x in (0, side // 2)]
    boxes, masks = zip(*(run(model, pixels, shift) for shift in shifts), strict=True)
    hit = np.array([found(one, drawn) for one in boxes])
    cuts = np.array([cut(drawn, shift, side) for shift in shifts])
    recall(figures, hit, cuts, "scene")
    held_out = (drawn[:, 0] + drawn[:, 2]) / 2 >= HELD_OUT_FROM
    if held_out.any():
        recall(figures, hit[:, held_out], cuts[:, held_out], "held_out")
    changed = masks[0] != masks[-1]
    close = near(changed.shape, (shifts[0], shifts[-1]), side)
    at, away = changed[close].mean(), changed[~close].mean()
    figures.add("seams.change.mask", at / away, "of elsewhere", near=at, elsewhere=away)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    return options(__doc__).parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = arguments()
    figures = Figures()
    measure(figures, 300 if given.quick else 10_000)
    figures.write(given.json)


if __name__ == "__main__":
    main()
