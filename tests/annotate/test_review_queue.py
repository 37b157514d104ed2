"""Which regions are looked at next, and what those that were looked at say of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import export_case
import numpy as np
import pytest

import napari_xt as xt
from napari_xt.annotate import ranking
from napari_xt.annotate.estimate import faulty, mean_share
from napari_xt.errors import SettingsError
from napari_xt.io.prediction import Prediction

SIDE = export_case.GRID.region_px


@pytest.fixture
def prediction(tmp_path: Path) -> Prediction:
    return export_case.prediction(tmp_path / "a.xt.zarr")


def by_region(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return the mean of each region, the plain way."""
    rows, cols = (-(-n // side) for n in pixels.shape)
    parts = [[pixels[r * side :, c * side :][:side, :side].mean() for c in range(cols)] for r in range(rows)]
    return np.array(parts, np.float32)


def done(prediction: Prediction, values: np.ndarray) -> np.ndarray:
    known = np.zeros(values.shape, bool)
    for row in prediction.scores.itertuples():
        known[row.region_row, row.region_col] = row.status == "done"
    return np.where(known, values, np.nan)


def test_regions_of_close_classes_come_first(prediction: Prediction) -> None:
    two = np.sort(prediction.probability[...].astype(np.float64), axis=0)[-2:]
    wanted = done(prediction, by_region(1 - (two[1] - two[0]) / 255, SIDE // prediction.layout.stride))
    found = ranking.uncertainty(prediction)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    queue = xt.review_queue(prediction)
    values = [found[place] for place in queue.order]
    assert values == sorted(values, reverse=True)
    assert len(queue) == np.isfinite(found).sum() < found.size  # one failed


def test_regions_where_another_says_something_else_come_first(prediction: Prediction, tmp_path: Path) -> None:
    pixels = export_case.mask()
    pixels[130:140, 200:240] = 2
    other = export_case.prediction(tmp_path / "b.xt.zarr", pixels)
    queue = xt.review_queue(prediction, "disagreement", other=other)
    assert queue.order[0] == (130 // SIDE, 200 // SIDE)
    level = ranking._level(prediction.layout)
    differ = np.asarray(prediction.mask[level][...]) != np.asarray(other.mask[level][...])
    wanted = done(prediction, by_region(differ, SIDE >> level))
    np.testing.assert_allclose(ranking.disagreement(prediction, other), wanted, atol=1e-6)


def test_regions_with_most_of_a_class_come_first(prediction: Prediction) -> None:
    queue = xt.review_queue(prediction, "class", class_name="rock", most=5)
    level = ranking._level(prediction.layout)
    of_rock = done(prediction, by_region(np.asarray(prediction.mask[level][...]) == 2, SIDE >> level))
    assert len(queue) == 5
    assert of_rock[queue.order[0]] == np.nanmax(of_rock)
    by_score = xt.review_queue(prediction, "class", class_name="dense")
    table = prediction.scores.sort_values("p:dense", ascending=False, kind="stable")
    assert by_score.order[0] == tuple(table.iloc[0][["region_row", "region_col"]])


def test_some_are_drawn_at_random_and_all_come_once(prediction: Prediction) -> None:
    plain, drawn = (xt.review_queue(prediction, by).order for by in ("uncertainty", "random"))
    mixed = xt.review_queue(prediction, every=5).order
    assert sorted(mixed) == sorted(plain)
    assert len(set(mixed)) == len(mixed)
    assert (mixed[:4], mixed[4]) == (plain[:4], next(one for one in drawn if one not in plain[:4]))
    answered, places = set(mixed[:50]), iter(drawn)
    assert sum(1 for _ in iter(lambda: next(places) in answered, False)) >= 10, "they open the random order"


def test_how_much_a_model_saw_at_once_may_differ(prediction: Prediction, tmp_path: Path) -> None:
    found = export_case.layout()
    near = export_case.prediction(tmp_path / "b.xt.zarr", grid=replace(found.grid, window=1))
    assert len(xt.review_queue(prediction, "disagreement", other=near)) > 0
    other = export_case.prediction(tmp_path / "c.xt.zarr", scores=("open", "shut"))
    with pytest.raises(SettingsError, match="grid and classes"):
        xt.review_queue(prediction, "disagreement", other=other)


def test_what_an_order_needs_is_said(prediction: Prediction) -> None:
    with pytest.raises(SettingsError, match="choose of uncertainty"):
        xt.review_queue(prediction, "beauty")
    with pytest.raises(SettingsError, match="1 or more"):
        xt.review_queue(prediction, every=0)
    with pytest.raises(SettingsError, match="without context"):
        xt.review_queue(prediction, "disagreement")
    with pytest.raises(SettingsError, match="background, crown, rock, open, dense"):
        xt.review_queue(prediction, "class", class_name="water")


def test_answers_stay_and_the_next_is_what_nobody_answered(prediction: Prediction) -> None:
    with xt.corrections(prediction, author="Ada") as corrections:
        queue = xt.review_queue(prediction, corrections=corrections, most=4)
        first, second, third, fourth = queue.order
        assert queue.current == first
        assert queue.accept() == second
        assert queue.next() == third  # the second is left for later
        assert queue.skip() == fourth
        assert queue.fix() == second
        assert str(queue) == "reviewed 3 of 4"
    again = xt.review_queue(prediction, most=4)
    assert (again.current, str(again)) == (second, "reviewed 3 of 4")
    with xt.corrections(prediction) as corrections:
        last = xt.review_queue(prediction, corrections=corrections, most=4)
        assert last.accept() is None
        assert last.accept() is None
        assert str(last) == "reviewed 4 of 4"
        corrections.undo()
        assert last.next() == second


def test_the_error_is_estimated_of_regions_drawn_at_random(prediction: Prediction) -> None:
    with xt.corrections(prediction) as corrections:
        queue = xt.review_queue(prediction, "random", corrections=corrections)
        assert str(queue.wrong_pixels()) == "not known yet"
        places = list(queue.order)
        inner = prediction.layout.grid.region(*places[0]).inner
        was = np.asarray(prediction.mask[0][inner.slices])
        with corrections.stroke() as stroke:
            stroke.fill(inner, np.where(np.arange(was.size).reshape(was.shape) % 4 == 0, (was + 1) % 3, 255))
        queue.fix()
        queue.skip()
        queue.accept()
        sizes = [np.prod(prediction.layout.grid.region(*place).inner.shape) for place in (places[0], places[2])]
        assert queue.wrong_pixels().value == pytest.approx(0.25 * sizes[0] / sum(sizes))
        assert (queue.faulty_regions().value, queue.faulty_regions().regions) == (0.5, 2)
        with corrections.stroke() as stroke:  # chosen, not drawn: says nothing of the rest
            stroke.region(*places[9], state="accepted")
        assert queue.faulty_regions().regions == 2


def test_boxes_and_classes_of_regions_are_faults_too(prediction: Prediction) -> None:
    with xt.corrections(prediction) as corrections:
        queue = xt.review_queue(prediction, "random", corrections=corrections)
        with_box, of_class, right = queue.order[:3]
        table = prediction.scores.set_index(["region_row", "region_col"])
        y0, x0 = table.loc[with_box, ["y0", "x0"]]
        was = {"open": "dense", "dense": "open"}[table.loc[of_class, "class"]]
        with corrections.stroke() as stroke:
            stroke.box_add(y0 + 4, x0 + 4, y0 + 12, x0 + 12, "crown")
            stroke.region(*of_class, class_name=was)
            stroke.region(*right, class_name=table.loc[right, "class"])
        for _ in range(3):
            queue.accept()
        assert queue.faulty_regions().value == pytest.approx(2 / 3)


def test_intervals_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = rng.beta(0.5, 4.0, 4000) * (rng.random(4000) < 0.7)
    held = 0
    for _ in range(400):
        drawn = rng.choice(truth, 40, replace=False)
        estimate = mean_share(drawn, np.ones(40))
        held += estimate.low <= truth.mean() <= estimate.high
    assert held >= 0.9 * 400
    assert (faulty(0, 30).low, faulty(0, 30).value) == (0.0, 0.0)
    assert faulty(0, 30).high == pytest.approx(0.1135, abs=1e-3)
    assert mean_share(np.zeros(30), np.ones(30)).high == pytest.approx(faulty(0, 30).high)
    assert mean_share(np.array([0.5]), np.ones(1)).high == 1.0
