"""What a brush and a polygon cover: napari's own pixels, in one piece and not dab by dab."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Labels

from napari_xt.geometry import Box
from napari_xt.plugin.correct import pen
from napari_xt.plugin.correct.pen import inside, swept

SHAPE = (60, 70)
IMAGE = Box(0, 0, *SHAPE)
POINTS = st.tuples(st.floats(-20, 80), st.floats(-20, 90))


def canvas(parts: list[tuple[Box, np.ndarray]]) -> np.ndarray:
    whole = np.zeros(SHAPE, bool)
    for box, mask in parts:
        assert box.clip(IMAGE) == box
        assert mask.shape == box.shape
        whole[box.slices] |= mask
    return whole


def napari(scale: tuple[float, float], size: int) -> Labels:
    layer = Labels(np.zeros(SHAPE, np.uint8), scale=scale)
    layer.brush_size = size
    return layer


@given(POINTS, st.integers(1, 60), st.sampled_from([(1.0, 1.0), (1.0, 2.0), (3.0, 1.5)]))
def test_dab_is_naparis(at: tuple[float, float], size: int, scale: tuple[float, float]) -> None:
    layer = napari(scale, size)
    layer.paint(at, 1)
    found = swept(at, at, size, scale, IMAGE)
    np.testing.assert_array_equal(canvas([found] if found else []), layer.data == 1)


@given(POINTS, POINTS, st.integers(1, 40))
def test_way_covers_all_dabs_and_little_more(start: tuple[float, float], end: tuple[float, float], size: int) -> None:
    found = swept(start, end, size, (1, 1), IMAGE)
    whole = canvas([found] if found else [])
    ends = np.rint([start, end])
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    way = ends[1] - ends[0]
    along = ((y - ends[0, 0]) * way[0] + (x - ends[0, 1]) * way[1]) / max(1, (way**2).sum())
    away = np.hypot(*(at - a - w * along.clip(0, 1) for at, a, w in zip((y, x), ends[0], way, strict=True)))
    radius = size // 2 + 0.5
    assert whole[away < radius - 1e-3].all()
    assert not whole[away > radius + 1e-3].any()


@pytest.mark.parametrize("rows", [7, 2048])
@given(st.lists(POINTS, min_size=3, max_size=6))
def test_polygon_is_naparis_in_any_bands(rows: int, corners: list[tuple[float, float]]) -> None:
    layer = napari((1.0, 1.0), 1)
    layer.paint_polygon(np.array(corners), 1)
    before, pen.BAND_ROWS = pen.BAND_ROWS, rows
    try:
        whole = canvas(list(inside(np.array(corners), IMAGE)))
    finally:
        pen.BAND_ROWS = before
    different = whole != (layer.data == 1)
    assert not different.any()
