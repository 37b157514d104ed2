from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import Box, Grid
from napari_xt.model.tokens import from_regions, positions, region_tokens, to_regions, token_map


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([8, 16]), st.sampled_from([0, 4, 8]))
def test_regions_are_those_of_the_grid(height: int, width: int, side: int, halo: int) -> None:
    image = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    regions = to_regions(image, side, halo)
    grid = Grid(height, width, side, halo)
    assert tuple(regions.shape[1:3]) == grid.shape
    for region in grid.regions():
        rows = np.clip(np.arange(region.outer.y0, region.outer.y1), 0, height - 1)
        cols = np.clip(np.arange(region.outer.x0, region.outer.x1), 0, width - 1)
        assert torch.equal(regions[0, region.row, region.col, 0], image[0, 0][rows][:, cols])


@given(st.integers(1, 5), st.integers(1, 5))
def test_regions_come_back_as_the_image(rows: int, cols: int) -> None:
    image = torch.rand(2, 3, rows * 8, cols * 8)
    assert torch.equal(from_regions(to_regions(image, 8)), image)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_token_maps_are_inverted(rows: int, cols: int, side: int) -> None:
    tokens = torch.rand(2, rows, cols, side * side, 4)
    assert torch.equal(region_tokens(token_map(tokens), side), tokens)


def test_positions_of_a_part_are_a_part_of_the_positions() -> None:
    whole = positions(16, 16, 32)
    part = Box(3, 5, 9, 16)
    assert torch.equal(positions(*part.shape, 32, (part.y0, part.x0)), whole[part.slices])


def test_positions_by_hand() -> None:
    value = positions(4, 4, 8)[2, 3]  # halves: column, row; each sines, then cosines of position * (1, 1 / 100)
    expected = [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03), np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)]
    np.testing.assert_allclose(value.numpy(), expected, atol=1e-6)
