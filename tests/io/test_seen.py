"""A prediction as it is seen at other thresholds, or with other things in place of what the store says."""

from __future__ import annotations

import copy
import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from export_case import prediction as exportable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probability_case import stored

import napari_xt as xt
from napari_xt.errors import SettingsError
from napari_xt.io import prediction as module
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import Status

SHAPE = (2300, 260)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return stored(tmp_path_factory.mktemp("seen") / "a.xt.zarr", SHAPE)


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    states = {"r1_1": Status.NOT_YET, "r2_2": Status.SKIPPED, "r3_1": Status.FAILED}
    return stored(tmp_path_factory.mktemp("seen") / "b.xt.zarr", (330, 260), **states)


@pytest.mark.parametrize(("shape", "stride", "classes"), [((330, 520), 4, 3), ((2300, 260), 8, 2), ((300, 400), 16, 3)])
def test_the_runs_own_threshold_is_the_stored_mask_read_or_composed(
    tmp_path: Path, shape: tuple[int, int], stride: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = stored(tmp_path / "a.xt.zarr", shape, stride, classes)
    again = there.at(mask_threshold=0.4).at(mask_threshold=0.5)
    assert all(seen is level for seen, level in zip(again.mask, there.mask, strict=True)), "it is read as it is stored"
    monkeypatch.setattr(module, "RUN_THRESHOLD", -1)  # so that it is composed
    composed = there.at(mask_threshold=0.4).at(mask_threshold=0.5)
    for seen, level in zip(composed.mask, there.mask, strict=True):
        assert seen is not level
        assert (seen.shape, seen.dtype, seen.chunks, seen.ndim) == (level.shape, level.dtype, level.chunks, level.ndim)
        np.testing.assert_array_equal(np.asarray(seen), level[:])


def test_of_a_run_with_gaps_too_where_nothing_is_known_stays_nothing(
    holed: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_THRESHOLD", -1)
    np.testing.assert_array_equal(holed.at(mask_threshold=0.4).at(mask_threshold=0.5).mask[0][:], holed.mask[0][:])
    low = holed.at(mask_threshold=0.0).mask[0]
    for row, col in ((1, 1), (2, 2), (3, 1)):
        assert not low[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64].any()
    assert low[:64, :64].any()


def test_outside_of_the_region_of_interest_stays_nothing(tmp_path: Path) -> None:
    there = stored(tmp_path / "a.xt.zarr", (300, 260))
    there.header = replace(there.header, plan={"roi_run": {"y0": 40, "x0": 10, "y1": 200, "x1": 210}})
    low = there.at(mask_threshold=0.0).mask[0][:]
    inside = np.zeros(low.shape, bool)
    inside[40:200, 10:210] = True
    assert low[inside].any()
    assert not low[~inside].any()


def test_a_lower_threshold_finds_more_at_every_level(plain: Prediction) -> None:
    found = []
    for threshold in (1.0, 0.8, 0.5, 0.3, 0.0):
        seen = plain.at(mask_threshold=threshold)
        assert seen.mask_threshold == threshold
        fine = np.asarray(seen.mask[0])
        for k, level in enumerate(seen.mask):
            np.testing.assert_array_equal(level[:], fine[:: 2**k, :: 2**k])
        found.append(np.count_nonzero(fine))
    assert found == sorted(found)
    assert (found[0], len(set(found))) == (0, 5)
    assert plain.mask_threshold == 0.5


part = st.one_of(
    st.integers(-130, 129),
    st.builds(slice, *[st.none() | st.integers(-260, 260)] * 2, st.none() | st.integers(1, 9)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.one_of(part, st.tuples(part, part), st.just(...), st.tuples(st.just(...), part)))
def test_any_part_is_that_of_the_whole(plain: Prediction, key: object) -> None:
    level = plain.at(mask_threshold=0.7).mask[1]
    np.testing.assert_array_equal(level[key], np.asarray(level)[key])


def test_boxes_of_another_threshold_are_those_of_the_merged_ones(plain: Prediction) -> None:
    strict = plain.at(box_threshold=0.8)
    merged = plain.merged()
    expected = merged[merged["score"] >= 0.8].reset_index(drop=True)
    pd.testing.assert_frame_equal(strict.boxes, expected)
    pd.testing.assert_frame_equal(strict.boxes, open_prediction(plain.path, 0.8).boxes)
    pd.testing.assert_frame_equal(strict.merged(), merged)
    assert (strict.threshold, strict.mask_threshold) == (0.8, 0.5)
    assert all(a is b for a, b in zip(strict.mask, plain.mask, strict=True))
    assert len(strict.at(box_threshold=0.0).boxes) == len(merged)


@pytest.mark.parametrize("wrong", [{"mask_threshold": 1.5}, {"box_threshold": -0.1}, {"mask_threshold": float("nan")}])
def test_a_threshold_that_is_none_is_refused(plain: Prediction, wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"is no threshold.*give a number in 0\.\.1"):
        plain.at(**wrong)


def test_what_takes_a_prediction_takes_one_that_is_seen(plain: Prediction, tmp_path: Path) -> None:
    seen = plain.at(mask_threshold=0.8, box_threshold=0.6)
    written = _written(plain, tmp_path / "same.xt.zarr", np.asarray(seen.mask[0]))
    columns = ["id", "class", "y", "x", "area_px", "perimeter_px", "holes"]
    pd.testing.assert_frame_equal(xt.objects(seen)[columns], xt.objects(written)[columns])
    square = [np.array([(10.0, 10.0), (10, 200), (900, 200), (900, 10)])]
    pd.testing.assert_frame_equal(xt.measure(seen, square), xt.measure(written, square))
    for name in ("a.geojson", "a.ome.tif", "a.csv", "a.coco.json"):
        one, other = (xt.export(p, tmp_path / f"{k}{name}") for k, p in enumerate((seen, written)))
        assert _told(one) == _told(other), name
    table = xt.compare(seen, written)
    assert (table.loc[table["kind"] == "mask", "iou"] == 1).all()


def _written(like: Prediction, path: Path, mask: np.ndarray) -> Prediction:
    """A store that says what another is seen as."""
    shutil.copytree(like.path, path)
    for k in range(len(like.mask)):
        zarr.open_array(path / "labels" / "mask" / str(k), mode="r+")[:] = mask[:: 2**k, :: 2**k]
    return open_prediction(path, 0.6)


def _told(path: Path) -> object:
    """What a file says, without what it says of itself."""
    if path.name.endswith(".tif"):
        return tifffile.imread(path).tobytes()
    if path.name.endswith(".csv"):
        return path.read_text()
    found = json.loads(path.read_text())
    return found.get("features") or found["annotations"]


def test_what_is_given_is_what_is_seen(tmp_path: Path) -> None:
    there = exportable(tmp_path / "a.xt.zarr")
    mask = np.zeros(there.layout.shape, np.uint8)
    mask[100:110, 200:220], mask[300:304, 300:304], mask[400:410, 400:410] = 1, 3, 254
    levels = [mask[:: 2**k, :: 2**k] for k in range(len(there.mask))]
    boxes = there.merged().iloc[:3].assign(score=[0.9, 0.01, np.nan])
    layout = replace(there.layout, mask=("background", "tree", "rock", "pond"))
    scores = there.scores.assign(**{"class": "dense"})
    seen = there.seen_as(mask=_Chunked.of(levels), boxes=boxes, scores=scores, layout=layout)
    objects = xt.objects(seen)
    assert objects["class"].tolist() == ["tree", "pond"]
    assert objects["score"].isna().tolist() == [False, True], "nobody has given a new class a probability"
    assert seen.area()["pond"] == 16 * np.prod(seen.layout.frame.px_per_run)
    assert seen.boxes["score"].isna().tolist() == [False, True]
    assert len(seen.at(box_threshold=0.0).boxes) == 3
    assert set(seen.scores["class"]) == {"dense"}
    found = xt.measure(seen).set_index(["kind", "class"])["count"]
    assert found["mask", "pond"] == found["mask", "tree"] == 1
    raster = xt.export(seen, tmp_path / "a.ome.tif")
    pixels = tifffile.imread(raster)
    assert set(np.unique(pixels)) == {0, 1, 3, 255}, "what is not known is no class"
    text = xt.export(seen, tmp_path / "a.geojson", what="mask").read_text()
    assert "pond" in text
    assert there.layout.mask == ("background", "crown", "rock")
    with pytest.raises(SettingsError, match="the mask was given and has no other"):
        seen.at(mask_threshold=0.2)


def test_a_mask_over_the_one_beneath_follows_its_threshold(plain: Prediction) -> None:
    def flipped(levels: list[object]) -> list[object]:
        return [np.asarray(level)[::-1] for level in levels]

    seen = plain.seen_as(mask=flipped, boxes=lambda: plain.merged().iloc[:2])
    np.testing.assert_array_equal(seen.mask[0], plain.mask[0][:][::-1])
    other = seen.at(mask_threshold=0.8, box_threshold=0.0)
    np.testing.assert_array_equal(other.mask[0], np.asarray(plain.at(mask_threshold=0.8).mask[0])[::-1])
    assert len(other.boxes) == 2


def test_a_growing_one_goes_on_growing_as_it_is_seen(tmp_path: Path) -> None:
    there = stored(tmp_path / "a.xt.zarr", (330, 260), r1_1=Status.NOT_YET)
    seen = there.at(mask_threshold=0.0, box_threshold=0.0)
    assert len(seen.scores) == len(there.scores)
    again = copy.copy(seen)
    assert not again.complete
    assert not seen.mask[0][64:128, 64:128].any()


def test_a_packed_one_is_seen_as_long_as_it_is_held(plain: Prediction, tmp_path: Path) -> None:
    packed = xt.pack(plain.path, tmp_path / "a.xt.zarr.zip")
    seen = open_prediction(packed).at(mask_threshold=0.8, box_threshold=0.5)
    gc.collect()
    np.testing.assert_array_equal(seen.mask[0][:], plain.at(mask_threshold=0.8).mask[0][:])
    pd.testing.assert_frame_equal(seen.boxes, plain.at(box_threshold=0.5).boxes)


class _Chunked(np.ndarray):
    """An array that says how it is chunked, as stored ones do."""

    chunks = (512, 512)

    @classmethod
    def of(cls, levels: list[np.ndarray]) -> list[np.ndarray]:
        return [level.view(cls) for level in levels]
