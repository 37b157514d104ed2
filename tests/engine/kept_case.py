"""A scene, a network and what it takes to see that two predictions are the same, for tests of what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import zarr

import napari_xt as xt
from napari_xt.engine.events import RunFinished, RunStarted, Summary
from napari_xt.engine.plan import Plan
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import XTConfig
from napari_xt.model.xt import XT
from small_model import SMALL, small_model

SHAPE = (600, 200)  # 10 x 4 regions, of which 32 and 8 are in a block
REGIONS = 40


def scene() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (SHAPE[0] // 8 + 1, SHAPE[1] // 8 + 1, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: SHAPE[0], : SHAPE[1]].copy()


def on_disk(folder: Path, pixels: np.ndarray) -> Path:
    array = zarr.create_array(folder / "scene.zarr", shape=pixels.shape, chunks=(64, 64, 3), dtype="uint8")
    array[:] = pixels
    return folder / "scene.zarr"


def with_encoder_of(model: XT, config: XTConfig = SMALL, seed: int = 1) -> XT:
    """Another network whose region encoder is that of ``model``."""
    other = small_model(config, seed)
    other.region.load_state_dict(model.region.state_dict())
    return other


def with_context(**changes: object) -> XTConfig:
    return replace(SMALL, context=replace(SMALL.context, **changes))


def run(image: object, model: XT, out: Path | None = None, **options: object) -> tuple[Prediction, Summary, Plan]:
    events = list(xt.stream(image, model, out=out, **options))
    started, finished = events[0], events[-1]
    assert isinstance(started, RunStarted)
    assert isinstance(finished, RunFinished)
    return xt.open_prediction(started.out), finished.summary, started.plan


def assert_same(a: Prediction, b: Prediction) -> None:
    names = ["status", "0"]
    names += ["probability", *(f"labels/mask/{k}" for k in range(len(a.mask)))] if a.mask else []
    names += ["scores"] if a.layout.scores else []
    for name in names:
        one, other = (zarr.open_array(p.path / name, mode="r")[...] for p in (a, b))
        np.testing.assert_array_equal(one, other, err_msg=name)
    pd.testing.assert_frame_equal(a.candidates(), b.candidates())
    pd.testing.assert_frame_equal(a.boxes, b.boxes)
    pd.testing.assert_frame_equal(a.scores, b.scores)
