"""Regions that failed are tried again when a run goes on: the end is that of a run whose image was never damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

import napari_xt as xt
from napari_xt.engine import plan
from napari_xt.engine.events import RegionDone, RunFinished, StageProgress
from napari_xt.errors import RunError
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.store import Store
from napari_xt.model.xt import XT
from small_model import small_model, squares

SHAPE = (580, 130)  # 10 x 3 regions of 64 px, halo 32, windows of 4 x 4, blocks of 8 x 8
BAD = Box(200, 74, 210, 84)  # in region (3, 1), and in the halo of its neighbours
WORSE = Box(550, 10, 554, 12)  # in region (8, 0), and in the halo of (9, 0)
WINDOWS = {"windows": (4, 4096), "whole": ("global", 4096), "waiting": ("global", 8)}


class Lying:
    """An image that can't be read in some places, until it is mended."""

    dtype, ndim, chunks = np.dtype("u1"), 3, (64, 64, 3)

    def __init__(self, scene: np.ndarray, *bad: Box) -> None:
        self.scene, self.shape, self.bad = scene, scene.shape, list(bad)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, cols = (range(*k.indices(n)) for k, n in zip(key[:2], self.shape[:2], strict=True))
        box = Box(rows.start, cols.start, rows.stop, cols.stop)
        if any(box.touches(bad) for bad in self.bad):
            raise OSError("the cable is out")
        return self.scene[key]


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return squares(SHAPE)


@pytest.fixture(params=["windows", pytest.param("whole", marks=pytest.mark.slow), "waiting"], scope="module")
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    window, in_memory = WINDOWS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "IN_MEMORY_REGIONS", in_memory)
        yield {"window": window, "workers": 2}


@pytest.fixture(scope="module")
def whole(
    model: XT, scene: np.ndarray, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Prediction:
    return xt.predict([Lying(scene)], model, out=tmp_path_factory.mktemp("again") / "whole.xt.zarr", **options)


def arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    names = ["0", "probability", "scores", "status", *(f"labels/mask/{k}" for k in range(len(prediction.mask)))]
    return {name: zarr.open_array(prediction.path / name, mode="r")[...] for name in names}


def assert_same(ours: Prediction, theirs: Prediction) -> None:
    assert ours.complete
    mine = arrays(ours)
    for name, values in arrays(theirs).items():
        np.testing.assert_array_equal(mine[name], values, err_msg=name)
    assert len(theirs.boxes)
    pd.testing.assert_frame_equal(ours.boxes, theirs.boxes)
    pd.testing.assert_frame_equal(ours.scores, theirs.scores)


def failed(prediction: Prediction) -> dict[tuple[int, int], int]:
    """The attempts at each failed region."""
    table = prediction.failed
    return dict(zip(zip(table.region_row, table.region_col, strict=True), table.attempts, strict=True))


def test_what_fails_again_is_counted_and_a_mended_image_ends_as_one_that_was_never_damaged(
    model: XT, scene: np.ndarray, options: dict[str, Any], whole: Prediction, tmp_path: Path
) -> None:
    image, out = Lying(scene, BAD), tmp_path / "again.xt.zarr"
    first = xt.predict([image], model, out=out, **options)
    assert first.complete
    assert (3, 1) in failed(first)
    assert set(failed(first).values()) == {1}
    files = contents(out)
    events = list(xt.stream([image], model, out=out, **options))
    assert not [e for e in events if isinstance(e, RegionDone)]
    summary = next(e.summary for e in events if isinstance(e, RunFinished))
    assert (summary.encoded, summary.failed) == (0, len(first.failed))
    assert contents(out) == files  # nothing is rewritten
    again = xt.open_prediction(out)
    assert again.complete
    assert set(failed(again).values()) == {2}
    image.bad.clear()
    assert_same(xt.predict([image], model, out=out, **options), whole)


def test_what_is_mended_in_part_is_as_if_it_had_been_so_from_the_beginning(
    model: XT, scene: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    image, out = Lying(scene, BAD, WORSE), tmp_path / "again.xt.zarr"
    xt.predict([image], model, out=out, **options)
    image.bad.remove(BAD)
    other = xt.predict([image], model, out=tmp_path / "other.xt.zarr", **options)
    mended = xt.predict([image], model, out=out, **options)
    assert failed(mended) == {(8, 0): 2, (9, 0): 2}
    assert_same(mended, other)


def contents(store: Path) -> dict[str, tuple[int, bytes]]:
    """All files with their times, but for the journal."""
    files = [p for p in store.rglob("*") if p.is_file() and p.parent.name != "journal"]
    return {str(p.relative_to(store)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.mark.parametrize("share", [0.3, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_tries_again_too(
    share: float, model: XT, scene: np.ndarray, options: dict[str, Any], whole: Prediction, tmp_path: Path
) -> None:
    image, out = Lying(scene, BAD, WORSE), tmp_path / "again.xt.zarr"
    for stage in ("encode", "decode"):
        with closing(xt.stream([image], model, out=out, **options)) as events:
            for event in events:
                if isinstance(event, StageProgress) and event.stage == stage and event.done >= share * event.total:
                    break
    image.bad.clear()
    assert_same(xt.predict([image], model, out=out, **options), whole)


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("moment", ["forgotten", pytest.param("half done", marks=pytest.mark.slow)])
def test_a_kill_while_it_is_done_again_shows_nothing_old_as_complete(
    moment: str,
    model: XT,
    scene: np.ndarray,
    options: dict[str, Any],
    whole: Prediction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, out = Lying(scene, BAD), tmp_path / "again.xt.zarr"
    xt.predict([image], model, out=out, **options)
    image.bad.clear()
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            xt.predict([image], model, out=out, **options)
    broken = xt.open_prediction(out)
    assert not broken.complete
    assert broken.coverage < 1
    assert_same(xt.predict([image], model, out=out, **options), whole)


def kill_at(patch: pytest.MonkeyPatch, moment: str) -> None:
    """End a run once its blocks are forgotten in the journal, or before its first block is journalled again."""

    def killed(*args: object) -> None:
        raise Killed

    if moment == "forgotten":
        patch.setattr("napari_xt.io.stores.store.show", killed)
    else:
        patch.setattr("napari_xt.io.stores.ledger.Ledger.record", killed)
        patch.setattr("napari_xt.io.stores.ledger.Ledger.record_encoded", killed)


def test_a_run_that_may_not_fail_says_that_it_fails_again(
    model: XT, scene: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    image, out = Lying(scene, BAD), tmp_path / "again.xt.zarr"
    xt.predict([image], model, out=out, **options)
    with pytest.raises(RunError, match=r"row 2, column 0: failed again: .*the cable is out"):
        xt.predict([image], model, out=out, on_error="raise", **options)


def test_damage_under_the_images_identity_does_not_make_it_another_image(
    model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    image, out = Lying(scene), tmp_path / "again.xt.zarr"
    sampled = [Box(*map(int, row)) for row in _read_by(image, lambda: xt.open_image([image]).identity())]
    image.bad.append(sampled[7])
    xt.predict([image], model, out=out)
    image.bad.clear()
    assert not len(xt.predict([image], model, out=out).failed)


def _read_by(image: Lying, action: Any) -> Iterator[tuple[int, ...]]:
    read = []
    plain = Lying.__getitem__

    def noted(self: Lying, key: Any) -> np.ndarray:
        read.append((key[0].start, key[1].start, key[0].stop, key[1].stop))
        return plain(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lying, "__getitem__", noted)
        action()
    return iter(read)


def test_the_rest_of_a_run_may_fail_altogether(model: XT, scene: np.ndarray, tmp_path: Path) -> None:
    image, out = Lying(scene.repeat(2, 1)), tmp_path / "rest.xt.zarr"
    image.bad.append(Box(512, 0, 580, 260))  # what a stopped run has not reached: enough to make a run hopeless
    with closing(xt.stream([image], model, out=out, window=4)) as events:
        next(e for e in events if isinstance(e, StageProgress) and e.stage == "decode" and e.done >= 40)
    prediction = xt.predict([image], model, out=out, window=4)
    assert prediction.complete
    assert len(prediction.failed) >= 10


def test_the_journal_of_a_region_that_is_forgotten_keeps_its_attempts(
    model: XT, scene: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "again.xt.zarr"
    image = Lying(scene, WORSE)
    header = xt.predict([image], model, out=out, window=4).header
    with Store.open_writer(out, header) as store:
        store.reopen({(1, 0)}, ())
        assert store.committed() == {(0, 0)}
        assert not store.complete
    with closing(sqlite3.connect(out / "journal/ledger.sqlite")) as db:
        rows = db.execute("SELECT status, attempts, error, length(boxes) FROM regions WHERE block_row = 1").fetchall()
    assert rows == [(0, 1, "", 0)] * 6
