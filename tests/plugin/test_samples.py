"""The samples under File > Open Sample: each is what its name says, and opens at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from npe2 import PluginManifest

from napari_xt.io.computed.nuclei import NUCLEI, nuclei
from napari_xt.plugin.sample_data import fluorescence, mosaic


def test_mosaic_is_large_and_comes_at_once() -> None:
    began = time.monotonic()
    (layer,) = [Layer.create(*data) for data in mosaic()]
    assert time.monotonic() - began < 20
    assert isinstance(layer, Image)
    assert layer.data[0].shape == (25_000, 29_000, 3)
    assert max(layer.data[-1].shape[:2]) <= 2048
    assert [str(unit) for unit in layer.units] == ["meter", "meter"]
    assert np.ptp(np.asarray(layer.data[0][20_000:20_040, 28_000:28_040])) > 0


def test_fluorescence_field_has_its_truth() -> None:
    field, truth = [Layer.create(*data) for data in fluorescence()]
    assert isinstance(truth, Labels)
    assert (field.visible, truth.visible) == (True, False)
    np.testing.assert_allclose(field.scale, truth.scale)
    inside = truth.data > 0
    assert 0.05 < inside.mean() < 0.3
    assert np.median(field.data[inside]) > 4 * np.median(field.data[~inside])
    assert 0.8 * NUCLEI < len(np.unique(truth.data)) - 1 <= NUCLEI
    again = nuclei.__wrapped__()
    np.testing.assert_array_equal(again[0], field.data)


@pytest.mark.parametrize("key", ["canopy", "canopy-mosaic", "context-proof", "fluorescence"])
def test_samples_open_in_napari(make_napari_viewer: Callable[..., Any], key: str) -> None:
    manifest = PluginManifest.from_distribution("napari-xt")
    assert key in [sample.key for sample in manifest.contributions.sample_data or ()]
    viewer = make_napari_viewer()
    viewer.open_sample("napari-xt", key)
    assert len(viewer.layers) >= 1
