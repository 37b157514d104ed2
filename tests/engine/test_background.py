"""Regions that a coarse level shows to be empty are not run, everything else is, and it makes no other difference."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import plan as planning
from napari_xt.engine import stages
from napari_xt.engine.background import COMPUTED_PX, empty_regions, look
from napari_xt.engine.events import RegionDone, RunFinished, RunStarted, StageProgress
from napari_xt.engine.plan import Plan, plan
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError, StoreMismatchError
from napari_xt.geometry import Grid
from napari_xt.io.images.pyramid import halve
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import ContextConfig, XTConfig
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

SHAPE = (700, 610)  # 11 x 10 regions of 64 px in windows of 4 x 4
GLASS = (243, 241, 244)
RNG = np.random.default_rng(1)


def textured(shape: tuple[int, int]) -> np.ndarray:
    coarse = RNG.integers(0, 200, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].copy()


def glass(shape: tuple[int, int], noise: float = 2.0) -> np.ndarray:
    return (np.array(GLASS) + RNG.normal(0, noise, (*shape, 3))).clip(0, 255).round().astype(np.uint8)


def slide() -> np.ndarray:
    """Tissue of 320 x 256 px on glass, and a speck alone."""
    image = glass(SHAPE)
    image[192:512, 128:384] = textured((320, 256))
    image[40:44, 500:504] = 90
    return image


def empty(image: np.ndarray, grid: Grid | None = None, **options: bool) -> np.ndarray:
    return empty_regions(np.moveaxis(image, -1, 0), grid or Grid(*image.shape[:2], 64, 32), **options)


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return slide()


@pytest.fixture(scope="module")
def whole(model: XT, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    out = tmp_path_factory.mktemp("background") / "whole.xt.zarr"
    return xt.predict(scene, model, out=out, skip_background=True)


def assert_same(a: Prediction, b: Prediction) -> None:
    for name in ("0", "probability", "scores", "status", *(f"labels/mask/{k}" for k in range(len(a.mask)))):
        one, other = (zarr.open_array(p.path / name, mode="r")[...] for p in (a, b))
        np.testing.assert_array_equal(one, other, err_msg=name)
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)


def expected() -> np.ndarray:
    """The regions of `slide` that touch, with their halo, neither tissue nor speck."""
    grid, table = Grid(*SHAPE, 64, 32), np.ones((11, 10), bool)
    structure = np.zeros(SHAPE, bool)
    structure[192:512, 128:384] = structure[40:44, 500:504] = True
    for region in grid.regions():
        table[region.row, region.col] = not structure[region.outer.clip(grid.bounds).slices].any()
    return table


def test_what_touches_structure_runs_and_the_rest_is_empty(scene: np.ndarray) -> None:
    np.testing.assert_array_equal(empty(scene), expected())


def to_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def without_data(value: float) -> np.ndarray:
    image = to_float(textured(SHAPE))
    image[:, 320:] = value
    return image


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image, id="uint8"),
        pytest.param(lambda image: image.astype(np.uint16) * 16, id="uint16 of 12 bits"),
        pytest.param(to_float, id="float"),
        pytest.param(lambda image: 255 - image, id="dark field"),
        pytest.param(lambda image: image[..., :1], id="one channel"),
    ],
)
def test_the_rule_is_of_the_image_not_of_its_type(
    change: Callable[[np.ndarray], np.ndarray], scene: np.ndarray
) -> None:
    np.testing.assert_array_equal(empty(change(scene)), expected())


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_was_not_recorded_is_empty(value: float) -> None:
    table = empty(without_data(value))
    assert table[:, 6:].all()  # the halo of column 5 reaches into the data
    assert not table[:, :5].any()


def test_a_mean_that_is_not_finite_is_not_believed() -> None:
    assert not empty(without_data(np.nan), trusted=False).any()


def with_gaps() -> np.ndarray:
    image = to_float(textured(SHAPE))
    image[::3, ::3] = np.nan
    return image


def a_field_between_forests() -> np.ndarray:
    image = (textured(SHAPE) % 60).astype(np.uint8)
    image[:, 400:] = 200 + textured((700, 210)) % 55
    image[200:600, 100:450] = (120, 130, 110)
    return image


def gradient() -> np.ndarray:
    return np.broadcast_to(np.linspace(60, 220, SHAPE[1])[None, :, None], (*SHAPE, 3)).astype(np.uint8)


def faint_tissue() -> np.ndarray:
    """Glass with a part where cells of 16 px are only 12 of 255 darker."""
    image = glass(SHAPE)
    image[:, :64] = 100
    cells = (np.indices((700, 200)) // 16).sum(axis=0) % 2
    image[:, 320:520] -= (12 * cells).astype(np.uint8)[..., None]
    return image


@pytest.mark.parametrize("image", [textured(SHAPE), with_gaps(), a_field_between_forests(), gradient()], ids="ABCD")
def test_no_background_no_skipping(image: np.ndarray) -> None:
    assert not empty(image).any()


def test_faint_texture_runs() -> None:
    table = empty(faint_tissue())
    assert not table[:, 5:8].any()
    assert table[:, 3].all()


def test_an_image_with_a_pyramid_and_without_one_are_judged_alike(scene: np.ndarray) -> None:
    fine = [scene.repeat(4, 0).repeat(4, 1)]
    for _ in range(5):
        fine.append(halve(fine[-1], 0, 1))
    grid = Grid(*fine[0].shape[:2], 256, 32)
    with xt.open_image(fine[0]) as alone, xt.open_image(fine) as levels:
        found = [look(image, grid, (0, 1, 2), grid.bounds) for image in (alone, levels)]
    assert found[0] == found[1]
    assert sum(stop - start for start, stop in found[0].empty) > 50


def test_a_look_is_cheap_or_is_not_taken() -> None:
    side = int(COMPUTED_PX**0.5) + 512
    array = zarr.create_array(store={}, shape=(side, side, 3), chunks=(512, 512, 3), dtype="u1", fill_value=240)
    found = planned(array, skip_background=True)
    assert found.skipped == 0
    assert "cheap" in found.warnings[-1]
    finest = zarr.create_array(store={}, shape=(29_000, 25_000, 3), chunks=(512, 512, 3), dtype="u1")
    coarse = np.full((906, 781, 3), 240, np.uint8)
    found = planned([finest, coarse], replace(SMALL, region_px=256), skip_background=True)
    assert found.skipped == found.regions == 114 * 98


def test_a_coarse_level_that_is_damaged_skips_nothing(scene: np.ndarray, tmp_path: Path) -> None:
    coarse = zarr.create_array(tmp_path / "coarse.zarr", shape=(88, 77, 3), chunks=(88, 77, 3), dtype="u1")
    coarse[:] = 240
    (tmp_path / "coarse.zarr/c/0/0/0").write_bytes(b"nonsense")
    found = planned([scene, coarse], skip_background=True)
    assert found.skipped == 0
    assert "no region is skipped" in found.warnings[-1]


class Known:
    def __init__(self, config: XTConfig) -> None:
        self.config, self.name, self.digest = config, "known", "0"


def planned(image: object, config: XTConfig = SMALL, **options: object) -> Plan:
    return plan(image, Known(config), **options)


def test_the_card_says_how_many_are_skipped(scene: np.ndarray) -> None:
    count = int(expected().sum())
    found = planned(scene, skip_background=True)
    assert (found.regions, found.skipped) == (110, count)
    assert f"{count} of them empty and skipped" in str(found)
    assert [found.skips(index) for index in range(110)] == expected().ravel().tolist()
    assert json.loads(json.dumps(found.to_json()))["empty"] == [list(run) for run in found.empty]
    part = planned(scene, skip_background=True, roi="0,0,128,610")
    assert part.skipped == expected()[:2].sum()
    assert "skipped" not in str(planned(scene))


@pytest.mark.parametrize("wanted", [None, True, False])
@pytest.mark.parametrize("says", [True, False])
def test_the_model_says_unless_the_run_does(wanted: bool | None, says: bool, scene: np.ndarray) -> None:
    found = planned(scene, replace(SMALL, skip_background=says), skip_background=wanted)
    assert found.skip_background == (says if wanted is None else wanted)
    assert bool(found.skipped) == found.skip_background


def test_a_model_that_does_not_say_is_described_as_ever() -> None:
    assert "skip_background" not in SMALL.to_json()
    says = replace(SMALL, skip_background=True)
    assert XTConfig.from_json(says.to_json()) == says
    with pytest.raises(SettingsError, match="skip_background"):
        RunSettings.of(skip_background="perhaps")


def test_skipped_regions_are_settled_without_a_word(whole: Prediction) -> None:
    assert whole.complete
    assert whole.coverage == 1
    assert len(whole.failed) == 0
    status = zarr.open_array(whole.path / "status", mode="r")[...]
    np.testing.assert_array_equal(status, np.where(expected(), 3, 2))
    table = whole.scores.set_index(["region_row", "region_col"])
    np.testing.assert_array_equal((table.status == "skipped").to_numpy().reshape(11, 10), expected())
    assert table[table.status == "skipped"]["p:open"].isna().all()
    assert table[table.status == "done"]["p:open"].notna().all()
    own = expected()[whole.candidates().region_row, whole.candidates().region_col]
    assert not own.any()
    assert len(whole.boxes)
    for region in Grid(*SHAPE, 64).regions():
        assert not (expected()[region.row, region.col] and whole.mask[0][region.inner.slices].any())
    assert whole.mask[0][...].any()
    assert sum(whole.area().values()) == SHAPE[0] * SHAPE[1]


def test_the_overview_shows_what_was_skipped(whole: Prediction) -> None:
    seen = whole.overview[...]
    assert seen.min(axis=(1, 2)).max() < 200
    np.testing.assert_allclose(seen[:, :128, :320].mean(axis=(1, 2)), GLASS, atol=2)


def test_in_the_context_a_skipped_region_is_one_without_data(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    """Where the pixels are not finite, running and skipping give the regions beside them the same."""
    floats = to_float(scene)
    for region in Grid(*SHAPE, 64).regions():
        if expected()[region.row, region.col]:
            floats[region.outer.grow(32).clip(Grid(*SHAPE, 64).bounds).slices] = np.nan
    run = xt.predict(floats, model, out=tmp_path / "run.xt.zarr")
    skipping = xt.predict(floats, model, out=tmp_path / "skip.xt.zarr", skip_background=True)
    table, skipped = (p.scores for p in (run, skipping))
    done = (skipped.status == "done").to_numpy()
    assert 0 < done.sum() < 110
    pd.testing.assert_frame_equal(table[done], skipped[done])


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3, "batch": 5}], ids=str)
def test_the_layout_of_the_work_changes_no_bit(
    options: dict[str, object], model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    again = xt.predict(scene, model, out=tmp_path / "again.xt.zarr", skip_background=True, **options)
    assert_same(again, whole)


def test_only_what_is_not_empty_is_encoded(
    model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    plain = stages.encode

    def count(model: XT, plan: Plan, patch: object, regions: list) -> list[stages.Encoded]:
        encoded.extend(region.index for region in regions)
        return plain(model, plan, patch, regions)

    monkeypatch.setattr(stages, "encode", count)
    events = list(xt.stream(scene, model, out=tmp_path / "count.xt.zarr", skip_background=True))
    assert sorted(encoded) == np.flatnonzero(~expected()).tolist()
    started, finished = events[0], events[-1]
    assert isinstance(started, RunStarted)
    assert isinstance(finished, RunFinished)
    assert started.done == expected().sum()
    assert (finished.summary.regions, finished.summary.encoded) == (110, (~expected()).sum())
    assert [e.done for e in events if isinstance(e, StageProgress)][-1] == 110
    assert len({e.region.index for e in events if isinstance(e, RegionDone)}) == 110


@pytest.mark.parametrize("window", [4, "global"])
@pytest.mark.parametrize("value", [240, 0])
def test_an_image_that_is_all_background(
    value: int, window: object, model: XT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    image = np.full((*SHAPE, 3), value, np.uint8)
    prediction = xt.predict(image, model, out=tmp_path / "empty.xt.zarr", skip_background=True, window=window)
    assert prediction.complete
    assert prediction.coverage == 1
    assert set(prediction.scores.status) == {"skipped"}
    assert not prediction.mask[0][...].any()


@pytest.mark.parametrize("overview", [0, 16])
def test_waiting_on_disk_changes_no_bit(
    overview: int, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_model(replace(SMALL, context=ContextConfig(layers=2, dim=32, overview_tokens=overview)))
    options = {"window": "global", "skip_background": True, "keep": "nothing"}
    memory = xt.predict(scene, network, out=tmp_path / "memory.xt.zarr", **options)
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    disk = xt.predict(scene, network, out=tmp_path / "disk.xt.zarr", **options)
    assert disk.header.layout.shelf is not None
    assert disk.header.layout.shelf.waits
    if overview:  # summed in another order
        np.testing.assert_allclose(disk.scores["p:open"], memory.scores["p:open"], atol=1e-3)
    else:
        assert_same(disk, memory)
    assert not {"tokens", "features"} & set(os.listdir(disk.path))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("pulls", [1, 3, 20, 60])
def test_a_stopped_run_goes_on_and_ends_the_same(
    pulls: int,
    large: bool,
    model: XT,
    scene: np.ndarray,
    whole: Prediction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, object] = {"skip_background": True}
    if large:
        monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
        options["window"] = "global"
        whole = xt.predict(scene, model, out=tmp_path / "whole.xt.zarr", **options)
    out = tmp_path / "stopped.xt.zarr"
    with closing(xt.stream(scene, model, out=out, **options)) as events:
        for _ in range(pulls):
            next(events)
    assert_same(xt.predict(scene, model, out=out, **options), whole)


def test_what_was_left_out_when_a_run_began_stays_so(
    model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stopped.xt.zarr"
    with closing(xt.stream(scene, model, out=out, skip_background=True)) as events:
        next(events)
    monkeypatch.setattr(planning, "look", lambda *_: planning.Look(why="damaged by now"))
    assert_same(xt.predict(scene, model, out=out, skip_background=True), whole)


@pytest.mark.parametrize("large", [False, True])
def test_what_failed_is_told_apart_from_what_was_skipped(
    large: bool, model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8 if large else 256)
    fine = zarr.create_array(tmp_path / "fine.zarr", shape=scene.shape, chunks=(64, 64, 3), dtype="uint8")
    fine[:] = scene
    (tmp_path / "fine.zarr/c/4/3/0").write_bytes(b"nonsense")  # in the tissue
    coarse = halve(halve(halve(scene, 0, 1), 0, 1), 0, 1)
    window = "global" if large else 4
    out = tmp_path / "out.xt.zarr"
    prediction = xt.predict([fine, coarse], model, out=out, skip_background=True, window=window)
    status = zarr.open_array(out / "status", mode="r")[...]
    assert status[4, 3] == 4
    np.testing.assert_array_equal(status == 3, expected())
    assert len(prediction.failed) == (status == 4).sum() <= 9
    assert prediction.coverage == 1 - len(prediction.failed) / 110


@pytest.mark.parametrize(
    ("flag", "said"), [("--skip-background", True), ("--no-skip-background", False), (None, False)]
)
def test_the_command_line_has_a_flag_for_it(
    flag: str | None, said: bool, scene: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.zarr"
    zarr.create_array(path, shape=scene.shape, chunks=(256, 256, 3), dtype="uint8")[:] = scene
    assert main(["plan", str(path), *([flag] if flag else [])]) == 0
    assert ("empty and skipped" in capsys.readouterr().out) == said


def test_skipping_is_another_run(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "plain.xt.zarr"
    with closing(xt.stream(scene, model, out=out)) as events:
        next(events)
    with pytest.raises(StoreMismatchError, match="skip_background"):
        xt.predict(scene, model, out=out, skip_background=True)
    assert "skip_background" not in xt.open_prediction(out).header.job


def with_alpha(hidden: np.ndarray) -> np.ndarray:
    return np.concatenate([slide(), np.where(hidden, 0, 255).astype(np.uint8)[..., None]], axis=2)


def skipped(image: object) -> np.ndarray:
    """``(rows, cols)`` of the regions that a plan leaves out."""
    found = plan(image, small_model(), skip_background=True)
    return np.array([found.skips(index) for index in range(110)]).reshape(11, 10)


def test_what_alpha_hides_was_not_recorded() -> None:
    hidden = np.zeros(SHAPE, bool)
    hidden[256:, 128:384] = True  # the lower part of the tissue, with column 3 in the middle of it
    table = skipped(with_alpha(hidden))
    assert table[5:, 3].all()  # row 4 sees with its halo what is above
    assert not table[3, 2:6].any()
    np.testing.assert_array_equal(table[:, 7:], expected()[:, 7:])


def test_a_region_that_is_hidden_in_part_is_judged_by_what_is_seen() -> None:
    hidden = np.zeros(SHAPE, bool)
    hidden[:, ::2] = hidden[200:300, 400:450] = True
    half = skipped(with_alpha(hidden))
    assert half[:, 9].all()
    assert not half[3:8, 2:6].any()


@pytest.mark.parametrize(("stated", "there"), [("100", False), ("8", True)], ids=["no-data", "a field"])
def test_no_data_in_whole_numbers_was_not_recorded(stated: str, there: bool, tmp_path: Path) -> None:
    image = textured(SHAPE)
    image[:, 320:] = 100
    path = tmp_path / "a.tif"
    tags = [(42113, "s", 0, stated, True)]
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", extratags=tags)
    table = skipped(path)
    assert table[:, 6:].all() != there
    assert not table[:, :5].any()
