"""Whether a model fits an image, in words: channels by number and name, pixel sizes, what is not known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_xt.engine.fits import fit
from napari_xt.engine.settings import RunSettings
from napari_xt.io.image import open_image
from small_model import SMALL

RGB = (64, 64, 3)


def wants(**config: Any) -> Any:
    return SimpleNamespace(name="small", config=replace(SMALL, **config))


def one(name: str) -> dict[str, Any]:
    return {"in_channels": 1, "channel_names": (name,), "mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize(
    ("config", "shape", "size", "text"),
    [
        pytest.param({"scale_um": None}, RGB, None, "fits", id="any scale"),
        pytest.param({"scale_um": 0.5}, RGB, "0.5 um", "fits", id="its scale"),
        pytest.param({"scale_um": 0.5}, RGB, "0.25 um", "fits: resampled 0.25 -> 0.5 um", id="resampled"),
        pytest.param({"scale_um": 0.5}, RGB, "0.45 um", "fits", id="near"),
        pytest.param({"scale_um": 0.5}, RGB, None, "fits: pixel size not known", id="no scale"),
        pytest.param({"scale_um": None}, (64, 64), None, "wants 3 channels, the image has 1", id="grey"),
        pytest.param({"scale_um": None, **one("any")}, (64, 64), None, "fits", id="one of one"),
        pytest.param({"scale_um": None, **one("any")}, RGB, None, "wants 1 channel, the image has 3", id="one of 3"),
    ],
)
def test_in_words(config: dict[str, Any], shape: tuple[int, ...], size: str | None, text: str) -> None:
    with open_image(np.zeros(shape, np.uint8), pixel_size=size) as image:
        found = fit(image, wants(**config))
    assert found.text.removeprefix("does not fit: ") == text
    assert found.good == found.text.startswith("fits")


@pytest.mark.parametrize(
    ("settings", "good"), [({"channels": (0, 1, 2)}, True), ({"channels": (0, 9, 2)}, False), ({"level": 4}, False)]
)
def test_what_is_chosen_counts(settings: dict[str, Any], good: bool) -> None:
    with open_image(np.zeros((64, 64, 3), np.uint8)) as image:
        found = fit(image, wants(scale_um=None), RunSettings.of(**settings))
    assert found.good is good, found.text
