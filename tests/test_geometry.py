"""Every pixel has one owner, whatever the size of the image and the part of it that is run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import Box, Frame, Grid, Region

sides = st.integers(1, 2600)
coordinates = st.integers(-300, 2900)
sizes = st.tuples(st.sampled_from([64, 224, 256]), st.sampled_from([0, 32]), st.sampled_from([0, 1, 2, 3, 4, 5, 8]))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    return Grid(draw(sides), draw(sides), *draw(sizes))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (y0, y1), (x0, x1) = (sorted(draw(st.tuples(coordinates, coordinates))) for _ in "yx")
    return Box(y0, x0, y1, x1)


def times_owned(grid: Grid, owned: list[Box]) -> np.ndarray:
    """How often each pixel lies in one of ``owned``."""
    count = np.zeros((grid.height, grid.width), np.uint8)
    for box in owned:
        assert not box.empty
        assert box.clip(grid.bounds) == box
        count[box.slices] += 1
    return count


@given(grids())
def test_every_pixel_is_owned_by_one_region_one_block_and_one_window(grid: Grid) -> None:
    steps = list(grid.steps())
    windows = [w for step in steps for w in step.windows]
    assert (times_owned(grid, [r.inner for r in grid.regions()]) == 1).all()
    assert (times_owned(grid, [b.box for step in steps for b in step.blocks]) == 1).all()
    assert (times_owned(grid, [r.inner for w in windows for r in grid.window_regions(w)]) == 1).all()


@given(grids())
def test_regions_are_counted_row_by_row(grid: Grid) -> None:
    regions = list(grid.regions())
    assert [r.index for r in regions] == list(range(grid.shape[0] * grid.shape[1]))
    assert [(r.row, r.col) for r in regions] == list(np.ndindex(grid.shape))
    blocks = {(b.row, b.col) for step in grid.steps() for b in step.blocks}
    assert blocks == set(np.ndindex(grid.block_shape))


@given(grids())
def test_a_region_sees_its_square_and_its_halo(grid: Grid) -> None:
    for region in grid.regions():
        outer_px = grid.region_px + 2 * grid.halo_px
        assert region.outer.shape == (outer_px, outer_px)
        assert region.inner.clip(region.outer) == region.inner
        assert region.local.shape == region.inner.shape
        assert (region.local.y0, region.local.x0) == (grid.halo_px, grid.halo_px)


@given(grids(), boxes())
def test_a_part_of_the_image_has_the_regions_that_it_touches_as_they_are(grid: Grid, roi: Box) -> None:
    touched = [region for region in grid.regions() if region.inner.touches(roi)]
    assert list(grid.regions(roi)) == touched
    in_steps = [r for step in grid.steps(roi) for w in step.windows for r in grid.window_regions(w)]
    assert sorted(in_steps, key=index) == touched


def index(region: Region) -> int:
    return region.index


@given(grids(), boxes())
def test_a_window_of_a_part_is_a_window_of_the_whole_cut(grid: Grid, roi: Box) -> None:
    whole = {w.origin: w for step in grid.steps() for w in step.windows}
    parts = [w for step in grid.steps(roi) for w in step.windows]
    assert len({w.origin for w in parts}) == len(parts)
    for part in parts:
        full = whole[part.origin]
        assert full.start == (0, 0)
        assert full.row0 <= part.row0 < part.row1 <= full.row1
        assert full.col0 <= part.col0 < part.col1 <= full.col1
        assert part.start == (part.row0 - full.row0, part.col0 - full.col0)


@given(grids(), boxes())
def test_steps_share_no_window_and_no_block(grid: Grid, roi: Box) -> None:
    for part in (None, roi):
        seen: set[tuple[int, int]] = set()
        for step in grid.steps(part):
            blocks = {(b.row, b.col) for b in step.blocks}
            needed = {
                (r.row // grid.block_regions, r.col // grid.block_regions)
                for w in step.windows
                for r in grid.window_regions(w)
            }
            assert blocks == needed
            assert not blocks & seen
            seen |= blocks


@given(sides, sides, st.sampled_from([64, 224, 256]), boxes())
def test_window_0_is_the_whole_image(height: int, width: int, region_px: int, roi: Box) -> None:
    grid = Grid(height, width, region_px, window=0)
    (step,) = grid.steps()
    (window,) = step.windows
    assert (window.shape, window.origin) == (grid.shape, (0, 0))
    windows = [w for step in grid.steps(roi) for w in step.windows]
    assert len(windows) == (1 if roi.touches(grid.bounds) else 0)
    assert all(w.origin == (0, 0) for w in windows)


@pytest.mark.parametrize(
    ("region_px", "regions", "block_px"),
    [(64, 8, 512), (96, 8, 768), (224, 4, 896), (256, 4, 1024), (320, 4, 1280), (512, 2, 1024), (2048, 1, 2048)],
)
def test_a_block_is_a_power_of_two_of_regions_near_1024_px(region_px: int, regions: int, block_px: int) -> None:
    grid = Grid(5000, 5000, region_px)
    assert (grid.block_regions, grid.block_px) == (regions, block_px)


@pytest.mark.parametrize("side", [64, 224, 256])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_sizes_around_a_multiple(side: int, more: int) -> None:
    grid = Grid(3 * side + more, 1, side)
    assert grid.shape == (3 + (more > 0), 1)
    assert [r.inner.height for r in grid.regions()][-1] == (side + more if more <= 0 else 1)


@given(boxes(), boxes())
def test_what_two_boxes_share(one: Box, other: Box) -> None:
    shared = one.clip(other)
    assert shared.shape == other.clip(one).shape
    assert one.touches(other) == other.touches(one) == (not shared.empty)
    if not shared.empty:
        assert shared == other.clip(one)
        assert shared.clip(one) == shared
    assert one.shift(3, -7).shift(-3, 7) == one
    assert one.grow(5).grow(-5) == one


@given(boxes(), st.integers(1, 700))
def test_scaling_covers(box: Box, factor: int) -> None:
    small = box.scale(1 / factor, 1 / factor)
    assert (small.y0, small.x0) == (box.y0 // factor, box.x0 // factor)
    assert (small.y1, small.x1) == (-(-box.y1 // factor), -(-box.x1 // factor))
    assert small.scale(factor, factor).clip(box) == box


@given(sides, sides, st.integers(1, 2600), st.integers(1, 2600), boxes())
def test_a_box_in_run_pixels_covers_it_and_stays_inside(
    height: int, width: int, rows: int, cols: int, box: Box
) -> None:
    frame = Frame((height, width), (rows, cols), (0.5, 0.25), "micrometer")
    run = frame.to_run(box)
    assert run.clip(Box(0, 0, rows, cols)) == run
    inside = box.clip(Box(0, 0, height, width))
    if not inside.empty:
        fy, fx = frame.px_per_run
        assert not run.empty
        assert run.y0 * fy <= inside.y0 + 1e-3
        assert run.x0 * fx <= inside.x0 + 1e-3
        assert run.y1 * fy >= inside.y1 - 1e-3
        assert run.x1 * fx >= inside.x1 - 1e-3
    np.testing.assert_allclose(np.multiply(frame.scale_run, frame.shape_run), (height * 0.5, width * 0.25))
