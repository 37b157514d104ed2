"""Arrays that numpy saved: mapped, never unpickled, refused quickly where they lie."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_xt.errors import ImageFormatError, XTError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image


@pytest.mark.parametrize(
    ("shape", "axes"), [((40, 50), "yx"), ((40, 50, 3), "yxc"), ((40, 50, 4), "yxc"), ((5, 40, 50), "cyx")]
)
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "?", "f2", ">f8", "u8", "i1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(tmp_path: Path, shape: tuple[int, ...], axes: str, dtype: str, order: Any) -> None:
    data = np.asarray(np.random.default_rng(0).integers(0, 2, shape).astype(dtype), order=order)
    np.save(tmp_path / "scene.npy", data)
    with open_image(tmp_path / "scene.npy") as image:
        assert (image.name, image.axes, image.shape) == ("scene", axes, (40, 50))
        assert image.dtype == data.dtype.newbyteorder("=")
        wanted = np.moveaxis(data, -1, 0) if axes == "yxc" else data.reshape(-1, 40, 50)
        box = Box(3, 4, 40, 49)
        np.testing.assert_array_equal(image.read(box), wanted[:, *box.slices])


def test_a_large_one_is_mapped(tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "u1", (40_000, 50_000))
    mapped[30_000, 40_000] = 7
    del mapped
    before = psutil.Process().memory_info().rss
    image = open_image(tmp_path / "a.npy")
    assert image.read(Box(30_000, 40_000, 30_002, 40_002))[0].tolist() == [[7, 0], [0, 0]]
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert len(image.level_shapes) > 3


class Bad:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/was-executed"),))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[Bad(), Bad()]], object), allow_pickle=True)
    with pytest.raises(ImageFormatError, match=r"a\.npy: holds Python objects"):
        open_image(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ImageFormatError):
        open_image(tmp_path / "b.npy")
    assert not Path("/tmp/was-executed").exists()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text.encode()


FORGED = {
    "huge": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 10000000), }\n"), "cut short"),
    "beyond": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 10**9), }\n"), "damaged"),
    "negative": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-5, -5), }\n"), "cut short"),
    "code": (header("{'descr': '|u1', 'fortran_order': False, 'shape': __import__('os').getcwd(), }\n"), "damaged"),
    "complex": (header("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }\n") + b"\0" * 8, "complex64"),
    "records": (
        header("{'descr': [('a', '<u1')], 'fortran_order': False, 'shape': (1, 1), }\n") + b"\0",
        "not understood",
    ),
    "dates": (header("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1, 1), }\n") + b"\0" * 8, "datetime"),
    "no-pixels": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 5), }\n"), "no pixels"),
    "scalar": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (), }\n") + b"\0", "not understood"),
    "volume": (header("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4, 5), }\n") + b"\0" * 120, "shape"),
    "long-header": (header(" " * 20_000, (2, 0)), "damaged"),
    "deep": (header("(" * 5000), "damaged"),
    "version-9": (header("{}", (9, 0)), "damaged"),
    "cut": (b"\x93NUMPY", "damaged"),
}


@pytest.mark.parametrize(("content", "says"), FORGED.values(), ids=FORGED)
def test_forged_headers(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ImageFormatError, match=says) as caught:
        open_image(tmp_path / "a.npy")
    assert len(str(caught.value)) <= 280


@given(st.binary(max_size=200), st.integers(0, 127))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int) -> None:
    path = tmp_path_factory.mktemp("any") / "a.npy"
    np.save(path, np.zeros((4, 5), "u1"))
    content = path.read_bytes()
    path.write_bytes(content[:place] + junk + content[place + len(junk) :])
    try:
        image = open_image(path)
        image.read(Box(0, 0, *image.shape))
    except XTError as error:
        assert "\n" not in str(error)  # noqa: PT017
