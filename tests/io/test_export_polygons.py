from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import shapely
from export_case import drawn, mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from napari_xt.io.exports import polygons
from napari_xt.io.exports.polygons import Area, trace

SMALL = st.tuples(st.integers(1, 14), st.integers(1, 14))
MASKS = st.integers(1, 3).flatmap(lambda top: arrays.arrays(np.uint8, SMALL, elements=st.integers(0, top)))

SHAPES = {
    "a pixel": ["#"],
    "a corner": ["#.", ".#"],
    "the other corner": [".#", "#."],
    "a ring": ["###", "#.#", "###"],
    "a ring that closes at a corner": ["###", "#.#", "##."],
    "holes that touch": ["####", "#.##", "##.#", "####"],
    "a hole at a corner of the outside": ["####", "#.##", "##..", "####"],
    "an island in a hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "a U and what it holds": ["#.#.#", "#.#.#", "#...#", "#####"],
    "a comb": ["#.#.#.#", "#######", "#.#.#.#"],
    "all": ["##", "##"],
    "a board": ["#.#.", ".#.#", "#.#.", ".#.#"],
}


def traced(pixels: np.ndarray, strip: int | None = None) -> list[Area]:
    strip = strip or len(pixels)
    return list(trace((pixels[top : top + strip] for top in range(0, len(pixels), strip)), pixels.shape[1]))


def polygon(area: Area) -> shapely.Polygon:
    return shapely.Polygon(area.exterior, area.holes)


def check(pixels: np.ndarray, areas: list[Area]) -> None:
    """Each area is a valid polygon, as many as there are connected ones, and they draw the mask: no pixel twice."""
    out = np.zeros_like(pixels)
    for area in areas:
        shape = polygon(area)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == area.px
        assert shapely.is_ccw(shape.exterior)  # with y down, as it is here, that is clockwise
        assert not any(shapely.is_ccw(hole) for hole in shape.interiors)
        inside = drawn(shape, pixels.shape)
        assert not out[inside].any()
        out[inside] = area.value
    assert np.array_equal(out, pixels)
    assert len(areas) == sum(ndimage.label(pixels == value)[1] for value in np.unique(pixels[pixels > 0]))


def content(areas: list[Area]) -> set[object]:
    return {(area.value, area.px, area.exterior.tobytes(), *(hole.tobytes() for hole in area.holes)) for area in areas}


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda px: monkeypatch.setattr(polygons, "BAND_PX", px)


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("strip", [1, 2, 5])
def test_shapes(rows: list[str], strip: int) -> None:
    pixels = np.array([[char == "#" for char in row] for row in rows], np.uint8)
    check(pixels, traced(pixels, strip))


@given(pixels=MASKS, strip=st.integers(1, 14))
def test_any_mask_comes_back_from_its_polygons(pixels: np.ndarray, strip: int) -> None:
    check(pixels, traced(pixels, strip))


@given(pixels=MASKS, strip=st.integers(1, 14))
def test_strips_change_nothing(pixels: np.ndarray, strip: int) -> None:
    assert content(traced(pixels, strip)) == content(traced(pixels))


@pytest.mark.parametrize(("strip", "px"), [(512, 1 << 22), (64, 1 << 22), (512, 5000), (37, 100)])
def test_a_large_mask_with_many_bands(strip: int, px: int, bands: Callable[[int], None]) -> None:
    pixels = mask()
    whole = content(traced(pixels))
    bands(px)
    found = traced(pixels, strip)
    assert content(found) == whole
    assert sum(map(len, (area.holes for area in found))) > 10
    check(pixels[:, :300].copy(), traced(pixels[:, :300], strip))


def lace(side: int) -> np.ndarray:
    """One area with a hole at every second pixel."""
    pixels = np.ones((side, side), np.uint8)
    pixels[1:-1:2, 1:-1:2] = 0
    return pixels


@pytest.mark.parametrize("px", [100, 1 << 20])
def test_many_holes_come_in_order(px: int, bands: Callable[[int], None]) -> None:
    bands(px)
    (area,) = traced(lace(201), 50)
    assert area.exterior.tolist() == [[0, 0], [201, 0], [201, 201], [0, 201]]
    wanted = [[x, y] for y in range(1, 200, 2) for x in range(1, 200, 2)]
    assert [hole[0].tolist() for hole in area.holes] == wanted
    assert all(hole.shape == (4, 2) for hole in area.holes)
    assert area.holes[7].tolist() == [[15, 1], [15, 2], [16, 2], [16, 1]]
    assert area.px == lace(201).sum()


def test_a_hole_takes_some_tens_of_bytes() -> None:
    pixels = lace(1001)
    tracemalloc.start()
    (area,) = traced(pixels, 100)
    held, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(area.holes) == 250_000
    assert held / len(area.holes) < 100
    assert highest < 250_000 * 100 + 400 * polygons.BAND_PX


def test_an_area_is_told_when_its_last_row_has_gone_by() -> None:
    given_rows = []

    def rows() -> object:
        for top in range(0, 100, 10):
            given_rows.append(top)
            strip = np.zeros((10, 30), np.uint8)
            strip[2:5, 3:9] = 1
            yield strip

    areas = trace(rows(), 30)
    assert next(areas).px == 18
    assert len(given_rows) <= 2


def test_only_corners_are_kept() -> None:
    (area,) = traced(np.ones((200, 300), np.uint8), 7)
    assert area.exterior.tolist() == [[0, 0], [300, 0], [300, 200], [0, 200]]
