"""Runs through the public doors, on real stores: exact, resumable, honest about what failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr

import napari_xt as xt
from napari_xt.engine import plan
from napari_xt.engine.device import placed
from napari_xt.engine.events import Event, RegionDone, RunFailed, RunFinished, RunStarted, StageProgress
from napari_xt.errors import ModelError, RunError, SettingsError, StoreMismatchError
from napari_xt.io.prediction import Prediction
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

RNG = np.random.default_rng(0)
SHAPE = (700, 610)  # 11 x 10 regions, 3 x 3 windows of 4 x 4; steps of 8 x 8


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    coarse = RNG.integers(0, 256, (SHAPE[0] // 8 + 1, SHAPE[1] // 8 + 1, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: SHAPE[0], : SHAPE[1]].copy()


@pytest.fixture(scope="module")
def whole(model: XT, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return xt.predict(scene, model, out=tmp_path_factory.mktemp("run") / "whole.xt.zarr")


def arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    root = zarr.open_group(prediction.path, mode="r")
    names = ["0", "probability", "scores", "status", *(f"labels/mask/{k}" for k in range(len(prediction.mask)))]
    return {name: root[name][...] for name in names if name in root}


def assert_same(a: Prediction, b: Prediction) -> None:
    for name, array in arrays(a).items():
        np.testing.assert_array_equal(array, arrays(b)[name], err_msg=name)
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)


@pytest.mark.parametrize("window", [4, "global"])
def test_what_alpha_hides_is_never_fed(
    window: object, model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "IN_MEMORY_REGIONS", 8)
    alpha = np.full((*SHAPE, 1), 255, np.uint8)
    alpha[100:300, 200:500] = 0
    seen = [
        np.concatenate([np.where(alpha == 0, hidden, scene), alpha], axis=2) for hidden in (np.uint8(0), scene[::-1])
    ]
    one, other = (
        xt.predict(pixels, model, out=tmp_path / f"{k}.xt.zarr", window=window) for k, pixels in enumerate(seen)
    )
    np.testing.assert_array_equal(one.probability[...], other.probability[...])
    opaque = xt.predict(seen[1][..., :3], model, out=tmp_path / "opaque.xt.zarr", window=window)
    assert (opaque.probability[...] != one.probability[...]).any()
    converted = xt.convert(seen[0], tmp_path / "a.ome.zarr")
    again = xt.predict(converted, model, out=tmp_path / "again.xt.zarr", window=window)
    np.testing.assert_array_equal(one.probability[...], again.probability[...])


def test_no_data_is_never_fed(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    told = []
    for stated in ("7", "8"):
        pixels = np.where(scene == 7, 6, scene)
        pixels[100:300, 200:500] = 7
        path = tmp_path / f"{stated}.tif"
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", extratags=[(42113, "s", 0, stated, True)])
        told.append(xt.predict(path, model, out=tmp_path / f"{stated}.xt.zarr"))
    hidden = np.concatenate([pixels, np.full((*SHAPE, 1), 255, np.uint8)], axis=2)
    hidden[100:300, 200:500, 3] = 0
    alike = xt.predict(hidden, model, out=tmp_path / "alpha.xt.zarr")
    np.testing.assert_array_equal(told[0].probability[...], alike.probability[...])
    assert (told[1].probability[...] != alike.probability[...]).any()


def test_all_outputs_are_there_and_differ_from_place_to_place(whole: Prediction) -> None:
    assert whole.complete
    assert whole.coverage == 1
    assert 0.01 < (whole.mask[0][...] == 1).mean() < 0.99
    assert len(whole.boxes) > 20
    assert whole.scores["p:open"].std() > 0
    assert set(whole.scores.status) == {"done"}
    assert sum(whole.area().values()) == SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3, "batch": 5}], ids=str)
def test_the_layout_of_the_work_changes_no_bit(
    options: dict[str, object], model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    assert_same(xt.predict(scene, model, out=tmp_path / "again.xt.zarr", **options), whole)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_streamed_is_whole(precision: str, model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    part = scene[:300, :200]
    streamed = xt.predict(part, model, out=tmp_path / "streamed.xt.zarr", window="global", precision=precision)
    with placed(model, "cpu", precision) as net, torch.inference_mode():
        output = net(net.prepare(part.transpose(2, 0, 1))[None])
    probability = (output.mask[0].softmax(0) * 255).round()[:, :75, :50]
    np.testing.assert_array_equal(streamed.probability[...], probability.numpy())
    scores = output.scores[0].softmax(-1).flatten(0, 1).numpy()
    np.testing.assert_array_equal(streamed.scores[["p:open", "p:sparse", "p:dense"]].to_numpy(np.float32), scores)


@pytest.mark.parametrize("pulls", [1, 3, 70, 90, 130])
def test_a_cancelled_run_goes_on_and_ends_the_same(
    pulls: int, model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    out = tmp_path / "resumed.xt.zarr"
    events = xt.stream(scene, model, out=out)
    for _ in range(pulls):
        next(events)
    events.close()
    assert not xt.open_prediction(out).complete
    assert_same(xt.predict(scene, model, out=out), whole)


def test_what_is_committed_is_not_encoded_again(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    out, wide = tmp_path / "resumed.xt.zarr", np.tile(scene, (2, 3, 1))  # 22 x 29 regions
    events = xt.stream(wide, model, out=out)
    first = until_region(events)
    events.close()
    again = list(xt.stream(wide, model, out=out))
    started, finished = again[0], again[-1]
    assert isinstance(started, RunStarted)
    assert isinstance(finished, RunFinished)
    assert 64 <= started.done < 22 * 29  # at least the first step, 8 x 8 regions; the run had gone on behind it
    assert finished.summary.encoded == 22 * 29 - started.done
    assert first.region not in {e.region for e in again if isinstance(e, RegionDone)}
    assert [type(e) for e in xt.stream(wide, model, out=out)] == [RunStarted, RunFinished]


def until_region(events: object) -> RegionDone:
    return next(e for e in events if isinstance(e, RegionDone))  # type: ignore[attr-defined]


def test_events_tell_the_run(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    events: list[Event] = list(xt.stream(scene, model, out=tmp_path / "told.xt.zarr"))
    assert [e.seq for e in events] == list(range(len(events)))
    assert len({e.run_id for e in events}) == 1
    regions = [e for e in events if isinstance(e, RegionDone)]
    assert len({e.region.index for e in regions}) == 110
    encoded = [e.done for e in events if isinstance(e, StageProgress) and e.stage == "encode"]
    assert encoded == sorted(encoded)
    assert encoded[-1] == 110
    candidates = xt.open_prediction(tmp_path / "told.xt.zarr").candidates()
    assert sum(len(e.boxes) for e in regions) == len(candidates)


def test_nothing_happens_before_the_first_next(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    xt.stream(scene, model, out=tmp_path / "never.xt.zarr")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError):
        xt.stream(scene, model, out=tmp_path / "never.xt.zarr", roi="9000,9000,9001,9001")
    with pytest.raises(ModelError):
        xt.stream(scene[..., 0], model, out=tmp_path / "never.xt.zarr")


def test_boxes_belong_to_the_region_that_holds_their_centre(whole: Prediction) -> None:
    boxes = whole.candidates()
    assert (boxes.id // 4096 == boxes.region_row * 10 + boxes.region_col).all()
    inside = boxes[(boxes.y0 > 0) & (boxes.x0 > 0) & (boxes.y1 < SHAPE[0]) & (boxes.x1 < SHAPE[1])]
    assert ((inside.y0 + inside.y1) / 2 // 64 == inside.region_row).all()
    assert ((inside.x0 + inside.x1) / 2 // 64 == inside.region_col).all()
    assert (boxes.groupby(boxes.id // 4096).score.is_monotonic_decreasing).all()


def test_a_region_of_interest_keeps_index_place_and_window(
    model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    part = xt.predict(scene, model, out=tmp_path / "part.xt.zarr", roi="0,0,512,256")  # whole windows
    assert part.mask[0].shape == SHAPE
    np.testing.assert_array_equal(part.mask[0][:512, :256], whole.mask[0][:512, :256])
    assert not part.mask[0][512:].any()
    assert not part.mask[0][:, 256:].any()
    mine = whole.candidates().query("region_row < 8 and region_col < 4").reset_index(drop=True)
    pd.testing.assert_frame_equal(part.candidates(), mine)


def test_outside_the_region_of_interest_the_mask_is_0_and_no_box_has_its_centre(
    model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    part = xt.predict(scene, model, out=tmp_path / "part.xt.zarr", roi="70,90,200,333")
    mask = part.mask[0][...]
    assert mask[70:200, 90:333].any()
    mask[70:200, 90:333] = 0
    assert not mask.any()
    boxes = part.boxes
    assert len(boxes)
    assert ((boxes.y0 + boxes.y1) / 2).between(70, 200).all()
    assert ((boxes.x0 + boxes.x1) / 2).between(90, 333).all()
    assert part.coverage == 1


def test_another_run_is_refused_by_its_first_difference(
    model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.xt.zarr"
    shutil.copytree(whole.path, copy)
    before = arrays(xt.open_prediction(copy))
    for options, named in (({"window": 2}, "window"), ({"roi": "0,0,64,64"}, "roi"), ({"outputs": "mask"}, "outputs")):
        with pytest.raises(StoreMismatchError, match=named):
            xt.predict(scene, model, out=copy, **options)
    with pytest.raises(StoreMismatchError, match="model"):
        xt.predict(scene, small_model(seed=1), out=copy)
    with pytest.raises(StoreMismatchError, match="image"):
        xt.predict(255 - scene, model, out=copy)
    for name, array in arrays(xt.open_prediction(copy)).items():
        np.testing.assert_array_equal(array, before[name])
    assert xt.predict(scene, model, out=copy, outputs="boxes", restart=True).mask == []


def test_a_threshold_is_applied_on_reading(model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path) -> None:
    high = float(whole.boxes.score.median())
    copy = tmp_path / "copy.xt.zarr"
    shutil.copytree(whole.path, copy)
    strict = xt.predict(scene, model, out=copy, threshold=high)
    assert len(strict.boxes) == (whole.boxes.score >= high).sum()
    assert len(strict.candidates()) == len(whole.candidates())


def test_without_a_place_results_go_beside_the_image_or_to_the_users_results(
    model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    from napari_xt.engine.output import results_folder

    path = tmp_path / "scene.zarr"
    zarr.save_array(str(path), scene[:128, :128])
    assert xt.predict(path, model).path == tmp_path / "scene.small.xt.zarr"
    assert xt.predict(path, model, threshold=0.3).path == tmp_path / "scene.small.xt.zarr"
    assert xt.predict(path, model, window=2).path == tmp_path / "scene.small-2.xt.zarr"
    assert xt.predict(path, model, window=2).path == tmp_path / "scene.small-2.xt.zarr"
    assert xt.predict(scene[:64, :64], model).path.parent == results_folder()


def test_a_plane_that_is_named_is_the_same_as_the_one_that_is_meant(
    model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    path, out = tmp_path / "stack.zarr", tmp_path / "out.xt.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=np.stack([scene, 255 - scene])[:, :128, :128].transpose(0, 3, 1, 2))
    axes = [
        {"name": name, "type": kind} for name, kind in zip("zcyx", ("space", "channel", "space", "space"), strict=True)
    ]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0, 1.0]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    first = xt.predict(path, model, out=out)
    assert_same(xt.predict(path, model, out=out, plane={"z": 0}), first)
    with pytest.raises(StoreMismatchError, match="plane"):
        xt.predict(path, model, out=out, plane={"z": 1})


@pytest.fixture
def damaged(scene: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.zarr"
    zarr.create_array(str(path), data=scene, chunks=(64, 64, 3))
    (path / "c/5/5/0").write_bytes(b"this is no chunk")
    return path


def test_damage_is_local_and_told(model: XT, damaged: Path, whole: Prediction, tmp_path: Path) -> None:
    events = list(xt.stream(damaged, model, out=tmp_path / "out.xt.zarr"))
    prediction = xt.open_prediction(tmp_path / "out.xt.zarr")
    assert prediction.complete
    failed = {(e.region.row, e.region.col) for e in events if isinstance(e, RegionDone) and e.kind == "failed"}
    assert failed == {(r, c) for r in (4, 5, 6) for c in (4, 5, 6)}  # the halo of its neighbours needs it too
    assert set(zip(prediction.failed.region_row, prediction.failed.region_col, strict=True)) == failed
    assert prediction.failed.error.str.contains("damaged").all()
    mask = prediction.mask[0][...]
    assert not mask[256:448, 256:448].any()
    np.testing.assert_array_equal(mask[:256], whole.mask[0][:256])  # windows without damage
    assert events[-1].summary.failed == 9  # type: ignore[attr-defined]


def test_damage_stops_the_run_where_that_is_asked_for(model: XT, damaged: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(RunError, match="row 4, column 4"):
        events.extend(iter(xt.stream(damaged, model, out=tmp_path / "out.xt.zarr", on_error="raise")))
    assert isinstance(events[-1], RunFailed)


def test_a_hopeless_run_stops(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "rotten.zarr"
    zarr.create_array(str(path), data=scene, chunks=(64, 64, 3))
    for chunk in path.glob("c/*/*/*"):
        chunk.write_bytes(b"this is no chunk")
    with pytest.raises(RunError, match="all of the first 16"):
        xt.predict(path, model, out=tmp_path / "out.xt.zarr")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_torch_is_left_as_it_was(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    events = xt.stream(scene, model, out=tmp_path / "out.xt.zarr")
    next(events), next(events)
    assert torch.get_num_threads() == 1
    events.close()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (65, 63), (64, 128), (257, 1)], ids=str)
@pytest.mark.parametrize("window", [1, 3])
def test_odd_sizes_come_out_as_large_as_they_went_in(
    shape: tuple[int, int], window: int, model: XT, tmp_path: Path
) -> None:
    prediction = xt.predict(
        RNG.integers(0, 255, (*shape, 3), np.uint8), model, out=tmp_path / "odd.xt.zarr", window=window
    )
    assert prediction.mask[0].shape == shape
    assert prediction.complete


def test_a_resampled_run_gives_boxes_in_level_0_pixels(scene: np.ndarray, tmp_path: Path) -> None:
    model = small_model(replace(SMALL, scale_um=2.0))
    fine = scene[:256, :256].repeat(2, 0).repeat(2, 1)
    plain = xt.predict(scene[:256, :256], model, out=tmp_path / "plain.xt.zarr", pixel_size=2.0)
    resampled = xt.predict(fine, model, out=tmp_path / "resampled.xt.zarr", pixel_size=1.0)
    np.testing.assert_array_equal(plain.mask[0][...], resampled.mask[0][...])
    np.testing.assert_allclose(plain.boxes[["y0", "x0", "y1", "x1"]] * 2, resampled.boxes[["y0", "x0", "y1", "x1"]])
