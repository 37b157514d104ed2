from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_xt.engine.machine import Machine
from napari_xt.engine.plan import plan
from napari_xt.geometry import Box
from napari_xt.model.xt import XT
from napari_xt.train.evaluate import box_quality, pairwise_iou, scene_metrics
from napari_xt.train.fit import FitSettings, Progress, fit
from napari_xt.train.scenes import Scene, draw_sample
from small_model import SMALL
from spotted_scene import spots

SETTINGS = FitSettings(steps=4, warmup=1, shapes=((2, 1, 1), (1, 2, 2)), frozen=("conv_stem",))


def new() -> XT:
    torch.manual_seed(0)
    return XT(replace(SMALL, mean=(0.5,) * 3, std=(0.5,) * 3))


def no_report(progress: Progress, model: XT) -> None:
    assert np.isfinite(list(progress.losses.values())).all()


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    straight = fit(new(), [(spots(), 1.0)], SETTINGS, no_report)

    class PulledPlug(Exception):
        pass

    def pull(progress: Progress, _model: XT) -> None:
        if progress.step == 4:
            raise PulledPlug

    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(PulledPlug):
        fit(new(), [(spots(), 1.0)], SETTINGS, pull, every=2, checkpoint=checkpoint)
    resumed = fit(new(), [(spots(), 1.0)], SETTINGS, no_report, every=2, checkpoint=checkpoint)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_learns_what_it_is_shown() -> None:
    first: list[float] = []
    last: list[float] = []

    def report(progress: Progress, _model: XT) -> None:
        (first if progress.step <= 5 else last).append(sum(progress.losses.values()))

    settings = replace(SETTINGS, steps=25, shapes=((4, 1, 1),), average=0.5, rate=3e-3)
    model = fit(new(), [(spots(), 1.0)], settings, report, every=5)
    assert last[-1] < 0.8 * first[0]
    assert set(scene_metrics(model, spots())) >= {"precision", "recall", "f1", "crown_iou", "score_accuracy"}


def test_a_frozen_encoder_stays_what_it_was() -> None:
    model = new()
    before = {k: v.clone() for k, v in model.region.state_dict().items()}
    fit(model, [(spots(), 1.0)], replace(SETTINGS, steps=2, encoder_rate=0.0, drop_context=0.0), no_report)
    for name, value in model.region.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert any(p.grad is not None for p in model.context.parameters())


def test_boxes_are_matched_one_to_one() -> None:
    drawn = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], float)
    predicted = np.array([[0, 0, 10, 9], [1, 0, 10, 10], [20, 20, 30, 25], [80, 80, 90, 90]], float)
    quality = box_quality(predicted, drawn)
    assert (quality.precision, quality.recall) == (2 / 4, 2 / 3)
    assert (quality.predicted, quality.drawn) == (4, 3)
    assert box_quality(drawn[:0], drawn).f1 == 0
    assert pairwise_iou(drawn, drawn).tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("kind", ["mamba", "transformer_xl", "hyper", "longformer", "none"])
def test_every_context_encoder_trains_and_the_overview_with_it(kind: str) -> None:
    context = replace(SMALL.context, kind=kind, overview_tokens=0 if kind == "none" else 4, summary="queries")
    torch.manual_seed(0)
    model = XT(replace(SMALL, context=context))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    fit(model, [(spots(), 1.0)], replace(SETTINGS, shapes=((1, 2, 2),), drop_context=0.0), no_report)
    still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    unseen = {"null_context", "background_token"}  # and what the last layer's global tokens say to nobody
    assert {name for name in still if "layers.1.attention" not in name or "_global" not in name} <= unseen


def dim() -> Scene:
    """The scene as a microscope of 16 bits may see it, far from black and from white."""
    scene = spots()
    return replace(scene, pixels=(scene.pixels.astype(np.uint16) * 2 + 100))


def test_training_and_runs_see_one_intensity() -> None:
    config = replace(SMALL, normalisation="percentile", mean=(0.5,) * 3, std=(0.5,) * 3)
    model, plain, scene = XT(config), new(), dim()
    limits = plan(scene.pixels, model, machine=Machine("cpu", "for a test", 2, 8 << 30)).limits
    assert scene.measured(config).limits == limits == ((100.0, 610.0),) * 3
    assert scene.measured(config).part(Box(0, 0, 50, 50)).measured(config).limits == limits
    assert scene.measured(plain.config) is scene
    chance = [np.random.default_rng(5) for _ in range(2)]
    one, other = (
        draw_sample(s, (64, 64), 32, rng) for s, rng in zip((scene.measured(config), spots()), chance, strict=True)
    )
    assert torch.equal(one.pixels, other.pixels)


def test_a_scene_in_other_units_is_learned_and_judged_alike() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, normalisation="percentile")
    models = [XT(replace(config, mean=(0.5,) * 3, std=(0.5,) * 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    found = [fit(model, [(s, 1.0)], SETTINGS, no_report) for model, s in zip(models, (spots(), dim()), strict=True)]
    for name, value in found[0].state_dict().items():
        assert torch.equal(value, found[1].state_dict()[name]), name
    assert scene_metrics(found[0], spots()) == scene_metrics(found[1], dim())
