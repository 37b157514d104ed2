"""The reader on large and coloured images: colours and limits of the file, and slides of 100,000 x 100,000 pixels."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Layer

from napari_xt.plugin.reader import get_reader, read_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDE, TILE = 100_000, 512
MEMORY_MIB = 300
STACK = np.random.default_rng(0).integers(0, 4000, (2, 120, 150)).astype("u2")


def omero(path: Path, channels: list[dict[str, Any]]) -> Path:
    group = zarr.open_group(str(path), mode="w")
    group.create_array("0", data=STACK, chunks=(1, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space"} for a in "yx")]
    steps = [{"type": "scale", "scale": [1, 1, 1]}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales, "omero": {"channels": channels}}
    return path


def color(layer: Any) -> str:
    return "#" + bytes(np.rint(layer.colormap.colors[-1, :3] * 255).astype("u1").tolist()).hex()


def layers(path: Path) -> list[Any]:
    return [Layer.create(*data) for data in read_layers(path)]


def test_colours_and_limits_of_ome_zarr(tmp_path: Path) -> None:
    dapi = {"label": "DAPI", "color": "0000FF", "window": {"start": 100, "end": 900, "min": 0, "max": 65535}}
    path = omero(tmp_path / "cells.ome.zarr", [dapi, {"label": "actin", "color": "red", "window": {"start": 9}}])
    first, second = layers(path)
    assert (first.name, color(first), tuple(first.contrast_limits)) == ("cells - DAPI", "#0000ff", (100, 900))
    assert (second.name, second.colormap.name) == ("cells - actin", "magenta"), "a colour that is none"
    assert tuple(second.contrast_limits) == pytest.approx(np.percentile(STACK[1], (0.1, 99.9)))


def test_colours_of_ome_tiff_and_limits_of_imagej(tmp_path: Path) -> None:
    channels = {"Name": ["DAPI", "actin"], "Color": [0x0000FFFF, -16776961]}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata={"axes": "CYX", "Channel": channels})
    assert [color(layer) for layer in layers(tmp_path / "a.ome.tif")] == ["#0000ff", "#ff0000"]
    green = np.zeros((3, 256), "u1")
    green[1] = np.arange(256)
    told: dict[str, Any] = {"axes": "CYX", "mode": "composite", "Ranges": (5.0, 80.0, 7.0, 90.0), "LUTs": [green] * 2}
    tifffile.imwrite(tmp_path / "b.tif", STACK, imagej=True, metadata=told)
    shown = layers(tmp_path / "b.tif")
    assert [tuple(layer.contrast_limits) for layer in shown] == [(5, 80), (7, 90)]
    assert [color(layer) for layer in shown] == ["#00ff00"] * 2


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (np.full((50, 60), 7, "u1"), (0, 255)),
        (np.array([[np.nan, np.inf, -np.inf], [1, 2, 1]], "f4"), (1, 2)),
        (np.full((50, 60), np.nan, "f4"), None),
        (np.full((50, 60), 9, "u2"), None),
        (np.eye(60) > 0, (0, 1)),
    ],
    ids=["bytes", "not-finite", "nothing", "flat", "bool"],
)
def test_limits_where_the_file_says_none(tmp_path: Path, data: np.ndarray, wanted: Any) -> None:
    np.save(tmp_path / "a.npy", data)
    (layer,) = layers(tmp_path / "a.npy")
    low, high = layer.contrast_limits
    assert np.isfinite((low, high)).all()
    assert low < high
    assert wanted is None or (low, high) == pytest.approx(wanted, abs=0.01)


def test_stacks_have_limits_too(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=STACK, dimension_names=("z", "y", "x"))
    (layer,) = layers(tmp_path / "a.zarr")
    assert layer.axis_labels == ("z", "y", "x")
    assert tuple(layer.contrast_limits) == pytest.approx(np.percentile(STACK[0], (0.1, 99.9)))


@pytest.mark.parametrize("name", ["a.svs", "a.NDPI", "a.scn", "a.mrxs", "a.bif", "a.ome.tif", "a.ome.zarr", "a.npy"])
def test_names_that_are_read(name: str) -> None:
    assert get_reader(name) is not None


def sizes() -> list[int]:
    found = [SIDE]
    while found[-1] > 2048:
        found.append(-(-found[-1] // 2))
    return found


def large_tiff(path: Path) -> None:
    """A pyramid in which only the first tile of each level is there."""

    def tiles(side: int) -> Iterator[bytes]:
        yield zlib.compress(bytes(TILE * TILE * 3))
        yield from (b"" for _ in range((-(-side // TILE)) ** 2 - 1))

    options: dict[str, Any] = {"dtype": "u1", "tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for side in sizes():
            reduced = int(side < SIDE)
            writer.write(tiles(side), shape=(side, side, 3), subfiletype=reduced, metadata=None, **options)


def large_zarr(path: Path) -> None:
    group, datasets = zarr.open_group(str(path), mode="w"), []
    for level, side in enumerate(sizes()):
        group.create_array(str(level), shape=(side, side, 3), chunks=(TILE, TILE, 3), dtype="u1")
        steps = [{"type": "scale", "scale": [2.0**level, 2.0**level, 1]}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [*({"name": a, "type": "space", "unit": "micrometer"} for a in "yx"), {"name": "c", "type": "channel"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


OPENED = """
import sys
import psutil
from napari.layers import Layer
from napari_xt.plugin.reader import read_layers

def high_water():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

before = psutil.Process().memory_info().rss
(layer,) = [Layer.create(*data) for data in read_layers(sys.argv[1])]
assert layer.data[0].shape == (100_000, 100_000, 3), layer.data[0].shape
assert max(layer.data[-1].shape) <= 2048
print((high_water() - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("write", [large_tiff, large_zarr])
def test_a_large_slide_opens_in_little_memory(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / ("a.svs" if write is large_tiff else "a.ome.zarr")
    write(path)
    asked = subprocess.run(
        [sys.executable, "-c", OPENED, str(path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(asked.stdout) < MEMORY_MIB
