"""The proof that context helps: what is compared, that nothing local can help, and what the bundled model can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_xt as xt
from napari_xt.geometry import Box
from napari_xt.io.computed.synthetic import KINDS, NEIGHBOURHOOD, REGION_PX, SCORES, SyntheticSlide
from napari_xt.model.checkpoint import load_model
from napari_xt.model.xt import XT
from napari_xt.model.zoo import describe, find_model
from napari_xt.train import context_proof
from napari_xt.train.context_proof import HELD_OUT, TRAINED_ON, Row, compare, figures, metrics, table, write_figures
from napari_xt.train.context_recipe import REGIONS, config_of
from napari_xt.train.synthetic_windows import WINDOW_PX, Quality, draw_windows, quality

PAPER_GAIN = 0.116
SLIDE = SyntheticSlide((1600, 1600), seed=11)


def row(encoder: str, seed: int, mask: float, score: float) -> Row:
    return Row(encoder, seed, Quality(mask, score), Quality(0.25, 0.35), 1.0)


ROWS = [row("mamba", 0, 0.8, 0.9), row("none", 0, 0.2, 0.3), row("mamba", 1, 0.9, 1.0), row("none", 1, 0.2, 0.2)]


def test_figures_are_means_over_seeds_with_the_gain_over_none(tmp_path: Path) -> None:
    told = figures(ROWS)
    assert set(told) == {f"context_proof.{f}.{e}" for f in ("mask_f1", "score_f1") for e in ("mamba", "none")}
    mamba = told["context_proof.mask_f1.mamba"]
    assert (mamba["value"], mamba["unit"]) == (pytest.approx(0.85), "F1")
    assert mamba["detail"] == {
        "seeds": {"0": 0.8, "1": 0.9},
        "sd": pytest.approx(0.0707107),
        "gain_over_none": pytest.approx(0.65),
        "training_seconds": 1.0,
    }
    write_figures(ROWS, tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == told
    assert {"cores", "torch"} <= set(written["machine"])


def test_the_table_has_a_line_for_each_encoder_and_figure() -> None:
    lines = table(ROWS).splitlines()
    assert [line.split() for line in lines if line.startswith(("mamba", "none"))] == [
        ["mamba", "80.0", "90.0", "85.0", "7.1", "+65.0"],
        ["none", "20.0", "20.0", "20.0", "0.0"],
        ["mamba", "90.0", "100.0", "95.0", "7.1", "+70.0"],
        ["none", "30.0", "20.0", "25.0", "7.1"],
    ]
    assert "+" not in table(ROWS[:1])  # nothing to gain over


def test_the_card_tells_what_the_model_is_without_context() -> None:
    assert metrics(ROWS[:2]) == {
        "mask_f1": 0.8,
        "score_f1": 0.9,
        "mask_f1_switched_off": 0.25,
        "score_f1_switched_off": 0.35,
        "mask_f1_none": 0.2,
        "score_f1_none": 0.3,
    }
    assert "mask_f1_none" not in metrics(ROWS[:1])


def test_windows_are_whole_neighbourhoods_with_their_truth() -> None:
    slide, windows = SyntheticSlide((2048, 2048), seed=4), draw_windows(SyntheticSlide((2048, 2048), seed=4), 5, 0, 4)
    places = [Box(y, x, y + WINDOW_PX, x + WINDOW_PX) for y in range(0, 2048, 512) for x in range(0, 2048, 512)]
    assert windows.mask.shape[1:] == (128, 128)
    for pixels, mask, classes in zip(windows.pixels, windows.mask, windows.classes, strict=True):
        (box,) = (place for place in places if (slide.pixels(place) == pixels.transpose(1, 2, 0)).all())
        rows, cols = (range(a // REGION_PX, a // REGION_PX + NEIGHBOURHOOD) for a in (box.y0, box.x0))
        assert (mask == slide.mask(box)[2::4, 2::4]).all()
        assert (classes == slide.layout(rows, cols).classes).all()


def test_single_regions_of_windows() -> None:
    windows = draw_windows(SyntheticSlide((2048, 2048), seed=4), 3, 0, 4)
    one = windows.regions(np.array([64 + 8 * 2 + 5]))
    assert (one.pixels[0] == windows.pixels[1, :, 128:192, 320:384]).all()
    assert (one.mask[0] == windows.mask[1, 32:48, 80:96]).all()
    assert one.classes.tolist() == [[[windows.classes[1, 2, 5]]]]


def test_what_was_trained_on_is_not_what_is_measured_on() -> None:
    assert TRAINED_ON.seed != HELD_OUT.seed


def test_no_local_classifier_beats_chance() -> None:
    """Over the slide's turns each region is once of each class and always looks the same: a third is right, exactly."""
    torch.manual_seed(0)
    model = XT(config_of("none")).eval().requires_grad_(False)
    told, true = [], []
    for turn in range(len(KINDS)):
        windows = draw_windows(replace(SLIDE, turn=turn), 2, seed=0)
        output = model(torch.stack([model.prepare(pixels) for pixels in windows.pixels]))
        cells = (windows.classes > 0) & (windows.classes <= len(KINDS))
        told.append(output.scores[..., 1 : 1 + len(KINDS)].argmax(-1).numpy()[cells] + 1)
        true.append(windows.classes[cells])
    assert (told[0] == told[1]).all()
    assert (told[0] == told[2]).all()
    assert len(told[0]) > 30
    assert np.mean(np.array(told) == true) == pytest.approx(1 / len(KINDS), abs=1e-12)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of a few steps on a few windows."""
    monkeypatch.setattr(context_proof, "TRAINED_ON", SyntheticSlide((3000, 3000), seed=1))
    monkeypatch.setattr(context_proof, "HELD_OUT", SLIDE)
    monkeypatch.setattr(context_proof, "WINDOWS", 6)
    monkeypatch.setattr(context_proof, "HELD_OUT_WINDOWS", 1)
    monkeypatch.setattr(context_proof, "REGIONS", replace(REGIONS, steps=2, shapes=((6, 1, 1),)))


@pytest.mark.usefixtures("tiny")
def test_comparing_twice_gives_the_same_figures_and_a_model_that_loads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    first, again = (compare(("mamba", "none"), (5,), steps=2, save=tmp_path / name) for name in ("a.xt", "b.xt"))
    assert [(r.encoder, r.seed, r.context, r.switched_off) for r in first] == [
        (r.encoder, r.seed, r.context, r.switched_off) for r in again
    ]
    assert torch.get_num_threads() == threads
    told = describe(tmp_path / "a.xt")
    assert told.digest == describe(tmp_path / "b.xt").digest
    assert told.card.synthetic
    assert told.card.metrics == metrics(first)
    assert load_model(tmp_path / "a.xt").config == config_of("mamba")


@pytest.mark.usefixtures("tiny")
def test_all_encoders_start_from_the_same_region_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(context_proof, "quality", lambda model, windows: seen.append(model) or quality(model, windows))
    compare(("mamba", "none"), (0,), steps=1)
    mamba, none = (model.region.state_dict() for model in seen)
    assert all(torch.equal(value, none[name]) for name, value in mamba.items())


def test_the_bundled_model_says_that_it_is_synthetic() -> None:
    info = describe(find_model("context-proof"))
    assert info.card.synthetic
    assert "never for real images" in info.card.use
    assert info.path.stat().st_size <= 3_000_000
    assert info.config == config_of("mamba")
    figure = info.card.metrics
    assert figure["mask_f1"] > figure["mask_f1_none"] + PAPER_GAIN
    assert figure["score_f1"] > figure["score_f1_none"] + PAPER_GAIN


@pytest.fixture(scope="module", params=[True, False], ids=["with context", "without"])
def recall(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, float, float]:
    """Whether it was a run with context; how much of each class it calls so, on average: cells found, regions."""
    cells, layout = SLIDE.mask(Box(0, 0, *SLIDE.shape)), SLIDE.layout(range(25), range(25))
    out = tmp_path_factory.mktemp("run") / "slide.xt.zarr"
    prediction = xt.predict(SLIDE, "context-proof", out=out, context=request.param)
    mask = np.asarray(prediction.mask[0])
    scores = prediction.scores.set_index(["region_row", "region_col"])["class"]
    told = np.array([SCORES.index(scores[row, col]) for row, col in np.argwhere(layout.cells).tolist()])
    kinds = range(1, 1 + len(KINDS))
    of_pixels = [(mask == kind)[(cells == kind) & (mask > 0)].mean() for kind in kinds]
    of_regions = [(told == kind)[layout.classes[layout.cells] == kind].mean() for kind in kinds]
    return request.param, float(np.mean(of_pixels)), float(np.mean(of_regions))


def test_a_run_with_the_bundled_model_tells_classes_from_afar_and_only_so(recall: tuple[bool, float, float]) -> None:
    context, pixels, regions = recall
    chance = 1 / len(KINDS)
    assert (pixels, regions) == (pytest.approx(1.0 if context else chance, abs=0.1),) * 2


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mamba", "transformer_xl", "hyper", "longformer"])
def test_context_gains_more_than_in_the_paper(encoder: context_proof.ContextKind) -> None:
    told = {r.encoder: r.context for r in compare((encoder, "none"), (0,), workers=1)}
    assert told[encoder].mask_f1 > told["none"].mask_f1 + PAPER_GAIN
    assert told[encoder].score_f1 > told["none"].score_f1 + PAPER_GAIN
