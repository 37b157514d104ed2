"""What stays of encoded regions: as much as was asked for, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from kept_case import SHAPE, assert_same, on_disk, run, scene

import napari_xt as xt
from napari_xt.engine import plan as planning
from napari_xt.engine.events import RegionDone, StageProgress
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores import shelf
from napari_xt.model.xt import XT
from small_model import SMALL, small_model


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def kept(model: XT, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """Return an undisturbed run that keeps all."""
    return run(scene(), model, tmp_path_factory.mktemp("kept") / "all.xt.zarr", keep="features")[0]


def arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    found = {"tokens": prediction.tokens, "features": prediction.features}
    assert {name for name, array in found.items() if array is not None} == {"tokens", "features"} & set(
        os.listdir(prediction.path)
    )
    return {name: array[...] for name, array in found.items() if array is not None}


def assert_kept(prediction: Prediction, reference: Prediction, names: set[str]) -> None:
    found = arrays(prediction)
    assert found.keys() == names
    for name, values in found.items():
        np.testing.assert_array_equal(values, arrays(reference)[name], err_msg=name)


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize(
    ("keep", "names"),
    [(None, {"tokens"}), ("nothing", set()), ("features", {"tokens", "features"})],
    ids=["default", "nothing", "features"],
)
def test_as_much_is_kept_as_was_asked_for(
    keep: str | None,
    names: set[str],
    large: bool,
    model: XT,
    kept: Prediction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if large:
        monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    window = "global" if large else None
    found, _, plan = run(scene(), model, tmp_path / "some.xt.zarr", keep=keep, window=window)
    assert_kept(found, kept, names)
    assert plan.keep == (keep or "tokens")
    assert ("kept" in str(plan)) == (keep != "nothing")
    if not large:
        assert_same(found, kept)


def test_what_is_kept_is_what_the_region_encoder_says(model: XT, tmp_path: Path) -> None:
    kept = run(scene(), model, tmp_path / "all.xt.zarr", keep="features", precision="float32")[0]
    assert kept.tokens is not None
    assert kept.features is not None
    assert (kept.tokens.shape, kept.features.shape) == ((10, 4, 4, 32), (10, 4, 16, 16, 16))
    assert kept.tokens.dtype == kept.features.dtype == np.float16
    with xt.open_image(scene()) as image:
        outer = image.read(Box(4 * 64 - 32, 64 - 32, 5 * 64 + 32, 2 * 64 + 32), 0)
    pixels = model.prepare(outer)[None].contiguous(memory_format=torch.channels_last)
    tokens, local = model.encode(pixels)
    np.testing.assert_allclose(kept.tokens[4, 1], tokens[0].numpy(), atol=2e-3)
    np.testing.assert_allclose(kept.features[4, 1], local[0].numpy(), atol=2e-3)


def test_a_model_without_local_features_keeps_tokens(tmp_path: Path) -> None:
    scoring = small_model(replace(SMALL, mask=None, boxes=None, scores=("a", "b")))
    found, _, plan = run(scene(), scoring, tmp_path / "scores.xt.zarr", keep="features")
    assert plan.keep == "tokens"
    assert arrays(found).keys() == {"tokens"}


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_a_stopped_run_keeps_all_in_the_end(
    large: bool, model: XT, kept: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    options = {"keep": "features", "window": "global"} if large else {"keep": "features"}
    out = tmp_path / "stopped.xt.zarr"
    for stop in (StageProgress, RegionDone):
        with closing(xt.stream(scene(), model, out=out, **options)) as events:
            next(event for event in events if isinstance(event, stop))
    assert_kept(run(scene(), model, out, **options)[0], kept, {"tokens", "features"})


@pytest.mark.parametrize(
    ("begun", "asked", "names"),
    [
        ("features", None, {"tokens", "features"}),
        ("features", "tokens", {"tokens"}),
        ("features", "nothing", set()),
        ("tokens", "features", {"tokens"}),
        ("nothing", "features", set()),
    ],
)
@pytest.mark.parametrize("complete", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["complete", "half done"])
def test_less_can_be_kept_later_and_not_more(
    begun: str, asked: str | None, names: set[str], complete: bool, model: XT, kept: Prediction, tmp_path: Path
) -> None:
    out = tmp_path / "store.xt.zarr"
    if complete and begun == "features":
        shutil.copytree(kept.path, out)
    with closing(xt.stream(scene(), model, out=out, keep=begun)) as events:
        for event in events:
            if isinstance(event, RegionDone) and not complete:
                break
    found, _, plan = run(scene(), model, out, keep=asked)
    assert_kept(found, kept, names)
    assert plan.keep == {0: "nothing", 1: "tokens", 2: "features"}[len(names)]


def test_a_removal_that_is_cut_short_goes_on_and_leaves_no_half_array(
    model: XT, kept: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cut.xt.zarr"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planning, "IN_MEMORY_REGIONS", 8)
        patch.setattr(shelf.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run(scene(), model, out, window="global")
    found = xt.open_prediction(out)
    assert found.complete
    assert (out / "features").is_dir()
    assert found.features is None
    assert found.tokens is not None
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    assert_kept(run(scene(), model, out, window="global")[0], kept, {"tokens"})


def test_of_regions_without_tokens_it_is_known(model: XT, tmp_path: Path) -> None:
    pixels = scene()
    pixels[:256] = 255  # glass
    path = on_disk(tmp_path, pixels)
    (path / "c" / "8" / "2" / "0").write_bytes(b"nonsense")
    levels = [zarr.open_array(path, mode="r"), pixels[::8, ::8]]
    found, _, _ = run(levels, model, tmp_path / "some.xt.zarr", keep="features", skip_background=True)
    values = arrays(found)
    status = zarr.open_array(found.path / "status", mode="r")[...]
    assert set(np.unique(status)) == {2, 3, 4}
    assert not values["tokens"][status == 3].any()
    assert not values["features"][status != 2].any()
    background = model.background_token.detach().half().numpy()
    assert (values["tokens"][status == 4] == background).all()
    assert values["tokens"].shape[:2] == tuple(-(-n // 64) for n in SHAPE)
