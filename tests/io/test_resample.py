from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.geometry import Box
from napari_xt.io.image import open_image
from napari_xt.io.images.resample import read_run

SIDES = st.integers(20, 90)


@given(SIDES, SIDES, SIDES, SIDES, st.data())
def test_a_pixel_is_the_same_whatever_box_it_is_read_with(
    h: int, w: int, h2: int, w2: int, data: st.DataObject
) -> None:
    image = open_image(np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8))
    whole = read_run(image, 0, (h2, w2), Box(0, 0, h2, w2))
    assert whole.shape == (3, h2, w2)
    y0, x0 = data.draw(st.integers(0, h2 - 1)), data.draw(st.integers(0, w2 - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, h2)), data.draw(st.integers(x0 + 1, w2)))
    np.testing.assert_array_equal(read_run(image, 0, (h2, w2), box), whole[(slice(None), *box.slices)])


@given(SIDES, SIDES)
def test_a_constant_stays_what_it_is(before: int, after: int) -> None:
    image = open_image(np.full((before, before), 200, np.uint8))
    assert (read_run(image, 0, (after, after), Box(0, 0, after, after)) == 200).all()


def test_halving_is_the_mean_of_four() -> None:
    pixels = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    halved = read_run(open_image(pixels), 0, (20, 30), Box(0, 0, 20, 30))[0]
    np.testing.assert_allclose(halved, pixels.reshape(20, 2, 30, 2).mean((1, 3)), rtol=1e-5)


def test_doubling_keeps_a_ramp_straight() -> None:
    pixels = np.arange(20, dtype=np.float32)[None].repeat(20, 0)
    doubled = read_run(open_image(pixels), 0, (40, 40), Box(0, 0, 40, 40))[0]
    np.testing.assert_allclose(doubled[5, 1:-1], (np.arange(1, 39) + 0.5) / 2 - 0.5, atol=1e-5)
