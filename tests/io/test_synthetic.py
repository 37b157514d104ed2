"""The synthetic slide: lazy, the same whichever part is read, and with classes that nothing near a cell tells."""

from __future__ import annotations

import functools
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.synthetic import KINDS, MASK, NEIGHBOURHOOD, REGION_PX, SCORES, SyntheticSlide
from napari_xt.io.image import open_image

SMALL = SyntheticSlide((1500, 2100), seed=3)
PART = Box(6144, 8192, 8192, 10_240)  # of a large slide, four by four neighbourhoods
REGIONS = (range(96, 128), range(128, 160))  # the same part
LARGE = SyntheticSlide()


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> Box:
    ys, xs = (sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in (height, width))
    return Box(ys[0], xs[0], ys[1], xs[1])


@functools.cache
def whole(level: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = (-(-n // 2**level) for n in SMALL.shape)
    return SMALL.pixels(Box(0, 0, height, width), level), SMALL.mask(Box(0, 0, height, width), level)


@given(st.data(), st.integers(0, 6))
@settings(max_examples=30)
def test_a_box_is_the_same_whatever_is_read_with_it(data: st.DataObject, level: int) -> None:
    picture, truth = whole(level)
    box = data.draw(boxes(*truth.shape))
    np.testing.assert_array_equal(SMALL.pixels(box, level), picture[box.slices])
    np.testing.assert_array_equal(SMALL.mask(box, level), truth[box.slices])


@pytest.mark.parametrize("level", range(1, 6))
def test_levels_of_the_truth_are_every_other_pixel(level: int) -> None:
    every, step = SMALL.mask(Box(0, 0, *SMALL.shape)), 2**level
    height, width = (-(-n // step) for n in SMALL.shape)
    np.testing.assert_array_equal(SMALL.mask(Box(0, 0, height, width), level), every[::step, ::step])


@pytest.mark.parametrize("level", range(1, 6))
def test_levels_of_the_picture_are_about_the_means(level: int) -> None:
    side, step = 1024, 2**level
    fine = LARGE.pixels(Box(6144, 8192, 6144 + side, 8192 + side)).astype(float)
    means = fine.reshape(side // step, step, side // step, step, 3).mean(axis=(1, 3))
    y, x = 6144 // step, 8192 // step
    coarse = LARGE.pixels(Box(y, x, y + side // step, x + side // step), level)
    assert np.abs(coarse - means).mean() < 1.5


def test_every_kind_of_marker_and_of_cell_is_there() -> None:
    mask, layout = LARGE.mask(PART), LARGE.layout(*REGIONS)
    assert set(np.unique(mask)) == set(range(len(MASK)))
    assert set(np.unique(layout.classes)) == set(range(len(SCORES)))
    per = mask.reshape(32, REGION_PX, 32, REGION_PX)
    assert ((per > 0).any(axis=(1, 3)) == layout.cells).all()
    assert (per.max(axis=(1, 3)) == layout.classes * layout.cells).all()


def test_cells_are_at_least_two_regions_from_every_marker() -> None:
    layout = LARGE.layout(*REGIONS)
    markers, cells = np.argwhere(layout.marker), np.argwhere(layout.cells)
    assert len(markers) >= 12
    assert np.abs(cells[:, None] - markers).max(-1).min() == 2


def test_a_neighbourhood_has_one_marker_anywhere_in_it_and_one_class() -> None:
    layout = LARGE.layout(range(390), range(453))
    rows, cols = np.nonzero(layout.marker)
    homes = list(zip(rows // NEIGHBOURHOOD, cols // NEIGHBOURHOOD, strict=True))
    assert len(set(homes)) == len(homes) > 1000
    places = np.histogram2d(rows % NEIGHBOURHOOD, cols % NEIGHBOURHOOD, bins=NEIGHBOURHOOD)[0]
    assert places.min() > 0  # before and behind every other region, in rows and columns
    for row, col in homes[:50]:
        home = layout.part(np.s_[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8])
        assert len(np.unique(home.kind)) == 1
    kinds = np.bincount(layout.kind[layout.marker], minlength=len(KINDS)) / len(homes)
    assert np.abs(kinds - 1 / len(KINDS)).max() < 0.05


@pytest.mark.parametrize("halo", [0, REGION_PX])
@pytest.mark.parametrize("turn", [1, 2])
def test_the_class_changes_and_no_pixel_that_a_region_with_cells_sees(turn: int, halo: int) -> None:
    turned = SyntheticSlide(seed=LARGE.seed, turn=turn)
    layout, other = LARGE.layout(*REGIONS), turned.layout(*REGIONS)
    assert (layout.cells == other.cells).all()
    assert (layout.classes != other.classes)[layout.cells].all()
    seen = PART.grow(halo)
    same = (LARGE.pixels(seen) == turned.pixels(seen)).all(-1)
    for row, col in np.argwhere(layout.cells):
        assert same[row * REGION_PX : (row + 1) * REGION_PX + 2 * halo, col * REGION_PX :][
            :, : REGION_PX + 2 * halo
        ].all()
    mask, turned_mask = LARGE.mask(PART), turned.mask(PART)
    assert ((mask > 0) == (turned_mask > 0)).all()
    assert (mask != turned_mask)[mask > 0].all()


def test_the_classes_share_all_local_looks_equally() -> None:
    """A region with cells is of each class in one turn: what sees it alone is right in a third of them."""
    classes = [SyntheticSlide(turn=turn).layout(*REGIONS).classes for turn in range(len(KINDS))]
    cells = LARGE.layout(*REGIONS).cells
    assert (np.sum([[c[cells] == k for k in (1, 2, 3)] for c in classes], axis=0) == 1).all()


def test_a_seed_is_a_slide() -> None:
    box = Box(512, 512, 700, 900)
    assert (SyntheticSlide((2048, 2048), 5).pixels(box) == SyntheticSlide((2048, 2048), 5).pixels(box)).all()
    assert (SyntheticSlide((2048, 2048), 5).pixels(box) != SyntheticSlide((2048, 2048), 6).pixels(box)).any()


def test_it_opens_as_an_image_with_its_name_and_levels() -> None:
    with open_image(LARGE) as image:
        assert image.name == "synthetic slide (context proof)"
        assert (image.axes, image.rgb, image.dtype) == ("yxc", True, np.uint8)
        assert image.level_shapes[0] == (25_000, 29_000)
        assert max(image.level_shapes[-1]) <= 2048
        np.testing.assert_array_equal(
            image.read(Box(9000, 9000, 9100, 9200))[:, :, 5], LARGE.data[0][9000:9100, 9005].T
        )
        assert image.identity() != open_image(SyntheticSlide(seed=1)).identity()


def test_a_slide_of_any_size_costs_what_is_read_of_it() -> None:
    huge = SyntheticSlide((2_000_000, 3_000_000), seed=1)
    huge.pixels(Box(0, 0, 64, 64))  # the swatches
    tracemalloc.start()
    started = time.process_time()
    pixels = huge.data[0][1_000_000:1_000_512, 1_500_000:1_500_512]
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (512, 512, 3)
    assert peak < 40e6
    assert seconds < 1


KEYS = [
    np.s_[:],
    np.s_[100:200, 50:60],
    np.s_[..., 1],
    np.s_[7, ..., 2],
    np.s_[7, 9],
    np.s_[-3, -5:],
    np.s_[10:90:7, ::-50, :2],
    np.s_[5:5],
    np.s_[3:2, 4],
    (),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("level", [0, 1])
def test_levels_are_indexed_as_numpy_arrays_are(key: object, level: int) -> None:
    lazy = SyntheticSlide((300, 2500), seed=3).data[level]
    chosen = lazy[key]
    expected = np.asarray(lazy)[key]  # type: ignore[index]
    assert chosen.shape == expected.shape
    np.testing.assert_array_equal(chosen, expected)


def test_an_index_outside_is_an_error() -> None:
    with pytest.raises(IndexError):
        SMALL.data[0][1500]


def test_levels_travel_to_other_processes() -> None:
    copy = pickle.loads(pickle.dumps(SMALL.data[1]))
    np.testing.assert_array_equal(copy[300:350, 300:350], SMALL.data[1][300:350, 300:350])
