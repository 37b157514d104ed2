"""What a large window shows while it is encoded: each region as it is alone, before the end, and no other end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

import napari_xt as xt
from napari_xt.engine import plan
from napari_xt.engine.events import RegionDone, RunFinished, RunStarted
from napari_xt.io.stores.preview import NONE, open_previews
from napari_xt.io.stores.store import Status
from napari_xt.model.xt import XT
from plugin_fixtures import picture
from small_model import small_model

SHAPE = (600, 560)  # 10 x 9 regions in blocks of 64, 8, 16 and 2
ROI = "70,40,600,560"  # 9 x 9 of them


@dataclass
class Seen:
    """What a run with previews showed: by region, and the status of the regions, once all were encoded."""

    events: list[RegionDone]
    classes: np.ndarray
    status: np.ndarray
    prediction: xt.Prediction


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of which one chunk, at (128, 256), can't be read."""
    path = tmp_path_factory.mktemp("scene") / "scene.zarr"
    array = zarr.create_array(path, shape=(*SHAPE, 3), chunks=(64, 64, 3), dtype="uint8")
    array[:] = picture(*SHAPE)
    (path / "c" / "2" / "4" / "0").write_bytes(b"nonsense")
    return path


@pytest.fixture(scope="module")
def small_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "IN_MEMORY_REGIONS", 8)
        yield


@pytest.fixture(scope="module")
def seen(small_memory: None, model: XT, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    out = tmp_path_factory.mktemp("shown") / "a.xt.zarr"
    regions: list[RegionDone] = []
    with closing(xt.stream(scene, model, out=out, window="global", roi=ROI, preview=True)) as events:
        for event in events:
            if isinstance(event, RunStarted):
                assert event.plan.preview
            elif isinstance(event, RegionDone):
                regions.append(event)
                if event.kind == "preview":  # the last time all are encoded, and nothing is decoded
                    classes = open_previews(out, xt.open_prediction(out).layout)[...]
                    status = zarr.open_array(out / "status", mode="r")[...]
    return Seen(regions, classes, status, xt.open_prediction(out))


def test_every_region_is_shown_before_its_end(seen: Seen) -> None:
    kinds = [event.kind for event in seen.events]
    count = kinds.count("preview")
    failed = {event.region.index for event in seen.events if event.kind == "failed"}
    assert kinds[:count] == ["preview"] * count
    assert failed
    assert {event.region.index for event in seen.events[:count]} == {
        r.region.index for r in seen.events[count:]
    } - failed
    assert count == 9 * 9 - len(failed)
    shown = {(event.region.row, event.region.col) for event in seen.events[:count]}
    assert set(map(tuple, np.argwhere(seen.status == Status.PREVIEW).tolist())) == shown


def test_a_region_is_shown_as_it_is_alone(seen: Seen, model: XT, scene: Path, tmp_path: Path) -> None:
    alone = xt.predict(scene, model, out=tmp_path / "alone.xt.zarr", window=1, context=False, roi=ROI)
    assert alone.probability is not None
    two, one = np.sort(alone.probability[...].astype(int), axis=0)[-2:]
    clear = (one - two > 2) & (seen.classes != NONE)
    assert clear.mean() > 0.5
    inside = np.zeros(clear.shape, bool)
    inside[70 // 4 + 1 :, 40 // 4 :] = True
    classes = alone.probability[...].argmax(axis=0)
    np.testing.assert_array_equal(seen.classes[clear & inside], classes[clear & inside])
    assert len(np.unique(seen.classes)) > 2
    assert not seen.classes[: 64 // 4 + 1][seen.classes[: 64 // 4 + 1] != NONE].any(), "outside the region of interest"


def test_what_failed_or_is_not_run_is_not_shown(seen: Seen) -> None:
    layout = seen.prediction.layout
    lacking = {(e.region.row, e.region.col) for e in seen.events if e.kind == "failed"} | {(0, c) for c in range(9)}
    lacking -= {(event.region.row, event.region.col) for event in seen.events if event.kind == "preview"}
    there = {
        (r.row, r.col) for r in layout.grid.regions() if (seen.classes[layout.cells(r.inner).slices] != NONE).any()
    }
    assert there == {(r.row, r.col) for r in layout.grid.regions()} - lacking


def test_the_end_is_that_of_a_run_without(
    seen: Seen, small_memory: None, model: XT, scene: Path, tmp_path: Path
) -> None:
    plain = xt.predict(scene, model, out=tmp_path / "plain.xt.zarr", window="global", roi=ROI)
    assert not plain.header.plan["preview"]
    for name in ("probability", "scores", "status", "labels/mask/0"):
        one, other = (zarr.open_array(p.path / name, mode="r")[...] for p in (plain, seen.prediction))
        np.testing.assert_array_equal(one, other, err_msg=name)
    pd.testing.assert_frame_equal(plain.boxes, seen.prediction.boxes)
    assert "preview" not in os.listdir(seen.prediction.path)


def test_a_stopped_run_goes_on_with_what_was_shown(small_memory: None, model: XT, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.xt.zarr"
    with closing(xt.stream(scene, model, out=out, window="global", preview=True)) as events:
        first = [next(e for e in events if isinstance(e, RegionDone)).region for _ in range(30)]
    left = open_previews(out, xt.open_prediction(out).layout)[...]
    again = list(xt.stream(scene, model, out=out, window="global", preview=True))
    assert isinstance(again[-1], RunFinished)
    assert not {r.index for r in first} & {e.region.index for e in again if getattr(e, "kind", "") == "preview"}
    assert (left != NONE).any()
    assert "preview" not in os.listdir(out)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"window": 4}, "windows in memory"), ({"outputs": ["boxes"]}, "no mask"), ({"preview": None}, "not asked for")],
    ids=["windows", "no mask", "default"],
)
def test_where_there_is_nothing_to_show_there_are_none(
    options: dict[str, object], why: str, small_memory: None, model: XT, scene: Path
) -> None:
    assert not xt.plan(scene, model, **{"window": "global", "preview": True} | options).preview, why
