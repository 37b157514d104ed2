"""Runs that take encoded regions from an earlier one: the bits of encoding again, whatever became of that store."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from kept_case import REGIONS, assert_same, on_disk, run, scene, with_context, with_encoder_of

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import plan as planning
from napari_xt.engine import writer
from napari_xt.engine.events import RunFinished, RunStarted
from napari_xt.errors import SettingsError, StoreError, StoreMismatchError, XTError
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.kept import Kept
from napari_xt.io.stores.store import BlockData, Store
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

CHUNK = "features/c/8/0/0/0/0"  # of the first row of a block of 8 regions


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def kept(model: XT, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """Return a run that keeps all; not to be changed."""
    return run(scene(), model, tmp_path_factory.mktemp("kept") / "all.xt.zarr", keep="features")[0]


@pytest.fixture(scope="module")
def stranger() -> XT:
    """Return a network with another region encoder."""
    return small_model(seed=7)


@pytest.fixture(scope="module")
def of_stranger(stranger: XT, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """Return a run with it that keeps all; not to be changed."""
    return run(scene(), stranger, tmp_path_factory.mktemp("stranger") / "other.xt.zarr", keep="features")[0]


@pytest.fixture
def copy(kept: Prediction, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept.path, tmp_path / "copy.xt.zarr"))


def same_model(model: XT) -> XT:
    return model


def other_context(model: XT) -> XT:
    return with_encoder_of(model, with_context(kind="longformer", layers=1, attention_window=8))


def other_heads(model: XT) -> XT:
    return with_encoder_of(model, replace(SMALL, mask=("background", "a", "b"), scores=None, suppression_iou=0.2))


def seeing_the_whole(model: XT) -> XT:
    return with_encoder_of(model, with_context(overview_tokens=16))


@pytest.mark.parametrize(
    ("options", "other"),
    [
        pytest.param({"context": False}, same_model, id="no context"),
        pytest.param({"roi": "130,70,600,200"}, same_model, id="part"),
        pytest.param({"workers": 1, "keep": "features"}, other_context, id="context encoder"),
        pytest.param({}, seeing_the_whole, id="overview"),
        pytest.param({"window": 3}, same_model, id="window", marks=pytest.mark.slow),
        pytest.param({"window": "global"}, same_model, id="global", marks=pytest.mark.slow),
        pytest.param({"outputs": ("boxes",), "keep": "nothing"}, same_model, id="boxes", marks=pytest.mark.slow),
        pytest.param({}, other_heads, id="heads", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_without_encoding(
    options: dict[str, object], other: object, model: XT, kept: Prediction, tmp_path: Path
) -> None:
    network = other(model)  # type: ignore[operator]
    again, summary, plan = run(scene(), network, tmp_path / "again.xt.zarr", reuse=str(kept.path), **options)
    assert (summary.encoded, summary.reused, plan.reused) == (0, plan.regions, plan.regions)
    assert f"{plan.reused} of {plan.regions} regions, as all.xt.zarr" in str(plan)
    assert_same(again, run(scene(), network, tmp_path / "fresh.xt.zarr", **options)[0])


@pytest.mark.parametrize(
    ("before", "now"),
    [
        pytest.param(True, True, id="both on disk"),
        pytest.param(False, True, id="now on disk", marks=pytest.mark.slow),
        pytest.param(True, False, id="before on disk", marks=pytest.mark.slow),
    ],
)
def test_windows_on_disk_and_in_memory_take_from_each_other(
    before: bool, now: bool, model: XT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8 if before else 256)
    options = {"window": "global", "keep": "features"}
    run(scene(), model, tmp_path / "before.xt.zarr", **options)
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8 if now else 256)
    fresh = run(scene(), model, tmp_path / "fresh.xt.zarr", context=False, **options)[0]
    again, summary, _ = run(
        scene(), model, tmp_path / "again.xt.zarr", context=False, reuse=str(tmp_path / "before.xt.zarr"), **options
    )
    assert summary.encoded == 0
    assert_same(again, fresh)
    shutil.rmtree(tmp_path / "before.xt.zarr")  # what is shared with it stays
    assert again.features is not None
    np.testing.assert_array_equal(again.features[...], fresh.features[...])  # type: ignore[index]
    third, summary, _ = run(scene(), model, tmp_path / "third.xt.zarr", reuse=str(again.path), window="global")
    assert summary.encoded == 0
    assert_same(third, run(scene(), model, tmp_path / "last.xt.zarr", window="global")[0])


@pytest.mark.parametrize("shared", [True, False])
def test_files_are_shared_where_the_disk_allows_it(
    shared: bool, model: XT, kept: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.link

    def refused(source: Path, to: Path) -> None:
        if kept.path in Path(source).parents:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        plain(source, to)

    if not shared:
        monkeypatch.setattr(os, "link", refused)
    options = {"keep": "features", "reuse": str(kept.path)}
    again, summary, _ = run(scene(), model, tmp_path / "again.xt.zarr", window=3, **options)
    assert summary.encoded == 0
    one, other = ((p.path / CHUNK).stat() for p in (again, kept))
    assert os.path.samestat(one, other) == shared
    np.testing.assert_array_equal(again.features[...], kept.features[...])  # type: ignore[index]


def test_what_an_unfinished_run_lacks_is_encoded(
    model: XT, kept: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "half.xt.zarr"
    plain = Store.commit

    def once(store: Store, blocks: Sequence[BlockData]) -> None:
        if store.committed():
            raise StoreError(store.path, "it can't be written")
        plain(store, blocks)

    monkeypatch.setattr(writer, "GROUP_REGIONS", 8)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", once)
        with pytest.raises(StoreError):
            run(scene(), model, out, keep="features")
    again, summary, plan = run(scene(), model, tmp_path / "again.xt.zarr", reuse=str(out))
    assert 0 < summary.reused < REGIONS
    assert summary.encoded + summary.reused == REGIONS
    assert plan.reused == summary.reused
    assert_same(again, kept)


def test_what_was_outside_the_part_that_was_run_is_encoded(model: XT, kept: Prediction, tmp_path: Path) -> None:
    run(scene(), model, tmp_path / "part.xt.zarr", keep="features", roi="130,70,600,200")
    again, summary, _ = run(scene(), model, tmp_path / "again.xt.zarr", reuse=str(tmp_path / "part.xt.zarr"))
    assert summary.reused == 8 * 3
    assert summary.encoded + summary.reused == REGIONS
    assert_same(again, kept)


def test_what_was_skipped_as_empty_is_encoded_where_it_is_wanted(model: XT, tmp_path: Path) -> None:
    pixels = scene()
    pixels[:320] = 255
    _, skipping, plan = run(pixels, model, tmp_path / "s.xt.zarr", keep="features", skip_background=True)
    assert plan.skipped == 16
    again, summary, _ = run(pixels, model, tmp_path / "again.xt.zarr", reuse=str(tmp_path / "s.xt.zarr"))
    assert (summary.encoded, summary.reused) == (16, skipping.encoded)
    assert_same(again, run(pixels, model, tmp_path / "fresh.xt.zarr")[0])
    back, summary, _ = run(pixels, model, tmp_path / "b.xt.zarr", reuse=str(again.path), skip_background=True)
    assert (summary.encoded, summary.reused) == (24, 0), "only tokens were kept"
    assert_same(back, xt.open_prediction(tmp_path / "s.xt.zarr"))


def test_a_region_that_failed_is_encoded(model: XT, kept: Prediction, tmp_path: Path) -> None:
    path = on_disk(tmp_path, scene())
    chunk = path / "c" / "8" / "2" / "0"
    whole = chunk.read_bytes()
    before, _, _ = run(path, model, tmp_path / "healthy.xt.zarr", keep="nothing")
    chunk.write_bytes(b"nonsense")
    damaged, _, _ = run(path, model, tmp_path / "damaged.xt.zarr", keep="features", reuse="no")
    chunk.write_bytes(whole)
    again, summary, _ = run(path, model, tmp_path / "again.xt.zarr", reuse=str(damaged.path))
    assert 0 < summary.encoded == len(damaged.failed) <= 9
    assert_same(again, before)


def test_a_damaged_block_is_encoded_again(model: XT, kept: Prediction, copy: Path, tmp_path: Path) -> None:
    data = bytearray((copy / CHUNK).read_bytes())
    data[1000] ^= 1
    (copy / CHUNK).write_bytes(data)
    again, summary, _ = run(scene(), model, tmp_path / "again.xt.zarr", reuse=str(copy))
    assert (summary.encoded, summary.reused) == (8, REGIONS - 8)
    assert_same(again, kept)


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_store_that_goes_while_it_is_read_does_no_harm(
    replaced: bool,
    model: XT,
    kept: Prediction,
    of_stranger: Prediction,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Kept.block

    def block(found: Kept, row: int, *rest: Any) -> Any:
        if row == 1 and copy.exists() and not (tmp_path / "gone").exists():
            copy.rename(tmp_path / "gone")
            if replaced:
                shutil.copytree(of_stranger.path, copy)
        return plain(found, row, *rest)

    monkeypatch.setattr(Kept, "block", block)
    again, summary, _ = run(scene(), model, tmp_path / "again.xt.zarr", workers=1, keep="features", reuse=str(copy))
    assert (summary.encoded, summary.reused) == (8, REGIONS - 8)
    assert_same(again, kept)
    np.testing.assert_array_equal(again.features[...], kept.features[...])  # type: ignore[index]


def test_a_store_that_is_another_by_the_time_the_run_begins_is_not_used(
    model: XT, copy: Path, kept: Prediction, of_stranger: Prediction, tmp_path: Path
) -> None:
    events = xt.stream(scene(), model, out=tmp_path / "again.xt.zarr", reuse=str(copy))
    assert isinstance(next(events), RunStarted)
    shutil.rmtree(copy)
    shutil.copytree(of_stranger.path, copy)
    finished = list(events)[-1]
    assert isinstance(finished, RunFinished)
    assert (finished.summary.encoded, finished.summary.reused) == (REGIONS, 0)
    assert_same(xt.open_prediction(tmp_path / "again.xt.zarr"), kept)


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_of_tokens_alone_scores_are_made(
    large: bool, model: XT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8 if large else 256)
    tokens = run(scene(), model, tmp_path / "tokens.xt.zarr")[0]
    options = {"window": "global", "outputs": ("scores",), "keep": "features"}
    again, summary, plan = run(scene(), model, tmp_path / "again.xt.zarr", reuse=str(tokens.path), **options)
    assert (summary.encoded, summary.reused) == (0, REGIONS)
    assert plan.keep == "tokens", "nothing is encoded only to be kept"
    assert again.features is None
    assert_same(again, run(scene(), model, tmp_path / "fresh.xt.zarr", **options)[0])


def test_of_tokens_alone_masks_are_not_made(model: XT, kept: Prediction, tmp_path: Path) -> None:
    tokens = run(scene(), model, tmp_path / "tokens.xt.zarr")[0]
    whole, summary, plan = run(scene(), model, tmp_path / "whole.xt.zarr", reuse=str(tokens.path))
    assert (summary.encoded, summary.reused) == (REGIONS, 0)
    assert "tokens.xt.zarr keeps tokens alone" in str(plan)
    assert_same(whole, kept)


def changed(pixels: np.ndarray) -> np.ndarray:
    return pixels[::-1].copy()


@pytest.mark.parametrize(
    ("pixels", "network", "options", "first"),
    [
        (changed, None, {}, "image"),
        (None, {"seed": 7}, {}, "encoder"),
        (None, {"config": replace(SMALL, local=replace(SMALL.local, channels=8))}, {}, "encoder"),
        (None, {"config": replace(SMALL, halo_px=64)}, {}, "grid, halo_px"),
        (None, None, {"channels": (2, 1, 0)}, "channels"),
    ],
    ids=["image", "weights", "local features", "halo", "channels"],
)
def test_what_does_not_fit_is_refused_naming_the_first_difference(
    pixels: object, network: dict[str, object] | None, options: dict[str, object], first: str, model: XT,
    kept: Prediction, tmp_path: Path,
) -> None:  # fmt: skip
    image = pixels(scene()) if pixels else scene()  # type: ignore[operator]
    other = model if network is None else small_model(**network)  # type: ignore[arg-type]
    with pytest.raises(StoreMismatchError, match=rf"all\.xt\.zarr: it can't be reused: {first}.*: the store has"):
        xt.stream(image, other, out=tmp_path / "no.xt.zarr", reuse=str(kept.path), **options)
    assert not (tmp_path / "no.xt.zarr").exists()


def test_what_holds_nothing_is_refused(model: XT, tmp_path: Path) -> None:
    run(scene(), model, tmp_path / "empty.xt.zarr", keep="nothing")
    (tmp_path / "folder").mkdir()
    cases: list[tuple[object, type[XTError], str]] = [
        (tmp_path / "empty.xt.zarr", StoreError, "keeps no encoded regions"),
        (tmp_path / "folder", StoreError, "no prediction"),
        (tmp_path / "none", StoreError, "no such file"),
        ("", SettingsError, "is no path"),
        (3, SettingsError, "is no path"),
    ]
    for reuse, error, words in cases:
        with pytest.raises(error, match=words):
            xt.stream(scene(), model, out=tmp_path / "no.xt.zarr", reuse=reuse)


def test_a_run_with_the_usual_name_takes_from_those_beside_it(model: XT, stranger: XT, tmp_path: Path) -> None:
    image = tmp_path / "scene.tif"
    tifffile.imwrite(image, scene(), photometric="rgb")
    first = run(image, model, keep="features")[0]
    assert first.path.name == "scene.small.xt.zarr"
    for network, options, encoded in (
        (model, {"context": False}, 0),
        (model, {"outputs": ("scores",), "window": 2}, 0),
        (stranger, {}, REGIONS),
        (model, {"window": 3, "reuse": "no"}, REGIONS),
        (model, {"restart": True}, REGIONS),
    ):
        _, summary, plan = run(image, network, **options)
        assert (summary.encoded, summary.reused) == (encoded, REGIONS - encoded), options
        assert bool(plan.reuse) == (encoded == 0)
    _, summary, plan = run(image, model)
    assert (summary.encoded, summary.reused, plan.reuse) == (0, 0, ""), "a complete store is returned at once"


def test_the_command_line_says_what_is_reused(model: XT, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(model, tmp_path / "small.safetensors", ModelCard("small"), dtype=next(model.parameters()).dtype)
    image = on_disk(tmp_path, scene())
    usual = [str(image), "--model", str(tmp_path / "small.safetensors")]
    first, again = str(tmp_path / "first.xt.zarr"), str(tmp_path / "again.xt.zarr")
    assert main(["run", *usual, "--out", first, "--keep", "features"]) == 0
    assert "features of all regions kept" in capsys.readouterr().out
    assert main(["plan", *usual, "--no-context", "--reuse", first]) == 0
    assert "40 of 40 regions, as first.xt.zarr" in capsys.readouterr().out
    assert main(["run", *usual, "--out", again, "--no-context", "--reuse", first]) == 0
    assert "0 now and 40 reused" in capsys.readouterr().out
    assert main(["run", *usual, "--out", again, "--reuse", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
