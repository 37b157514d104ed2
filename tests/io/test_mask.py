from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import Box
from napari_xt.io.stores.mask import mask_from_probability


def by_torch(probability: np.ndarray, stride: int, box: Box, window: Box) -> np.ndarray:
    """The definition: bilinear in float64, in units that are whole numbers, then the first of the largest."""
    values = torch.from_numpy(probability[None].astype(np.float64)) * (2 * stride) ** 2
    wide = torch.nn.functional.interpolate(values, scale_factor=stride, mode="bilinear", align_corners=False)
    cut = box.shift(-window.y0, -window.x0).slices
    return wide[0].numpy().round(6)[(slice(None), *cut)].argmax(axis=0).astype(np.uint8)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, Box, Box]:
    stride = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16]))
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    window = Box(0, 0, height, width).shift(*(draw(st.integers(0, 3)) * stride for _ in "yx"))
    h, w = -(-height // stride), -(-width // stride)
    y, x = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
    y1, x1 = draw(st.integers(y + 1, h)), draw(st.integers(x + 1, w))
    box = Box(y * stride, x * stride, y1 * stride, x1 * stride).shift(window.y0, window.x0).clip(window)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    top = draw(st.sampled_from([3, 256]))  # few values make ties
    return rng.integers(0, top, (draw(st.integers(1, 5)), h, w), dtype=np.uint8), stride, box, window


@given(cases())
def test_is_torch_bilinear_then_argmax(case: tuple[np.ndarray, int, Box, Box]) -> None:
    np.testing.assert_array_equal(mask_from_probability(*case), by_torch(*case))


@given(cases())
def test_two_classes_by_their_difference_as_by_both(case: tuple[np.ndarray, int, Box, Box]) -> None:
    probability, *where = case
    pair = np.stack([probability[0], probability[-1]])
    third = np.concatenate([pair, np.minimum(*pair)[None]])  # never the largest, and never before an equal
    np.testing.assert_array_equal(mask_from_probability(pair, *where), mask_from_probability(third, *where))


def test_a_part_is_the_part_of_the_whole() -> None:
    probability = np.random.default_rng(0).integers(0, 256, (3, 24, 20), dtype=np.uint8)
    window = Box(0, 0, 96, 80)
    whole = mask_from_probability(probability, 4, window, window)
    for box in (Box(0, 0, 32, 32), Box(32, 32, 64, 80), Box(92, 76, 96, 80)):
        np.testing.assert_array_equal(mask_from_probability(probability, 4, box, window), whole[box.slices])


@pytest.mark.parametrize(
    ("box", "window"),
    [
        pytest.param(Box(2, 0, 16, 16), Box(0, 0, 16, 16), id="starts inside a cell"),
        pytest.param(Box(0, 0, 20, 16), Box(0, 0, 16, 16), id="outside the window"),
        pytest.param(Box(0, 0, 16, 16), Box(0, 0, 32, 16), id="array too small"),
    ],
)
def test_refuses_what_does_not_fit(box: Box, window: Box) -> None:
    with pytest.raises(ValueError, match="Box"):
        mask_from_probability(np.zeros((2, 4, 4), np.uint8), 4, box, window)
