"""What is converted and exported opens in napari's other reader of OME-Zarr, in the same place and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import export_case as case
import numpy as np
import pytest
from napari_ome_zarr import napari_get_reader

import napari_xt as xt
from napari_xt.io.convert import Version


def layers(path: Path) -> list[Any]:
    read = napari_get_reader(str(path))
    assert read is not None
    return list(read(str(path)))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_converted_image(tmp_path: Path, version: Version) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 300, 200), np.uint8)
    plain = xt.convert(pixels, tmp_path / "a.ome.zarr", version=version, pixel_size="0.5 um")
    ((levels, told, kind),) = layers(plain)
    assert (kind, told["channel_axis"], told["scale"]) == ("image", 0, [0.5, 0.5])
    assert told["units"] == ("micrometer", "micrometer")
    np.testing.assert_array_equal(np.asarray(levels[0]), pixels)


def test_an_exported_mask(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr")
    (_, picture, _), (levels, told, kind) = layers(xt.export(prediction, tmp_path / "a.ome.zarr"))
    assert (kind, told["scale"], picture["scale"]) == ("labels", [0.5, 0.25], [0.5, 0.25])
    assert told["properties"]["class"][:3] == ["background", "crown", "rock"]
    np.testing.assert_allclose(np.array(told["colormap"][1]) * 255, prediction.layout.rgba(1))
    mask, known = np.asarray(levels[0]), np.ones(case.SHAPE, bool)
    known[case.GRID.region(*divmod(case.FAILED, case.GRID.shape[1])).inner.slices] = False
    np.testing.assert_array_equal(mask[known], np.asarray(prediction.mask[0])[known])
