"""Two predictions side by side: counts by another's arithmetic, differences at every zoom, refusals in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import export_case
import numpy as np
import pandas as pd
import pytest

from napari_xt.cli import main
from napari_xt.errors import SettingsError
from napari_xt.geometry import Frame, Grid
from napari_xt.io.compare import BOTH, DIFFER, MATCH_IOU, NEITHER, ONLY_A, ONLY_B, UNKNOWN, compare, difference
from napari_xt.io.stores.merge import BOX_DTYPE, overlapping

if TYPE_CHECKING:
    from pathlib import Path

    from napari_xt.io.prediction import Prediction

FIRST, SECOND = export_case.mask(seed=0), export_case.mask(seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prediction, Prediction]:
    """Return two predictions; the second one's classes have another order."""
    folder = tmp_path_factory.mktemp("pair")
    turned = np.array([0, 2, 1], np.uint8)[SECOND]
    names = ("background", "rock", "crown")
    one = export_case.prediction(folder / "one.xt.zarr", FIRST)
    return one, export_case.prediction(folder / "other.xt.zarr", turned, mask=names)


def known(prediction: Prediction) -> np.ndarray:
    region = prediction.layout.grid.region(*divmod(export_case.FAILED, prediction.layout.grid.shape[1]))
    flags = np.ones(prediction.layout.shape, np.bool_)
    flags[region.inner.slices] = False
    return flags


def test_masks_are_counted_by_name_where_both_are_done(pair: tuple[Prediction, Prediction]) -> None:
    table = compare(*pair)
    masks = table[table["kind"] == "mask"].set_index("class")
    assert list(masks.index) == ["crown", "rock"]
    where = known(pair[0])
    for value, name in enumerate(masks.index, 1):
        a, b = (value == FIRST) & where, (value == SECOND) & where
        row = masks.loc[name]
        assert (row.a, row.b, row.both, row.either) == (a.sum(), b.sum(), (a & b).sum(), (a | b).sum())
        assert row.iou == pytest.approx((a & b).sum() / (a | b).sum())


def test_prediction_agrees_with_itself(pair: tuple[Prediction, Prediction]) -> None:
    table = compare(pair[0], pair[0].path)
    there = table[table["either"] > 0]
    assert set(there["kind"]) == {"mask", "boxes", "regions"}
    assert (there["iou"] == 1).all()
    boxes = there[there["kind"] == "boxes"]
    assert (boxes[["precision", "recall", "f1"]] == 1).all(axis=None)
    assert boxes["a"].sum() == len(pair[0].boxes)


def test_a_mask_of_every_second_pixel_is_counted_in_pixels_of_the_image(tmp_path: Path) -> None:
    layout = replace(export_case.layout(), frame=Frame((1200, 2200), export_case.SHAPE, (0.5, 0.25), "micrometer"))
    found = export_case.prediction(tmp_path / "half.xt.zarr", FIRST, layout)
    row = compare(found, found).iloc[0]
    assert row.a == 4 * ((FIRST == 1) & known(found)).sum()


def test_boxes_are_matched_one_to_one(tmp_path: Path) -> None:
    one = boxes([(0, 0, 10, 10), (100, 100, 110, 110), (200, 200, 210, 210)])
    other = boxes([(1, 0, 11, 10), (0, 1, 10, 10), (100, 105, 110, 115), (500, 0, 510, 10)])
    first, second, iou = overlapping(one, other, MATCH_IOU)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 0), (0, 1)]
    np.testing.assert_allclose(sorted(iou), [9 / 11, 0.9])


def test_overlaps_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        boxes(np.column_stack([c := rng.uniform(0, 200, (300, 2)), c + rng.uniform(5, 60, (300, 2))])) for _ in "ab"
    )
    one["label"], other["label"] = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    found = set(zip(*(part.tolist() for part in overlapping(one, other, MATCH_IOU)[:2]), strict=True))
    expected = {
        (i, j)
        for i in range(300)
        for j in range(300)
        if one["label"][i] == other["label"][j] and iou_of(one[i], other[j]) > MATCH_IOU
    }
    assert found == expected
    assert len(found) > 20


def boxes(corners: object) -> np.ndarray:
    rows = np.zeros(len(corners), BOX_DTYPE)  # type: ignore[arg-type]
    for name, values in zip(("y0", "x0", "y1", "x1"), np.array(corners, float).T, strict=True):
        rows[name] = values
    return rows


def iou_of(a: np.void, b: np.void) -> float:
    height = max(0.0, min(a["y1"], b["y1"]) - max(a["y0"], b["y0"]))
    width = max(0.0, min(a["x1"], b["x1"]) - max(a["x0"], b["x0"]))
    areas = [(box["y1"] - box["y0"]) * (box["x1"] - box["x0"]) for box in (a, b)]
    return float(height * width / (sum(areas) - height * width))


def test_box_figures_take_the_first_as_the_truth(pair: tuple[Prediction, Prediction]) -> None:
    fewer = type(pair[0])(pair[0].path, pair[0].header, _tree(pair[0]), 0.6)
    rows = compare(pair[0], fewer)
    for row in rows[rows["kind"] == "boxes"].itertuples():
        assert row.a > row.b == row.both
        assert (row.precision, row.recall) == (1, row.b / row.a)
        assert row.f1 == pytest.approx(2 * row.b / (row.a + row.b))


def _tree(prediction: Prediction) -> object:
    from napari_xt.io.images.files import FileStore
    from napari_xt.io.stores.tree import open_tree

    return open_tree(FileStore(prediction.path, read_only=True), prediction.layout, "r")


def test_regions_are_compared_by_their_class(pair: tuple[Prediction, Prediction]) -> None:
    table = compare(*pair)
    rows = table[table["kind"] == "regions"].set_index("class")
    ours, theirs = (p.scores.dropna(subset=["class"])["class"] for p in pair)
    for name in ("open", "dense"):
        both = ((ours == name) & (theirs == name)).sum()
        assert (rows.a[name], rows.b[name], rows.both[name]) == ((ours == name).sum(), (theirs == name).sum(), both)


def test_difference_at_every_level(pair: tuple[Prediction, Prediction]) -> None:
    where = known(pair[0])
    expected = np.full(FIRST.shape, NEITHER, np.uint8)
    expected[(FIRST > 0) & (SECOND == 0)] = ONLY_A
    expected[(FIRST == 0) & (SECOND > 0)] = ONLY_B
    expected[(FIRST > 0) & (FIRST == SECOND)] = BOTH
    expected[(FIRST > 0) & (SECOND > 0) & (FIRST != SECOND)] = DIFFER
    expected[~where] = UNKNOWN
    levels = difference(*pair)
    assert [level.shape for level in levels] == [mask.shape for mask in pair[0].mask]
    for k, level in enumerate(levels):
        np.testing.assert_array_equal(np.asarray(level), expected[:: 2**k, :: 2**k])
    np.testing.assert_array_equal(levels[0][37:205, 511:700], expected[37:205, 511:700])
    one = np.asarray(difference(*pair, class_name="rock")[0])
    np.testing.assert_array_equal(one == BOTH, (FIRST == 2) & (SECOND == 2) & where)
    np.testing.assert_array_equal(one == ONLY_A, (FIRST == 2) & (SECOND != 2) & where)
    assert DIFFER not in one


def test_other_grids_are_refused(pair: tuple[Prediction, Prediction], tmp_path: Path) -> None:
    shape = (600, 1000)
    grid, frame = Grid(*shape, region_px=64), Frame(shape, shape, (0.5, 0.25), "micrometer")
    other = export_case.prediction(tmp_path / "small.xt.zarr", FIRST[:, :1000], grid=grid, frame=frame)
    with pytest.raises(SettingsError, match=r"small.xt.zarr: has another grid \(1000 x 600 px .* than one.xt.zarr"):
        compare(pair[0], other)
    finer = replace(export_case.layout().frame, scale=(0.25, 0.25))
    with pytest.raises(SettingsError, match="compare predictions of one size, level and pixel size"):
        difference(pair[0], export_case.prediction(tmp_path / "fine.xt.zarr", FIRST, frame=finer))
    with pytest.raises(SettingsError, match="class 'tree': is in neither mask; choose of crown, rock"):
        difference(*pair, class_name="tree")


def test_what_has_nothing_in_common_is_refused(pair: tuple[Prediction, Prediction], tmp_path: Path) -> None:
    scores = export_case.prediction(tmp_path / "scores.xt.zarr", mask=None, boxes=None)
    boxes_alone = export_case.prediction(tmp_path / "boxes.xt.zarr", mask=None, scores=None)
    with pytest.raises(SettingsError, match=r"has no output of the kinds that scores.xt.zarr has"):
        compare(scores, boxes_alone)
    with pytest.raises(SettingsError, match=r"scores.xt.zarr: has no mask"):
        difference(pair[0], scores)


def test_command_line_compares(pair: tuple[Prediction, Prediction], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(prediction.path) for prediction in pair]
    assert main(["compare", *paths, "--json"]) == 0
    table = pd.DataFrame(json.loads(capsys.readouterr().out))
    pd.testing.assert_frame_equal(table, compare(*pair), check_dtype=False)
    assert main(["compare", *paths]) == 0
    assert "crown" in capsys.readouterr().out
    assert main(["compare", paths[0], "none.xt.zarr"]) == 2
