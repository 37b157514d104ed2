from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from kept_case import run, scene, with_context
from scipy.stats import spearmanr

import napari_xt as xt
from napari_xt.engine import context_map as module
from napari_xt.engine.context_map import context_map
from napari_xt.errors import ModelError, SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.computed.synthetic import SyntheticSlide
from small_model import SMALL, small_model


def odds(model: xt.XT, tokens: torch.Tensor, place: tuple[int, int], index: int) -> float:
    """The log-odds of a class by the network's own parts."""
    with torch.inference_mode():
        scores, _ = model.classify(model.contextualise(tokens[None]))
        assert scores is not None
        p = scores[0][place].softmax(0)[index]
        return float(p.logit())


def occluded(model: xt.XT, tokens: torch.Tensor, place: tuple[int, int], index: int) -> np.ndarray:
    """What each region really adds: the log-odds with all regions less those with the background token in its place."""
    whole, added = odds(model, tokens, place, index), np.zeros(tokens.shape[:2])
    for at in np.ndindex(*added.shape):
        without = tokens.clone()
        without[at] = model.background_token
        added[at] = whole - odds(model, without, place, index)
    return added


@pytest.mark.parametrize("side", [8, 12])
def test_it_agrees_with_occlusion(side: int, tmp_path: Path) -> None:
    model = xt.load_model("context-proof")
    slide = SyntheticSlide((64 * side, 64 * side), seed=5)
    prediction = xt.predict(slide, model, out=tmp_path / "a.xt.zarr", window="global")
    tokens = torch.from_numpy(np.asarray(prediction.tokens)).float()
    ranks, values = [], []
    table = prediction.scores
    for _, row in table[table["class"].isin(["amber", "teal", "rose"])].iloc[::7].iterrows():
        place = int(row["region_row"]), int(row["region_col"])
        found = context_map(prediction, place, model=model)
        assert found.name == row["class"]
        assert found.score == pytest.approx(row["score"], abs=1e-4)
        true = occluded(model, tokens, place, model.config.scores.index(found.name))
        ranks.append(spearmanr(np.abs(found.values).ravel(), np.abs(true).ravel())[0])
        values.append(np.corrcoef(found.values.ravel(), true.ravel())[0, 1])
    assert len(ranks) >= 2
    assert np.mean(ranks) > 0.45
    assert np.mean(values) > 0.7


def test_the_values_add_up_to_what_all_regions_add(tmp_path: Path) -> None:
    model = small_model()
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr", window="global")
    tokens = torch.from_numpy(np.asarray(prediction.tokens)).float()
    with patch.object(module, "STEPS", 64):
        found = context_map(prediction, (3, 1), model=model)
    nothing = model.background_token.expand_as(tokens)
    index = model.config.scores.index(found.name)
    there = odds(model, tokens, (3, 1), index) - odds(model, nothing, (3, 1), index)
    assert found.values.sum() == pytest.approx(there, rel=0.02, abs=1e-3)


@pytest.mark.parametrize("kind", ["mamba", "transformer_xl", "hyper", "longformer"])
def test_every_encoder_sees_its_window_and_nothing_else(kind: str, tmp_path: Path) -> None:
    model = small_model(with_context(kind=kind))
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr")
    values = context_map(prediction, (5, 2), model=model).values
    assert values.shape == prediction.layout.grid.shape
    window = np.zeros(values.shape, bool)
    window[4:8] = True
    np.testing.assert_array_equal(np.isfinite(values), window)
    assert np.count_nonzero(values[window]) > 1


@pytest.mark.parametrize("options", [{"kind": "none"}, {}])
def test_a_region_that_sees_no_other_hangs_on_itself(options: dict[str, object], tmp_path: Path) -> None:
    model = small_model(with_context(**options))
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr", context=bool(options))
    values = context_map(prediction, (5, 2), model=model).values[4:8]
    assert values[1, 2] != 0
    assert np.count_nonzero(values) == 1


def test_of_an_area_only_what_was_run_counts(tmp_path: Path) -> None:
    model = small_model()
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr", roi=Box(300, 0, 500, 100))
    values = context_map(prediction, (5, 1), model=model).values
    assert np.isfinite(values).sum() == 4 * 2
    with pytest.raises(SettingsError, match="outside of what was run"):
        context_map(prediction, (0, 0), model=model)


def test_a_skipped_region_counts_as_the_blank_that_the_run_saw(tmp_path: Path) -> None:
    pixels = scene()
    pixels[:, 100:] = 0
    model = small_model()
    prediction, _, _ = run(pixels, model, tmp_path / "a.xt.zarr", skip_background=True)
    assert "skipped" in set(prediction.scores["status"])
    found = context_map(prediction, (5, 0), model=model)
    table = prediction.scores.set_index(["region_row", "region_col"])
    assert found.score == pytest.approx(table.loc[(5, 0), "score"], abs=1e-4)


def test_it_says_why_it_can_not(tmp_path: Path) -> None:
    model = small_model()
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr")
    with pytest.raises(SettingsError, match="10 x 4 regions"):
        context_map(prediction, (10, 0), model=model)
    with pytest.raises(SettingsError, match="open, sparse, dense"):
        context_map(prediction, (0, 0), "forest", model)
    with pytest.raises(ModelError, match="not the one"):
        context_map(prediction, (0, 0), model=small_model(seed=1))
    bare = small_model(replace(SMALL, scores=None))
    prediction, _, _ = run(scene(), bare, tmp_path / "b.xt.zarr")
    with pytest.raises(ModelError, match="neither region scores nor a label"):
        context_map(prediction, (0, 0), model=bare)
    prediction, _, _ = run(scene(), model, tmp_path / "c.xt.zarr", keep="nothing")
    with pytest.raises(StoreError, match="keep='tokens'"):
        context_map(prediction, (0, 0), model=model)


def test_what_a_drawn_area_leaves_out_counts_as_blank(tmp_path: Path) -> None:
    corners = [[[10, 330], [60, 330], [60, 470], [150, 470], [150, 480], [10, 480], [10, 330]]]  # x, y: an L
    drawn = tmp_path / "area.geojson"
    drawn.write_text(
        json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": corners}, "properties": {}})
    )
    model = small_model()
    prediction, _, _ = run(scene(), model, tmp_path / "a.xt.zarr", roi=str(drawn))
    assert prediction.header.plan["left_out"]
    found = context_map(prediction, (5, 0), model=model)
    table = prediction.scores.set_index(["region_row", "region_col"])
    assert found.score == pytest.approx(table.loc[(5, 0), "score"], abs=1e-4)
