"""What corrections are worth: an oracle that knows the truth corrects real images, the model learns, others are judged.

    python tests/benchmarks/refine.py [--data FOLDER] [--json FILE] [NAME ...]

``crowns``: 10 % of the regions of scenes that the model was not made for are corrected, F1 on the other 90 %.
``scribbles``: 20 scribbles on nuclei that nothing here has ever seen, ten at random and ten where it was wrong then,
against a random forest on raw pixels with the same scribbles. ``speed``: seconds for 200 regions. ``first``: seconds
from nothing to a mask of 4,000 x 4,000 px.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

import napari_xt as xt
from napari_xt.annotate.truth import UNKNOWN, RegionTruth, Truths, cut, no_boxes
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.train.canopy import HELD_OUT_FROM
from napari_xt.train.evaluate import box_quality
from napari_xt.train.lesson import RefineSettings, learn
from napari_xt.train.scenes import Scene, read_scene
from napari_xt.train.targets import cover_class, make_targets

DATA = Path(__file__).parents[3] / "shared" / "data"
SEEDS = (0, 1, 2)
EDGES = ["y0", "x0", "y1", "x1"]


def crowns(data: Path, folder: Path) -> Iterator[tuple[str, object]]:
    """Scenes on which the bundled model was not trained: the strip, and all of it as another camera might see it."""
    scene = read_scene(data / "canopy" / "yellowstone_a.png")
    height, width = scene.pixels.shape[1:]
    cases = {
        "strip": scene.part(Box(HELD_OUT_FROM, 0, height, width)),
        "other colours": Scene("other", scene.pixels[::-1].copy(), scene.boxes),
    }
    for name, case in cases.items():
        for seed in SEEDS:
            yield f"crowns, {name}, seed {seed}", _crowns(case, folder / f"{name}.xt.zarr", seed)


def _crowns(scene: Scene, out: Path, seed: int) -> dict[str, float]:
    image, model = np.ascontiguousarray(scene.pixels.transpose(1, 2, 0)), xt.load_model("canopy")
    before = xt.predict(image, model, out=out, keep="features")
    regions = list(before.layout.grid.regions())
    count = max(2, round(len(regions) / 10))
    chosen = [regions[i] for i in np.random.default_rng(seed).permutation(len(regions))[:count]]
    known = Truths([_fixed(scene, r) for r in chosen], ("background", "crown"), ("oracle",))
    learned = learn(model, before, known, RefineSettings(held_out=0, seed=seed))
    learned.model.name = "refined"
    after = xt.predict(image, learned.model, out=out.with_name("after.xt.zarr"), reuse=str(out), restart=True)
    hidden = {(r.row, r.col) for r in chosen}
    figures = {"regions": len(regions), "corrected": count, "seconds": learned.seconds}
    for when, prediction in (("before", before), ("after", after)):
        found = prediction.boxes[EDGES].to_numpy()
        figures[f"f1 {when}"] = box_quality(_outside(found, hidden), _outside(scene.boxes, hidden)).f1
    return figures


def _outside(boxes: NDArray[np.float64], hidden: set[tuple[int, int]]) -> NDArray[np.float64]:
    cells = ((boxes[:, :2] + boxes[:, 2:]) / 2 // 256).astype(int)
    return boxes[np.array([(y, x) not in hidden for y, x in cells.tolist()], bool)]


def _fixed(scene: Scene, region: object) -> RegionTruth:
    """A region as an oracle fixes it: crowns are ellipses inscribed in the drawn boxes, as in training."""
    inner = region.inner
    moved = scene.boxes - np.array([inner.y0, inner.x0] * 2)
    crown = make_targets(moved, Box(0, 0, *inner.shape), (256, 256), 1, 256).crown[: inner.height, : inner.width]
    b = scene.boxes
    near = (b[:, 2] > inner.y0) & (b[:, 0] < inner.y1) & (b[:, 3] > inner.x0) & (b[:, 1] < inner.x1)
    boxes = pd.DataFrame(b[near], columns=EDGES).assign(**{"class": "tree"})
    name = ("open", "sparse", "dense")[cover_class(float(crown.mean()))]
    return RegionTruth(region.row, region.col, (crown > 0).astype(np.uint8), True, boxes, no_boxes(), name)


def scribbles(data: Path, folder: Path) -> Iterator[tuple[str, object]]:
    """A new class on an unseen image."""
    import tifffile

    image = tifffile.imread(data / "nuclei" / "top_image.tif")
    truth = (tifffile.imread(data / "nuclei" / "top_labels.tif") > 0).astype(np.uint8)
    for seed in SEEDS:
        yield f"scribbles, nuclei, seed {seed}", _scribbles(image, truth, folder / "nuclei.xt.zarr", seed)


def _scribbles(image: NDArray[np.uint16], truth: NDArray[np.uint8], out: Path, seed: int) -> dict[str, float]:
    rng, labels = np.random.default_rng(seed), np.full(truth.shape, UNKNOWN, np.uint8)
    model = xt.new_model(["nucleus"], in_channels=1, outputs=["mask"])
    empty = xt.predict(image, model, out=out, keep="features", restart=True)
    for value in (0, 1):
        for _ in range(5):
            scribble(labels, truth, truth == value, rng)
    said, _ = _learned(image, model, empty, labels, out)
    for _ in range(10):
        scribble(labels, truth, said != truth, rng)
    said, seconds = _learned(image, model, empty, labels, out)
    known = labels < UNKNOWN
    figures = {"f1": _f1(said, truth), "seconds": seconds, "labelled": float(known.mean())}
    return figures | {"f1 of a random forest": _f1(_forest(image, labels), truth)}


def scribble(labels: NDArray[np.uint8], truth: NDArray[np.uint8], where: NDArray[np.bool_], rng: object) -> None:
    """A stroke of 25 x 3 px through a place ``where`` one is wanted, that stays within one class."""
    rows, cols = np.nonzero(where)
    at = rng.choice(len(rows), p=(w := distance_transform_edt(where)[rows, cols]) / w.sum())
    angle, value = rng.uniform(0, np.pi), truth[rows[at], cols[at]]
    for step in range(-12, 13):
        y, x = round(rows[at] + step * np.sin(angle)), round(cols[at] + step * np.cos(angle))
        part = np.s_[max(0, y - 1) : max(0, y + 2), max(0, x - 1) : max(0, x + 2)]
        labels[part] = np.where(truth[part] == value, value, labels[part])


def _learned(image: object, model: object, empty: Prediction, labels: object, out: Path) -> tuple[object, float]:
    known = Truths([RegionTruth(*at, part) for at, part in cut(labels, empty.layout.grid).items()], model.config.mask)
    started = time.monotonic()
    learned = learn(model, empty, known, RefineSettings(held_out=0))
    after = xt.predict(image, learned.model, out=out.with_name("q.xt.zarr"), reuse=str(out), restart=True)
    return after.mask[0][:], time.monotonic() - started


def _forest(image: NDArray[np.uint16], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from sklearn.ensemble import RandomForestClassifier

    pixels, known = image.reshape(*labels.shape, -1).astype(float), labels < UNKNOWN
    forest = RandomForestClassifier(200, random_state=0).fit(pixels[known], labels[known])
    return forest.predict(pixels.reshape(-1, pixels.shape[-1])).reshape(labels.shape)


def _f1(said: object, truth: NDArray[np.uint8]) -> float:
    one, other = np.asarray(said) == 1, truth == 1
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def speed(data: Path, folder: Path) -> Iterator[tuple[str, object]]:
    """200 regions, all corrected."""
    scene = read_scene(data / "canopy" / "yellowstone_a.png")
    wide = np.concatenate([scene.pixels, scene.pixels[:, :, ::-1]], axis=2)
    wide = np.concatenate([wide, wide[:, ::-1]], axis=1).transpose(1, 2, 0)
    model = xt.load_model("canopy")
    prediction = xt.predict(np.ascontiguousarray(wide), model, out=folder / "wide.xt.zarr", keep="features")
    grid = prediction.layout.grid
    large = Scene("wide", wide.transpose(2, 0, 1), np.concatenate([scene.boxes]))
    known = Truths([_fixed(large, r) for r in list(grid.regions())[:200]], ("background", "crown"))
    learned = learn(model, prediction, known)
    yield "speed, 200 regions", {"seconds": learned.seconds, **{f"held out {k}": v for k, v in learned.after.items()}}


def first(data: Path, folder: Path) -> Iterator[tuple[str, object]]:
    """From nothing to a mask of 4,000 x 4,000 px."""
    from skimage.data import immunohistochemistry

    image = np.tile(immunohistochemistry(), (8, 8, 1))[:4000, :4000]
    labels = np.full(image.shape[:2], UNKNOWN, np.uint8)
    for i in range(10):
        labels[300 * i + 40 : 300 * i + 65, 210:213] = i % 2
        labels[90:93, 300 * i + 40 : 300 * i + 65] = (i + 1) % 2
    started = time.monotonic()
    model = xt.new_model(["stained"], outputs=["mask"])
    empty = xt.predict(image, model, out=folder / "large.xt.zarr", keep="features")
    encoded = time.monotonic() - started
    _learned(image, model, empty, labels, folder / "large.xt.zarr")
    yield "first mask, 4,000 x 4,000", {"encode": encoded, "seconds": time.monotonic() - started}


ALL = {"crowns": crowns, "scribbles": scribbles, "speed": speed, "first": first}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = {}
    for name in chosen.names or ALL:
        with TemporaryDirectory() as folder:
            for title, figures in ALL[name](chosen.data, Path(folder)):
                found[title] = figures
                print(title, {key: round(value, 3) for key, value in figures.items()}, flush=True)  # noqa: T201
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
