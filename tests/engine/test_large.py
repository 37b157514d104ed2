"""Windows that are too large for memory: regions wait on disk, and nothing comes out differently."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

import napari_xt as xt
from napari_xt.engine import plan, reading
from napari_xt.engine.events import RegionDone, RunFinished, RunStarted, StageProgress
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import ContextConfig
from napari_xt.model.xt import XT
from small_model import SMALL, small_model, squares

SHAPE = (700, 610)  # 11 x 10 regions in blocks of 64, 16, 24 and 6


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return squares(SHAPE)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "IN_MEMORY_REGIONS", 8)


def assert_same(a: Prediction, b: Prediction) -> None:
    names = ["0", "probability", "scores", "status", *(f"labels/mask/{k}" for k in range(len(a.mask)))]
    for name in names:
        one, other = (zarr.open_array(p.path / name, mode="r")[...] for p in (a, b))
        np.testing.assert_array_equal(one, other, err_msg=name)
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)


@pytest.mark.parametrize("roi", [None, "130,70,600,500"], ids=["whole", "part"])
def test_waiting_on_disk_changes_no_bit(
    roi: str | None, model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = xt.predict(scene, model, out=tmp_path / "memory.xt.zarr", window="global", roi=roi)
    monkeypatch.setattr(plan, "IN_MEMORY_REGIONS", 8)
    disk = xt.predict(scene, model, out=tmp_path / "disk.xt.zarr", window="global", roi=roi, keep="nothing")
    assert [p.header.layout.shelf.waits for p in (disk, memory)] == [True, False]
    assert_same(disk, memory)
    assert not {"tokens", "features"} & set(os.listdir(disk.path))


def test_a_run_stopped_anywhere_goes_on_without_encoding_again(
    small_memory: None, model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    whole = xt.predict(scene, model, out=tmp_path / "whole.xt.zarr", window="global")
    out = tmp_path / "stopped.xt.zarr"
    encoded = []
    for stage, done in (("encode", 70), ("encode", 90), ("decode", 80), ("decode", 110)):
        with closing(xt.stream(scene, model, out=out, window="global")) as events:
            begun, there = None, 0
            for event in events:
                if isinstance(event, RunStarted):
                    there = event.done
                if not isinstance(event, StageProgress):
                    continue
                if event.stage == "encode" and begun is None and event.done != there:  # a beat tells what was there
                    begun = event.done
                if event.stage == stage and event.done >= done:
                    break
        encoded.append(begun)
    assert encoded == [4, 68, 84, None]  # a block that is on the shelf is not encoded again
    events = list(xt.stream(scene, model, out=out, window="global"))
    assert isinstance(events[-1], RunFinished)
    assert not any(isinstance(e, StageProgress | RegionDone) for e in events)
    assert_same(xt.open_prediction(out), whole)


def test_a_damaged_region_is_failed_in_a_large_window_too(
    small_memory: None, model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.zarr"
    array = zarr.create_array(path, shape=scene.shape, chunks=(64, 64, 3), dtype="uint8")
    array[:] = scene
    (path / "c" / "3" / "4" / "0").write_bytes(b"nonsense")
    prediction = xt.predict(path, model, out=tmp_path / "damaged.xt.zarr", window="global")
    failed = prediction.failed
    assert (3, 4) in set(zip(failed.region_row, failed.region_col, strict=True))
    assert len(failed) <= 9  # its halo reaches into its neighbours
    assert not prediction.mask[0][192:256, 256:320].any()


def test_the_overview_of_a_large_window_is_that_of_the_network(
    model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing = small_model(replace(SMALL, context=ContextConfig(layers=2, dim=32, overview_tokens=16)))
    memory = xt.predict(scene, seeing, out=tmp_path / "memory.xt.zarr", window="global")
    monkeypatch.setattr(plan, "IN_MEMORY_REGIONS", 8)
    disk = xt.predict(scene, seeing, out=tmp_path / "disk.xt.zarr", window="global")
    names = [name for name in memory.scores if name.startswith("p:")]
    np.testing.assert_allclose(disk.scores[names], memory.scores[names], atol=1e-3)
    without = small_model(replace(SMALL, context=ContextConfig(layers=2, dim=32)))
    other = xt.predict(scene, without, out=tmp_path / "other.xt.zarr", window="global")
    assert not np.allclose(other.scores[names], memory.scores[names], atol=1e-2)


@pytest.mark.parametrize("window", [4, "global"])
def test_each_row_of_chunks_is_read_once(
    window: object, small_memory: None, model: XT, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    array = zarr.create_array(tmp_path / "scene.zarr", shape=scene.shape, chunks=(64, 128, 3), dtype="uint8")
    array[:] = scene
    read: dict[int, int] = {}
    plain = reading.read_run

    def count(image: xt.Image, level: int, shape: tuple[int, int], box: Box) -> np.ndarray:
        assert (box.x0, box.x1) == (0, SHAPE[1])
        for row in range(box.y0 // 64, -(-box.y1 // 64)):
            read[row] = read.get(row, 0) + 1
        return plain(image, level, shape, box)

    monkeypatch.setattr(reading, "read_run", count)
    xt.predict(tmp_path / "scene.zarr", model, out=tmp_path / "once.xt.zarr", window=window, workers=2)
    assert set(read.values()) == {1}
    assert len(read) == 11
