"""Channels matched by name, and limits of their values measured on little of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import napari_xt as xt
from napari_xt.errors import ImageReadError
from napari_xt.io.images import intensity
from napari_xt.io.images.channels import guess, index_of, named
from napari_xt.io.images.intensity import measured_limits

RNG = np.random.default_rng(0)
ENDS = (0.1, 99.9)


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        pytest.param("red green blue", "Blue Green Red NIR", (2, 1, 0), id="equal names in any order"),
        pytest.param("red green blue", "red green blue alpha", (0, 1, 2), id="alpha is not named"),
        pytest.param("nucleus", "GFP DAPI", (1,), id="another word"),
        pytest.param("nucleus membrane", "WGA-488 Hoechst_33342", (1, 0), id="a word of a name"),
        pytest.param("nucleus", "DAPI Hoechst", None, id="two that fit"),
        pytest.param("nucleus", "DAPI nucleus", (1,), id="equal before alike"),
        pytest.param("nucleus dna", "DAPI GFP", None, id="one for two"),
        pytest.param("nucleus membrane", "DAPI GFP", None, id="one that is not there"),
        pytest.param("channel_0 channel_1", "channel_1 channel_0 channel_2", None, id="numbers are no names"),
        pytest.param("NIR", "Near-Infrared red", (0,), id="punctuation"),
        pytest.param("actin", "factory", None, id="part of a word"),
    ],
)
def test_channels_are_guessed(wanted: str, there: str, found: tuple[int, ...] | None) -> None:
    assert guess(wanted.split(), there.split()) == found


def test_what_a_name_is() -> None:
    assert [name for name in ("channel 3", "C1", "7", "", "DAPI", "c", "\u7d30\u80de\u6838") if named(name)] == [
        "DAPI",
        "\u7d30\u80de\u6838",
    ]
    assert index_of("dapi", ("GFP", "DAPI")) == 1
    assert index_of("dapi", ("dapi", "DAPI")) == 0
    assert index_of("dapi", ("Dapi", "DAPI")) is None


def pixels(shape: tuple[int, int] = (300, 400)) -> np.ndarray:
    return np.stack([RNG.integers(100, 4000, shape), RNG.normal(500, 20, shape).clip(0)]).astype(np.uint16)


def test_limits_are_the_percentiles_of_a_small_image() -> None:
    image = pixels()
    found = measured_limits(xt.open_image(image), (1, 0), ENDS)
    assert found == tuple(tuple(np.percentile(image[i], ENDS)) for i in (1, 0))


def test_a_coarse_level_of_the_file_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "LOOK_PX", 200 * 200)
    fine = pixels((400, 400))
    coarse = fine[:, ::4, ::4] + 7
    found = measured_limits(xt.open_image([fine, fine[:, ::2, ::2] + 5, coarse]), (0,), ENDS)
    assert found == (tuple(np.percentile(fine[0, ::2, ::2] + 5, ENDS)),)


def test_squares_where_no_level_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "LOOK_PX", 64 * 64)
    image = pixels((3000, 2500))
    found = measured_limits(xt.open_image(image), (0, 1), ENDS)
    whole = [np.percentile(one, ENDS) for one in image]
    np.testing.assert_allclose(found, whole, rtol=0.05)
    assert found == measured_limits(xt.open_image(image), (0, 1), ENDS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (70, 33)])
def test_any_shape_has_limits(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "LOOK_PX", 16 * 16)
    ((low, high),) = measured_limits(xt.open_image(np.full(shape, 9, np.uint8)), (0,), ENDS)
    assert low == high == 9


def test_what_is_no_picture_does_not_count(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., :3], rgba[:32, :, 3] = 200, 255
    rgba[:32, :, :3] = RNG.integers(50, 60, (32, 64, 3))
    assert measured_limits(xt.open_image(rgba), (0, 1, 2), (0, 100)) == ((50, 59),) * 3
    assert measured_limits(xt.open_image(rgba), (0, 3), (0, 100)) == ((50, 200), (0, 255))  # alpha is fed
    path = tmp_path / "a.tif"
    tags = [(42113, "s", 0, "200", True)]
    tifffile.imwrite(path, rgba[..., :3], tile=(64, 64), photometric="rgb", extratags=tags)
    with xt.open_image(path) as image:
        assert measured_limits(image, (0, 1, 2), (0, 100)) == ((50, 59),) * 3
    real = np.full((64, 64), np.nan, np.float32)
    real[0, :3] = 1, 2, np.inf
    assert measured_limits(xt.open_image(real), (0,), (0, 100)) == ((1, 2),)


def test_where_percentiles_coincide_the_extremes_stand_for_them() -> None:
    sparse = np.zeros((200, 200), np.uint16)
    sparse[3, 3] = 900
    assert measured_limits(xt.open_image(sparse), (0,), ENDS) == ((0, 900),)
    nothing = np.full((20, 20), np.nan, np.float32)
    assert measured_limits(xt.open_image(nothing), (0,), ENDS) == ((0, 0),)


def test_a_damaged_level_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "LOOK_PX", 256 * 256)
    fine = pixels((1024, 1024))
    levels = [
        zarr.create_array(tmp_path / name, data=data, chunks=(1, 128, 128), compressors=None)
        for name, data in (("0", fine), ("1", fine[:, ::4, ::4].copy()))
    ]
    whole = measured_limits(xt.open_image(levels), (0,), ENDS)
    (tmp_path / "1/c/0/0/0").write_bytes(b"cut")
    np.testing.assert_allclose(measured_limits(xt.open_image(levels), (0,), ENDS), whole, rtol=0.05)
    for chunk in (tmp_path / "0/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"cut")
    with pytest.raises(ImageReadError):
        measured_limits(xt.open_image(levels), (0,), ENDS)


def test_an_open_image_is_looked_at_once_for_each_plane() -> None:
    reads = []

    class Counted(np.ndarray):
        def __getitem__(self, key: object) -> np.ndarray:
            reads.append(key)
            return np.asarray(self)[key]  # type: ignore[index]

    image = xt.open_image(pixels().view(Counted))
    one = measured_limits(image, (0,), ENDS)
    count = len(reads)
    assert measured_limits(image.with_plane({}), (0,), ENDS) == one
    assert len(reads) == count > 0
    assert measured_limits(image, (1,), ENDS) != one
    assert len(reads) > count
