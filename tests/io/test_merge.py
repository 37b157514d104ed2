from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import IDS_PER_REGION
from napari_xt.io.stores import merge
from napari_xt.io.stores.merge import BOX_DTYPE, suppress


def overlap(a: np.void, b: np.void, iou: float) -> bool:
    height, width = min(a["y1"], b["y1"]) - max(a["y0"], b["y0"]), min(a["x1"], b["x1"]) - max(a["x0"], b["x0"])
    both = max(height, 0.0) * max(width, 0.0)
    area = [(box["y1"] - box["y0"]) * (box["x1"] - box["x0"]) for box in (a, b)]
    return bool(both > iou * ((area[0] + area[1]) - both))


def by_definition(boxes: np.ndarray, iou: float, across: bool) -> set[int]:
    kept: list[np.void] = []
    for box in sorted(boxes, key=lambda box: (-box["score"], box["id"])):
        rivals = (
            other
            for other in kept
            if other["label"] == box["label"]
            and (other["id"] // IDS_PER_REGION != box["id"] // IDS_PER_REGION) == across
            and overlap(other, box, iou)
        )
        if next(rivals, None) is None:
            kept.append(box)
    return {int(box["id"]) for box in kept}


def random_boxes(count: int, seed: int, *, field: float = 1000, sides: tuple[float, float] = (1, 100)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    boxes = np.zeros(count, BOX_DTYPE)
    boxes["y0"], boxes["x0"] = rng.uniform(-5, field, count), rng.uniform(-5, field, count)
    low, high = np.log(sides)
    boxes["y1"] = boxes["y0"] + np.exp(rng.uniform(low, high, count))
    boxes["x1"] = boxes["x0"] + np.exp(rng.uniform(low, high, count))
    boxes["label"], boxes["score"] = rng.integers(0, 2, count), rng.integers(1, 20, count) / 20
    region = (boxes["y0"] // 64).astype(int) * 1000 + (boxes["x0"] // 64).astype(int) + 1001
    boxes["id"] = region * IDS_PER_REGION + rng.permutation(count) % IDS_PER_REGION
    return boxes[np.unique(boxes["id"], return_index=True)[1]]


@st.composite
def box_sets(draw: st.DrawFn) -> np.ndarray:
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                *(st.integers(0, 12) for _ in range(2)),
                *(st.integers(0, 20) for _ in range(2)),
                st.integers(0, 1),
                st.sampled_from([0.1, 0.5, 0.9]),
            ),
            max_size=14,
        )
    )
    values = [
        (region * IDS_PER_REGION + rank, y, x, y + height, x + width, label, score)
        for rank, (region, y, x, height, width, label, score) in enumerate(rows)
    ]
    return np.array(values, BOX_DTYPE)


def small_batches(patch: pytest.MonkeyPatch) -> None:
    """Few boxes are then worked off as many are: in batches that are halved, and pairs bit by bit."""
    for name, value in (("FIRST_BATCH", 3), ("BATCH_PAIRS", 12), ("PAIRS_AT_ONCE", 5)):
        patch.setattr(merge, name, value)


@given(box_sets(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.booleans(), st.booleans(), st.randoms())
def test_is_the_greedy_rule_in_any_order(
    boxes: np.ndarray, iou: float, across: bool, small: bool, random: object
) -> None:
    order = list(range(len(boxes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = boxes[order]
    with pytest.MonkeyPatch.context() as patch:
        if small:
            small_batches(patch)
        keep = suppress(shuffled, iou, across_regions=across)
    assert set(shuffled["id"][keep].tolist()) == by_definition(boxes, iou, across)


@pytest.mark.parametrize("across", [True, False], ids=["across regions", "within a region"])
@pytest.mark.parametrize("iou", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("field", "sides"),
    [(40, (5, 60)), (200, (20, 21)), (3000, (0.001, 3000)), (10, (1000, 4000))],
    ids=["a heap", "alike", "degenerate and huge", "huge"],
)
def test_many_batches_are_the_greedy_rule(
    field: float, sides: tuple[float, float], iou: float, across: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    boxes = random_boxes(120, 11, field=field, sides=sides)
    boxes["id"] = boxes["id"] % (5 * IDS_PER_REGION)  # few regions, wherever they are
    boxes = boxes[np.unique(boxes["id"], return_index=True)[1]]
    boxes[:20]["y1"], boxes[20:40]["x1"] = boxes[:20]["y0"], boxes[20:40]["x0"]  # without area
    assert set(boxes["id"][suppress(boxes, iou, across_regions=across)].tolist()) == by_definition(boxes, iou, across)


@pytest.mark.parametrize("across", [True, False], ids=["across regions", "within a region"])
@pytest.mark.parametrize(
    ("sides", "iou"), [((1, 100), 0.5), ((0.01, 900), 0.05), ((30, 31), 0.0)], ids=["trees", "all sizes", "touching"]
)
def test_finds_every_pair(sides: tuple[float, float], iou: float, across: bool) -> None:
    boxes = random_boxes(700, 3, sides=sides)
    assert set(boxes["id"][suppress(boxes, iou, across_regions=across)].tolist()) == by_definition(boxes, iou, across)


def test_a_hundred_thousand_agree_with_their_parts() -> None:
    boxes = random_boxes(100_000, 5, field=20_000, sides=(10, 60))
    keep = suppress(boxes, 0.4, across_regions=True)
    alone = random_boxes(400, 6, field=500, sides=(10, 60))
    alone["y0"] += 50_000
    alone["y1"] += 50_000
    alone["id"] += 1 << 40
    both = suppress(np.concatenate([boxes, alone]), 0.4, across_regions=True)
    np.testing.assert_array_equal(both[: len(boxes)], keep)
    assert set(alone["id"][both[len(boxes) :]].tolist()) == by_definition(alone, 0.4, True)
    assert 0 < (~keep).sum() < len(boxes) // 10


def pile(count: int, shape: str) -> np.ndarray:
    """Boxes of a thousand regions on one spot, or so large that they all meet."""
    rng = np.random.default_rng(2)
    boxes = np.zeros(count, BOX_DTYPE)
    spread, sides = {"one spot": (0.0, (40, 40)), "nearly": (16.0, (10, 70)), "huge": (9000.0, (4000, 4400))}[shape]
    for low, high in (("y0", "y1"), ("x0", "x1")):
        boxes[low] = 5000 + rng.uniform(0, spread, count)
        boxes[high] = boxes[low] + rng.uniform(*sides, count)
    boxes["score"] = rng.uniform(0.05, 1, count)
    boxes["id"] = (np.arange(count) % 1000) * IDS_PER_REGION + np.arange(count) // 1000
    return boxes


@pytest.mark.parametrize("last", [False, True], ids=["alone", "after boxes far away"])
@pytest.mark.parametrize("shape", ["one spot", "nearly", "huge"])
def test_a_pile_never_forms_all_its_pairs(shape: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    count, formed, together = 100_000, [], merge._expand

    def counted(*given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = together(*given)
        formed.append(len(pairs[0]))
        return pairs

    monkeypatch.setattr(merge, "_expand", counted)
    boxes = pile(count, shape)
    if last:
        boxes["score"][: count // 2] += 1
        boxes["y0"][: count // 2] += 20_000 * np.arange(1, count // 2 + 1)
        boxes["y1"][: count // 2] += 20_000 * np.arange(1, count // 2 + 1)
    keep = suppress(boxes, 0.5, across_regions=True)
    assert sum(formed) < 300 * count  # all of them would be half a hundred thousand times as many
    assert max(formed) < 2 * merge.PAIRS_AT_ONCE
    assert 0 < keep[count // 2 :].sum() < 500


def test_a_chain_falls_from_the_top() -> None:
    chain = [(region << 12, 0, 30 * region, 100, 30 * region + 100, 0, 0.9 - region / 10) for region in range(3)]
    boxes = np.array(chain, BOX_DTYPE)
    assert suppress(boxes, 0.5, across_regions=True).tolist() == [True, False, True]


def test_nothing_gives_nothing() -> None:
    assert suppress(np.zeros(0, BOX_DTYPE), 0.5, across_regions=True).shape == (0,)
