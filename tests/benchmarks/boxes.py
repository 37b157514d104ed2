"""A million boxes from blocks to a table in a file: commit, merge, open, export, in a process of its own; and piles.

The boxes are candidates as the engine commits them: ranked by region over a grid of 29,000 x 25,000 px,
20 to 70 px long. They are committed to a store in groups as a run
does, compete across regions when it is finished, are read back as the table of a prediction, and written as CSV by
pandas (exports of the package are not built yet). Memory is the kernel's high-water mark of the whole process, with
what drew the boxes. A pile is 100,000 boxes of a thousand regions on one spot, the worst that a merge can meet.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import Figures, apart, options, resident, tell

from napari_xt.geometry import IDS_PER_REGION, Block, Frame, Grid, Region
from napari_xt.io.prediction import open_prediction
from napari_xt.io.stores.merge import BOX_DTYPE, IOU, suppress
from napari_xt.io.stores.store import BlockData, Header, Layout, RegionData, Status, Store

SHAPE, QUICK_SHAPE = (25_000, 29_000), (2500, 2900)
COUNT, PILE, QUICK = 1_000_000, 100_000, 5_000
GROUP_BLOCKS = 16  # 64 regions are committed together


@dataclass
class Clock:
    """Seconds by name, of stretches of work."""

    seconds: dict[str, float] = field(default_factory=dict)
    begin: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """Add what passed since the last call to ``name``."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.begin
        self.begin = now


def header(grid: Grid) -> Header:
    """What a run of a box model over the grid would write."""
    shape = grid.height, grid.width
    layout = Layout(Frame(shape, shape), grid, 4, None, ("tree",), ("open", "sparse", "dense"), 3, "uint8")
    regions = grid.shape[0] * grid.shape[1]
    return Header(layout, {"boxes": "benchmark"}, {"threshold": 0.0}, {"regions": regions}, {"name": "none"}, {})


def candidates(region: Region, count: int) -> np.ndarray:
    """``count`` boxes around centres in a region's inner, as the decoder ranks and numbers them."""
    rng = np.random.default_rng(region.index)
    boxes = np.zeros(count, BOX_DTYPE)
    inner = region.inner
    for low, high, first, last in (("y0", "y1", inner.y0, inner.y1), ("x0", "x1", inner.x0, inner.x1)):
        centre, half = rng.uniform(first, last, count), rng.uniform(10, 35, count)
        boxes[low], boxes[high] = centre - half, centre + half
    boxes["score"] = np.sort(rng.uniform(0.05, 1, count))[::-1]
    boxes["id"] = region.index * IDS_PER_REGION + np.arange(count)
    return boxes


def block_data(grid: Grid, block: Block, each: int) -> BlockData:
    """A block with ``each`` boxes a region."""
    scores = np.array([0.2, 0.3, 0.5], np.float32)
    regions = [RegionData(r, Status.DONE, scores, candidates(r, each)) for r in grid.regions(block.box)]
    return BlockData(block, None, None, None, tuple(regions))


def groups(grid: Grid) -> Iterator[list[Block]]:
    """Blocks as a run commits them: rows from top to bottom, some at a time."""
    rows, cols = grid.block_shape
    for row in range(rows):
        for first in range(0, cols, GROUP_BLOCKS):
            yield [grid.block(row, col) for col in range(first, min(cols, first + GROUP_BLOCKS))]


def end_to_end(count: int, folder: Path) -> dict[str, float]:
    """The whole way of ``count`` boxes, in this process: seconds of each part, bytes, boxes that were kept."""
    grid = Grid(*(SHAPE if count > QUICK else QUICK_SHAPE), region_px=256, window=0)
    each = -(-count // (grid.shape[0] * grid.shape[1]))
    clock = Clock()
    path = folder / "boxes.xt.zarr"
    with Store.open_writer(path, header(grid)) as store:
        clock.lap("commit")
        for group in groups(grid):
            drawn = [block_data(grid, block, each) for block in group]
            clock.lap("draw")
            store.commit(drawn)
            clock.lap("commit")
        store.finish(IOU)
        clock.lap("merge")
    table = open_prediction(path).boxes
    clock.lap("open")
    table.to_csv(folder / "boxes.csv", index=False)
    clock.lap("export")
    stored = grid.shape[0] * grid.shape[1] * each
    return {**clock.seconds, "stored": stored, "kept": len(table), "bytes": resident("VmHWM")}


def pile(count: int) -> dict[str, float]:
    """Merge ``count`` boxes of up to a thousand regions that all meet, in this process."""
    rng = np.random.default_rng(0)
    boxes = np.zeros(count, BOX_DTYPE)
    for low, high in (("y0", "y1"), ("x0", "x1")):
        centre, half = 5000 + rng.uniform(0, 16, count), rng.uniform(10, 35, count)
        boxes[low], boxes[high] = centre - half, centre + half
    boxes["score"] = rng.uniform(0.05, 1, count)
    boxes["id"] = np.arange(count) % 1000 * IDS_PER_REGION + np.arange(count) // 1000
    begin = time.perf_counter()
    keep = suppress(boxes, IOU, across_regions=True)
    return {"seconds": time.perf_counter() - begin, "kept": int(keep.sum()), "bytes": resident("VmHWM")}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"of boxes (default: {COUNT})")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "N"), help="one measurement, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = arguments()
    if given.one:
        what, count = given.one[0], int(given.one[1])
        with TemporaryDirectory() as folder:
            tell(json.dumps(pile(count) if what == "pile" else end_to_end(count, Path(folder))))
        return
    figures = Figures()
    count, heap = (QUICK, QUICK) if given.quick else (given.count, PILE)
    found = apart(__file__, "--one", "all", count)
    parts = {name: found[name] for name in ("commit", "merge", "open", "export")}
    figures.add(f"boxes.end_to_end.N{count}.time", sum(parts.values()), "s", stored=found["stored"], **parts)
    figures.add(f"boxes.end_to_end.N{count}.memory", found["bytes"] / 2**20, "MiB", kept=found["kept"])
    found = apart(__file__, "--one", "pile", heap)
    figures.add(f"boxes.pile.N{heap}.time", found["seconds"], "s", kept=found["kept"], mib=found["bytes"] / 2**20)
    figures.write(given.json)


if __name__ == "__main__":
    main()
