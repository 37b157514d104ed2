"""What files look like as layers: colours, channels, scale and units; what is damaged never reaches the viewer."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Layer
from PIL import Image as Picture

from napari_xt.engine.run import predict
from napari_xt.errors import XTError
from napari_xt.io.image import open_image
from napari_xt.plugin import reader
from napari_xt.plugin.images.level import Level
from napari_xt.plugin.reader import get_reader, read_layers, shown_image
from napari_xt.plugin.sample_data import canopy as canopy_sample
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def ome_zarr(path: Path, pixels: Any, axes: str, levels: int = 2, scale: float = 0.5, unit: str = "micrometer") -> Path:
    """Write an OME-Zarr 0.5 whose coarser levels are every second pixel."""
    group = zarr.create_group(path)
    datasets = []
    for level in range(levels):
        step = tuple(slice(None, None, 2**level if axis in "yx" else None) for axis in axes)
        group.create_array(
            str(level), data=np.ascontiguousarray(pixels[step]), chunks=tuple(min(n, 64) for n in pixels.shape)
        )
        size = [scale * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": size}]})
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if a in "yx" else {}) for a in axes]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": named, "datasets": datasets, "name": "x"}]}
    return path


def test_colour_with_channels_first_is_one_layer(tmp_path: Path) -> None:
    pixels = picture(200, 300)
    path = ome_zarr(tmp_path / "scene.ome.zarr", np.moveaxis(pixels, -1, 0), "cyx")
    ((levels, meta, kind),) = read_layers(path)
    layer = Layer.create(levels, meta, kind)
    assert (layer.rgb, layer.multiscale, layer.name, layer.axis_labels) == (True, True, "scene", ("y", "x"))
    np.testing.assert_array_equal(np.asarray(layer.data[0]), pixels)
    np.testing.assert_array_equal(layer.data[0][10:20, 5, 1], pixels[10:20, 5, 1])
    np.testing.assert_array_equal(layer.data[0][..., 0], pixels[..., 0])
    np.testing.assert_array_equal(layer.data[1], pixels[::2, ::2])
    assert isinstance(layer.data[1], np.ndarray), "the level that was probed must not be read again"
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2


def test_other_channels_are_layers_of_their_own_and_one_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, (2, 150, 200), np.uint16)
    path = ome_zarr(tmp_path / "cells.ome.zarr", pixels, "cyx")
    layers = [Layer.create(*data) for data in read_layers(path)]
    assert [layer.name for layer in layers] == ["cells - channel 0", "cells - channel 1"]
    for channel, layer in enumerate(layers):
        np.testing.assert_array_equal(np.asarray(layer.data[0]), pixels[channel])
        np.testing.assert_array_equal(layer.data[1], pixels[channel, ::2, ::2])
        assert open_image(shown_image(layer)).channels == 2


def test_run_over_a_layer_is_the_same_job_as_over_its_file(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "scene.ome.zarr", np.moveaxis(picture(200, 300), -1, 0), "cyx")
    layer = Layer.create(*read_layers(path)[0])
    assert open_image(shown_image(layer)).identity() == open_image(path).identity()
    layer.data = [np.asarray(level) // 2 for level in layer.data]
    assert shown_image(layer) is layer, "pixels that the user changed are those that are run"


def test_time_is_a_slider(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 100, 120), np.uint8)
    path = ome_zarr(tmp_path / "film.ome.zarr", pixels, "tyx")
    layer = Layer.create(*read_layers(path)[0])
    assert layer.axis_labels == ("t", "y", "x")
    np.testing.assert_allclose(layer.scale, (1, 0.5, 0.5))
    np.testing.assert_array_equal(layer.data[0][2, :10], pixels[2, :10])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_pictures_open(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Picture.fromarray(picture(60, 80)).save(path)
    read = get_reader(str(path))
    assert read is not None
    layer = Layer.create(*read(str(path))[0])
    assert (layer.name, layer.rgb, layer.multiscale) == ("photo", True, False)
    assert np.asarray(layer.data).shape == (60, 80, 3)


def test_reader_declines_what_is_not_its_own() -> None:
    assert get_reader("table.csv") is None
    assert get_reader(["a.tif", "table.csv"]) is None


def test_layers_close_their_file(tmp_path: Path) -> None:
    # In a process of its own: nothing else may hold the file or collect garbage.
    path = tmp_path / "scene.ome.tif"
    tifffile.imwrite(path, picture(300, 300), photometric="rgb", tile=(64, 64))
    code = """
import gc, sys, psutil
from napari_xt.plugin.reader import read_layers
held = lambda: [f.path for f in psutil.Process().open_files() if f.path == sys.argv[1]]
layers = read_layers(sys.argv[1])
assert held()
del layers
gc.collect()
assert not held()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], check=True)


def damaged_zarr(folder: Path) -> Path:
    path = ome_zarr(folder / "bad.ome.zarr", np.random.default_rng(0).integers(0, 255, (100, 100), np.uint8), "yx")
    (path / "1/c/0/0").write_bytes(b"no chunk")
    return path


def text_tif(folder: Path) -> Path:
    (folder / "notes.tif").write_text("dear diary")
    return folder / "notes.tif"


def empty_folder(folder: Path) -> Path:
    (folder / "empty.ome.zarr").mkdir()
    return folder / "empty.ome.zarr"


def no_prediction(folder: Path) -> Path:
    (folder / "none.xt.zarr").mkdir()
    return folder / "none.xt.zarr"


def missing(folder: Path) -> Path:
    return folder / "missing.tif"


@pytest.mark.parametrize("make", [damaged_zarr, text_tif, empty_folder, no_prediction, missing])
def test_what_is_damaged_is_refused_in_a_sentence(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(XTError, match=path.name) as error:
        read_layers(path)
    assert len(str(error.value)) <= 280


def test_level_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    path = ome_zarr(tmp_path / "hung.ome.zarr", picture(100, 100)[..., 0], "yx")
    monkeypatch.setattr(reader, "PATIENCE_S", 0.05)
    go_on = threading.Event()
    monkeypatch.setattr("napari_xt.io.image.Image.read", lambda *_: go_on.wait(5))
    with pytest.raises(XTError, match="no pixels came"):
        read_layers(path)
    go_on.set()


def test_prediction_opens_with_its_image(canopy: Path, tmp_path: Path, make_napari_viewer: Callable[..., Any]) -> None:
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, picture(300, 200), photometric="rgb", tile=(64, 64))
    prediction = predict(path, "canopy")
    viewer = make_napari_viewer()
    viewer.open(prediction.path, plugin="napari-xt")
    names = ["scene", "scene - xT scores", "scene - xT mask", "scene - xT boxes"]
    assert [layer.name for layer in viewer.layers] == names
    np.testing.assert_array_equal(np.asarray(viewer.layers[2].data), prediction.mask[0][:])


def test_prediction_opens_without_its_image(canopy: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, picture(300, 200), photometric="rgb", tile=(64, 64))
    prediction = predict(path, "canopy")
    path.unlink()
    image, *overlays = [Layer.create(*data) for data in read_layers(prediction.path)]
    assert image.name.endswith("overview")
    assert image.rgb
    corner = image.data_to_world((-0.5, -0.5))
    for layer in overlays[:2]:
        np.testing.assert_allclose(layer.data_to_world((-0.5, -0.5)), corner)


def test_sample_is_a_scene_with_its_crowns() -> None:
    image, crowns = [Layer.create(*data) for data in canopy_sample()]
    assert (image.rgb, image.multiscale, image.visible, crowns.visible) == (True, True, True, False)
    assert image.data[0].shape == (2472, 2299, 3)
    np.testing.assert_allclose(crowns.scale, image.scale)
    assert len(crowns.data) > 300
    assert isinstance(image.data[0], Level)
