"""The picture of a region as a model would see it is what the network is fed, without mean and deviation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_xt.engine.plan import plan
from napari_xt.engine.seen import seen_region
from napari_xt.io.image import open_image
from small_model import SMALL, small_model, squares

PLAIN = replace(SMALL, scale_um=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
ONE = replace(SMALL, in_channels=1, channel_names=("DAPI",), mean=(0.0,), std=(1.0,), scale_um=None)


@pytest.mark.parametrize("options", [{}, {"intensity": "percentile"}, {"channels": (2, 0, 1)}])
def test_it_is_what_the_network_gets(options: dict[str, Any]) -> None:
    model = small_model(PLAIN)
    image = open_image(squares((300, 400)), pixel_size="1 um")
    made = plan(image, model, **options)
    shown = seen_region(image, made, (100, 200))
    rows, cols = made.grid.region(100 // 64, 200 // 64).inner.slices
    fed = model.prepare(squares((300, 400)).transpose(2, 0, 1)[:, rows, cols], made.channels, limits=made.limits)
    np.testing.assert_allclose(shown.transpose(2, 0, 1), fed.numpy() * 255, atol=0.5)


def test_it_is_resampled_to_the_models_scale() -> None:
    image = open_image(squares((256, 256)), pixel_size="0.5 um")
    made = plan(image, small_model(PLAIN))
    assert made.resampled
    assert seen_region(image, made).shape == (64, 64, 3)


@pytest.mark.parametrize("at", [None, (0, 0), (299, 399), (-50, 10_000)])
def test_one_channel_is_grey_wherever_it_is(at: tuple[float, float] | None) -> None:
    image = open_image(squares((300, 400))[..., 0])
    shown = seen_region(image, plan(image, small_model(ONE)), at)
    assert shown.dtype == np.uint8
    assert shown.any()
    assert (shown[..., 0] == shown[..., 2]).all()
