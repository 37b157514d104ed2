"""The mask that is shown: composed of the stored probability at any threshold, hatched where nothing is known."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from probability_case import SIDE, stored

from napari_xt.io.stores.layout import Status
from napari_xt.plugin.layers.composed import FAILED, PERIOD, STRIPE, UNKNOWN, ComposedMask
from napari_xt.plugin.layers.overlays import Overlay

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("shape", "stride", "classes"), [((330, 520), 4, 3), ((2300, 260), 8, 2), ((300, 400), 16, 3)])
def test_at_the_runs_own_value_it_is_the_stored_mask_at_every_zoom(
    tmp_path: Path, shape: tuple[int, int], stride: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = stored(tmp_path / "a.xt.zarr", shape, stride, classes, r0_7=Status.DONE)
    overlay = Overlay(prediction)
    hatched = overlay.regions.status != Status.DONE
    assert not hatched.any()
    for level, there in zip(overlay.mask, prediction.mask, strict=True):
        np.testing.assert_array_equal(level[:], there[:])
    monkeypatch.setattr("napari_xt.plugin.layers.composed.RUN_THRESHOLD", -1)  # so that it is composed and not read
    assert overlay.composed.recompose()
    for level, there in zip(overlay.mask, prediction.mask, strict=True):
        np.testing.assert_array_equal(level[:], there[:])
        np.testing.assert_array_equal(level[33:97, 20:71], there[33:97, 20:71])


def test_a_threshold_is_a_class_against_the_background_and_can_be_taken_back(tmp_path: Path) -> None:
    prediction = stored(tmp_path / "a.xt.zarr", (2300, 260))
    composed = Overlay(prediction).composed
    areas = []
    for threshold in (0.0, 0.3, 0.5, 0.8, 1.0):
        composed.threshold = threshold
        assert composed.recompose()
        fine = composed.levels[0][:]
        np.testing.assert_array_equal(fine[::2, ::2], composed.levels[-1])
        areas.append(np.count_nonzero(fine))
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == len(areas)
    assert areas[-1] == 0
    composed.threshold = 0.5
    assert composed.recompose()
    np.testing.assert_array_equal(composed.levels[-1], prediction.mask[-1][:])


def test_what_is_not_known_is_hatched_at_every_zoom_and_threshold(tmp_path: Path) -> None:
    states = {"r1_1": Status.NOT_YET, "r2_2": Status.SKIPPED, "r3_1": Status.FAILED}
    prediction = stored(tmp_path / "a.xt.zarr", (2300, 260), **states)
    composed = Overlay(prediction).composed
    for threshold in (0.5, 0.2):
        composed.threshold = threshold
        composed.recompose()
        for index, level in enumerate(composed.levels):
            side = SIDE >> index
            part = {name: level[side * int(name[1]) :, side * int(name[3]) :][:side, :side] for name in states}
            assert set(np.unique(part["r1_1"])) == {0, UNKNOWN}
            assert (part["r1_1"] == UNKNOWN).mean() == pytest.approx(STRIPE / PERIOD, abs=0.05)
            assert set(np.unique(part["r2_2"])) == {0, UNKNOWN}
            assert (part["r2_2"] == UNKNOWN).mean() < STRIPE / PERIOD / 2
            assert set(np.unique(part["r3_1"])) == {0, FAILED}
            assert not np.isin(level[: side // 2, : side // 2], (FAILED, UNKNOWN)).any()
    assert composed.shares().sum() == pytest.approx(1)


def test_what_has_not_begun_is_hatched_from_the_coarsest_level_on(tmp_path: Path) -> None:
    states = {f"r{row}_{col}": Status.NOT_YET for row in range(3) for col in range(3)}
    overlay = Overlay(stored(tmp_path / "a.xt.zarr", (150, 150), **states))
    assert set(np.unique(overlay.mask[-1])) == {0, UNKNOWN}
    overlay.show_rest(hatched=False)
    assert not overlay.mask[-1].any(), "previews show it"
    overlay.show_rest(hatched=True)
    assert overlay.mask[-1].any()


def test_a_part_is_composed_alike_whatever_is_asked_for(tmp_path: Path) -> None:
    composed = ComposedMask(stored(tmp_path / "a.xt.zarr", (2300, 260)))
    composed.threshold = 0.7
    level = composed.levels[0]
    whole = np.asarray(level)
    assert (level.shape, level.dtype, len(level), level.ndim) == (whole.shape, whole.dtype, len(whole), 2)
    np.testing.assert_array_equal(level[..., 5], whole[:, 5])
    np.testing.assert_array_equal(level[10:90:3], whole[10:90:3])
    np.testing.assert_array_equal(level[-1, 200:], whole[-1, 200:])
    assert level[7:7].shape == (0, 260)
    assert copy.deepcopy(level) is level


def test_a_slider_that_has_moved_on_ends_what_it_began(tmp_path: Path) -> None:
    composed = ComposedMask(stored(tmp_path / "a.xt.zarr", (2300, 260)))
    composed.threshold = 0.9
    before = composed.levels[-1].copy()
    assert not composed.recompose(lambda: True)
    np.testing.assert_array_equal(composed.levels[-1], before)


def test_a_large_view_is_composed_in_time(tmp_path: Path) -> None:
    composed = Overlay(stored(tmp_path / "a.xt.zarr", (4000, 4000), side=256)).composed
    composed.threshold = 0.6
    took = []
    for threshold in (0.6, 0.7):
        composed.threshold = threshold
        began = time.perf_counter()
        composed.recompose()
        composed.levels[0][1000:2000, 1000:2400]
        took.append(time.perf_counter() - began)
    assert max(took) < 0.4, "0.1 s on an idle machine"


def test_regions_tell_their_state_and_scores(tmp_path: Path) -> None:
    states = {"r1_1": Status.NOT_YET, "r2_2": Status.SKIPPED, "r3_1": Status.FAILED}
    overlay = Overlay(stored(tmp_path / "a.xt.zarr", (330, 260), **states))
    regions = overlay.regions
    assert regions.told(70, 70) == "region 1, 1: not computed"
    assert regions.told(130, 130) == "region 2, 2: skipped as empty"
    assert regions.told(200, 70) == "region 3, 1: failed"
    assert regions.told(-1, 5) == regions.told(5, 260) == ""
    best = regions.told(1, 1)
    row = overlay.prediction.scores.iloc[0]
    assert best.startswith(f"region 0, 0: {row['class']} {row['score']:.0%}".replace("%", " %"))
    shown = overlay.scores[0, 0]
    assert shown == pytest.approx(row["p:dense"])
    overlay.choose("open")
    assert overlay.scores[0, 0] == pytest.approx(row["p:open"])
    assert np.isnan(overlay.regions.of_class("open")[1, 1])
