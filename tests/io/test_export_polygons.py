from __future__ import annotations

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
