from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import export_case as case
import geopandas
import numpy as np
import pytest
import shapely
from pyproj import Transformer
from zarr.storage import LocalStore

import napari_xt as xt
from napari_xt.errors import SettingsError
from napari_xt.geometry import Frame
from napari_xt.io.exports import geojson, things
from napari_xt.io.exports.things import SPACE, identifier
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.tree import open_tree

NAMES = ("background", "crown", "rock")


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return case.prediction(tmp_path_factory.mktemp("geojson") / "run.xt.zarr", notes={"georeference": case.UTM})


@pytest.fixture(scope="module")
def qupath(prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read(xt.export(prediction, tmp_path_factory.mktemp("qupath") / "a.geojson"))


@pytest.fixture(scope="module")
def on_a_map(prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xt.export(prediction, tmp_path_factory.mktemp("map") / "a.geojson", flavour="map")


def read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(data) if path.name.endswith(".gz") else data)
    return found


def of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [feature for feature in found["features"] if feature["properties"]["objectType"] == kind]


def test_the_file_says_what_it_is_of(qupath: dict[str, Any], prediction: Prediction) -> None:
    told = qupath["napari_xt"]
    assert list(qupath) == ["type", "napari_xt", "features"]
    assert (told["source"], told["corrections"], told["flavour"], told["model"]) == ("final", 0, "qupath", "canopy")
    assert told["coverage"] == pytest.approx(prediction.coverage)
    assert (told["shape_px"], told["pixel_size"], told["unit"]) == ([600, 1100], [0.5, 0.25], "micrometer")


def test_a_file_names_the_plane(prediction: Prediction, tmp_path: Path) -> None:
    header = replace(prediction.header, job={**prediction.header.job, "plane": {"t": 3, "z": 12}})
    chosen = Prediction(prediction.path, header, open_tree(LocalStore(prediction.path), header.layout, "r"))
    assert read(xt.export(chosen, tmp_path / "a.geojson", what="regions"))["napari_xt"]["plane"] == {"t": 3, "z": 12}
    assert "plane" not in read(xt.export(prediction, tmp_path / "b.geojson", what="regions"))["napari_xt"]


def test_areas_are_annotations_that_draw_the_mask(qupath: dict[str, Any]) -> None:
    out = np.zeros(case.SHAPE, np.uint8)
    for feature in of(qupath, "annotation"):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area == feature["properties"]["measurements"]["area_px"]
        assert feature["properties"]["measurements"]["area_um2"] == pytest.approx(shape.area * 0.125)
        out[case.drawn(shape, case.SHAPE)] = NAMES.index(feature["properties"]["classification"]["name"])
    assert np.array_equal(out, case.mask())


def test_boxes_are_detections(qupath: dict[str, Any], prediction: Prediction) -> None:
    boxes, found = prediction.boxes, of(qupath, "detection")
    assert [feature["properties"]["classification"]["name"] for feature in found] == boxes["class"].tolist()
    scores = [feature["properties"]["measurements"]["score"] for feature in found]
    assert scores == pytest.approx(boxes["score"].tolist(), abs=1e-6)
    bounds = [shapely.geometry.shape(feature["geometry"]).bounds for feature in found]
    np.testing.assert_allclose(bounds, boxes[["x0", "y0", "x1", "y1"]], atol=1e-3)


def test_regions_are_tiles_with_scores(qupath: dict[str, Any], prediction: Prediction) -> None:
    scores, found = prediction.scores, of(qupath, "tile")
    assert len(found) == len(scores)
    done = [feature["properties"]["metadata"]["status"] for feature in found]
    assert done == scores["status"].tolist()
    failed = found[done.index("failed")]["properties"]
    assert (failed["measurements"], failed.get("classification")) == ({}, None)
    assert found[0]["properties"]["measurements"]["p:open"] == pytest.approx(scores["p:open"][0], abs=1e-6)
    assert shapely.geometry.shape(found[-1]["geometry"]).bounds == (1088, 576, 1100, 600)


def test_classes_have_one_colour(qupath: dict[str, Any], prediction: Prediction) -> None:
    named = [f["properties"]["classification"] for f in qupath["features"] if "classification" in f["properties"]]
    colors = {(found["name"], tuple(found["color"])) for found in named}
    assert len(colors) == len({name for name, _ in colors}) == 5
    assert ("crown", prediction.layout.rgba(1)[:3]) in colors


def test_identifiers_are_uuids_and_stay(qupath: dict[str, Any], prediction: Prediction, tmp_path: Path) -> None:
    ids = [feature["id"] for feature in qupath["features"]]
    assert len({UUID(ident) for ident in ids}) == len(ids)
    again = read(xt.export(prediction, tmp_path / "a.geojson", what=["boxes"], box_threshold=0.9))
    assert {feature["id"] for feature in again["features"]} < set(ids)


def test_identifiers_are_those_of_rfc_9562() -> None:
    names = [f"box/{number}" for number in range(200)]
    assert [identifier(name) for name in names] == [str(uuid5(UUID(bytes=SPACE), name)) for name in names]


def test_gzip_is_the_same_file_packed(prediction: Prediction, qupath: dict[str, Any], tmp_path: Path) -> None:
    path = xt.export(prediction, tmp_path / "a.geojson.gz")
    assert read(path) == qupath
    again = xt.export(prediction, tmp_path / "b.geojson.gz")
    assert path.read_bytes() == again.read_bytes()


def test_other_peoples_readers_read_it(prediction: Prediction, qupath: dict[str, Any], tmp_path: Path) -> None:
    table = geopandas.read_file(xt.export(prediction, tmp_path / "a.geojson"))
    assert len(table) == len(qupath["features"])
    assert table.geometry.is_valid.all()
    assert table.total_bounds.tolist() == pytest.approx([0, 0, 1100, 600], abs=40)


def test_the_margin_that_qupath_does_not_show_is_left_out(tmp_path: Path) -> None:
    notes = {"bounds_offset": [100, 30.0]}
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes=notes)
    found = read(xt.export(prediction, tmp_path / "a.geojson"))
    assert found["napari_xt"]["bounds_offset"] == [100, 30.0]
    bounds = shapely.geometry.shape(of(found, "detection")[0]["geometry"]).bounds
    box = prediction.boxes.iloc[0]
    assert bounds == pytest.approx((box.x0 - 30, box.y0 - 100, box.x1 - 30, box.y1 - 100), abs=1e-3)
    tile = shapely.geometry.shape(of(found, "tile")[0]["geometry"])
    assert tile.bounds == (-30, -100, 34, -36)


def test_coordinates_are_level_0_pixels(tmp_path: Path) -> None:
    shape = (1201, 2200)
    found = replace(case.layout(), frame=Frame(shape, case.SHAPE))
    prediction = case.prediction(tmp_path / "run.xt.zarr", found=found)
    areas = of(read(xt.export(prediction, tmp_path / "a.geojson", what="mask")), "annotation")
    covered = sum(shapely.geometry.shape(feature["geometry"]).area for feature in areas)
    assert covered == pytest.approx(np.count_nonzero(case.mask()) * 1201 / 600 * 2, rel=1e-6)
    assert covered == pytest.approx(sum(f["properties"]["measurements"]["area_px"] for f in areas), rel=1e-6)
    assert max(shapely.geometry.shape(feature["geometry"]).bounds[3] for feature in areas) == 1201


@pytest.mark.parametrize("tolerance", [0.6, 3.0])
def test_simplified_polygons_stay_near_and_valid(
    tolerance: float, prediction: Prediction, qupath: dict[str, Any], tmp_path: Path
) -> None:
    path = xt.export(prediction, tmp_path / "a.geojson", what="mask", simplify=tolerance)
    found, exact = read(path)["features"], {f["id"]: f for f in of(qupath, "annotation")}
    corners = shapely.get_num_coordinates
    shapes = [
        (shapely.geometry.shape(f["geometry"]), shapely.geometry.shape(exact[f["id"]]["geometry"])) for f in found
    ]
    assert len(shapes) == len(exact)
    assert all(shape.is_valid for shape, _ in shapes)
    assert sum(corners(shape) for shape, _ in shapes) < sum(corners(whole) for _, whole in shapes)
    assert all(shapely.hausdorff_distance(*pair) <= 1.5 * tolerance for pair in shapes)


@pytest.mark.parametrize("flavour", ["qupath", "map"])
def test_an_area_with_many_holes_is_written_as_any_other(
    flavour: str, prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = xt.export(prediction, tmp_path / "a.geojson", what="mask", flavour=flavour).read_bytes()
    for module in (geojson, things):
        monkeypatch.setattr(module, "MANY_RINGS", 1)
    monkeypatch.setattr(geojson, "_BATCH", 3)
    assert xt.export(prediction, tmp_path / "b.geojson", what="mask", flavour=flavour).read_bytes() == whole


def test_a_map_lies_where_the_image_lies(on_a_map: Path, prediction: Prediction) -> None:
    table = geopandas.read_file(on_a_map)
    assert table.crs.to_epsg() == 4326
    assert table.geometry.is_valid.all()
    boxes = table[table["kind"] == "box"]
    first = prediction.boxes.iloc[0]
    a, b, c, d, e, f = case.UTM["transform"]
    corner = a * first.x0 + b * first.y0 + c, d * first.x0 + e * first.y0 + f
    expected = Transformer.from_crs(32612, 4326, always_xy=True).transform(*corner)
    distance = np.abs(shapely.get_coordinates(boxes.geometry.iloc[0]) - expected).sum(axis=1).min()
    assert distance < 3e-8
    back = table[table["kind"] == "area"].to_crs(32612)
    assert back.geometry.area.sum() == pytest.approx(np.count_nonzero(case.mask()) * 0.26, rel=1e-4)


def test_a_map_keeps_the_right_hand_rule(on_a_map: Path) -> None:
    found = read(on_a_map)
    assert found["napari_xt"]["flavour"] == "map"
    holes = 0
    for feature in found["features"]:
        exterior, *rest = feature["geometry"]["coordinates"]
        assert shapely.is_ccw(shapely.LinearRing(exterior))
        assert not any(shapely.is_ccw(shapely.LinearRing(ring)) for ring in rest)
        holes += len(rest)
    assert holes > 10
    kinds = {feature["properties"]["kind"] for feature in found["features"]}
    assert kinds == {"area", "box", "region"}


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({}, "its image has no coordinate reference system, which a map needs"),
        ({"georeference": {**case.UTM, "epsg": None}}, "its image's has no EPSG code"),
        ({"georeference": {**case.UTM, "epsg": 1}}, "EPSG:1: is no known reference system"),
        ({"georeference": {**case.UTM, "transform": [1e9, 0, 0, 0, 1e9, 0]}}, "does not reach all of the image"),
    ],
    ids=["no georeference", "no code", "unknown code", "beyond the map"],
)
def test_a_map_is_refused_where_there_is_none(notes: dict[str, object], words: str, tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes=notes)
    with pytest.raises(SettingsError, match=words):
        xt.export(prediction, tmp_path / "a.geojson", flavour="map")
    assert [path.name for path in tmp_path.iterdir()] == ["run.xt.zarr"]
