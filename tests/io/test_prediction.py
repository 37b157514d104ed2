from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import store_case as case
import zarr

from napari_xt.errors import StoreError
from napari_xt.geometry import Frame, Grid
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.merge import suppress
from napari_xt.io.stores.store import Store

BOXES = ["id", "y0", "x0", "y1", "x1", "class", "score", "region_row", "region_col"]
SCORES = ["region_row", "region_col", "y0", "x0", "y1", "x1", "class", "score", "entropy", "status"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predictions") / "run.xt.zarr"
    case.write(path)
    return path


@pytest.fixture(scope="module")
def prediction(folder: Path) -> Prediction:
    return open_prediction(folder)


def all_boxes() -> np.ndarray:
    found = case.layout()
    data = (case.block_data(found, *key) for key in case.blocks(found))
    return np.concatenate([region.boxes for block in data for region in block.regions])


def expected_boxes(boxes: np.ndarray) -> list[int]:
    keep = suppress(boxes, 0.5, across_regions=True) & (boxes["score"] >= 0.3)
    return sorted(boxes["id"][keep].tolist())


def test_boxes_are_merged_and_above_the_threshold(prediction: Prediction) -> None:
    boxes = prediction.boxes
    assert list(boxes.columns) == BOXES
    assert boxes["id"].tolist() == expected_boxes(all_boxes())
    assert boxes["y0"].dtype == np.float64
    assert set(boxes["class"]) == {"tree", "shrub"}
    region = boxes["id"] // 4096
    assert (region == boxes["region_row"] * 3 + boxes["region_col"]).all()


def test_candidates_are_all(prediction: Prediction) -> None:
    candidates = prediction.candidates()
    assert list(candidates.columns) == BOXES
    assert candidates["id"].tolist() == sorted(all_boxes()["id"].tolist())


def test_scores_have_a_row_for_each_region(prediction: Prediction) -> None:
    scores = prediction.scores
    assert list(scores.columns) == [*SCORES, "p:open", "p:sparse", "p:dense"]
    assert len(scores) == 51
    done, p = scores["status"] == "done", scores[["p:open", "p:sparse", "p:dense"]].to_numpy()
    assert set(scores["status"]) == {"done", "failed"}
    assert scores["class"].isna().tolist() == (~done).tolist()
    assert scores["score"][done].tolist() == p[done].max(axis=1).tolist()
    np.testing.assert_allclose(scores["entropy"][done], -(p[done] * np.log(p[done])).sum(axis=1))
    assert scores.loc[50, ["y0", "x0", "y1", "x1"]].tolist() == [8192, 1024, 8400, 1200]
    assert prediction.label == pytest.approx(dict(zip(("open", "sparse", "dense"), p[done].mean(axis=0), strict=True)))


def test_failed_regions_are_listed(prediction: Prediction) -> None:
    assert prediction.failed["region_row"].tolist() == [1, 5, 9, 12, 16]
    assert set(prediction.failed["error"]) == {"chunk at (0, 0) can't be read"}
    assert prediction.coverage == pytest.approx(46 / 51)
    assert prediction.complete


def test_area_is_that_of_the_mask_in_settled_regions(prediction: Prediction) -> None:
    mask = prediction.mask[0][:]
    area, failed = prediction.area(), prediction.failed
    lost = ((failed["y1"] - failed["y0"]) * (failed["x1"] - failed["x0"])).sum()
    assert area["crown"] == np.count_nonzero(mask == 1)
    assert area["background"] + area["crown"] == mask.size - lost


def test_a_growing_prediction_shows_what_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "run.xt.zarr"
    with Store.open_writer(path, case.header()) as store:
        prediction = open_prediction(path)
        assert (len(prediction.boxes), len(prediction.scores), prediction.label) == (0, 0, None)
        assert prediction.coverage == 0
        store.commit([case.block_data(case.layout(), row, 0) for row in range(3)])
        found = [region for row in range(3) for region in case.block_data(case.layout(), row, 0).regions]
        assert prediction.boxes["id"].tolist() == expected_boxes(np.concatenate([data.boxes for data in found]))
        assert len(prediction.scores) == len(found) == 12
        assert prediction.coverage == pytest.approx(11 / 51)
        assert not prediction.complete
        store.finish(0.5)
        assert prediction.complete


def test_tables_are_copies(prediction: Prediction) -> None:
    boxes = prediction.boxes
    boxes["score"] = 0.0
    assert (prediction.boxes["score"] > 0).all()


def test_coordinates_are_level_0_pixels(tmp_path: Path) -> None:
    found = case.layout(frame=Frame((16800, 2400), case.SHAPE))
    with Store.open_writer(tmp_path / "a.xt.zarr", case.header(found)) as store:
        store.commit([case.block_data(found, 0, 1)])
    prediction = open_prediction(tmp_path / "a.xt.zarr")
    assert prediction.scores.loc[0, ["y0", "x0", "y1", "x1"]].tolist() == [0, 2048, 1024, 2400]
    crown = np.count_nonzero(case.block_data(found, 0, 1).mask)
    assert prediction.area()["crown"] == 4 * crown


def test_a_model_without_heads_has_empty_tables(tmp_path: Path) -> None:
    found = case.layout(mask=None, boxes=None, scores=None)
    with Store.open_writer(tmp_path / "a.xt.zarr", replace(case.header(found), plan={})) as store:
        store.commit([case.block_data(found, 0, 0)])
        store.finish(0.5)
    prediction = open_prediction(tmp_path / "a.xt.zarr")
    assert (prediction.mask, prediction.probability, prediction.label, prediction.area()) == ([], None, None, {})
    assert list(prediction.boxes.columns) == BOXES
    assert list(prediction.scores.columns) == SCORES
    assert isinstance(prediction.scores, pd.DataFrame)
    assert prediction.coverage == pytest.approx(4 / 51)


def test_a_tiny_image_is_a_prediction(tmp_path: Path) -> None:
    found = case.layout(frame=Frame((1, 3), (1, 3)), grid=Grid(1, 3, 256))
    with Store.open_writer(tmp_path / "a.xt.zarr", case.header(found)) as store:
        store.commit([case.block_data(found, 0, 0)])
    assert open_prediction(tmp_path / "a.xt.zarr").mask[0].shape == (1, 3)


def test_arrays_can_not_be_written(prediction: Prediction) -> None:
    with pytest.raises(ValueError, match="read-only"):
        prediction.mask[0][0, 0] = 1


def test_reading_leaves_nothing_behind(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    prediction = open_prediction(folder)
    assert len(prediction.boxes)
    assert "complete" in repr(prediction)
    assert sorted(folder.rglob("*")) == before


def damaged(path: Path) -> None:
    described = json.loads((path / "zarr.json").read_text())
    del described["attributes"]["napari_xt"]["layout"]["grid"]
    (path / "zarr.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(damaged, "its description is damaged", id="no grid"),
        pytest.param(lambda path: shutil.rmtree(path / "status"), "its array status can't be opened", id="no array"),
        pytest.param(lambda path: os.remove(path / "journal/ledger.sqlite"), "the journal can't be read", id="journal"),
        pytest.param(lambda path: (path / "zarr.json").write_text("{"), "it is no prediction", id="half a root"),
        pytest.param(shutil.rmtree, "there is no such file or folder", id="missing"),
        pytest.param(lambda path: (shutil.rmtree(path), path.write_text("x")), "it is no prediction", id="file"),
        pytest.param(
            lambda path: (shutil.rmtree(path), zarr.create_group(path)), "it is no prediction", id="other zarr"
        ),
    ],
)
def test_what_is_no_prediction_is_one_clear_line(tmp_path: Path, damage: object, said: str) -> None:
    path = tmp_path / "run.xt.zarr"
    case.write(path, limit=1)
    damage(path)  # type: ignore[operator]
    with pytest.raises(StoreError) as refused:
        open_prediction(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) <= 280
