from __future__ import annotations

import numpy as np
import pytest

from napari_xt.train.choose import Way, best, turns

OLD, HALF, NEW = Way(1.0), Way(0.5), Way(0.0)


def share(counts: np.ndarray) -> float:
    return counts[0] / counts[1] if counts[1] else float("nan")


def of_ten(*right: int) -> np.ndarray:
    return np.array([(n, 10) for n in right], float)


@pytest.mark.parametrize(
    ("tallies", "chosen"),
    [
        ({OLD: of_ten(5, 5, 5), HALF: of_ten(6, 6, 6), NEW: of_ten(7, 7, 7)}, NEW),
        ({OLD: of_ten(5, 5, 5), HALF: of_ten(6, 6, 6), NEW: of_ten(10, 5, 5)}, HALF),
        ({OLD: of_ten(5, 5, 5), HALF: of_ten(5, 5, 5), NEW: of_ten(9, 4, 4)}, OLD),
        ({OLD: of_ten(5), NEW: of_ten(6)}, NEW),
        ({OLD: np.zeros((2, 2)), NEW: np.zeros((2, 2))}, None),
        ({}, None),
    ],
    ids=["better everywhere", "better but for one region", "worse in most", "one region", "nothing known", "not tried"],
)
def test_what_is_better_whichever_region_is_left_out_is_chosen(
    tallies: dict[Way, np.ndarray], chosen: Way | None
) -> None:
    assert best(tallies, OLD, share) == chosen


def test_a_lower_threshold_that_is_nearly_as_good_is_taken() -> None:
    right = {0.1: 6, 0.2: 8, 0.3: 9, 0.4: 4}
    tallies = {Way(0.0, threshold): of_ten(n, n) for threshold, n in right.items()}
    assert best({OLD: of_ten(1, 1), **tallies}, OLD, share) == Way(0.0, 0.2)
    assert best({OLD: of_ten(9, 9), **tallies}, OLD, share) == OLD


def test_what_can_not_stay_is_the_best_there_is() -> None:
    assert best({HALF: of_ten(3, 9), NEW: of_ten(6, 2)}, None, share) == HALF


@pytest.mark.parametrize(
    ("count", "held_out", "spare", "sides"),
    [(1, 0.2, False, []), (2, 0.2, False, [1, 1]), (10, 0.2, False, [4, 3, 3]), (200, 0.2, False, [40]),
     (10, 0.2, True, [2]), (4, 0.2, True, []), (10, 0.0, False, [])],
    ids=["one", "two", "few", "many", "new", "new, too few", "none"],
)  # fmt: skip
def test_regions_take_turns_at_being_held_out(count: int, held_out: float, spare: bool, sides: list[int]) -> None:
    found = turns(count, held_out, 0, spare)
    assert [len(held) for _, held in found] == sides
    assert all(sorted(shown + held) == list(range(count)) for shown, held in found)
    if len(found) > 1:
        assert sorted(i for _, held in found for i in held) == list(range(count))
