"""The whole loop on real images: predict, review, correct by the truth, learn, predict again; better where none looked.

An oracle that knows the truth corrects. How much is learned is measured by `tests/benchmarks/refine.py`; here all parts
fit, from the first prediction to the training set.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import napari_xt as xt
from conftest import ROOT
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.train.lesson import RefineSettings
from napari_xt.train.refine import predict_again
from napari_xt.train.scenes import read_scene
from napari_xt.train.targets import make_targets
from oracle_case import EDGES, Oracle, elsewhere, inside

DATA = ROOT.parent / "shared" / "data"
BRISK = RefineSettings(steps=100, held_out=0.0)
SIDE = 768


@pytest.fixture
def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """Return fluorescence nuclei ``(256, 512)`` and which pixels are of one."""
    image, labels = DATA / "nuclei" / "top_image.tif", DATA / "nuclei" / "top_labels.tif"
    if not image.exists():
        pytest.skip("the labelled nuclei are not at hand")
    return tifffile.imread(image), (tifffile.imread(labels) > 0).astype(np.uint8)


def first_prediction(image: np.ndarray, out: Path) -> tuple[xt.XT, Prediction]:
    """A model that has learned nothing, and what it says: regions of 128 px, 2 x 4 of the nuclei."""
    model = xt.new_model(["nucleus"], in_channels=1, outputs=["mask"], region_px=128)
    return model, xt.predict(image, model, out=out, keep="features")


def test_a_new_class_is_found_where_nobody_looked(nuclei: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    image, oracle = nuclei[0], Oracle(nuclei[1])
    model, blank = first_prediction(image, tmp_path / "nuclei.xt.zarr")
    with xt.corrections(blank, author="oracle") as corrected:
        queue = xt.review_queue(blank, "random", corrections=corrected)
        seen = oracle.review(queue, corrected, 2)
        assert str(queue) == "reviewed 2 of 8"
        assert queue.faulty_regions().value == 1.0
    learned = xt.refine(model, blank, BRISK)
    assert learned.labelled["nucleus"] > 1000
    second = predict_again(learned, blank, image)
    rest = elsewhere(blank, seen)
    f1 = [oracle.mask_f1(one.mask[0][:], rest) for one in (blank, second)]
    assert f1[1] > max(0.6, f1[0] + 0.2)

    with xt.corrections(second, author="oracle") as corrected:
        assert {tuple(place) for place in corrected.regions[["region_row", "region_col"]].to_numpy()} == seen
        np.testing.assert_array_equal(corrected.mask[0][~rest], oracle.mask[~rest])  # what was said stays said
        queue = xt.review_queue(second, "uncertainty", corrections=corrected)
        assert queue.reviewed == 2
        more = oracle.review(queue, corrected, 1)
        assert not more & seen
    third = predict_again(xt.refine(learned.model, second, BRISK), second, image)
    unseen = elsewhere(blank, seen | more)
    assert oracle.mask_f1(third.mask[0][:], unseen) > oracle.mask_f1(second.mask[0][:], unseen) - 0.02
    assert {path.name for path in tmp_path.glob("*.xt.zarr")} == {
        "nuclei.xt.zarr",
        "nuclei+1.xt.zarr",
        "nuclei+2.xt.zarr",
    }
    coco = xt.training_set(third, tmp_path / "project", image)
    crops = json.loads(coco.read_bytes())["images"]
    assert len(crops) == 3
    assert [(one["complete"], one["authors"]) for one in crops] == [(True, ["oracle"])] * 3


def test_scribbles_on_histology_find_what_is_brown(tmp_path: Path) -> None:
    from skimage.color import rgb2hed
    from skimage.data import immunohistochemistry

    image = immunohistochemistry()
    brown = (gaussian_filter(rgb2hed(image)[..., 2], 3) > 0.1).astype(np.uint8)  # a threshold on the stain
    model = xt.new_model(["brown"], outputs=["mask"])
    blank = xt.predict(image, model, out=tmp_path / "stain.xt.zarr", keep="features")
    rng = np.random.default_rng(0)
    with xt.corrections(blank, author="oracle") as corrected, corrected.stroke() as stroke:
        for value in (0, 1):
            for index in rng.choice(np.flatnonzero(brown == value), 10):
                y, x = divmod(int(index), image.shape[1])
                part = Box(y - 1, x - 9, y + 2, x + 10).clip(Box(0, 0, *brown.shape))
                here = brown[part.slices]
                stroke.fill(part, np.where(here == value, value, 255))
    learned = xt.refine(model, blank, BRISK)
    assert learned.labelled["brown"] > 300  # where the new model happened to say so already, too
    assert learned.labelled["background"] > 300
    found = predict_again(learned, blank, image)
    everywhere = np.ones(brown.shape, bool)
    f1 = Oracle(brown).mask_f1
    assert f1(found.mask[0][:], everywhere) > f1(np.ones_like(brown), everywhere) + 0.05


@pytest.fixture
def crowns() -> tuple[np.ndarray, Oracle]:
    """Return a part of the aerial scene as a camera with other colours sees it, and its crowns."""
    path = DATA / "canopy" / "yellowstone_a.png"
    if not path.exists():
        pytest.skip("the labelled crowns are not at hand")
    scene = read_scene(path).part(Box(512, 512, 512 + SIDE, 512 + SIDE))
    crown = make_targets(scene.boxes, Box(0, 0, SIDE, SIDE), (SIDE, SIDE), 1, 256).crown > 0
    return np.ascontiguousarray(255 - scene.pixels.transpose(1, 2, 0)), Oracle(
        crown.astype(np.uint8), scene.boxes, "tree"
    )


def test_boxes_that_were_corrected_stay_through_refining(crowns: tuple[np.ndarray, Oracle], tmp_path: Path) -> None:
    image, oracle = crowns
    before = xt.predict(image, "canopy", out=tmp_path / "crowns.xt.zarr", keep="features")
    with xt.corrections(before, author="oracle") as corrected:
        seen = oracle.review(xt.review_queue(before, corrections=corrected), corrected, 2)
        regions = [corrected.layout.grid.region(*place).inner for place in seen]
    after = predict_again(xt.refine("canopy", before, replace(BRISK, steps=20)), before, image)
    with xt.corrections(after, read_only=True) as carried:
        boxes = carried.final.boxes[EDGES].to_numpy()
    for region in regions:
        said, true = (np.sort(some[inside(some, region)], axis=0) for some in (boxes, oracle.boxes))
        np.testing.assert_allclose(said, true, atol=1e-6)
    assert oracle.box_f1(after, seen) > 0.5 * oracle.box_f1(before, seen)  # how much better: the benchmark
