from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import export_case
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from napari.layers import Shapes
from skimage.draw import polygon2mask
from skimage.measure import euler_number, label, perimeter_crofton, regionprops

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box, Frame
from napari_xt.io import measure as module
from napari_xt.io import objects as objects_module
from napari_xt.io.annotations import Annotation
from napari_xt.io.measure import WHOLE, measure
from napari_xt.io.measures.components import measure_components
from napari_xt.io.measures.inside import pixels_inside, points_inside
from napari_xt.io.objects import objects

SQUARE = np.array([(120.0, 210.0), (120.0, 640.0), (430.25, 640.0), (430.25, 210.0)])


def streamed(mask: np.ndarray, height: int) -> dict[tuple[int, float], dict[str, float]]:
    """Each object by class and first pixel, from bands of a height."""

    def bands() -> Iterator[tuple[np.ndarray, object]]:
        for top in range(0, len(mask), height):
            yield mask[top : top + height], lambda value, y, x, top=top: [value * (y + top) + x]

    found = {}
    for value, table in measure_components(bands(), mask.shape[1], ["extra"]):
        for index, first in enumerate(table["first"]):
            found[value, float(first)] = {name: float(numbers[index]) for name, numbers in table.items()}
    return found


@settings(max_examples=60)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 2)), st.integers(1, 9)
)
def test_bands_of_any_height_give_what_the_whole_gives(mask: np.ndarray, height: int) -> None:
    assert streamed(mask, height) == streamed(mask, 100)


def test_every_object_is_measured_as_scikit_image_does() -> None:
    mask = export_case.mask()[60:157, 470:553]
    found = streamed(mask, 10)
    count = 0
    for value in (1, 2):
        for area in regionprops(label(mask == value, connectivity=1)):
            y, x = area.coords[np.lexsort((area.coords[:, 1], area.coords[:, 0]))][0]
            own = found[value, float(y * 83 + x)]
            assert own["px"] == area.area
            np.testing.assert_allclose((own["y"] / own["px"], own["x"] / own["px"]), area.centroid)
            assert (own["y0"], own["x0"], own["y1"], own["x1"]) == area.bbox
            picture = np.pad(area.image, 2)
            assert 1 - own["corners"] / 4 == 1 - euler_number(picture, 1)
            around = np.pi / 8 * (own["across"] + own["down"] + own["diagonal"] / np.sqrt(2))
            assert around == pytest.approx(perimeter_crofton(picture, 4), rel=0.05)
            count += 1
    assert count == len(found) > 20


def test_a_table_of_objects_knows_units_scores_and_intensities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = export_case.mask()
    prediction = export_case.prediction(tmp_path / "a.xt.zarr", pixels)
    seen = np.random.default_rng(1).normal(size=(2, *export_case.SHAPE)).astype(np.float32)
    seen[:, 0, :50] = np.nan
    monkeypatch.setattr(objects_module, "BAND_PX", 64 * 1100)
    steps: list[tuple[int, int]] = []
    table = objects(prediction, seen, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (600, 600)
    shown = np.asarray(prediction.mask[0])
    classes = prediction.layout.mask or ()
    biggest = table.loc[table["area_px"].idxmax()]
    areas = label(shown == classes.index(biggest["class"]), connectivity=1)
    own = areas == areas.flat[biggest["id"]]
    assert biggest["area_px"] == own.sum()
    assert biggest["area_um2"] == pytest.approx(own.sum() * 0.125)
    np.testing.assert_allclose(biggest[["y", "x"]].to_numpy(float), np.argwhere(own).mean(axis=0) + 0.5)
    assert biggest["mean:channel 1"] == pytest.approx(np.nanmean(seen[1][own]))
    probability = np.asarray(prediction.probability)[classes.index(biggest["class"])].repeat(4, 0).repeat(4, 1)
    assert biggest["score"] == pytest.approx(probability[:600, :1100][own].mean() / 255)
    by_class = table.groupby("class")["area_px"].sum()
    for name in classes[1:]:
        assert by_class[name] == prediction.area()[name]
    assert table["perimeter_um"].between(table["perimeter_px"] * 0.25, table["perimeter_px"] * 0.5).all()


def test_objects_of_a_resampled_run_are_in_level_0_pixels(tmp_path: Path) -> None:
    frame = Frame((1200, 4400), export_case.SHAPE, (0.5, 0.5), "micrometer")
    pixels = np.zeros(export_case.SHAPE, np.uint8)
    pixels[100:110, 200:230] = 1
    prediction = export_case.prediction(tmp_path / "a.xt.zarr", pixels, frame=frame)
    (row,) = objects(prediction).to_dict("records")
    assert (row["y0"], row["x0"], row["y1"], row["x1"]) == (200, 800, 220, 920)
    assert (row["y"], row["x"]) == (210, 860)
    assert row["area_px"] == 20 * 120
    assert row["area_um2"] == 20 * 120 / 4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(-3, 20, width=32), st.floats(-3, 20, width=32)), min_size=3, max_size=7))
def test_inside_is_what_shapely_says(corners: list[tuple[float, float]]) -> None:
    ring = np.array(corners)
    shape = shapely.Polygon(ring)
    if not shape.is_valid:
        return
    y, x = np.mgrid[0:16, 0:15] + 0.5
    far = shapely.distance(shape.boundary, shapely.points(y, x)) > 1e-9
    wanted = shapely.contains_xy(shape, y, x)
    np.testing.assert_array_equal(pixels_inside([ring], Box(0, 0, 16, 15))[far], wanted[far])
    found = points_inside(np.stack([y.ravel(), x.ravel()], axis=1), [ring]).reshape(16, 15)
    np.testing.assert_array_equal(found[far], wanted[far])


def test_a_summary_counts_the_image_and_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = export_case.prediction(tmp_path / "a.xt.zarr")
    monkeypatch.setattr(module, "BAND_PX", 5000)
    shapes = Shapes([SQUARE - 0.5], shape_type="rectangle")
    hole = np.array([(200.0, 300.0), (200.0, 400.0), (300.0, 400.0), (300.0, 300.0)])
    ring = Annotation(((SQUARE, hole),), name="ring")
    table = objects(prediction)
    drawn = measure(prediction, shapes, found=table)
    named = measure(prediction, [ring], found=table)
    shown = np.asarray(prediction.mask[0])
    settled = settled_pixels(prediction)
    inside = polygon2mask(export_case.SHAPE, SQUARE - 0.5) & settled
    for kind, name in (("mask", "crown"), ("mask", "rock"), ("boxes", "bush")):
        whole = row(drawn, WHOLE, kind, name)
        part = row(drawn, "shape 1", kind, name)
        assert 0 < part["count"] < whole["count"]
        assert part["count"] >= row(named, "ring", kind, name)["count"]
        assert whole["per_mm2"] == pytest.approx(whole["count"] / (settled.sum() * 0.125e-6))
    part = row(drawn, "shape 1", "mask", "crown")
    assert part["area_px"] == ((shown == 1) & inside).sum()
    assert part["share"] == pytest.approx(part["area_px"] / inside.sum())
    without = inside.copy()
    without[200:300, 300:400] = False
    assert row(named, "ring", "mask", "crown")["area_px"] == ((shown == 1) & without).sum()
    assert whole_of(drawn) == whole_of(named)


def test_what_is_no_shape_is_refused(tmp_path: Path) -> None:
    prediction = export_case.prediction(tmp_path / "a.xt.zarr")
    with pytest.raises(SettingsError, match="at least three"):
        measure(prediction, [[(0, 0), (1, 1)]])
    with pytest.raises(SettingsError, match="has no inside"):
        measure(prediction, Shapes([[(0, 0), (1, 1)]], shape_type="line"))
    with pytest.raises(SettingsError, match="pass the image that was run"):
        objects(prediction, np.zeros((10, 10), np.uint8))


def test_an_ellipse_is_an_ellipse(tmp_path: Path) -> None:
    pixels = np.ones(export_case.SHAPE, np.uint8)
    prediction = export_case.prediction(tmp_path / "a.xt.zarr", pixels)
    shapes = Shapes([[(100, 300), (100, 500), (200, 500), (200, 300)]], shape_type="ellipse")
    found = row(measure(prediction, shapes), "shape 1", "mask", "crown")
    assert found["area_px"] == pytest.approx(np.pi * 50 * 100, rel=0.01)


def row(table: pd.DataFrame, shape: str, kind: str, name: str) -> dict[str, float]:
    (found,) = table[(table["shape"] == shape) & (table["kind"] == kind) & (table["class"] == name)].to_dict("records")
    return found


def whole_of(table: pd.DataFrame) -> list[dict[str, object]]:
    return table[table["shape"] == WHOLE].to_dict("records")


def settled_pixels(prediction: object) -> np.ndarray:
    settled = np.zeros(export_case.SHAPE, bool)
    for found in prediction.scores.itertuples():  # type: ignore[attr-defined]
        if found.status in ("done", "skipped"):
            settled[int(found.y0) : int(found.y1), int(found.x0) : int(found.x1)] = True
    return settled
