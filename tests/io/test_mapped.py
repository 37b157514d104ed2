"""Pixels that lie in a file as they are: any part of them, and files that shrink or vanish while they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image
from napari_xt.io.images.mapped import MappedArray


def keys(length: int) -> st.SearchStrategy[Any]:
    bounds = st.none() | st.integers(-length - 2, length + 2)
    steps = st.none() | st.integers(1, 5)
    return st.integers(-length, length - 1) | st.builds(slice, bounds, bounds, steps)


@given(data=st.data(), shape=st.sampled_from([(7, 9), (40, 3000), (5, 6, 3), (3, 4, 5000), (2, 3, 4, 5), (1, 1), (9,)]))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f8"])
def test_parts(tmp_path_factory: pytest.TempPathFactory, order: Any, dtype: str, data: Any, shape: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "pixels"
    pixels = np.arange(np.prod(shape)).astype(dtype).reshape(shape, order=order)
    path.write_bytes(b"head!" + pixels.tobytes(order))
    key = data.draw(st.tuples(*(keys(length) for length in shape[: data.draw(st.integers(0, len(shape)))])))
    read = MappedArray(str(path), 5, shape, np.dtype(dtype), order)[key]
    np.testing.assert_array_equal(read, pixels[key])
    assert read.dtype == pixels.dtype.newbyteorder("=")


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
@pytest.mark.parametrize("box", [Box(1990, 1990, 2000, 2000), Box(0, 0, 2000, 2000)], ids=["part", "whole"])
def test_a_file_that_shrinks_or_vanishes(tmp_path: Path, name: str, box: Box) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (2000, 2000)).astype("u2")
    if name.endswith("npy"):
        np.save(tmp_path / name, pixels)
    else:
        tifffile.imwrite(tmp_path / name, pixels, rowsperstrip=2000, metadata=None)
    with open_image(tmp_path / name) as image:
        np.testing.assert_array_equal(image.read(Box(0, 0, 9, 9))[0], pixels[:9, :9])
        os.truncate(tmp_path / name, 5000)
        with pytest.raises(ImageReadError, match=r"a\.(npy|tif).*cut short"):
            image.read(box)
        (tmp_path / name).unlink()
        with pytest.raises(ImageReadError, match=r"a\.(npy|tif)"):
            image.read(box)
