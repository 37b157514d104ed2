"""The number that a file of whole numbers names for no-data goes along, and is in no mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import napari_xt as xt
from napari_xt.io.conversion.sweep import area_mean


def tiff(path: Path, pixels: np.ndarray, stated: str = "0") -> Path:
    tags = [(42113, "s", 0, stated, True)]
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="minisblack", extratags=tags)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_no_data_is_read_back_and_stays_out_of_the_means(
    version: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_xt.io.conversion.target.COARSEST_PX", 64)
    pixels = np.full((200, 260), 1000, np.uint16)
    pixels[:77, 31:] = 0
    out = xt.convert(tiff(tmp_path / "a.tif", pixels), tmp_path / "a.ome.zarr", version=version, chunks=64)
    with xt.open_image(out) as image:
        assert image.nodata == 0
        assert len(image.levels) == 4
        for level in image.levels:
            values, counts = np.unique(np.asarray(level), return_counts=True)
            assert values.tolist() == [0, 1000]
            assert abs(counts[0] / counts.sum() - 0.339) < 0.03
    with xt.open_image(xt.convert(out, tmp_path / "b.ome.zarr", chunks=32)) as again:
        assert again.nodata == 0


def test_what_names_none_has_none(tmp_path: Path) -> None:
    out = xt.convert(tiff(tmp_path / "a.tif", np.zeros((80, 80), np.uint8), "300"), tmp_path / "a.ome.zarr")
    assert "nodata" not in (out / "zarr.json").read_text()
    with xt.open_image(out) as image:
        assert image.nodata is None


@pytest.mark.parametrize("stated", ['"7"', "7.5", "-1", "true", "null", "[0]", "1e400"])
def test_nonsense_in_the_attribute_is_none(stated: str, tmp_path: Path) -> None:
    out = xt.convert(tiff(tmp_path / "a.tif", np.zeros((80, 80), np.uint8), "9"), tmp_path / "a.ome.zarr")
    file = out / "zarr.json"
    text = file.read_text()
    assert '"napari-xt:nodata": 9' in text
    file.write_text(text.replace('"napari-xt:nodata": 9', f'"napari-xt:nodata": {stated}'))
    with xt.open_image(out) as image:
        assert image.nodata == (7 if stated == '"7"' else None)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8"])
def test_means_without_no_data_are_exact(dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 100, (3, 41, 58)).astype(dtype)
    rows[rng.random(rows.shape) < 0.4] = 5
    found = area_mean(rows, 5)
    padded = np.pad(rows.astype(np.float64), ((0, 0), (0, 1), (0, 0)), constant_values=5)
    parts = np.stack([padded[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
    counts = (parts != 5).sum(axis=0)
    sums = np.where(parts != 5, parts, 0).sum(axis=0)
    expected = np.where(counts > 0, np.floor(sums / np.maximum(counts, 1) + 0.5), 5)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(area_mean(rows, 200 if dtype == "u1" else -1), area_mean(rows))
