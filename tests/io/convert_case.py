"""Conversions in a process of their own: ``convert_case.py kill FOLDER AT SHARDS`` ends at its AT-th change of files,
``end`` counts from when the image gets its name, ``memory FOLDER SIDE`` tells what was in memory at most.
"""

from __future__ import annotations

import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from store_case import count_events

from napari_xt.io import convert as door
from napari_xt.io.conversion import sweep, work
from napari_xt.io.conversion.place import Place
from napari_xt.io.image import SAMPLE_PX

SHAPE = (2300, 1150, 3)


def pixels(shape: tuple[int, ...] = SHAPE, dtype: str = "u1") -> np.ndarray:
    """The same values at each call, in which no chunk is like another."""
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


class Computed:
    """A colour image that takes no memory; counts how often each of its chunks is read."""

    chunks = (640, 640, 3)
    dtype = np.dtype("u1")
    ndim = 3

    def __init__(self, side: int) -> None:
        self.shape = (side, side, 3)
        self.reads: dict[tuple[int, int], int] = {}

    def __getitem__(self, key: Any) -> np.ndarray:
        (y0, y1, _), (x0, x1, _) = (part.indices(size) for part, size in zip(key[:2], self.shape, strict=False))
        chunks = product(range(y0 // 640, -(-y1 // 640)), range(x0 // 640, -(-x1 // 640)))
        for chunk in chunks if (y1 - y0) * (x1 - x0) > SAMPLE_PX**2 else ():  # samples tell images apart
            self.reads[chunk] = self.reads.get(chunk, 0) + 1
        y, x, c = (np.arange(*ends).astype(np.uint8) for ends in ((y0, y1), (x0, x1), (1, 4)))
        return ((y[:, None] ^ x)[..., None] * c)[..., key[2]]


def most() -> int:
    """The kernel's high-water mark of this process, MiB; Linux only."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def kill(folder: Path, at: int, shards: int) -> None:
    """Convert, and be killed at a change of files, if there are so many; tells how many there were."""
    work.NOTE_S = 0.0
    seen = count_events(folder, at)
    door.convert(pixels(), folder / "out.zarr", chunks=256, shards=shards or None)
    sys.stdout.write(f"{seen[0]}\n")


def end(folder: Path, at: int, shards: int) -> None:
    """Convert, and be killed at a change of files from when the image gets its name."""
    publish = Place.publish

    def counted(place: Place, restart: bool) -> None:
        count_events(folder, at)
        publish(place, restart)

    Place.publish = counted
    kill(folder, 0, shards)


def memory(folder: Path, side: int) -> None:
    """Convert an image that takes no memory itself."""
    door.convert(pixels((600, 600, 3)), folder / "small.zarr")
    before, image = most(), Computed(side)
    door.convert(image, folder / "out.zarr")
    sys.stdout.write(f"{before} {most()} {max(image.reads.values())} {sweep.STRIP_BYTES >> 20}\n")


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[3:]]
    {"kill": kill, "end": end, "memory": memory}[sys.argv[1]](Path(sys.argv[2]), *arguments)
