"""What the threads of a run owe: an end soon after a stop, the view first, fewer regions where memory is short."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import napari_xt as xt
from napari_xt.engine import plan as planning
from napari_xt.engine.batch import REGROW, Batch
from napari_xt.engine.events import Event, Notice, RegionDone, StageProgress
from napari_xt.engine.focus import Focus
from napari_xt.geometry import Box, Frame
from napari_xt.io.prediction import Prediction
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

SHAPE = (1088, 1088)  # 17 x 17 regions, 3 x 3 steps of 8 x 8
CORNER = Box(1040, 1040, 1080, 1080)  # in the last step


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (SHAPE[0] // 8, SHAPE[1] // 8, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


@pytest.fixture(scope="module")
def whole(model: XT, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return xt.predict(scene, model, out=tmp_path_factory.mktemp("threads") / "whole.xt.zarr")


def assert_same(a: Prediction, b: Prediction) -> None:
    np.testing.assert_array_equal(a.probability[...], b.probability[...])
    np.testing.assert_array_equal(a.mask[0][...], b.mask[0][...])
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)


class Long(nn.Module):
    """A context encoder of many layers, each of which takes its time."""

    LAYERS = 600

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(self.LAYERS))
        self.begun, self.passed = threading.Event(), 0

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            self.begun.set()
            tokens = layer(tokens)
            time.sleep(0.02)
            self.passed += 1
        return tokens


@pytest.mark.parametrize("large", [False, True], ids=["windows", "large"])
def test_a_stopped_run_leaves_what_it_computes(
    large: bool, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8 if large else 256)
    context = Long()
    events = xt.stream(scene[:400, :400], XT(SMALL, context=context), out=tmp_path / "a.xt.zarr", window="global")
    while not context.begun.is_set():
        next(events)
    assert isinstance(next(events), StageProgress)  # while it computes, there is something to stop at
    events.close()
    assert context.passed < Long.LAYERS
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("napari-xt-")]
    assert not any(module._forward_pre_hooks for module in context.modules())


class Tight(nn.Module):
    """A region encoder that finds memory short now and then."""

    def __init__(self, inner: nn.Module, short: Sequence[int], error: type[Exception]) -> None:
        super().__init__()
        self.inner, self.short, self.error, self.calls = inner, short, error, 0

    def forward(self, regions: Tensor) -> Any:
        self.calls += 1
        if self.calls in self.short:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.inner(regions)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_a_batch_that_does_not_fit_is_halved(
    on_error: str, error: type[Exception], scene: np.ndarray, tmp_path: Path
) -> None:
    part = scene[:300, :300]
    plain = xt.predict(part, small_model(), out=tmp_path / "plain.xt.zarr")
    model = small_model()
    model.region = Tight(model.region, (2, 6), error)
    out = tmp_path / "tight.xt.zarr"
    told: list[Event] = list(xt.stream(part, model, out=out, batch=8, workers=1, on_error=on_error))
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert notices == [f"memory is short: {now} regions at a time instead of {2 * now}" for now in (4, 2)]
    assert_same(xt.open_prediction(out), plain)


def test_a_batch_grows_again() -> None:
    sizes, notices = [], list[str]()

    def work(some: Sequence[int]) -> list[int]:
        sizes.append(len(some))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError
        return list(some)

    items = list(range(8 * 60))
    assert Batch(8, notices.append).run(work, items) == items
    assert sizes[:3] == [8, 8, 4]
    assert sizes[2 : REGROW + 3] == [4] * REGROW + [8]
    assert len(notices) == 1


def test_one_region_that_does_not_fit_fails_alone() -> None:
    def work(some: Sequence[int]) -> list[int]:
        raise MemoryError

    with pytest.raises(MemoryError):
        Batch(8, lambda _: None).run(work, [1, 2, 3])


def test_what_is_in_view_comes_first_and_changes_nothing(
    model: XT, scene: np.ndarray, whole: Prediction, tmp_path: Path
) -> None:
    out, focus, done = tmp_path / "focus.xt.zarr", Focus(CORNER), list[RegionDone]()
    for event in xt.stream(scene, model, out=out, focus=focus):
        if isinstance(event, RegionDone):
            done.append(event)
            focus.box = Box(1040, 0, 1080, 200) if len(done) == 1 else focus.box
    assert (done[0].region.row // 8, done[0].region.col // 8) == (2, 2)
    places = list(dict.fromkeys((event.region.row // 8, event.region.col // 8) for event in done))
    assert places.index((2, 0)) < places.index((1, 2))
    assert_same(xt.open_prediction(out), whole)


class Watched:
    """An image that remembers what was read of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels, self.seen = pixels, list[tuple[int, int]]()
        self.shape, self.dtype, self.ndim, self.chunks = pixels.shape, pixels.dtype, 3, (128, 128, 3)

    def __getitem__(self, key: Any) -> np.ndarray:
        self.seen.append((key[0].indices(self.shape[0])[0], key[1].indices(self.shape[1])[0]))
        return self._pixels[key]


def test_a_large_window_is_encoded_from_the_view_on(
    model: XT, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = xt.predict(scene, model, out=tmp_path / "plain.xt.zarr", window="global")
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    image, out = Watched(scene), tmp_path / "focus.xt.zarr"
    with xt.open_image([image]) as opened:
        image.seen.clear()
        list(xt.stream(opened, model, out=out, window="global", focus=Focus(CORNER)))
    assert image.seen[0][0] > 800
    assert_same(xt.open_prediction(out), plain)


def test_the_view_orders_what_is_open() -> None:
    frame, focus = Frame((100, 100), (50, 50), (1.0, 1.0), "pixel"), Focus()
    boxes = {name: Box(y, x, y + 10, x + 10) for name, (y, x) in {"a": (0, 0), "b": (0, 40), "c": (40, 40)}.items()}
    order = focus.ordered(list(boxes), boxes.__getitem__, frame)
    focus.box = Box(80, 80, 100, 100)  # level-0 pixels: c
    assert next(order) == ("c", True)
    focus.box = Box(0, 80, 10, 100)
    assert next(order) == ("b", True)
    focus.box = None
    assert list(order) == [("a", False)]
