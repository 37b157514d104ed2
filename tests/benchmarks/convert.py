"""Conversion to OME-Zarr 0.5 against ngff-zarr and ome-zarr: time and memory on one image.

All read the same colour image of one level from disk (Zarr, chunks of 512 px, the bundled scene mirrored) and write a
pyramid of means over 2 x 2 pixels with as many levels and chunks of 512 px, each in a process of its own, in turns; the
best time and the highest memory of each count. *memory* is the kernel's high-water mark of the whole process beyond
what it had after its imports, *time* is that of the call alone. Codecs are those that each chooses by itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import dask.array as da
from figures import Figures, apart, options, resident, tell

NEEDED = ("ngff_zarr", "ome_zarr")
MISSING = 3  # exit code where peers are not installed
SIDE, REPEATS, CHUNK, COARSEST = 8192, 2, 512, 2048
Work = Callable[[], object]


def factors(side: int) -> list[int]:
    """How much smaller than level 0 each coarser level is, down to what we stop at."""
    return [2**k for k in range(1, 32) if side > COARSEST * 2 ** (k - 1)]


def ours(image: Path, out: Path) -> Work:
    """`xt.convert`."""
    import napari_xt as xt

    convert = xt.convert
    return lambda: convert(image, out)


def ngff_zarr(image: Path, out: Path) -> Work:
    """ngff-zarr's bins, by dask."""
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    def work() -> None:
        pixels = da.from_zarr(str(image / "0"))
        found = to_ngff_image(pixels, dims=("c", "y", "x"))
        chunks = {"c": 3, "y": CHUNK, "x": CHUNK}
        steps = factors(pixels.shape[-1])
        levels = to_multiscales(found, scale_factors=steps, method=Methods.DASK_BIN_SHRINK, chunks=chunks)
        to_ngff_zarr(str(out), levels, version="0.5")

    return work


def ome_zarr(image: Path, out: Path) -> Work:
    """ome-zarr's local means."""
    from ome_zarr.scale import Methods
    from ome_zarr.writer import write_image

    def work() -> None:
        pixels = da.from_zarr(str(image / "0"))
        chunks = {"chunks": (3, CHUNK, CHUNK)}
        steps = factors(pixels.shape[-1])
        write_image(
            pixels, str(out), scale_factors=steps, method=Methods.LOCAL_MEAN, axes="cyx", storage_options=chunks
        )

    return work


PEERS = {"ours": ours, "ngff_zarr": ngff_zarr, "ome_zarr": ome_zarr}


def one(name: str, image: Path, out: Path) -> dict[str, float]:
    """One conversion in this process."""
    work = PEERS[name](image, out)
    before, begin = resident("VmHWM"), time.perf_counter()
    work()
    spent = time.perf_counter() - begin
    return {"seconds": spent, "memory": resident("VmHWM") - before, "all": resident("VmHWM")}


def contest(figures: Figures, side: int, repeats: int) -> None:
    """Measure all in turns."""
    from napari_xt.engine import bench

    told: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    with TemporaryDirectory() as folder:
        image = bench.write_scene(Path(folder, "scene.zarr"), side, side)
        for _ in range(repeats):
            for name in PEERS:
                out = Path(folder, f"{name}.ome.zarr")
                told[name].append(apart(__file__, "--one", name, image, out))
                shutil.rmtree(out)
    seconds = {name: min(run["seconds"] for run in runs) for name, runs in told.items()}
    memory = {name: max(run["memory"] for run in runs) for name, runs in told.items()}
    for name in PEERS:
        whole = max(run["all"] for run in told[name]) / 2**20
        figures.add(f"convert.{name}.{side}.time", seconds[name], "s", over_ours=seconds[name] / seconds["ours"])
        figures.add(f"convert.{name}.{side}.memory", memory[name] / 2**20, "MiB", whole_process=whole)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the image, px (default: {SIDE})")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, print, and write what is asked for."""
    given = arguments()
    if given.one:
        name, image, out = given.one
        tell(json.dumps(one(name, Path(image), Path(out))))
        return 0
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        tell(f"not installed: {', '.join(lacking)}; pip install --group bench in the repository's folder installs them")
        return MISSING
    figures = Figures()
    contest(figures, *((2560, 1) if given.quick else (given.side, REPEATS)))
    figures.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
