"""A run over areas that were drawn elsewhere: the regions that they touch, no others, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import plan as planning
from napari_xt.engine.area import touched_cells, within, without
from napari_xt.engine.background import runs_of
from napari_xt.errors import SettingsError, StoreMismatchError, XTError
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.xt import XT
from small_model import SMALL, small_model, squares

SHAPE = (700, 610)  # 11 x 10 regions of 64 px in windows of 4 x 4
CORNERS = st.tuples(st.integers(-40, 400), st.integers(-40, 400))


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return squares(SHAPE)


def drawn(path: Path, *polygons: object) -> Path:
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [*rings]}, "properties": {}}
        for rings in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def rectangle(y0: float, x0: float, y1: float, x1: float) -> list[list[list[float]]]:
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]


def two(path: Path) -> Path:
    """A corner above on the left, and a triangle below on the right."""
    return drawn(path, rectangle(10, 10, 64, 130), [[[600, 690], [500, 690], [600, 590], [600, 690]]])


@given(corners=st.lists(CORNERS, min_size=3, max_size=9), step=st.sampled_from([1, 7, 64]))
@settings(max_examples=150)
def test_a_cell_is_touched_where_it_shares_an_area(corners: list[tuple[int, int]], step: int) -> None:
    shape = (5, 6)
    hull = shapely.MultiPoint([(x * step / 64, y * step / 64) for y, x in corners]).convex_hull
    assume(hull.area > 0.01)
    holed = hull.difference(shapely.affinity.scale(hull, 0.4, 0.4, origin="centroid"))
    ring, hole = (np.array(part.coords)[:, ::-1] for part in (holed.exterior, holed.interiors[0]))
    found = touched_cells([[ring, hole]], shape)
    for row, col in np.ndindex(shape):
        shared = shapely.box(col, row, col + 1, row + 1).intersection(holed).area
        if shared > 1e-5:
            assert found[row, col]
        if shared == 0 and not shapely.box(col, row, col + 1, row + 1).buffer(1e-5).intersects(holed.boundary):
            assert not found[row, col]


def test_borders_alone_do_not_touch() -> None:
    square = np.array([[1, 1], [1, 3], [2, 3], [2, 1]], float)
    found = touched_cells([[square]], (4, 5))
    assert np.argwhere(found).tolist() == [[1, 1], [1, 2]]


def test_what_overlaps_is_touched_and_what_lies_outside_is_not() -> None:
    square = np.array([[-3, -3], [-3, 2.5], [2.5, 2.5], [2.5, -3]], float)
    found = touched_cells([[square], [square], [square + 100]], (4, 5))
    assert found.sum() == 9
    assert found[:3, :3].all()


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_runs_hold_their_numbers(one: set[int], other: set[int]) -> None:
    runs, others = (runs_of(np.array(sorted(numbers), np.int64)) for numbers in (one, other))
    assert {n for n in range(70) if within(runs, n)} == one
    assert {n for n in range(70) if within(without(runs, others), n)} == one - other


def test_the_regions_that_are_touched_are_run(scene: np.ndarray, model: XT, tmp_path: Path) -> None:
    file = two(tmp_path / "areas.geojson")
    found = xt.predict(scene, model, out=tmp_path / "a.xt.zarr", roi=file)
    wanted = {(0, 0), (0, 1), (0, 2), (9, 8), (9, 9), (10, 7), (10, 8), (10, 9)}
    rows = found.scores
    assert set(zip(rows["region_row"], rows["region_col"], strict=True)) == wanted
    assert set(rows["status"]) == {"done"}
    assert found.complete
    assert found.coverage == 1
    known = np.zeros(SHAPE, bool)
    for row, col in wanted:
        known[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64] = True
    mask = np.asarray(found.mask[0])
    assert (mask[~known] == 0).all()
    assert (mask[known] != 0).any()
    places = zip(found.boxes["region_row"], found.boxes["region_col"], strict=True)
    assert set(places) <= wanted


@pytest.mark.parametrize("window", [4, "global"])
def test_an_area_that_fills_its_box_is_a_run_of_that_box(
    scene: np.ndarray, model: XT, tmp_path: Path, window: int | str
) -> None:
    file = drawn(tmp_path / "areas.geojson", rectangle(64, 128, 320, 384))
    drawn_run = xt.predict(scene, model, out=tmp_path / "a.xt.zarr", roi=str(file), window=window)
    box_run = xt.predict(scene, model, out=tmp_path / "b.xt.zarr", roi="64,128,320,384", window=window)
    np.testing.assert_array_equal(np.asarray(drawn_run.mask[0]), np.asarray(box_run.mask[0]))
    assert drawn_run.header.job == box_run.header.job


def test_a_window_on_disk_gives_what_one_in_memory_does(
    scene: np.ndarray, model: XT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = two(tmp_path / "areas.geojson")
    options = {"roi": file, "window": "global", "precision": "float32"}
    small = xt.predict(scene, model, out=tmp_path / "a.xt.zarr", **options)
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 16)
    assert xt.plan(scene, model, **options).large
    large = xt.predict(scene, model, out=tmp_path / "b.xt.zarr", preview=True, **options)
    np.testing.assert_array_equal(np.asarray(small.mask[0]), np.asarray(large.mask[0]))
    assert small.scores.equals(large.scores)
    assert large.coverage == 1


def test_a_stopped_run_goes_on_and_another_area_is_another_run(scene: np.ndarray, model: XT, tmp_path: Path) -> None:
    file, out = two(tmp_path / "areas.geojson"), tmp_path / "a.xt.zarr"
    events = xt.stream(scene, model, out=out, roi=file)
    for event in events:
        if type(event).__name__ == "RegionDone":
            break
    events.close()
    assert xt.predict(scene, model, out=out, roi=file).complete
    other = drawn(tmp_path / "other.geojson", rectangle(10, 10, 64, 130), rectangle(640, 600, 690, 605))
    with pytest.raises(StoreMismatchError, match="left_out"):
        xt.predict(scene, model, out=out, roi=drawn(other, rectangle(10, 10, 64, 130), rectangle(690, 450, 695, 605)))


def test_the_card_says_so(scene: np.ndarray, model: XT, tmp_path: Path) -> None:
    made = xt.plan(scene, model, roi=two(tmp_path / "areas.geojson"))
    assert made.regions == 8
    assert f"{made.regions} of 110" in str(made)
    assert "that the drawn areas touch" in str(made)


def test_empty_regions_between_are_not_counted(scene: np.ndarray, model: XT, tmp_path: Path) -> None:
    glass = np.full((*SHAPE, 3), 243, np.uint8)
    glass[:128, :200] = scene[:128, :200]
    file = drawn(tmp_path / "areas.geojson", rectangle(10, 10, 60, 190), rectangle(600, 10, 690, 60))
    found = xt.predict(glass, model, out=tmp_path / "a.xt.zarr", roi=file, skip_background=True)
    assert sorted(set(found.scores["status"])) == ["done", "skipped"]
    assert len(found.scores) == 3 + 2
    assert found.coverage == 1


def test_encoded_regions_are_taken_over(scene: np.ndarray, tmp_path: Path, model: XT) -> None:
    np.save(tmp_path / "scene.npy", scene)
    whole = xt.predict(tmp_path / "scene.npy", model, out=tmp_path / "a.xt.zarr", keep="features")
    made = xt.plan(tmp_path / "scene.npy", model, roi=two(tmp_path / "areas.geojson"), reuse=str(whole.path))
    assert made.reused == made.regions
    part = xt.predict(
        tmp_path / "scene.npy", model, out=tmp_path / "b.xt.zarr", roi=two(tmp_path / "areas.geojson"), keep="features"
    )
    back = xt.plan(tmp_path / "scene.npy", model, reuse=str(part.path))
    assert back.reused == len(part.scores)


@pytest.mark.parametrize(
    ("polygons", "why"),
    [((), "has no areas"), ((rectangle(5000, 5000, 5100, 5100),), "no area that touches")],
    ids=["none", "elsewhere"],
)
def test_areas_that_are_not_there_are_refused(
    scene: np.ndarray, model: XT, tmp_path: Path, polygons: tuple[object, ...], why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        xt.plan(scene, model, roi=drawn(tmp_path / "areas.geojson", *polygons))
    with pytest.raises(XTError, match="no such file"):
        xt.plan(scene, model, roi=tmp_path / "missing.geojson")


def test_the_command_line_takes_the_file(
    scene: np.ndarray, model: XT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "scene.npy", scene)
    save_model(model, tmp_path / "small.safetensors", ModelCard(name="small"))
    call = ["run", str(tmp_path / "scene.npy"), "--model", str(tmp_path / "small.safetensors")]
    file = two(tmp_path / "areas.geojson")
    assert main([*call, "--roi", str(file), "--out", str(tmp_path / "a.xt.zarr")]) == 0
    assert "that the drawn areas touch" in capsys.readouterr().out
    assert len(xt.open_prediction(tmp_path / "a.xt.zarr").scores) == 8
    assert SMALL.region_px == 64
