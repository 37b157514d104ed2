from __future__ import annotations

import json
import sys
from pathlib import Path

import export_case as case
import geopandas
import numpy as np
import pyogrio
import pytest

import napari_xt as xt
from napari_xt.errors import MissingDependencyError, SettingsError
from napari_xt.io.prediction import Prediction


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return case.prediction(tmp_path_factory.mktemp("gpkg") / "run.xt.zarr", notes={"georeference": case.UTM})


@pytest.fixture(scope="module")
def path(prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xt.export(prediction, tmp_path_factory.mktemp("gpkg") / "a.gpkg")


def test_areas_lie_where_the_image_lies(path: Path) -> None:
    areas = geopandas.read_file(path, layer="areas")
    assert areas.crs.to_epsg() == 32612
    assert areas.geometry.is_valid.all()
    for value, name in ((1, "crown"), (2, "rock")):
        found = areas[areas["class"] == name]
        assert found["area_px"].sum() == np.count_nonzero(case.mask() == value)
        assert found.geometry.area.sum() == pytest.approx(found["area_px"].sum() * 0.26)


def test_boxes_and_regions_are_layers(path: Path, prediction: Prediction) -> None:
    boxes = geopandas.read_file(path, layer="boxes")
    assert boxes["class"].tolist() == prediction.boxes["class"].tolist()
    assert boxes["score"].tolist() == pytest.approx(prediction.boxes["score"].tolist(), abs=1e-6)
    regions = geopandas.read_file(path, layer="regions")
    assert regions["status"].tolist() == prediction.scores["status"].tolist()
    assert regions["p:open"].isna().sum() == 1
    box = boxes.geometry.iloc[0].exterior.coords[0]
    first = prediction.boxes.iloc[0]
    a, b, c, d, e, f = case.UTM["transform"]
    assert box == pytest.approx((a * first.x0 + b * first.y0 + c, d * first.x0 + e * first.y0 + f), abs=1e-3)


def test_the_file_says_what_it_is_of(path: Path, prediction: Prediction) -> None:
    told = json.loads(pyogrio.read_info(path, layer="areas")["dataset_metadata"]["napari_xt"])
    assert (told["source"], told["corrections"], told["model"]) == ("final", 0, "canopy")


def test_a_layer_may_be_empty(prediction: Prediction, tmp_path: Path) -> None:
    found = xt.export(prediction, tmp_path / "a.gpkg", what=["boxes", "regions"], box_threshold=1.0)
    assert {name for name, _ in pyogrio.list_layers(found)} == {"boxes", "regions"}
    assert not len(geopandas.read_file(found, layer="boxes"))


def test_it_needs_a_reference_system_and_the_extra(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = case.prediction(tmp_path / "run.xt.zarr")
    with pytest.raises(SettingsError, match="has no coordinate reference system"):
        xt.export(nowhere, tmp_path / "a.gpkg")
    monkeypatch.setitem(sys.modules, "pyogrio.raw", None)
    with pytest.raises(MissingDependencyError, match=r"napari-xt\[geo\]"):
        xt.export(prediction, tmp_path / "a.gpkg")
