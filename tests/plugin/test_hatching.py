"""The hatching of what is not known: the same at any place, whatever part of it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from napari_xt.io.stores.layout import Status
from napari_xt.plugin.layers.composed import PERIOD, STRIPE, pattern


def drawn(status: Status, height: int, width: int) -> np.ndarray:
    y, x = np.indices((height, width))
    rising, falling = (y + x) % PERIOD < STRIPE, (y - x) % PERIOD < STRIPE
    dots = (y % PERIOD < STRIPE) & ((x + PERIOD // 2 * (y // PERIOD % 2)) % PERIOD < STRIPE)
    return {Status.FAILED: rising | falling, Status.SKIPPED: dots}.get(status, rising)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize(
    ("y0", "x0", "height", "width"),
    [(0, 0, 64, 80), (5, 43, 33, 17), (77, 16, 1, 90), (31, 32, 70, 1), (3, 3, 0, 5)],
    ids=["from the corner", "odd", "a row", "a column", "nothing"],
)
def test_a_part_is_hatched_as_the_whole(status: Status, y0: int, x0: int, height: int, width: int) -> None:
    whole = drawn(status, y0 + height, x0 + width)
    np.testing.assert_array_equal(pattern(status, (height, width), y0, x0), whole[y0:, x0:])
