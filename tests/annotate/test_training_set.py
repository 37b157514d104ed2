"""Corrected regions as crops that other readers read, in a folder of many images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaozarrs
import zarr
from faster_coco_eval import COCO
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

import napari_xt as xt
from napari_xt.errors import SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.model.xt import XT
from napari_xt.train.scenes import read_scene
from small_model import small_model, squares

SHAPE = (200, 256)  # 4 x 4 regions of 64 px, the lowest row cut
UNKNOWN, UNSURE = 255, 254


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return xt.convert(xt.open_image(squares(SHAPE), pixel_size="0.5 um"), tmp_path / "scene.ome.zarr")


@pytest.fixture
def prediction(image: Path, model: XT, tmp_path: Path) -> Prediction:
    return xt.predict(image, model, out=tmp_path / "scene.small.xt.zarr")


def corrected(prediction: Prediction) -> np.ndarray:
    """Correct three regions: one in whole, with a class of its own, one by a stroke, one by a box. The whole one."""
    mask = np.zeros((64, 64), np.uint8)
    with xt.corrections(prediction, author="Ada") as known:
        weed = known.classes.add("weed", (1, 2, 3))
        with known.stroke() as stroke:
            mask[10:20, 10:20], mask[10:20, 20:30], mask[30, 30] = 1, weed, UNSURE
            stroke.fill(Box(64, 64, 128, 128), mask)
            for row in prediction.boxes.query("y1 > 64 and y0 < 128 and x1 > 64 and x0 < 128").itertuples():
                stroke.box_delete(row.id)
            stroke.box_add(70.5, 70, 80, 84.25, "tree")
            stroke.box_add(120, 120, 140, 150, "weed")
            stroke.region(1, 1, state="fixed", class_name="dense")
            stroke.put(np.full(5, 190), np.arange(100, 105), weed)
            stroke.box_add(5, 200, 15, 220, "tree")
    return mask


def values(coco: Path) -> dict[str, int]:
    return {one["name"]: one["id"] for one in json.loads(coco.read_bytes())["categories"]}


def crops(coco: Path) -> dict[tuple[int, int], dict[str, object]]:
    return {tuple(one["place_px"][:2]): one for one in json.loads(coco.read_bytes())["images"]}


def test_crops_hold_the_pixels_and_what_is_known_of_them(prediction: Prediction, image: Path, tmp_path: Path) -> None:
    mask, folder, told = corrected(prediction), tmp_path / "project", []
    coco = xt.training_set(prediction, folder, progress=lambda *at: told.append(at))
    found, number = crops(coco), values(coco)
    assert set(found) == {(64, 64), (128, 64), (0, 192), (128, 128), (64, 128)}  # a box lies in the last two
    assert told[-1] == (len(found), len(found))
    whole = folder / str(found[64, 64]["file_name"])
    with xt.open_image(whole) as crop, xt.open_image(image) as scene:
        np.testing.assert_array_equal(crop.read(Box(0, 0, 64, 64)), scene.read(Box(64, 64, 128, 128)))
        assert (crop.scale_um, crop.channels, crop.dtype) == ((0.5, 0.5), 3, np.uint8)
    labels = zarr.open_array(whole / "labels" / "mask" / "0")[:]
    wanted = np.full_like(mask, 0)
    wanted[mask == 1], wanted[mask == 2], wanted[mask == UNSURE] = number["crown"], number["weed"], UNKNOWN
    np.testing.assert_array_equal(labels[30:31, 30:31], UNKNOWN)
    np.testing.assert_array_equal(labels[10:20, 10:30], wanted[10:20, 10:30])
    assert found[64, 64]["complete"]
    assert (found[64, 64]["region_class"], found[64, 64]["authors"]) == ("dense", ["Ada"])
    part = zarr.open_array(folder / str(found[128, 64]["file_name"]) / "labels" / "mask" / "0")[:]
    assert part.shape == (64, 64)
    assert (part[62, 36:41] == number["weed"]).all()
    assert (part != UNKNOWN).sum() == 5
    assert not found[128, 64]["complete"]
    assert not list(folder.rglob("*.partial"))


def test_other_readers_read_them(prediction: Prediction, tmp_path: Path) -> None:
    corrected(prediction)
    path = xt.training_set(prediction, tmp_path / "project")
    coco, number = COCO(str(path)), values(path)
    for one in coco.dataset["images"]:
        crop = path.parent / one["file_name"]
        assert yaozarrs.validate_zarr_store(str(crop))
        nodes = list(Reader(parse_url(crop))())
        assert any("mask" in str(node.zarr) for node in nodes)
        labels = zarr.open_array(crop / "labels" / "mask" / "0")[:]
        drawn = np.zeros_like(labels)
        for row in coco.loadAnns(coco.getAnnIds(imgIds=one["id"])):
            if "segmentation" in row:
                drawn[coco.annToMask(row).astype(bool)] = row["category_id"]
            x, y, width, height = row["bbox"]
            assert min(x, y) >= 0
            assert x + width <= one["width"]
            assert y + height <= one["height"]
        np.testing.assert_array_equal(drawn, np.where(labels == UNKNOWN, 0, labels))
    boxes = {
        (one["category_id"], *one["bbox"])
        for one in coco.loadAnns(coco.getAnnIds(imgIds=coco_id(coco, (64, 64))))
        if "segmentation" not in one
    }
    assert boxes == {(number["tree"], 6, 6.5, 14.25, 9.5), (number["weed"], 56, 56, 8, 8)}


def coco_id(coco: COCO, place: tuple[int, int]) -> int:
    return next(one["id"] for one in coco.dataset["images"] if tuple(one["place_px"][:2]) == place)


def test_complete_crops_are_scenes_that_training_takes(prediction: Prediction, tmp_path: Path) -> None:
    corrected(prediction)
    coco = xt.training_set(prediction, tmp_path / "project")
    tables = sorted((tmp_path / "project").rglob("*.csv"))
    assert len(tables) == 1
    scene = read_scene(coco.parent / str(crops(coco)[64, 64]["file_name"]))
    assert scene.pixels.shape == (3, 64, 64)
    np.testing.assert_allclose(sorted(scene.boxes.tolist()), [[6.5, 6, 16, 20.25], [56, 56, 64, 64]])
    assert set(pd.read_csv(tables[0])["class"]) == {"tree", "weed"}


def test_a_folder_takes_many_images_and_follows_what_is_corrected(
    prediction: Prediction, model: XT, tmp_path: Path
) -> None:
    corrected(prediction)
    folder = tmp_path / "project"
    first = crops(coco := xt.training_set(prediction, folder))
    number = values(coco)
    other = xt.predict(squares((128, 128))[::-1].copy(), model, out=tmp_path / "other.xt.zarr")
    with xt.corrections(other, author="Bob") as known:
        known.classes.add("moss")
        known.classes.add("weed")
        with known.stroke() as stroke:
            stroke.put([3, 3], [3, 4], [2, 3])
    xt.training_set(other, folder, squares((128, 128))[::-1].copy())
    assert len(json.loads(coco.read_bytes())["images"]) == len(first) + 1
    assert values(coco) == number | {"moss": max(number.values()) + 1}
    bob = next(one for one in json.loads(coco.read_bytes())["images"] if one["authors"] == ["Bob"])
    labels = zarr.open_array(folder / bob["file_name"] / "labels" / "mask" / "0")[:]
    assert labels[3, 3:5].tolist() == [values(coco)["moss"], number["weed"]]
    with xt.corrections(prediction, author="Ada") as known:
        known.revert(region=(1, 1))
    xt.training_set(prediction, folder)
    left = json.loads(coco.read_bytes())
    assert "dense" not in {one["region_class"] for one in left["images"]}
    assert not (folder / str(first[64, 64]["file_name"])).exists()
    assert not list(folder.rglob("*.csv"))
    assert {row["image_id"] for row in left["annotations"]} <= {one["id"] for one in left["images"]}
    ids = [row["id"] for row in left["annotations"]]
    assert len(ids) == len(set(ids))


def test_what_can_not_be_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no region of it was corrected"):
        xt.training_set(prediction, tmp_path / "project")
    corrected(prediction)
    with pytest.raises(SettingsError, match="is not that of"):
        xt.training_set(prediction, tmp_path / "project", squares((64, 64)))
    assert not (tmp_path / "project").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "coco.json").write_text('{"images": [{"id": 1, "file_name": "../../away"}]}')
    with pytest.raises(StoreError, match="no list of crops"):
        xt.training_set(prediction, tmp_path / "full")
