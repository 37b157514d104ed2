"""A million boxes and a hundred thousand areas from a store to files, each in a process of its own.

The mask is 29,000 x 25,000 px with a hundred thousand discs of 12 to 48 px, some with a hole; no two boxes compete.
Each file is written by ``napari_xt.export`` from the path of the store to its name; memory is the kernel's high-water
mark of the process.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import boxes as box_bench
import numpy as np
from figures import Figures, apart, options, resident, tell

from napari_xt.geometry import IDS_PER_REGION, Block, Frame, Grid, Region
from napari_xt.io.export import export
from napari_xt.io.stores.layout import BlockData, Layout, RegionData, Status
from napari_xt.io.stores.merge import BOX_DTYPE, IOU
from napari_xt.io.stores.store import Store

SHAPE, QUICK_SHAPE = (25_000, 29_000), (1024, 1536)
BOXES, AREAS, QUICK = 1_000_000, 100_000, 500
FILES = ("boxes.csv", "all.geojson", "all.geojson.gz", "all.coco.json")


def made(path: Path, shape: tuple[int, int], boxes: int, areas: int) -> None:
    """Write a store with so many of both, or a few more."""
    grid = Grid(*shape, region_px=256, window=0)
    side = int(np.sqrt(shape[0] * shape[1] / areas))
    each = -(-boxes // (grid.shape[0] * grid.shape[1]))
    layout = Layout(Frame(shape, shape), grid, 4, ("background", "crown"), ("tree",), ("open", "dense"), 3, "uint8")
    header = replace(box_bench.header(grid), layout=layout)
    with Store.open_writer(path, header) as store:
        for group in box_bench.groups(grid):
            store.commit([_block(layout, block, each, side) for block in group])
        store.finish(IOU)


def _block(layout: Layout, block: Block, each: int, side: int) -> BlockData:
    regions = tuple(_region(region, each) for region in layout.grid.regions(block.box))
    values = np.zeros((2, *layout.cells(block.box).shape), np.uint8)
    return BlockData(block, None, _discs(block, side), values, regions)


def _discs(block: Block, side: int) -> np.ndarray:
    """One disc for each square of ``side`` px of the image, of a size and with a hole by its place."""
    y, x = np.ogrid[block.box.slices]
    row, col = y // side, x // side
    distance = np.hypot(y % side - side / 2, x % side - side / 2)
    radius = 6 + (row * 7 + col * 13) % 19
    hole = np.where((row + col) % 4 == 0, radius / 3, 0)
    return ((distance < np.minimum(radius, side / 2 - 2)) & (distance >= hole)).astype(np.uint8)


def _region(region: Region, each: int) -> RegionData:
    """Boxes in rows of a lattice, so that each stays when they compete."""
    boxes = np.zeros(each, BOX_DTYPE)
    across = int(np.ceil(np.sqrt(each)))
    step, index = 256 / across, np.arange(each)
    boxes["y0"], boxes["x0"] = region.inner.y0 + index // across * step, region.inner.x0 + index % across * step
    boxes["y1"], boxes["x1"] = boxes["y0"] + step * 0.9, boxes["x0"] + step * 0.9
    boxes["score"] = np.linspace(1, 0.05, each)
    boxes["id"] = region.index * IDS_PER_REGION + index
    return RegionData(region, Status.DONE, np.array([0.4, 0.6], np.float32), boxes)


def one(store: Path, out: Path) -> dict[str, float]:
    """Write a file, in this process."""
    begin = time.perf_counter()
    export(store, out)
    return {"seconds": time.perf_counter() - begin, "bytes": resident("VmHWM"), "size": out.stat().st_size}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--one", nargs=2, metavar=("STORE", "FILE"), help="one file, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = arguments()
    if given.one:
        tell(json.dumps(one(*map(Path, given.one))))
        return
    figures = Figures()
    with TemporaryDirectory() as folder:
        store = Path(folder, "run.xt.zarr")
        made(store, *((QUICK_SHAPE, QUICK, QUICK) if given.quick else (SHAPE, BOXES, AREAS)))
        for name in FILES:
            found = apart(__file__, "--one", store, Path(folder, name))
            figures.add(f"export.{name}.time", found["seconds"], "s", mib=found["size"] / 2**20)
            figures.add(f"export.{name}.memory", found["bytes"] / 2**20, "MiB")
    figures.write(given.json)


if __name__ == "__main__":
    main()
