"""Damaged, slow and vanished files in a real viewer: parts come empty with one sentence, and nothing freezes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from napari.utils.notifications import notification_manager

from napari_xt.errors import ImageReadError
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.source import Source, Wrapped
from napari_xt.plugin.images import level as level_module
from napari_xt.plugin.images import looks
from napari_xt.plugin.images.level import Level
from napari_xt.plugin.reader import image_layers, read_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIDE, CHUNK = 1024, 128
ZOOM = (1.5, 0.4)  # that show level 0 and 1
BAD = (1, 2)  # row and column of the damaged chunk
PIXELS = np.random.default_rng(0).integers(50, 250, (SIDE, SIDE)).astype("u1")


def pyramid(path: Path, pixels: Any = PIXELS, axes: str = "yx") -> Path:
    group, datasets = zarr.create_group(path), []
    for level in range(3):
        step = tuple(slice(None, None, 2**level if axis in "yx" else None) for axis in axes)
        data = np.ascontiguousarray(pixels[step])
        group.create_array(str(level), data=data, chunks=tuple(min(n, CHUNK) for n in data.shape))
        scale = [2.0**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    named = [{"name": axis, "type": "space"} for axis in axes]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": named, "datasets": datasets}]}
    return path


def chunk(path: Path, level: int) -> Path:
    return path / str(level) / "c" / str(BAD[0]) / str(BAD[1])


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What napari says, errors that it caught included."""
    texts: list[str] = []

    def keep(event: Any) -> None:
        texts.append(event.message)

    notification_manager.notification_ready.connect(keep)
    yield texts
    notification_manager.notification_ready.disconnect(keep)


def settle(viewer: Any, qtbot: Any, ready: Callable[[], bool] = lambda: True) -> None:
    """Let the view be fetched."""
    qtbot.waitUntil(lambda: all(layer.loaded for layer in viewer.layers) and ready(), timeout=20_000)


def look_at(viewer: Any, y: float, x: float, zoom: float) -> None:
    viewer.scene.camera.center, viewer.scene.camera.zoom = (y, x), zoom


def whole(layer: Any, level: int) -> np.ndarray:
    """What the layer holds of its view at one level, put into an array of the level's size; 1 where it holds none."""
    out = np.ones(layer.data[level].shape, "u1")
    y, x = layer.corner_pixels[0].astype(int)
    part = layer._slice.image.raw
    out[y : y + part.shape[0], x : x + part.shape[1]] = part
    return out


@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_chunk_is_empty(
    tmp_path: Path, level: int, slicing: str, make_napari_viewer: Any, qtbot: Any, said: list[str]
) -> None:
    path = pyramid(tmp_path / "a.ome.zarr")
    good = chunk(path, level).read_bytes()
    chunk(path, level).write_bytes(good[: len(good) // 2])
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(500, 400)
    (layer,) = [viewer._add_layer_from_data(*d)[0] for d in read_layers(path)]
    y, x = (CHUNK * 2**level * (n + 0.5) for n in BAD)
    random = np.random.default_rng(1)
    for _ in range(10):
        dy, dx = random.uniform(-1, 1, 2) * CHUNK * 2**level
        look_at(viewer, y + dy, x + dx, ZOOM[level])
        qtbot.wait(20)
        settle(viewer, qtbot)
    look_at(viewer, y, x, ZOOM[level])
    settle(viewer, qtbot, lambda: layer.data_level == level)
    expected = PIXELS[:: 2**level, :: 2**level].copy()
    bad = tuple(slice(n * CHUNK, (n + 1) * CHUNK) for n in BAD)
    expected[bad] = 0
    shown = whole(layer, level)
    assert (shown[bad] == 0).all()
    np.testing.assert_array_equal(shown[shown != 1], expected[shown != 1])
    assert len(said) == 1
    assert f"level {level} at y={BAD[0] * CHUNK}, x={BAD[1] * CHUNK}" in said[0]
    assert all(fault.box.slices == bad for fault in layer.data[0].watch.faults)
    with pytest.raises(ImageReadError, match="can't be read"):
        layer.data[level][bad]
    chunk(path, level).write_bytes(good)
    layer.refresh()
    settle(viewer, qtbot)
    shown = whole(layer, level)
    assert (shown[bad] == PIXELS[:: 2**level, :: 2**level][bad]).all()


class Gated(Wrapped):
    """Pixels that do not come before a gate opens."""

    gate = threading.Event()

    def __getitem__(self, key: Any, /) -> Any:
        self.gate.wait(30)
        return self.stored[key]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    Gated.gate.clear()
    yield Gated.gate
    Gated.gate.set()


def hung() -> Image:
    levels = (Gated(PIXELS), Gated(np.ascontiguousarray(PIXELS[::2, ::2])), np.ascontiguousarray(PIXELS[::4, ::4]))
    return Image(Source("hung", None, "yx", levels))


def test_late_pixels_replace_the_coarse_ones(
    slicing: str, make_napari_viewer: Any, qtbot: Any, gate: threading.Event, said: list[str]
) -> None:
    viewer = make_napari_viewer(show=True)
    (layer,) = [viewer._add_layer_from_data(*d)[0] for d in image_layers(hung())]
    look_at(viewer, 300, 300, 2)
    settle(viewer, qtbot, lambda: layer.data_level == 0)
    (y0, x0), part = layer.corner_pixels[0].astype(int), layer._slice.image.raw
    coarse = PIXELS[::4, ::4].repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(part, coarse[y0:, x0:][: part.shape[0], : part.shape[1]])
    gate.set()
    fine = PIXELS[y0:, x0:][: part.shape[0], : part.shape[1]]
    qtbot.waitUntil(lambda: np.array_equal(layer._slice.image.raw, fine), timeout=10_000)
    assert said == []


def test_pixels_that_never_come(
    slicing: str,
    make_napari_viewer: Any,
    qtbot: Any,
    gate: threading.Event,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looks, "LONGEST_S", 1.0)
    monkeypatch.setattr(level_module, "PATIENCE_S", 0.3)
    viewer = make_napari_viewer(show=True)
    (layer,) = [viewer._add_layer_from_data(*d)[0] for d in image_layers(hung())]
    other = viewer.add_image([PIXELS, PIXELS[::2, ::2]], multiscale=True)
    for place in (300, 500, 700, 800):
        look_at(viewer, place, place, 2)
    settle(viewer, qtbot, lambda: other.data_level == 0)
    qtbot.waitUntil(lambda: not layer._slice.image.raw.any(), timeout=10_000)
    assert len(said) == 1
    assert "no pixels came within 1 s" in said[0]
    start = time.monotonic()
    viewer.close()
    assert time.monotonic() - start < 20  # the read hangs until the test is over


def test_one_plane_of_a_stack_is_read(tmp_path: Path, make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = np.stack([PIXELS // (z + 1) for z in range(4)])
    asked: list[tuple[int, ...]] = []
    get = looks.Looks.get

    def count(self: Any, index: Any, patience: float) -> Any:
        pixels = get(self, index, patience)
        asked.append(() if pixels is None else pixels.shape)
        return pixels

    monkeypatch.setattr(looks.Looks, "get", count)
    viewer = make_napari_viewer(show=True)
    (layer,) = [viewer._add_layer_from_data(*d)[0] for d in read_layers(pyramid(tmp_path / "a.ome.zarr", stack, "zyx"))]
    viewer.dims.set_current_step(0, 2)
    assert {shape[:-2] for shape in asked} <= {(), (1,)}
    level = layer.data_level
    (y, x), part = layer.corner_pixels[0].astype(int)[1:], layer._slice.image.raw
    wanted = stack[2][:: 2**level, :: 2**level][y:, x:]
    np.testing.assert_array_equal(part, wanted[: part.shape[0], : part.shape[1]])


def test_others_get_errors_and_whole_pixels(tmp_path: Path, gate: threading.Event) -> None:
    path = pyramid(tmp_path / "a.ome.zarr")
    chunk(path, 0).write_bytes(b"no chunk")
    with open_image(path) as image:
        level = Level(image, 0, None)
        np.testing.assert_array_equal(level[:CHUNK], PIXELS[:CHUNK])
        with pytest.raises(ImageReadError, match=r"a\.ome\.zarr.*can't be read"):
            np.asarray(level)
    gate.set()
    np.testing.assert_array_equal(Level(hung(), 0, None)[5:9:2, -3], PIXELS[5:9:2, -3])
