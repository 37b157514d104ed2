"""A small run that tests write, kill and write again: ``python store_case.py FOLDER KILLS SEED`` kills it at random."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_xt.geometry import IDS_PER_REGION, Block, Box, Frame, Grid, Region
from napari_xt.io.stores.layout import ShelfLayout
from napari_xt.io.stores.merge import BOX_DTYPE
from napari_xt.io.stores.store import BlockData, EncodedBlock, Header, Layout, RegionData, Status, Store

SHAPE = (8400, 1200)  # four mask levels, 9 x 2 blocks, 17 x 3 regions
GRID = Grid(*SHAPE, region_px=512)
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect")


def layout(**changes: object) -> Layout:
    base = Layout(
        frame=Frame(SHAPE, SHAPE, (0.1, 0.1), "meter"),
        grid=GRID,
        stride=4,
        mask=("background", "crown"),
        boxes=("tree", "shrub"),
        scores=("open", "sparse", "dense"),
        overview_channels=3,
        overview_dtype="uint8",
        shelf=ShelfLayout((1, 4), (2, 8, 8), "float16", waits=False, keep="features"),
    )
    return replace(base, **changes)


def header(found: Layout | None = None, **job: object) -> Header:
    facts: dict[str, object] = {"threshold": 0.3, "model": "m" * 64, "image": "i" * 64, "numerics": 1}
    return Header(
        layout=found or layout(),
        job=facts | job,
        settings={"threshold": 0.3, "window": 8},
        plan={"regions": 51},
        model={"name": "canopy"},
        notes={"source": "scene.ome.zarr"},
    )


def blocks(found: Layout) -> Iterator[tuple[int, int]]:
    rows, cols = found.grid.block_shape
    return ((row, col) for row in range(rows) for col in range(cols))


def block_data(found: Layout, row: int, col: int) -> BlockData:
    """A block that depends on nothing but its place; every third is background, as most of most images."""
    block = found.grid.block(row, col)
    rng = np.random.default_rng([row, col])
    cells = found.cells(block.box).shape
    classes = len(found.mask or ())
    values = rng.integers(0, 256, (classes, *cells), dtype=np.uint8) if (row + col) % 3 else None
    mask = rng.integers(0, 2, block.box.shape, dtype=np.uint8) if (row + col) % 3 else None
    pixels = rng.integers(0, 256, (found.overview_channels, *block.box.shape)).astype(found.overview_dtype)
    regions = tuple(region_data(found, region, rng) for region in found.grid.regions(block.box))
    encoded = encoded_block(found, block, regions, rng)
    return BlockData(block, pixels, mask if classes else None, values if classes else None, regions, encoded)


def encoded_block(
    found: Layout, block: Block, regions: Sequence[RegionData], rng: np.random.Generator
) -> EncodedBlock | None:
    if found.shelf is None:
        return None
    k, side = found.grid.block_regions, found.grid.region_px
    shape = tuple(min(k, -(-n // side)) for n in block.box.shape)
    tokens, features = (rng.normal(size=(*shape, *part)) for part in (found.shelf.tokens, found.shelf.local))
    errors = {region.region.index: region.error for region in regions if region.error}
    return EncodedBlock(block, None, tokens.astype(np.float16), features.astype(np.float16), errors)


def region_data(found: Layout, region: Region, rng: np.random.Generator) -> RegionData:
    if region.index % 11 == 5:
        return RegionData(region, Status.FAILED, None, np.zeros(0, BOX_DTYPE), error="chunk at (0, 0) can't be read")
    scores = rng.dirichlet(np.ones(3)).astype(np.float32) if found.scores else None
    return RegionData(region, Status.DONE, scores, boxes_in(region.inner, region.index, rng) if found.boxes else NONE)


NONE = np.zeros(0, BOX_DTYPE)


def boxes_in(inner: Box, index: int, rng: np.random.Generator) -> np.ndarray:
    boxes = np.zeros(int(rng.integers(0, 6)), BOX_DTYPE)
    boxes["id"] = index * IDS_PER_REGION + np.arange(len(boxes))
    boxes["y0"], boxes["x0"] = rng.uniform(inner.y0, inner.y1, len(boxes)), rng.uniform(inner.x0, inner.x1, len(boxes))
    boxes["y1"], boxes["x1"] = boxes["y0"] + rng.uniform(20, 90, len(boxes)), boxes["x0"] + 60
    boxes["label"], boxes["score"] = rng.integers(0, 2, len(boxes)), rng.uniform(0.05, 1, len(boxes))
    return boxes


def write(path: Path, seed: int = 0, *, acknowledge: Path | None = None, limit: int | None = None) -> int:
    """Write what is missing in groups of one to three blocks, in an order of ``seed``; return how many blocks."""
    rng = random.Random(seed)
    with Store.open_writer(path, header()) as store:
        todo = [key for key in blocks(layout()) if key not in store.committed()]
        rng.shuffle(todo)
        todo, count = todo[:limit], len(todo[:limit])
        while todo:
            size = rng.randint(1, 3)
            group, todo = todo[:size], todo[size:]
            store.commit([block_data(layout(), *key) for key in group])
            if acknowledge is not None:
                with acknowledge.open("a") as file:
                    file.writelines(f"{row} {col}\n" for row, col in group)
        if limit is None and not store.complete:
            store.finish(0.5)
    return count


def contents(path: Path) -> dict[str, object]:
    """Every byte of a closed store, and every row of its journal but the counters."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del files["journal/ledger.sqlite"]
    return files | {"rows": rows(path)}


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "journal" / "ledger.sqlite")) as db:
        found = db.execute("SELECT * FROM blocks ORDER BY row, col").fetchall()
        found += db.execute("SELECT * FROM regions ORDER BY idx").fetchall()
        found += db.execute("SELECT * FROM encoded ORDER BY row, col").fetchall()
        return [*found, *db.execute("SELECT value FROM meta WHERE key = 'complete'").fetchall()]


def forked(action: object) -> int:
    """Run ``action`` in a process of its own and return its status; negative: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def count_events(folder: Path, kill_at: int | None = None) -> list[int]:
    """Count what this process does to files in ``folder``, and kill it at one of these."""
    seen = [0]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in EVENTS and args and str(folder) in str(args[0]):
            seen[0] += 1
            if seen[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def kill_and_resume(folder: Path, seed: int, kill_at: int, expected: dict[str, object]) -> str:
    """Kill a run, resume it and say what is wrong with the end; nothing if all is well."""
    path, acknowledged = folder / "run.xt.zarr", folder / "acknowledged"
    acknowledged.write_text("")

    def doomed() -> None:
        count_events(path, kill_at)
        write(path, seed, acknowledge=acknowledged)

    def resumed() -> None:
        with Store.open_writer(path, header()) as store:
            sure = {tuple(map(int, line.split())) for line in acknowledged.read_text().splitlines()}
            assert sure <= store.committed(), "a committed block is lost"
        write(path, seed + 1)

    first, second = forked(doomed), forked(resumed)
    if first not in (0, -signal.SIGKILL) or second != 0:
        return f"exit {first}, {second}"
    left = [name for name in os.listdir(folder) if name not in ("run.xt.zarr", "acknowledged")]
    wrong = [str(key) for key, value in expected.items() if contents(path).get(key) != value]
    extra = [key for key in contents(path) if key not in expected]
    shutil.rmtree(path)
    return " ".join([*left, *wrong, *extra])


def main(folder: Path, kills: int, seed: int) -> int:
    reference = folder / "undisturbed" / "run.xt.zarr"
    counter = folder / "events"

    def undisturbed() -> None:
        seen = count_events(reference)
        write(reference)
        counter.write_text(str(seen[0]))

    assert forked(undisturbed) == 0
    expected, events = contents(reference), int(counter.read_text())
    work = folder / "work"
    work.mkdir()
    rng = random.Random(seed)
    wrong = 0
    for kill in range(kills):
        at = rng.randint(1, events)
        said = kill_and_resume(work, seed * 1000 + kill, at, expected)
        if said:
            wrong += 1
            sys.stdout.write(f"killed at {at} of {events}: {said}\n")
    sys.stdout.write(f"{kills} kills, {wrong} wrong\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])))
