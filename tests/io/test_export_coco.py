from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import export_case as case
import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as rle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import napari_xt as xt
from napari_xt.errors import SettingsError
from napari_xt.geometry import Frame
from napari_xt.io.exports.coco import mask_of
from napari_xt.io.exports.polygons import trace
from napari_xt.io.prediction import Prediction

MASKS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1))


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    notes = {"image": "/images/scene.ome.zarr"}
    return case.prediction(tmp_path_factory.mktemp("coco") / "run.xt.zarr", notes=notes)


@pytest.fixture(scope="module")
def coco(prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> COCO:
    return COCO(str(xt.export(prediction, tmp_path_factory.mktemp("coco") / "a.coco.json")))


def test_masks_come_back_in_another_reader(coco: COCO) -> None:
    out = np.zeros(case.SHAPE, np.uint8)
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    for row in coco.loadAnns(coco.getAnnIds()):
        if "segmentation" in row:
            pixels = coco.annToMask(row).astype(bool)
            y, x = np.nonzero(pixels)
            assert not out[pixels].any()
            assert row["area"] == pixels.sum()
            assert row["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            out[pixels] = ("background", "crown", "rock").index(names[row["category_id"]])
    assert np.array_equal(out, case.mask())


def test_boxes_are_x_y_width_height(coco: COCO, prediction: Prediction) -> None:
    rows = [row for row in coco.dataset["annotations"] if "segmentation" not in row]
    boxes = prediction.boxes
    assert len(rows) == len(boxes)
    expected = np.stack([boxes.x0, boxes.y0, boxes.x1 - boxes.x0, boxes.y1 - boxes.y0], axis=1)
    np.testing.assert_allclose([row["bbox"] for row in rows], expected, atol=2e-3)
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    assert [names[row["category_id"]] for row in rows] == boxes["class"].tolist()
    assert [row["score"] for row in rows] == pytest.approx(boxes["score"].tolist(), abs=1e-6)
    assert {row["iscrowd"] for row in rows} == {0}


def test_the_file_says_what_it_is_of(coco: COCO) -> None:
    (image,) = coco.dataset["images"]
    assert image == {"id": 1, "file_name": "scene.ome.zarr", "width": 1100, "height": 600}
    assert [category["name"] for category in coco.dataset["categories"]] == ["crown", "rock", "bush"]
    assert (coco.dataset["info"]["source"], coco.dataset["info"]["corrections"]) == ("final", 0)
    ids = [row["id"] for row in coco.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


@given(pixels=MASKS)
def test_any_area_is_packed_as_coco_packs_it(pixels: np.ndarray) -> None:
    for area in trace([pixels], pixels.shape[1]):
        rings = [np.concatenate([ring, ring[:1]]) for ring in (area.exterior, *area.holes)]
        found = mask_of(rings, pixels.shape)
        assert found is not None
        drawn = rle.decode(found["segmentation"])
        assert drawn.sum() == found["area"] == area.px
        assert (pixels[drawn == 1] == 1).all()
        packed = rle.encode(np.asfortranarray(drawn))["counts"]
        assert found["segmentation"]["counts"].encode() == (packed if isinstance(packed, bytes) else packed.encode())


@pytest.mark.parametrize("shape", [(1200, 2200), (900, 1650), (300, 550)])
def test_masks_are_drawn_on_level_0(shape: tuple[int, int], tmp_path: Path) -> None:
    found = replace(case.layout(), frame=Frame(shape, case.SHAPE))
    prediction = case.prediction(tmp_path / "run.xt.zarr", found=found)
    coco = COCO(str(xt.export(prediction, tmp_path / "a.json", format="coco", what="mask")))
    out = np.zeros(shape, np.uint8)
    for row in coco.dataset["annotations"]:
        out[coco.annToMask(row).astype(bool)] = row["category_id"]
    rows, cols = (
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int) for n, m in zip(shape, case.SHAPE, strict=True)
    )
    assert np.mean(out == case.mask()[np.ix_(rows, cols)]) > 0.999


def test_an_image_that_is_too_large_for_masks_still_has_boxes(tmp_path: Path) -> None:
    found = replace(case.layout(), frame=Frame((66_000, 66_000), case.SHAPE))
    prediction = case.prediction(tmp_path / "run.xt.zarr", found=found)
    with pytest.raises(SettingsError, match="66000 x 66000 px: has more pixels than COCO's masks can count"):
        xt.export(prediction, tmp_path / "a.coco.json")
    rows = json.loads(xt.export(prediction, tmp_path / "a.coco.json", what="boxes").read_bytes())["annotations"]
    assert len(rows) == len(prediction.boxes)
