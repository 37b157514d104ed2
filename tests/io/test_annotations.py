"""Areas that others drew come in where they were drawn; text that means nothing is refused in one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import export_case as case
import geopandas
import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import napari_xt as xt
from napari_xt.errors import AnnotationError, XTError
from napari_xt.io import annotations, features
from napari_xt.io.annotations import read_annotations, stated_scale
from napari_xt.io.image import Image

SQUARE = [[10, 20], [50, 20], [50, 80], [10, 80], [10, 20]]
HOLE = [[20, 30], [20, 40], [30, 40], [30, 30], [20, 30]]


def feature(coordinates: object, kind: str = "Polygon", **properties: object) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def written(path: Path, content: object) -> Path:
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def collection(*parts: object, **head: object) -> dict[str, Any]:
    return {"type": "FeatureCollection", **head, "features": list(parts)}


def on_earth(path: Path) -> Image:
    """An image of 600 x 1100 px that lies where the predictions of the tests do."""
    a, b, c, d, e, f = case.UTM["transform"]
    matrix = [a, b, 0, c, d, e, 0, f, 0, 0, 0, 0, 0, 0, 0, 1]
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, case.UTM["epsg"])
    tags = [(34264, "d", 16, tuple(map(float, matrix))), (34735, "H", len(keys), keys)]
    tifffile.imwrite(path, np.zeros(case.SHAPE, np.uint8), extratags=tags, tile=(64, 64))
    return xt.open_image(path)


PLAIN = feature([SQUARE, HOLE])


@pytest.mark.parametrize(
    "content",
    [collection(PLAIN), [PLAIN], PLAIN, collection(PLAIN, type="FeatureCollection", bbox=[0, 0, 1, 1], n=12)],
    ids=["collection", "list", "single", "members"],
)
@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_each_form_is_read(tmp_path: Path, content: object, name: str) -> None:
    (found,) = read_annotations(written(tmp_path / name, content))
    ((outer, hole),) = found.polygons
    assert outer.tolist() == [[y, x] for x, y in SQUARE]
    assert hole.tolist() == [[y, x] for x, y in HOLE]
    assert (found.label, found.color, found.name) == ("", None, "")


@pytest.mark.parametrize(
    ("said", "label", "color"),
    [
        ({"classification": {"name": "Tumor", "color": [200, 1, 2]}}, "Tumor", (200, 1, 2)),
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor", (200, 0, 0)),
        ({"classification": {"names": ["Tumor", "CD8"], "color": [1, 2, 3]}}, "Tumor: CD8", (1, 2, 3)),
        ({"class": "crown", "color": "#0a0b0c"}, "crown", (10, 11, 12)),
        ({"classification": "x", "color": {}}, "", None),
        ({"classification": {"name": 5, "color": [1, "2", None]}}, "", None),
    ],
    ids=["now", "before", "derived", "map", "text", "nonsense"],
)
def test_classes_and_colours(tmp_path: Path, said: dict[str, object], label: str, color: object) -> None:
    (found,) = read_annotations(written(tmp_path / "a.geojson", feature([SQUARE], name="N", **said)))
    assert (found.label, found.color, found.name) == (label, color, "N")


def test_several_polygons_are_one_annotation_and_lines_none(tmp_path: Path) -> None:
    parts = [[SQUARE, HOLE], [(np.array(SQUARE) + 100).tolist()]]
    group = {"type": "GeometryCollection", "geometries": [feature([SQUARE])["geometry"]] * 3}
    found = read_annotations(
        written(
            tmp_path / "a.geojson",
            collection(
                feature(parts, "MultiPolygon"),
                feature(SQUARE, "LineString"),
                feature([1, 2], "Point"),
                {"type": "Feature", "geometry": None, "properties": None},
                {"type": "Feature", "geometry": group, "properties": {}},
            ),
        )
    )
    assert [[len(polygon) for polygon in one.polygons] for one in found] == [[2, 1], [1, 1, 1]]


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"bounds_offset": [100, 40]})
    out = xt.export(prediction, tmp_path / "a.geojson.gz", what=("mask", "boxes"))
    found = read_annotations(out)
    areas = [one for one in found if one.label in ("crown", "rock") and len(one.polygons[0][0]) != 5]
    drawn = {name: np.zeros(case.SHAPE, bool) for name in ("crown", "rock")}
    for one in found[: len(found) - len(prediction.boxes)]:
        outer, *holes = (ring[:, ::-1] for ring in one.polygons[0])
        drawn[one.label] |= case.drawn(shapely.Polygon(outer, holes), case.SHAPE)
    mask = np.asarray(prediction.mask[0])
    np.testing.assert_array_equal(drawn["crown"], mask == 1)
    np.testing.assert_array_equal(drawn["rock"], mask == 2)
    assert {one.color for one in areas} == {prediction.layout.rgba(1)[:3], prediction.layout.rgba(2)[:3]}
    assert stated_scale(out) == ((0.5, 0.25), "micrometer")
    ring = found[-1].polygons[0][0]
    box = prediction.boxes.iloc[-1]
    np.testing.assert_allclose(
        [*ring.min(axis=0), *ring.max(axis=0)], box[["y0", "x0", "y1", "x1"]].tolist(), atol=1e-3
    )


def test_a_map_comes_back_onto_the_pixels(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": case.UTM})
    out = xt.export(prediction, tmp_path / "a.geojson", what="boxes", flavour="map")
    with on_earth(tmp_path / "scene.tif") as image:
        assert image.georeference is not None
        found = read_annotations(out, image)
        utm = geopandas.read_file(out).to_crs(case.UTM["epsg"])
        utm.to_file(tmp_path / "b.geojson", driver="GeoJSON")
        others = read_annotations(tmp_path / "b.geojson", image)
    rows = prediction.boxes
    for one in (found, others):
        corners = np.array([[*a.polygons[0][0].min(axis=0), *a.polygons[0][0].max(axis=0)] for a in one])
        np.testing.assert_allclose(corners, rows[["y0", "x0", "y1", "x1"]], atol=2e-3)
    with pytest.raises(AnnotationError, match="is a map, and no image with a reference system"):
        read_annotations(out)
    assert "crs" in json.loads((tmp_path / "b.geojson").read_text())


def test_pixels_that_lie_nowhere_on_earth_are_refused(tmp_path: Path) -> None:
    far = [[10, 20], [9e5, 20], [9e5, 8e5], [10, 20]]
    file = written(tmp_path / "a.geojson", collection(feature([far])))
    with on_earth(tmp_path / "scene.tif") as image, pytest.raises(AnnotationError, match="state pixels with a member"):
        read_annotations(file, image)


def test_what_qupath_wrote_is_in_pixels_also_of_an_image_on_the_earth(tmp_path: Path) -> None:
    file = written(tmp_path / "a.geojson", collection(feature([SQUARE], objectType="annotation")))
    with on_earth(tmp_path / "scene.tif") as image:
        (found,) = read_annotations(file, image)
    assert found.polygons[0][0].tolist() == [[y, x] for x, y in SQUARE]


def test_a_feature_may_lie_across_the_pieces_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PIECE", 7)
    parts = [feature([SQUARE, HOLE], name=f"é{index}") for index in range(40)]
    content = json.dumps(collection(*parts, count=1234567890), ensure_ascii=False, indent=1)
    (tmp_path / "a.geojson").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [one.name for one in read_annotations(tmp_path / "a.geojson")] == [f"é{index}" for index in range(40)]


DAMAGED = {
    "empty": b"",
    "cut": json.dumps(collection(PLAIN)).encode()[:-20],
    "no json": b"hello",
    "number": b"12",
    "text": b'"FeatureCollection"',
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "deep feature": b'{"type": "Feature", "geometry": ' + b'{"a": ' * 100_000,
    "cut gzip": gzip.compress(json.dumps(collection(PLAIN)).encode() * 100)[:-30],
    "no gzip": b"\x1f\x8bhello",
    "not a feature": b'{"type": "FeatureCollection", "features": [1]}',
    "features no list": b"[[1, 2], [3, 4]]",
    "no key": b"{1: 2}",
    "no colon": b'{"features" [1]}',
    "huge number": b"[" + b"1" * 10_000 + b"]",
    **{
        name: json.dumps(feature(rings)).encode()
        for name, rings in {
            "words": [["a", "b", "c"]],
            "ragged": [[[1, 2], [3], [4, 5]]],
            "numbers as words": [[["1", "2"], ["3", "4"], ["5", "6"]]],
            "infinite": [[[1, 2], [3, 1e999], [4, 5]]],
            "not a number": [[[1, 2], [3, float("nan")], [4, 5]]],
            "far": [[[1, 2], [3, 1e12], [4, 5]]],
            "two points": [[[1, 2], [3, 4]]],
            "one number": [[[1], [2], [3]]],
            "whole but long": [[[1, 2], [3, 10**400], [4, 5]]],
            "nothing": [[]],
        }.items()
    },
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_geojson_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"a\.geojson") as caught:
        read_annotations(tmp_path / "a.geojson")
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no such file"):
        read_annotations(tmp_path / "a.geojson")
    with pytest.raises(AnnotationError, match="it is no file"):
        read_annotations(tmp_path)


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = feature([SQUARE * 3000])
    file = written(tmp_path / "a.geojson.gz", collection(*[PLAIN] * 5, long))
    assert len(read_annotations(file)) == 6
    with monkeypatch.context() as patch:
        patch.setattr(features, "PIECE", 100)
        patch.setattr(features, "MOST_CHARS", 2**14)
        with pytest.raises(AnnotationError, match="longer than"):
            read_annotations(file)
    with monkeypatch.context() as patch:
        patch.setattr(features, "PIECE", 100)
        patch.setattr(features, "MOST_BYTES", 500)
        with pytest.raises(AnnotationError, match="longer than"):
            read_annotations(file)
    monkeypatch.setattr(annotations, "MOST_AREAS", 5)
    with pytest.raises(AnnotationError, match="more than 5 areas"):
        read_annotations(file)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutants_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(
        json.dumps(collection(PLAIN, feature([[SQUARE]], "MultiPolygon"), crs={"properties": {}})).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"[", b"9e9", b"}", b'"', b"null", b"\x00"])
        )
    (tmp_path / "a.geojson").write_bytes(text)
    try:
        read_annotations(tmp_path / "a.geojson")
    except XTError as error:
        assert len(str(error)) <= 300  # noqa: PT017 - either is right
