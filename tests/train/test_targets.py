from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import Box
from napari_xt.train.targets import Targets, cover_class, make_targets

SIDE = 128
WHOLE = Box(0, 0, SIDE, SIDE)


def targets(*boxes: tuple[float, float, float, float], valid: Box = WHOLE) -> Targets:
    return make_targets(np.array(boxes, np.float64).reshape(-1, 4), valid, (SIDE, SIDE), 4, 64)


@given(st.integers(8, 60), st.integers(8, 60), st.floats(40, 80), st.floats(40, 80))
def test_a_crown_is_an_ellipse_with_one_centre(height: int, width: int, y: float, x: float) -> None:
    made = targets((y - height / 2, x - width / 2, y + height / 2, x + width / 2))
    cells = np.argwhere(made.heat == 1)
    assert cells.tolist() == [[y // 4, x // 4]]
    np.testing.assert_allclose(made.boxes[:, *cells[0]], [y, x, height, width], rtol=1e-6)
    assert made.near[tuple(cells[0])] == 1
    area = np.pi / 4 * height * width / 16
    assert abs(made.crown.sum() - area) < 0.25 * area + 4


def test_nothing_is_drawn_where_nothing_is() -> None:
    made = targets()
    assert not made.heat.any()
    assert not made.crown.any()
    assert made.classes.tolist() == [[0, 0], [0, 0]]


def test_boxes_outside_the_window_leave_their_part_of_the_crown_but_no_centre() -> None:
    made = targets((-30, 40, 10, 80))
    assert made.crown[0].any()
    assert made.heat.max() < 1


def test_regions_that_are_not_wholly_labelled_have_no_class() -> None:
    made = targets((0, 0, 128, 128), valid=Box(0, 0, 64, 100))
    assert made.classes.tolist() == [[2, -1], [-1, -1]]
    assert made.valid.sum() == 16 * 25


@pytest.mark.parametrize(("cover", "index"), [(0, 0), (0.0999, 0), (0.1, 1), (0.25, 1), (0.4, 1), (0.4001, 2), (1, 2)])
def test_classes_of_cover(cover: float, index: int) -> None:
    assert cover_class(cover) == index
