"""`XT.prepare`: the same bits as the arithmetic it states, whatever it is put into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_xt.errors import ModelError
from napari_xt.model.intensity import between
from napari_xt.model.xt import XT
from small_model import SMALL

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def model() -> XT:
    return XT(replace(SMALL, mean=MEAN, std=STD)).eval()


def stated(pixels: np.ndarray) -> np.ndarray:
    """Pass by pass over all channels at once: scaled, normalised, made finite."""
    values = pixels.astype(np.float32)
    if pixels.dtype.kind in "iu":
        values /= np.iinfo(pixels.dtype).max
    values = (values - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def every_value(dtype: str) -> np.ndarray:
    """Three channels with all values of a dtype, or many of one that has too many."""
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        one = np.linspace(info.min, info.max, 65536).astype(dtype).reshape(256, 256)
    else:
        one = np.random.default_rng(0).normal(0.5, 1, (256, 256)).astype(dtype)
        one[0, :4], one[5, 7] = (np.nan, np.inf, -np.inf, 0), np.nan
    return np.stack([one, one[::-1], one.T])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64"])
def test_it_is_the_stated_arithmetic_to_the_bit(dtype: str, model: XT) -> None:
    pixels = every_value(dtype)
    found = model.prepare(pixels)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.equal(found, torch.from_numpy(stated(pixels)))
    part = pixels[:, 3:99, 5:131]  # as a patch is cut
    assert torch.equal(model.prepare(part, (2, 0, 1)), torch.from_numpy(stated(part[[2, 0, 1]])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_fills_what_it_is_given(dtype: torch.dtype, model: XT) -> None:
    pixels = every_value("uint8")
    batch = torch.empty(2, 3, 256, 256, dtype=dtype).contiguous(memory_format=torch.channels_last)
    assert model.prepare(pixels, None, batch[1]).data_ptr() == batch[1].data_ptr()
    assert torch.equal(batch[1], model.prepare(pixels).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_hidden_is_the_mean(dtype: torch.dtype, model: XT) -> None:
    pixels, hidden = every_value("uint8"), np.zeros((256, 256), bool)
    hidden[40:90, 10:50] = True
    out = torch.empty(2, 3, 256, 256, dtype=dtype).contiguous(memory_format=torch.channels_last)[1]
    found = model.prepare(pixels, None, out, hidden)
    expected = model.prepare(pixels).to(dtype)
    expected[:, 40:90, 10:50] = 0
    assert torch.equal(found, expected)


def test_the_wrong_number_of_channels_is_told(model: XT) -> None:
    with pytest.raises(ModelError, match="2 channels: the model wants 3"):
        model.prepare(every_value("uint8"), (0, 1))


LIMITS = ((-40.0, 200.0), (0.25, 0.75), (7.0, 7.0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64", "bool"])
def test_limits_become_0_and_1_and_nothing_lies_beyond(dtype: str, model: XT) -> None:
    pixels = every_value(dtype) if dtype != "bool" else every_value("uint8") > 100
    wide = pixels.astype(np.float64)
    wide[~np.isfinite(wide)] = np.nan
    expected = [
        np.where(np.isnan(one), np.nan, (np.clip((one - a) / (b - a), 0, 1) if a < b else one > a))
        for one, (a, b) in zip(wide, LIMITS, strict=True)
    ]
    scaled = (np.stack(expected) - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    found = model.prepare(pixels, limits=LIMITS).numpy()
    np.testing.assert_allclose(found, np.nan_to_num(scaled), rtol=0, atol=2e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("limits", [((0.0, 0.0),) * 3, ((-1e308, 1e308),) * 3, ((3.0, 3.0 + 1e-12),) * 3], ids=str)
def test_whatever_the_limits_what_comes_out_is_finite(limits: tuple[tuple[float, float], ...], model: XT) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1e308, -1e308, 0, 3]])
    for pixels in (np.stack([values] * 3), np.zeros((3, 1, 7), np.uint16)):
        assert torch.isfinite(model.prepare(pixels, limits=limits)).all()


def test_what_is_scaled_before_comes_out_the_same(model: XT) -> None:
    pixels = every_value("uint16")
    limits = ((100.0, 40_000.0), (0.0, 65_535.0), (5.0, 6.0))
    before = np.stack([between(one, pair) for one, pair in zip(pixels, limits, strict=True)])
    assert torch.equal(model.prepare(before), model.prepare(pixels, limits=limits))
