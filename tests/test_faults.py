"""A disk that fills, memory that is short, a device that is lost: a run ends in one sentence, and goes on later."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import cli_case as case
import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import plan
from napari_xt.engine.events import RunFailed
from napari_xt.engine.faults import device_lost
from napari_xt.errors import RunError, StoreError
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores import durable, ledger
from napari_xt.model.xt import XT
from small_model import small_model

PATIENCE_S = 120
SHAPE = (580, 130)  # 10 x 3 regions of 64 px, blocks of 8 x 8
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "windows": (4096, {"window": 4, "keep": "features"}),
    "waiting": (8, {"window": "global", "preview": True}),
}
FULL = r"can't be written: No space left on device, \d+ bytes are free; free some and run again"


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return case.scene(SHAPE)


@pytest.fixture(params=RUNS, scope="module")
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    in_memory, options = RUNS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "IN_MEMORY_REGIONS", in_memory)
        yield options | {"workers": 2}


@pytest.fixture(scope="module")
def whole(
    model: XT, scene: np.ndarray, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Prediction, int]:
    """An undisturbed run, and how often it asked for room on the disk."""
    out = tmp_path_factory.mktemp("faults") / "whole.xt.zarr"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        return xt.predict(scene, model, out=out, **options), disk.asked


class Disk:
    """A disk that takes so many files and lists of files in folders, and then no more."""

    def __init__(self, patch: pytest.MonkeyPatch, room: float = float("inf")) -> None:
        self.asked, self.room = 0, room
        for name in ("write_file", "sync_folder"):
            patch.setattr(durable, name, self._guarded(getattr(durable, name)))

    def _guarded(self, plain: Callable[..., None]) -> Callable[..., None]:
        def guarded(path: Path, *rest: Any, **how: Any) -> None:
            self.asked += 1
            if self.asked > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            plain(path, *rest, **how)

        return guarded


def arrays(store: Path) -> dict[str, np.ndarray]:
    found = [path.parent for path in store.rglob("zarr.json") if '"array"' in path.read_text()]
    return {str(path.relative_to(store)): zarr.open_array(path, mode="r")[...] for path in found}


def assert_same(ours: Prediction, theirs: Prediction) -> None:
    assert ours.complete
    mine, expected = arrays(ours.path), arrays(theirs.path)
    assert mine.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(mine[name], values, err_msg=name)
    assert len(theirs.boxes)
    pd.testing.assert_frame_equal(ours.boxes, theirs.boxes)
    pd.testing.assert_frame_equal(ours.scores, theirs.scores)


def assert_in_order(out: Path, *others: Path) -> None:
    """A store that was left by an error is free, readable and has nothing half-made beside it."""
    assert set(out.parent.iterdir()) - set(others) <= {out}
    if out.exists():
        assert not (out / "journal/run.lock").exists()
        prediction = xt.open_prediction(out)
        assert 0 <= prediction.coverage <= 1
        assert prediction.scores is not None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 30))])
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(
    seed: int,
    model: XT,
    scene: np.ndarray,
    options: dict[str, Any],
    whole: tuple[Prediction, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, asked = whole
    out, rng = tmp_path / "new.xt.zarr", random.Random(seed)
    for room in (rng.randrange(asked), rng.randrange(3)):  # the second time hardly anything has been freed
        with monkeypatch.context() as patch:
            Disk(patch, room)
            with pytest.raises(StoreError, match=FULL) as told:
                xt.predict(scene, model, out=out, **options)
        assert str(out) in str(told.value)
        assert_in_order(out)
    assert_same(xt.predict(scene, model, out=out, **options), theirs)


@pytest.mark.parametrize("pages", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_journal_without_room_ends_a_run_too(
    pages: int,
    model: XT,
    scene: np.ndarray,
    options: dict[str, Any],
    whole: tuple[Prediction, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "new.xt.zarr"
    plain = ledger._connect

    def bounded(path: Path, mode: str) -> sqlite3.Connection:
        db = plain(path, mode)
        (count,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {count + pages}")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_connect", bounded)
        with pytest.raises(StoreError, match=FULL) as told:
            xt.predict(scene, model, out=out, **options)
    assert str(out) in str(told.value)
    assert_in_order(out)
    assert_same(xt.predict(scene, model, out=out, **options), whole[0])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("window", ["4", "global"])
def test_a_disk_of_64_mb_that_others_fill_meanwhile(window: str, small_disk: Path, tmp_path: Path) -> None:
    case.write_good(tmp_path)
    zarr.create_array(str(tmp_path / "large.zarr"), data=case.scene((1800, 1100)), chunks=(256, 256, 3))
    call = ["run", f"{tmp_path}/large.zarr", "--model", f"{tmp_path}/small.safetensors", "--window", window]
    call += ["--keep", "features", "--preview", "--pixel-size", "10cm"]
    whole, out, filler = tmp_path / "whole.xt.zarr", small_disk / "new.xt.zarr", small_disk / "filler"
    assert main([*call, "--out", str(whole)]) == 0
    rng = random.Random(window)
    for _ in range(4):
        with case.child(*call, "--out", out) as process:
            while process.poll() is None and not (out.exists() and list(out.rglob("c"))):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 3))
            filler.write_bytes(bytes(max(0, free(small_disk) - rng.choice([0, 5_000, 100_000, 1_000_000]))))
            said = process.communicate(timeout=PATIENCE_S)[1]
        if process.returncode == 0:
            break
        assert process.returncode == 2
        assert said.startswith(f"napari-xt: error: {out}")
        assert re.search(FULL, said)
        assert said.count("\n") == 1
        assert_in_order(out, filler)
        filler.unlink()
    filler.unlink(missing_ok=True)
    assert main([*call, "--out", str(out)]) == 0
    assert_same(xt.open_prediction(out), xt.open_prediction(whole))


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class Breaking:
    """A part of a network that raises ``error`` from some call on."""

    def __init__(self, error: Exception, after: int) -> None:
        self.error, self.after, self.calls = error, after, 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls > self.after:
            raise self.error


LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (LOST, True),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RunError("region row 0, column 0", "failed: CUDA error: nothing of the device"), False),
        (MemoryError(), False),
    ],
    ids=lambda value: str(value)[:40] or "MemoryError",
)
def test_errors_of_a_lost_device_are_told_from_others(error: Exception, lost: bool) -> None:
    assert device_lost(error) == lost


def test_a_lost_device_ends_a_run_that_goes_on_later(
    model: XT, scene: np.ndarray, options: dict[str, Any], whole: tuple[Prediction, int], tmp_path: Path
) -> None:
    out = tmp_path / "new.xt.zarr"
    hook = model.region.register_forward_pre_hook(Breaking(LOST, after=20))
    events = []
    try:
        with pytest.raises(RunError, match=r"^device cpu: was lost: .*; what is done is kept; run again to go on$"):
            events.extend(iter(xt.stream(scene, model, out=out, batch=1, **options)))
    finally:
        hook.remove()
    assert isinstance(events[-1], RunFailed)
    assert not len(xt.open_prediction(out).failed)
    assert_in_order(out)
    assert_same(xt.predict(scene, model, out=out, **options), whole[0])


def test_a_device_that_is_lost_in_the_heads_is_told_too(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    hook = model.context.register_forward_pre_hook(Breaking(LOST, after=1))
    try:
        with pytest.raises(RunError, match="device cpu: was lost: CUDA error: an illegal memory access"):
            xt.predict(scene, model, out=tmp_path / "new.xt.zarr", window=4)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pytest.param(ValueError("an odd region"), marks=pytest.mark.slow),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), marks=pytest.mark.slow),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_region_that_raises_fails_alone_and_is_tried_again(
    error: Exception,
    model: XT,
    scene: np.ndarray,
    options: dict[str, Any],
    whole: tuple[Prediction, int],
    tmp_path: Path,
) -> None:
    out = tmp_path / "new.xt.zarr"

    def picky(_: object, inputs: tuple[torch.Tensor]) -> None:
        if any(int(pixels.sum().abs()) % 7 == 0 for pixels in inputs[0]):
            raise error

    hook = model.region.register_forward_pre_hook(picky)
    try:
        prediction = xt.predict(scene, model, out=out, **options)
    finally:
        hook.remove()
    assert prediction.complete
    assert 0 < len(prediction.failed) < 30
    assert prediction.failed.error.str.contains(str(error) or "MemoryError").all()
    assert_same(xt.predict(scene, model, out=out, **options), whole[0])
