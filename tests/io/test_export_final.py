"""Exports of what was corrected: every format holds the classes, boxes and regions that people added."""

from __future__ import annotations

import json
from pathlib import Path

import export_case as case
import geopandas
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

import napari_xt as xt
from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.exports.grid import NOT_COMPUTED
from napari_xt.io.prediction import Prediction

WEED, UNSURE = 3, 254
NORTH_UP = {"transform": [0.5, 0.0, 500_000.0, 0.0, -0.5, 4_900_000.0], "epsg": 32612}


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """A prediction with a class, a box and a region of it that somebody added, a box that is right, and a doubt."""
    path = tmp_path_factory.mktemp("final") / "run.xt.zarr"
    found = case.prediction(path, notes={"georeference": NORTH_UP})
    with xt.corrections(found, author="Ada") as known:
        assert known.classes.add("weed", (1, 2, 3)) == WEED
        with known.stroke() as stroke:
            stroke.fill(Box(10, 10, 40, 60), np.full((30, 50), WEED))
            stroke.fill(Box(50, 10, 60, 60), np.full((10, 50), UNSURE))
            stroke.box_add(5, 5, 50, 50, "weed")
            stroke.box_accept(int(found.boxes["id"].iloc[0]))
            stroke.region(0, 1, "accepted", "weed")
    return found


def strict(path: Path) -> dict[str, object]:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_bytes(), parse_constant=refuse)


def test_geojson(corrected: Prediction, tmp_path: Path) -> None:
    told = strict(xt.export(corrected, tmp_path / "a.geojson"))
    weeds = [
        f["properties"] for f in told["features"] if f["properties"].get("classification", {}).get("name") == "weed"
    ]
    assert sorted(one["objectType"] for one in weeds) == ["annotation", "detection", "tile"]
    scores = [one["measurements"].get("score") for one in weeds]
    assert scores.count(None) == 2  # the area and the box
    assert {tuple(one["classification"]["color"]) for one in weeds} == {(1, 2, 3)}
    assert "weed" not in xt.export(corrected, tmp_path / "said.geojson", source="prediction").read_text()


def test_coco(corrected: Prediction, tmp_path: Path) -> None:
    told = strict(xt.export(corrected, tmp_path / "a.coco.json"))
    (number,) = (one["id"] for one in told["categories"] if one["name"] == "weed")
    area, box = (one for one in told["annotations"] if one["category_id"] == number)
    assert (area["bbox"], area["area"]) == ([10, 10, 50, 30], 1500)
    assert box["bbox"] == [5, 5, 45, 45]
    without = [one for one in told["annotations"] if "segmentation" not in one and "score" not in one]
    assert len(without) == 2
    assert told["info"]["corrections"] == 2


def test_tables(corrected: Prediction, tmp_path: Path) -> None:
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        boxes = read(xt.export(corrected, tmp_path / name))
        assert boxes.loc[boxes["class"] == "weed", "score"].isna().all()
        assert len(boxes) == len(corrected.boxes) + 1
        regions = read(xt.export(corrected, tmp_path / f"regions-{name}", what="regions"))
        row = regions.query("region_row == 0 and region_col == 1").iloc[0]
        assert (row["class"], row["p:weed"]) == ("weed", 1.0)


def test_geopackage(corrected: Prediction, tmp_path: Path) -> None:
    path = xt.export(corrected, tmp_path / "a.gpkg")
    for layer in ("areas", "boxes", "regions"):
        assert "weed" in set(geopandas.read_file(path, layer=layer)["class"])


def test_rasters(corrected: Prediction, tmp_path: Path) -> None:
    wanted = case.mask()
    wanted[10:40, 10:60], wanted[50:60, 10:60] = WEED, NOT_COMPUTED
    zarr_path = xt.export(corrected, tmp_path / "a.ome.zarr")
    tif = tifffile.imread(xt.export(corrected, tmp_path / "a.ome.tif"))
    for found in (zarr.open_array(zarr_path / "labels" / "mask" / "0")[:], tif):
        np.testing.assert_array_equal(found[:64, :64], wanted[:64, :64])
    label = zarr.open_group(zarr_path / "labels" / "mask").attrs["ome"]["image-label"]
    assert {one["label-value"]: one["class"] for one in label["properties"]}[WEED] == "weed"


def test_numbers(corrected: Prediction) -> None:
    table = xt.measure(corrected).set_index(["kind", "class"])
    assert table.loc[("mask", "weed"), "area_px"] == 1500
    assert table.loc[("boxes", "weed"), "count"] == 1
    assert (xt.objects(corrected)["class"] == "weed").sum() == 1
    said = xt.measure(corrected, source="prediction")
    assert "weed" not in set(said["class"]) | set(xt.objects(corrected, source="prediction")["class"])
    with pytest.raises(SettingsError, match="choose of final, prediction"):
        xt.measure(corrected, source="corrected")


def test_what_is_corrected_now_is_not_corrected_again(corrected: Prediction, tmp_path: Path) -> None:
    with xt.corrections(corrected, author="Ada") as known:
        with known.stroke() as stroke:
            stroke.clear(Box(10, 10, 40, 60))
            assert "weed" not in set(xt.objects(known.final)["class"])  # on the disk it still is
            assert "weed" in set(xt.objects(corrected)["class"])
        known.undo()
