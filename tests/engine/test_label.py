"""Runs of models with a label, an overview or without context: what the engine says is what the network says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_xt as xt
from napari_xt.engine.device import placed
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import ContextConfig
from napari_xt.model.xt import XT, XTOutput
from small_model import SMALL, small_model

LABEL = replace(
    SMALL, mask=None, boxes=None, scores=None, label=("cat", "dog", "eel"), halo_px=0, window=2, stored="float32"
)
SCENE = np.random.default_rng(0).integers(0, 256, (64 * 5, 64 * 3 - 20, 3)).astype(np.uint8)  # 5 x 3 regions


def windows(side_px: int = 128) -> list[tuple[int, int]]:
    return [(y, x) for y in range(0, SCENE.shape[0], side_px) for x in range(0, SCENE.shape[1], side_px)]


def direct(model: XT, pixels: np.ndarray) -> XTOutput:
    with placed(model, "cpu") as net, torch.inference_mode():
        return net(net.prepare(pixels.transpose(2, 0, 1))[None])


def names(prediction: Prediction) -> list[str]:
    return [name for name in prediction.scores.columns if name.startswith("p:")]


def of_window(prediction: Prediction, y: int, x: int) -> np.ndarray:
    table = prediction.scores
    rows = table[table.region_row.isin((y // 64, y // 64 + 1)) & table.region_col.isin((x // 64, x // 64 + 1))]
    return rows[names(prediction)].to_numpy()


@pytest.mark.parametrize("kind", ["mamba", "hyper"])
def test_a_windows_class_is_that_of_its_regions_and_the_image_is_their_mean(kind: str, tmp_path: Path) -> None:
    model = small_model(replace(LABEL, context=ContextConfig(kind=kind, layers=2, dim=128, causal=kind == "hyper")))
    prediction = xt.predict(SCENE, model, out=tmp_path / "label.xt.zarr", precision="float32")
    for y, x in windows():
        wanted = direct(model, SCENE[y : y + 128, x : x + 128]).label.softmax(-1)
        found = of_window(prediction, y, x)
        np.testing.assert_allclose(found, wanted.numpy().repeat(len(found), 0), atol=1e-5)
    assert prediction.mask == []
    means = prediction.scores[names(prediction)].mean().to_numpy()
    np.testing.assert_allclose(list(prediction.label.values()), means, rtol=1e-6)
    assert list(prediction.label) == ["cat", "dog", "eel"]
    assert prediction.scores["p:cat"].std() > 0


def test_scores_and_a_label_do_not_mix(tmp_path: Path) -> None:
    context = ContextConfig(layers=2, dim=32)
    both = small_model(replace(LABEL, scores=("open", "dense"), context=context))
    prediction = xt.predict(SCENE, both, out=tmp_path / "both.xt.zarr", window="global", precision="float32")
    output = direct(both, SCENE)
    np.testing.assert_allclose(
        prediction.scores[["p:open", "p:dense"]], output.scores.softmax(-1).flatten(0, 2), atol=1e-5
    )
    np.testing.assert_allclose(list(prediction.label.values()), output.label.softmax(-1)[0], atol=1e-5)
    alone = xt.predict(SCENE, both, out=tmp_path / "scores.xt.zarr", window="global", outputs=("scores",))
    assert list(alone.label) == ["open", "dense"]


def test_the_engine_sees_the_same_overview_as_the_network(tmp_path: Path) -> None:
    model = small_model(replace(SMALL, context=ContextConfig(layers=2, dim=32, overview_tokens=16)))
    prediction = xt.predict(SCENE, model, out=tmp_path / "view.xt.zarr", window="global", precision="float32")
    wanted = direct(model, SCENE).scores.softmax(-1).flatten(0, 2)
    np.testing.assert_allclose(prediction.scores[names(prediction)], wanted, atol=1e-5)


def test_context_off_is_another_run_in_which_regions_are_alone(tmp_path: Path) -> None:
    model = small_model(replace(SMALL, halo_px=0))
    other = SCENE.copy()
    other[256:, 128:] = 255 - other[256:, 128:]
    off, changed = (
        xt.predict(scene, model, out=tmp_path / f"{i}.xt.zarr", context=False) for i, scene in enumerate((SCENE, other))
    )
    on = xt.predict(SCENE, model, out=tmp_path / "on.xt.zarr")
    same = (off.scores[names(off)] == changed.scores[names(off)]).all(axis=1)
    assert same.sum() == len(same) - 1
    assert not np.allclose(on.scores[names(on)], off.scores[names(on)], atol=1e-6)
    assert on.header.job != off.header.job
    assert "context off" in str(xt.plan(SCENE, model, context=False))
