"""Reading against bare loops: `open_image(...).read` and the engine's reader beside zarr and tifffile, box by box.

Level 0 of one scene as an OME-Zarr (chunks of 512 px), a tiled JPEG TIFF (256 px) and one as Aperio's scanners write it
(240 px), in boxes of one chunk and of 256 px. The loops index ``zarr.open_array(...)``, for TIFF over tifffile's
``aszarr``; like ours they end with a contiguous array of channels, rows and columns. All in one process, box by box in
turns, so that both see the same machine: the sum over all boxes of a round, and the median of the rounds' ratios. The
engine's reader is beside a loop that reads its boxes once each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
import zarr
from figures import Figures, options

from napari_xt.engine.plan import plan
from napari_xt.engine.reading import Reader
from napari_xt.geometry import Box
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.io.convert import convert
from napari_xt.io.image import Image, open_image

SIDE, QUICK_SIDE = 6144, 1024
ROUNDS, QUICK_ROUNDS = 5, 1
REGION = 256
APERIO = "Aperio Image Library v12.0\n{side}x{side} [0,0 {side}x{side}] (240x240) JPEG/RGB Q=80|AppMag = 20|MPP = 0.5"
Read = Callable[[Box], np.ndarray]


def ome_zarr(folder: Path, pixels: np.ndarray) -> tuple[Path, int]:
    """Write an OME-Zarr; return it with the side of its chunks."""
    return convert(np.moveaxis(pixels, -1, 0), folder / "scene.ome.zarr"), 512


def jpeg_tiff(
    folder: Path, pixels: np.ndarray, name: str = "scene.tif", tile: int = 256, **told: Any
) -> tuple[Path, int]:
    """Write a tiled TIFF with one coarser page for each halving."""
    with tifffile.TiffWriter(folder / name) as file:
        style = {"tile": (tile, tile), "compression": "jpeg", "photometric": "rgb"}
        file.write(pixels, **style, **told)
        while max(pixels.shape) > REGION * 4:
            pixels = np.ascontiguousarray(pixels[::2, ::2])
            file.write(pixels, subfiletype=1, metadata=None, **style)
    return folder / name, tile


def svs(folder: Path, pixels: np.ndarray) -> tuple[Path, int]:
    """Write what Aperio's scanners do, as far as readers look at it."""
    told = APERIO.format(side=len(pixels))
    return jpeg_tiff(folder, pixels, "scene.svs", 240, description=told, metadata=None)


KINDS = {"ome_zarr": ome_zarr, "jpeg_tiff": jpeg_tiff, "svs": svs}


def bare(path: Path) -> Read:
    """The loop's way to a box: ``zarr`` over the array, or over what tifffile makes of the first page."""
    if path.suffix == ".zarr":
        array = zarr.open_array(path / "0", mode="r")
        return lambda box: np.ascontiguousarray(array[(slice(None), *box.slices)])
    found = zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")
    return lambda box: np.ascontiguousarray(np.moveaxis(found[box.slices], -1, 0))


def boxes(shape: tuple[int, int], side: int) -> Iterator[Box]:
    """Squares of ``side`` px, row by row."""
    for y in range(0, shape[0] - side + 1, side):
        for x in range(0, shape[1] - side + 1, side):
            yield Box(y, x, y + side, x + side)


def compared(
    ours: Callable[[], Read], theirs: Callable[[], Read], wanted: list[Box], rounds: int
) -> tuple[float, float]:
    """How many times as fast as theirs ours is, and megapixels a second."""
    ratios, speeds = [], []
    for number in range(rounds):
        spent, readers = {"ours": 0.0, "theirs": 0.0}, {"ours": ours(), "theirs": theirs()}
        for index, box in enumerate(wanted):
            for name in sorted(spent, reverse=bool((index + number) % 2)):
                begin = time.perf_counter()
                readers[name](box)
                spent[name] += time.perf_counter() - begin
        ratios.append(spent["theirs"] / spent["ours"])
        speeds.append(sum(box.height * box.width for box in wanted) / spent["ours"] / 1e6)
    return median(ratios), median(speeds)


def measure(figures: Any, kind: str, made: tuple[Path, int], rounds: int) -> None:
    """Compare the ways to read one file."""
    path, chunk = made
    with open_image(path) as image:
        theirs = bare(path)
        first = Box(0, 0, chunk, chunk)
        assert np.array_equal(image.read(first), theirs(first))
        ways = {"chunk": (chunk, image.read), "box_256": (REGION, image.read), "engine": (REGION, None)}
        for name, (side, read) in ways.items():
            wanted = list(boxes(image.shape, side))
            ours = _engine(image) if read is None else (lambda read=read: read)
            ratio, speed = compared(ours, lambda: theirs, wanted, rounds)
            figures.add(f"reading.{kind}.{name}", ratio, "x", megapixels_per_second=speed)


def _engine(image: Image) -> Callable[[], Read]:
    made = plan(image, "canopy", level=0, device="cpu")

    def fresh() -> Read:
        reader = Reader(image, made)
        return lambda box: reader.read(box).pixels

    return fresh


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = options(__doc__).parse_args()
    side, rounds = (QUICK_SIDE, QUICK_ROUNDS) if given.quick else (SIDE, ROUNDS)
    figures = Figures()
    with mirrored_scene(side, side) as image:
        pixels = np.ascontiguousarray(np.moveaxis(image.read(Box(0, 0, side, side)), 0, -1))
    for kind, make in KINDS.items():
        with TemporaryDirectory() as folder:
            measure(figures, kind, make(Path(folder), pixels), rounds)
    figures.write(given.json)


if __name__ == "__main__":
    main()
