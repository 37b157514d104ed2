"""What corrections are worth: an oracle that knows the truth corrects real images, the model learns, others are judged.

    python tests/benchmarks/refine.py [NAME ...] [--data FOLDER] [--base FILE] [--seeds N ...] [--json FILE]

``unseen``: a model that was trained on Ordway-Swisher alone runs over Yellowstone, 10 % of the regions are corrected,
drawn at random or first in the review queue; F1 on the other 90 %. The model is ``--base``; where that is not there it
is trained, which takes a quarter of an hour. ``crowns``: the same with the bundled model, on the strip that it was not
trained on, and on all of the scene with its channels reversed, which is no unseen scene but looks like one.
``scribbles``: 20 scribbles on nuclei that nothing here has ever seen, ten at random and ten where it was wrong then,
against a random forest on raw pixels with the same scribbles. ``speed``: seconds for 200 regions. ``first``: seconds
from nothing to a mask of 4,000 x 4,000 px.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import pandas as pd
import torch
from figures import Figures as Written
from figures import options, tell
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

import napari_xt as xt
from napari_xt.annotate.queue import By
from napari_xt.annotate.truth import UNKNOWN, RegionTruth, Truths, cut, no_boxes
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.presets import CANOPY
from napari_xt.model.xt import XT
from napari_xt.train.canopy import HELD_OUT_FROM, load_imagenet
from napari_xt.train.evaluate import box_quality
from napari_xt.train.fit import FitSettings, fit
from napari_xt.train.lesson import RefineSettings, learn
from napari_xt.train.scenes import Scene, read_scene
from napari_xt.train.targets import cover_class, make_targets

DATA = Path(__file__).parents[3] / "shared" / "data"
BASE = FitSettings(steps=800, warmup=20, shapes=((4, 1, 1), (4, 1, 1), (1, 2, 2)), average=0.98)
EDGES = ["y0", "x0", "y1", "x1"]
MISSING = 3  # exit code where data are not there
Figures = Iterator[tuple[str, dict[str, float]]]


def unseen(chosen: argparse.Namespace, folder: Path) -> Figures:
    """A scene from another state than the only one that the model was trained on."""
    scene, model = read_scene(chosen.data / "canopy" / "yellowstone_a.png"), xt.load_model(_base(chosen))
    for order in ("random", "uncertainty"):
        for seed in chosen.seeds:
            figures = _crowns(scene, model, folder / "unseen.xt.zarr", seed, order)
            yield f"unseen.{order}.seed{seed}", figures


def _base(chosen: argparse.Namespace) -> Path:
    if not chosen.base.is_file():
        torch.manual_seed(0)
        model = XT(CANOPY)
        load_imagenet(model)
        scene = read_scene(chosen.data / "canopy" / "ordway_029.png")
        model = fit(model.to(memory_format=torch.channels_last), [(scene, 1.0)], BASE, lambda *_: None)
        save_model(model.eval(), chosen.base, ModelCard(name="ordway"))
    return chosen.base


def crowns(chosen: argparse.Namespace, folder: Path) -> Figures:
    """The bundled model on what it was not trained on."""
    scene, model = read_scene(chosen.data / "canopy" / "yellowstone_a.png"), xt.load_model("canopy")
    height, width = scene.pixels.shape[1:]
    cases = {
        "strip": scene.part(Box(HELD_OUT_FROM, 0, height, width)),
        "other_colours": Scene("other", scene.pixels[::-1].copy(), scene.boxes),
    }
    if chosen.quick:
        cases = {"strip": scene.part(Box(HELD_OUT_FROM, 0, height, 768))}
    for name, case in cases.items():
        for seed in chosen.seeds:
            yield f"crowns.{name}.seed{seed}", _crowns(case, model, folder / f"{name}.xt.zarr", seed)


def _crowns(scene: Scene, model: XT, out: Path, seed: int, order: By = "random") -> dict[str, float]:
    image = np.ascontiguousarray(scene.pixels.transpose(1, 2, 0))
    before = xt.predict(image, model, out=out, keep="features")
    regions = {(r.row, r.col): r for r in before.layout.grid.regions()}
    with xt.corrections(before, read_only=True) as nothing:
        queue = xt.review_queue(before, order, corrections=nothing, seed=seed).order
    chosen = queue[: max(2, round(len(regions) / 10))]
    known = Truths([_fixed(scene, regions[place]) for place in chosen], ("background", "crown"), ("oracle",))
    learned = learn(model, before, known, RefineSettings(seed=seed))
    learned.model.name = "refined"
    again = xt.predict(image, learned.model, out=out.with_name("after.xt.zarr"), reuse=str(out), restart=True)
    figures = {"regions": len(regions), "corrected": len(chosen), "seconds": learned.seconds}
    figures |= {f"held out {name} before": value for name, value in learned.before.items()}
    figures |= {f"held out {name} after": value for name, value in learned.after.items()}
    others = {(r.row, r.col): _fixed(scene, r).labels for r in regions.values() if (r.row, r.col) not in set(chosen)}
    for when, prediction in (("before", before), ("after", again)):
        found = prediction.boxes[EDGES].to_numpy()
        figures[f"box f1 {when}"] = box_quality(*(_outside(b, set(chosen)) for b in (found, scene.boxes))).f1
        said = [np.asarray(prediction.mask[0][regions[at].inner.slices]).ravel() for at in others]
        truth = np.concatenate([labels.ravel() for labels in others.values()])
        figures[f"mask f1 {when}"] = _f1(np.concatenate(said), truth)
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


def scribbles(chosen: argparse.Namespace, folder: Path) -> Figures:
    """A new class on an unseen image."""
    import tifffile

    data = chosen.data
    image = tifffile.imread(data / "nuclei" / "top_image.tif")
    truth = (tifffile.imread(data / "nuclei" / "top_labels.tif") > 0).astype(np.uint8)
    for seed in chosen.seeds:
        yield (
            f"scribbles.nuclei.seed{seed}",
            _scribbles(image, truth, folder / "nuclei.xt.zarr", seed, beside_forest=not chosen.quick),
        )


def _scribbles(
    image: NDArray[np.uint16], truth: NDArray[np.uint8], out: Path, seed: int, *, beside_forest: bool
) -> dict[str, float]:
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
    return figures | ({"f1 of a random forest": _f1(_forest(image, labels), truth)} if beside_forest else {})


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


def speed(chosen: argparse.Namespace, folder: Path) -> Figures:
    """200 regions, all corrected."""
    scene = read_scene(chosen.data / "canopy" / "yellowstone_a.png")
    wide = np.concatenate([scene.pixels, scene.pixels[:, :, ::-1]], axis=2)
    wide = np.concatenate([wide, wide[:, ::-1]], axis=1).transpose(1, 2, 0)
    model = xt.load_model("canopy")
    prediction = xt.predict(np.ascontiguousarray(wide), model, out=folder / "wide.xt.zarr", keep="features")
    grid = prediction.layout.grid
    large = Scene("wide", wide.transpose(2, 0, 1), np.concatenate([scene.boxes]))
    known = Truths([_fixed(large, r) for r in list(grid.regions())[:200]], ("background", "crown"))
    began = time.process_time()
    learned = learn(model, prediction, known)
    took = {"seconds": learned.seconds, "processor seconds": time.process_time() - began}
    yield "speed.200_regions", {**took, **{f"held out {k}": v for k, v in learned.after.items()}}


def first(chosen: argparse.Namespace, folder: Path) -> Figures:
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
    yield "first_mask.4000x4000", {"encode": encoded, "seconds": time.monotonic() - started}


ALL = {"unseen": unseen, "crowns": crowns, "scribbles": scribbles, "speed": speed, "first": first}
QUICK = ("crowns", "scribbles")


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--base", type=Path, default=Path(gettempdir()) / "ordway.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    if not chosen.data.is_dir():
        tell(f"{chosen.data} is not there: labelled images are needed, give --data FOLDER")
        sys.exit(MISSING)
    if chosen.quick:
        chosen.seeds, chosen.names = chosen.seeds[:1], chosen.names or QUICK
    figures = Written()
    for name in chosen.names or ALL:
        with TemporaryDirectory() as folder:
            for title, found in ALL[name](chosen, Path(folder)):
                for what, value in found.items():
                    figures.add(f"refine.{title}.{what.replace(' ', '_')}", value, "s" if "seconds" in what else "")
    figures.write(chosen.json)


if __name__ == "__main__":
    main()
