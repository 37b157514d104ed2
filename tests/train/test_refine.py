from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import napari_xt as xt
from napari_xt.annotate.truth import UNKNOWN, UNSURE, RegionTruth, Truths, cut, truths
from napari_xt.errors import ModelError, SettingsError, StoreError
from napari_xt.geometry import Box
from napari_xt.io.prediction import Prediction
from napari_xt.model.config import ModelCard
from napari_xt.model.grown import grown
from napari_xt.model.tokens import from_regions
from napari_xt.model.xt import XT, Context
from napari_xt.train.cached import cached, joined, joined_at
from napari_xt.train.lesson import Learning, RefineSettings, learn
from napari_xt.train.refine import predict_again
from napari_xt.train.sparse import boxes_cost, class_weights, known, mask_cost
from napari_xt.train.sparse import drawn as drawn_cells
from napari_xt.train.targets import make_targets
from small_model import SMALL, small_model
from spotted_scene import spots

SCENE = spots((256, 320))  # 4 x 5 regions
NAMES = ("background", "crown")
FEW = RefineSettings(steps=40, rate=3e-3, kept=0.0, held_out=0.0)
NOBODY = lambda: None  # noqa: E731


@pytest.fixture(scope="module")
def model() -> XT:
    return small_model()


@pytest.fixture(scope="module")
def prediction(model: XT, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    out = tmp_path_factory.mktemp("refine") / "spots.small.xt.zarr"
    return xt.predict(SCENE.pixels.transpose(1, 2, 0), model, out=out, keep="features")


def drawn() -> np.ndarray:
    return (make_targets(SCENE.boxes, Box(0, 0, 256, 320), (256, 320), 1, 64).crown > 0).astype(np.uint8)


def boxes() -> pd.DataFrame:
    return pd.DataFrame(SCENE.boxes, columns=["y0", "x0", "y1", "x1"]).assign(**{"class": "tree"})


def in_first_regions(table: pd.DataFrame) -> np.ndarray:
    """The boxes with their centre in the first two regions, by place."""
    y, x = (table["y0"] + table["y1"]) / 2, (table["x0"] + table["x1"]) / 2
    edges = table.loc[(y < 64) & (x < 128), ["y0", "x0", "y1", "x1"]].to_numpy()
    return edges[np.lexsort(edges.T)]


def complete(prediction: Prediction, count: int = 20) -> Truths:
    regions = list(prediction.layout.grid.regions())[:count]
    return Truths([RegionTruth(r.row, r.col, drawn()[r.inner.slices], True, boxes()) for r in regions], NAMES)


def test_heads_see_of_a_region_what_they_see_in_its_window(model: XT, prediction: Prediction) -> None:
    places = [(r.row, r.col) for r in prediction.layout.grid.regions(Box(0, 0, 256, 256))]
    seen = cached(model, prediction, places, NOBODY)
    local = seen.local.float().unflatten(0, (4, 4))[None]
    tokens = torch.from_numpy(np.asarray(prediction.tokens[:4, :4])).float()[None]
    whole, _ = model.decode_rows(from_regions(local), model.contextualise(tokens))
    alone, _ = model.decode_rows(from_regions(local), model.contextualise(tokens, context=False))
    assert whole is not None
    assert alone is not None
    for (row, col), one, other in zip(
        places,
        joined(model.mask_head, seen.local.float(), seen.seen.float()),
        joined(model.mask_head, seen.local.float(), seen.alone.float()),
        strict=True,
    ):
        part = np.s_[0, :, row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
        torch.testing.assert_close(one, whole[part], atol=2e-2, rtol=1e-2)  # what is cached has half precision
        torch.testing.assert_close(other, alone[part], atol=2e-2, rtol=1e-2)
    assert isinstance(model.contextualise(tokens), Context)


def test_some_cells_say_what_all_of_them_say(model: XT, prediction: Prediction) -> None:
    places = [(0, 0), (1, 1)]
    seen = cached(model, prediction, places, NOBODY).some(torch.arange(2))
    kinds = torch.ones(2, 16, 16)
    kinds[:, :4], kinds[:, 4] = 0, 2
    cells = drawn_cells(kinds, 64, torch.Generator().manual_seed(0))
    wanted = kinds.flatten(1).gather(1, cells.at)
    assert (wanted > 0).all()
    assert (wanted == 2).sum(1).tolist() == [16, 16]
    assert cells.times.sum(1).tolist() == pytest.approx([192, 192])
    whole = joined(model.box_head, seen.local, seen.seen).flatten(2)
    some = joined_at(model.box_head, seen.local, seen.seen, cells.at)[:, :, 0]
    torch.testing.assert_close(some, whole.gather(2, cells.at[:, None].expand_as(some)), atol=1e-4, rtol=1e-4)
    truth = known(complete(prediction).regions, {0: 0, 1: 1}, SMALL, (1.0, 1.0)).some(torch.arange(2))
    every = drawn_cells(torch.ones(2, 16, 16), 256, torch.Generator())
    part = truth.at(every)
    order = whole.gather(2, every.at[:, None].expand_as(whole))[:, :, None]
    torch.testing.assert_close(boxes_cost(order, part, 4), boxes_cost(whole.unflatten(2, (16, 16)), truth, 4))


def test_a_head_that_can_not_be_better_stays_as_it_was(model: XT, prediction: Prediction) -> None:
    taught = copy.deepcopy(model)
    taught.card = ModelCard(name="small")
    regions, found = list(prediction.layout.grid.regions())[:6], prediction.boxes
    said = [np.asarray(prediction.mask[0][r.inner.slices]) for r in regions]
    truth = [
        RegionTruth(r.row, r.col, labels, True, found.assign(**{"class": "tree"}))
        for r, labels in zip(regions, said, strict=True)
    ]
    settings = RefineSettings(steps=5, rate=1e-9, heads=("mask", "boxes"))
    refined = learn(taught, prediction, Truths(truth, NAMES), settings)
    assert [warning.split(":")[0] for warning in refined.warnings] == ["the mask", "boxes"]
    assert refined.after == refined.before
    assert refined.before["mask_f1"] > 0.97  # what was kept has half precision
    for old, new in zip(model.mask_head.parameters(), refined.model.mask_head.parameters(), strict=True):
        assert torch.equal(old.half().float(), new)
    assert refined.model.config == model.config


def test_what_is_unknown_costs_nothing() -> None:
    labels = np.full((64, 64), UNKNOWN, np.uint8)
    labels[8:12, 8:40], labels[20:24, 20:24] = 1, UNSURE
    edited = boxes().iloc[:1]
    truth = known([RegionTruth(0, 0, labels, boxes=edited)], {0: 0, 1: 1}, SMALL, (1.0, 1.0))
    logits = torch.zeros(1, 2, 16, 16, requires_grad=True)
    mask_cost(logits, truth.share, torch.ones(2)).backward()
    touched = logits.grad.abs().sum((0, 1)) > 0
    assert touched.nonzero().tolist() == [[2, col] for col in range(2, 10)]
    raw = torch.zeros(1, 5, 16, 16, requires_grad=True)
    boxes_cost(raw, truth, 4).backward()
    y0, x0, y1, x1 = (edited.iloc[0][name] / 4 for name in ("y0", "x0", "y1", "x1"))
    rows, cols = (raw.grad.abs().sum((0, 1)) > 0).nonzero().T
    assert len(rows)
    assert y0 <= rows.min() <= rows.max() <= y1
    assert x0 <= cols.min() <= cols.max() <= x1


def test_in_a_complete_region_background_counts_and_elsewhere_a_deleted_box_does() -> None:
    clear = np.zeros((64, 64), np.uint8)
    whole = known([RegionTruth(0, 0, clear, True)], {0: 0, 1: 1}, SMALL, (1.0, 1.0))
    assert whole.valid.all()
    assert (whole.share[:, 0] == 1).all()
    gone = RegionTruth(0, 0, np.full((64, 64), UNKNOWN, np.uint8), deleted=boxes().iloc[:1])
    part = known([gone], {0: 0, 1: 1}, SMALL, (1.0, 1.0))
    assert 0 < part.valid.sum() < 64
    assert part.heat.max() == 0
    assert class_weights(part.share).tolist() == [0, 0]


def test_objects_that_nobody_labelled_are_not_learned_as_background(model: XT, prediction: Prediction) -> None:
    labels, truth = np.full((256, 320), UNKNOWN, np.uint8), drawn()
    left = np.arange(320) < 128
    labels[:, left] = np.where(truth[:, left] == 1, 1, UNKNOWN)  # objects of the left,
    labels[100:110] = np.where(truth[100:110] == 0, 0, UNKNOWN)  # and one line of background through all of it
    told = Truths([RegionTruth(*at, part) for at, part in cut(labels, prediction.layout.grid).items()], NAMES)
    refined = learn(model, prediction, told, replace(FEW, steps=120, heads=("mask",)))
    seen = xt.predict(SCENE.pixels.transpose(1, 2, 0), refined.model, out=prediction.path.with_name("u.xt.zarr"))
    found = np.asarray(seen.mask[0][:])
    assert (found[:, ~left] == 1)[truth[:, ~left] == 1].mean() > 0.7


def test_learning_from_whole_regions_makes_held_out_ones_better_and_is_repeatable(
    model: XT, prediction: Prediction
) -> None:
    told, reports = complete(prediction), list[Learning]()
    settings = replace(FEW, held_out=0.2)
    refined = learn(model, prediction, told, settings, progress=reports.append)
    assert refined.after["mask_f1"] > max(0.5, refined.before["mask_f1"])
    assert {report.stage for report in reports} == {"read", "learn", "judge"}
    costs = [sum(report.costs.values()) for report in reports if report.stage == "learn"]
    assert costs[-1] < 0.8 * costs[0]
    again = learn(model, prediction, told, settings)
    assert again.model.digest == refined.model.digest
    assert again.model.encoder_digest == model.encoder_digest
    assert model.digest == small_model().digest


def test_new_classes_leave_old_ones_as_they_were(model: XT) -> None:
    more = grown(model, mask=["crown", "shadow"], boxes=["bush"], scores=["open", "burnt"])
    assert more.config.mask == ("background", "crown", "shadow")
    assert more.config.boxes == ("tree", "bush")
    assert more.config.scores == ("open", "sparse", "dense", "burnt")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        old, new = model(images), more(images)
    torch.testing.assert_close(new.mask[:, :2], old.mask)
    torch.testing.assert_close(new.boxes[:, [0, 2, 3, 4, 5]], old.boxes)
    torch.testing.assert_close(new.scores[..., :3], old.scores)
    assert model.config == SMALL
    assert grown(model).digest == model.digest


def test_a_class_that_was_painted_is_added_and_learned(model: XT, prediction: Prediction) -> None:
    labels = drawn() * 2
    told = Truths(
        [RegionTruth(r.row, r.col, labels[r.inner.slices], True) for r in prediction.layout.grid.regions()],
        (*NAMES, "shadow"),
    )
    refined = learn(model, prediction, told, replace(FEW, steps=120, heads=("mask",)))
    assert refined.model.config.mask == (*NAMES, "shadow")
    assert refined.labelled["shadow"] == drawn().sum()
    assert refined.warnings == ("no pixel is labelled crown: it is not learned",)
    seen = cached(model, prediction, [(1, 1)], NOBODY)
    said = joined(refined.model.mask_head, seen.local.float(), seen.seen.float()).argmax(1)
    assert 2 in said


def test_stopping_is_quick_and_writes_nothing(model: XT, prediction: Prediction) -> None:
    asked: list[float] = []

    def stop() -> bool:
        if len(asked) == 30:
            asked.append(time.monotonic())
        elif len(asked) < 30:
            asked.append(0.0)
        return len(asked) > 30

    before = set(prediction.path.parent.iterdir())
    refined = xt.refine(model, prediction, replace(FEW, steps=100_000), known=complete(prediction), stop=stop)
    assert time.monotonic() - asked[-1] < 0.5
    assert refined.stopped
    assert refined.path is None
    assert set(prediction.path.parent.iterdir()) == before


def test_corrections_become_a_new_model_and_a_new_prediction(model: XT, prediction: Prediction) -> None:
    with xt.corrections(prediction, author="Ada") as corrected:
        with corrected.stroke() as stroke:
            stroke.fill(Box(0, 0, 64, 128), drawn()[:64, :128])
            stroke.region(0, 0, state="fixed")
            stroke.region(0, 1, state="accepted", class_name="dense")
            stroke.put(np.arange(70, 75), np.arange(70, 75), 1)
            stroke.put(np.array([80]), np.array([80]), UNSURE)
        known_now = truths(corrected)
    states = {(t.row, t.col): t for t in known_now}
    assert set(states) == {(0, 0), (0, 1), (1, 1)}
    assert states[0, 0].complete
    np.testing.assert_array_equal(states[0, 0].labels, drawn()[:64, :64])
    assert states[0, 1].region_class == "dense"
    assert (states[1, 1].labels == 1).sum() == 5
    assert (states[1, 1].labels == UNSURE).sum() == 1
    assert known_now.authors == ("Ada",)

    refined = xt.refine(model, prediction, FEW)
    assert refined.path == prediction.path.with_name("small+1.safetensors")
    loaded = xt.load_model(refined.path)
    assert loaded.digest == refined.model.digest
    assert model.digest in loaded.card.provenance
    assert "Ada" in loaded.card.provenance
    with pytest.raises(SettingsError, match="there already"):
        xt.refine(model, prediction, FEW, out=refined.path)
    assert xt.refine(model, prediction, replace(FEW, steps=1)).path.name == "small+2.safetensors"

    new = predict_again(refined, prediction, SCENE.pixels.transpose(1, 2, 0))
    assert new.path == prediction.path.with_name("spots.small+1.xt.zarr")
    assert new.header.plan["reused"] == 20
    with xt.corrections(new, read_only=True) as carried:
        np.testing.assert_array_equal(carried.mask[0][:64, :128], drawn()[:64, :128])
        assert set(carried.log()["author"]) == {"Ada"}
        after = carried.final.boxes
    with xt.corrections(prediction, read_only=True) as corrected:
        before = corrected.final.boxes
    assert len(in_first_regions(before)) > 2
    np.testing.assert_allclose(in_first_regions(after), in_first_regions(before))
    assert len(after) != len(before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": ("label",)}, "none that learns"),
        ({"held_out": 1.0}, "0..1"),
        ({"steps": 0}, "at least 1"),
    ],
    ids=["head", "held out", "steps"],
)
def test_what_can_not_be_is_refused(model: XT, prediction: Prediction, changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        learn(model, prediction, complete(prediction, 1), replace(FEW, **changes))


def test_nothing_known_another_encoder_or_nothing_kept_is_told(
    model: XT, prediction: Prediction, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="nothing to learn from"):
        learn(model, prediction, Truths([], NAMES))
    with pytest.raises(ModelError, match="another region encoder"):
        learn(small_model(seed=5), prediction, complete(prediction, 1))
    bare = xt.predict(SCENE.pixels.transpose(1, 2, 0), model, out=tmp_path / "bare.xt.zarr", keep="tokens")
    with pytest.raises(StoreError, match="keep='features'"):
        learn(model, bare, complete(bare, 1))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_new_model_begins_with_the_bundled_encoder(channels: int) -> None:
    new, canopy = xt.new_model(["nucleus"], in_channels=channels, outputs=["mask"]), xt.load_model("canopy")
    stem = "region.backbone.blocks.1.0.conv_pw.weight"
    assert torch.equal(new.state_dict()[stem], canopy.state_dict()[stem])
    assert new.config.in_channels == channels
    assert new.config.scale_um is None
    assert new.config.normalisation == ("range" if channels == 3 else "percentile")
    assert all(torch.equal(p, p.half().float()) for p in new.parameters())
    gray = torch.randn(1, 1, 320, 320)
    with torch.no_grad():
        first, other = (m.region(gray.expand(1, n, -1, -1))[0] for m, n in ((new, channels), (canopy, 3)))
    torch.testing.assert_close(first, other, atol=1e-3, rtol=1e-3)
