"""Large images whose files hold one level: shown at once, filled in from the middle, damaged parts left empty."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from napari.layers import Layer

from napari_xt.io.image import open_image
from napari_xt.plugin.images import filling, level
from napari_xt.plugin.reader import image_layers, read_layers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (4500, 2300)
CHUNK = 256


@pytest.fixture(autouse=True)
def _small_is_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "LIGHT_PX", 1000)
    monkeypatch.setattr(filling, "BLOCK_PX", 512)
    monkeypatch.setattr(filling, "SHOW_EVERY_S", 0.05)


class Scene:
    """An array ``(y, x)``, ``(y, x, 3)`` or ``(c, y, x)`` that takes no memory; tells which chunks were read."""

    ndim: int

    def __init__(self, axes: str = "yxc", dtype: str = "u1") -> None:
        self._axes, self.dtype = axes, np.dtype(dtype)
        sizes = {"y": (SHAPE[0], CHUNK), "x": (SHAPE[1], CHUNK), "c": (3, 1 if axes[0] == "c" else 3)}
        self.shape, self.chunks = (tuple(sizes[axis][k] for axis in axes) for k in (0, 1))
        self.ndim = len(axes)
        self.read, self.bad = 0, -1
        self.gate = threading.Event()
        self.gate.set()

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if threading.current_thread().name == "napari-xt-filling":
            self.gate.wait(30)
        keys = [*(key if isinstance(key, tuple) else (key,)), *[slice(None)] * self.ndim][: self.ndim]
        place = [np.arange(n)[k] for n, k in zip(self.shape, keys, strict=True)]
        at = dict(zip(self._axes, np.ix_(*(np.atleast_1d(p) for p in place)), strict=True))
        self.read += at["y"].size * at["x"].size
        if self.bad in at["y"] and self.bad in at["x"]:
            raise OSError("a bad sector")
        values = (at["y"] * 3 ^ at["x"] * 5) + at.get("c", 0) * 7
        lengths = [p.shape for p in place]
        return values.astype(self.dtype).reshape([n for shape in lengths for n in shape])


def layers_of(scene: Any) -> list[Any]:
    return [Layer.create(*data) for data in image_layers(open_image(scene))]


def wait(ready: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)
    return ready()


def filling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "napari-xt-filling"]


@pytest.mark.parametrize(
    ("axes", "dtype"), [("yxc", "u1"), ("cyx", "u1"), ("cyx", "u2"), ("yx", "u2"), ("yx", "f4")], ids=str
)
def test_filled_levels_are_those_that_would_be_computed(axes: str, dtype: str) -> None:
    scene = Scene(axes, dtype)
    image = open_image(scene)
    layers = [Layer.create(*data) for data in image_layers(image)]
    assert wait(lambda: not filling_threads())
    coarsest = np.asarray(image.levels[-1])
    for index, layer in enumerate(layers):
        assert isinstance(layer.data[-1], np.ndarray)
        assert layer.data[-1].flags.c_contiguous
        wanted = coarsest[index] if len(layers) > 1 else coarsest
        wanted = np.moveaxis(wanted, 0, -1) if wanted.shape[0] == 3 else wanted
        np.testing.assert_array_equal(layer.data[-1], wanted)


def test_it_opens_with_a_few_chunks_and_is_empty_until_it_is_there() -> None:
    scene = Scene("yx", "f4")
    scene.gate.clear()
    try:
        (layer,) = layers_of(scene)
        assert scene.read < SHAPE[0] * SHAPE[1] / 2
        assert np.isnan(layer.data[-1]).all()
        low, high = layer.contrast_limits
        assert 0 <= low < high
        exact = np.asarray(layer.data[1][100:110, 200:210])
    finally:
        scene.gate.set()
    assert wait(lambda: not np.isnan(layer.data[-1]).any())
    expected = np.asarray(scene[200:220, 400:420]).reshape(10, 2, 10, 2).mean((1, 3))
    np.testing.assert_allclose(exact, expected)


def test_what_takes_too_much_work_is_shown_from_coarser_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "MOST_WORK", 10_000)
    monkeypatch.setattr(filling, "HELD_BYTES", 1125 * 575)  # the third level and the last
    monkeypatch.setattr(filling, "LIGHT_PX", 1000)
    scene = Scene("yx", "u2")
    (layer,) = layers_of(scene)
    assert wait(lambda: not filling_threads())
    before = scene.read
    shown = layer.data[1].shown({"y": slice(0, 200), "x": slice(0, 100)})
    assert scene.read == before
    behind = np.asarray(layer.data[1].behind)
    rows, cols = (np.arange(n) * b // s for n, b, s in zip((200, 100), behind.shape, layer.data[1].shape, strict=True))
    np.testing.assert_array_equal(shown, behind[np.ix_(rows, cols)])


def test_a_damaged_block_stays_empty_and_is_told_once() -> None:
    scene = Scene("yx", "f4")
    scene.bad = 600
    (layer,) = layers_of(scene)
    assert wait(lambda: not filling_threads())
    empty = np.isnan(layer.data[-1])
    assert empty.any()
    assert empty.mean() < 0.2
    factor = 2 ** (len(layer.data) - 1)
    assert empty[600 // factor, 600 // factor]
    faults = layer.data[0].watch.faults
    assert [fault.why for fault in faults if "bad sector" in fault.why] == [fault.why for fault in faults]
    assert len(faults) == 1


def test_it_ends_with_the_layer() -> None:
    scene = Scene("yx", "u2")
    scene.gate.clear()
    layers = layers_of(scene)
    assert filling_threads()
    del layers
    gc.collect()
    scene.gate.set()
    assert wait(lambda: not filling_threads())
    assert scene.read < SHAPE[0] * SHAPE[1] / 2


def test_a_stack_opens_without_its_pixels(tmp_path: Path) -> None:
    stack = zarr.create_array(
        str(tmp_path / "a.zarr"),
        shape=(3, *SHAPE),
        chunks=(1, CHUNK, CHUNK),
        dtype="u2",
        dimension_names=("z", "y", "x"),
    )
    stack[1] = 7
    (data,) = read_layers(tmp_path / "a.zarr")
    assert data[1]["axis_labels"] == ("z", "y", "x")
    assert data[1]["contrast_limits"] == (0, 65535)


def test_a_small_image_is_whole_when_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "LIGHT_PX", 2**30)
    (layer,) = layers_of(Scene("yx", "u2"))
    assert not filling_threads()
    assert np.asarray(layer.data[-1]).all()


def test_a_viewer_shows_what_came(slicing: str, make_napari_viewer: Callable[..., Any], qtbot: Any) -> None:
    assert slicing
    scene = Scene("yx", "u2")
    scene.gate.clear()
    viewer = make_napari_viewer()
    try:
        ((data, style, _),) = image_layers(open_image(scene))
        layer = viewer.add_image(data, **style)
        layer.data_level = len(layer.data) - 1
        assert not np.asarray(layer.data[-1]).any()
    finally:
        scene.gate.set()
    qtbot.waitUntil(
        lambda: bool(np.asarray(layer._data_view).all() and np.size(layer._data_view) > 10_000), timeout=20_000
    )
    qtbot.waitUntil(lambda: not filling_threads(), timeout=20_000)
