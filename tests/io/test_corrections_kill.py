"""Who is killed while painting loses at most the stroke in progress.

``python test_corrections_kill.py STORE`` paints until it is killed, and says before each stroke which one it is.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from export_case import SHAPE, mask, prediction

import napari_xt as xt
from napari_xt.geometry import Box
from napari_xt.io.stores.durable import PARTIAL

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

UNDONE = 7  # every so many strokes the last one is undone
SLOW = 5  # every so many strokes take long enough to be written in parts


def dab(number: int) -> tuple[Box, int]:
    """Where stroke ``number`` paints, and what: over the borders of chunks too, and over what came before."""
    rng = random.Random(number)
    y, x, side = rng.randrange(SHAPE[0] - 60), rng.randrange(SHAPE[1] - 60), rng.randrange(5, 60)
    return Box(y, x, y + side, x + side), rng.choice((0, 1, 2, 254))


def paint(store: str) -> None:
    """Paint for ever."""
    with xt.corrections(store, author="Ada") as known:
        while True:
            with known.stroke() as stroke:
                sys.stdout.write(f"begun {stroke.id}\n")
                sys.stdout.flush()
                box, value = dab(stroke.id)
                for row in range(box.y0, box.y1):
                    stroke.put(np.full(box.width, row), np.arange(box.x0, box.x1), value)
                    if stroke.id % SLOW == 0:
                        time.sleep(0.01)
                stroke.box_add(box.y0, box.x0, box.y1, box.x1, "crown")
            if stroke.id % UNDONE == 0:
                known.undo()


def killed(store: Path, after_s: float) -> int:
    """Paint in another process, kill it, and return the stroke that it had begun."""
    log = store.with_name("begun.txt")
    with log.open("w") as out:
        command = [sys.executable, __file__, str(store)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 60
            while not log.stat().st_size:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(after_s)
        finally:
            process.kill()
            process.communicate()
    return int(log.read_text().rsplit("\n", 2)[-2].split()[1])


def assert_whole(store: Path, begun: int, lost: set[int]) -> None:
    """Every stroke but those that were in progress is there, and nothing else."""
    with xt.corrections(store, read_only=True) as known:
        log = known.log()
        there = dict(zip(log["id"], log["undone"], strict=True))
        assert set(range(1, begun)) - lost <= set(there)
        assert max(there, default=0) <= begun
        expected, sure = mask(), np.ones(SHAPE, np.bool_)
        for number, undone in there.items():
            box, value = dab(number)
            if number in lost | {begun}:
                sure[box.slices] = False
            elif not undone:
                expected[box.slices] = value
                sure[box.slices] = True
            else:
                assert number % UNDONE == 0
        np.testing.assert_array_equal(known.mask[0][:][sure], expected[sure])
        standing = sum(not undone for number, undone in there.items() if number not in lost | {begun})
        assert standing <= len(known.boxes) <= standing + len(lost) + 1


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_painter_loses_at_most_the_stroke_in_progress(tmp_path: Path, kills: int) -> None:
    store = prediction(tmp_path / "scene.xt.zarr").path
    rng, begun, lost = random.Random(kills), 0, set()
    for number in range(kills):
        begun = killed(store, rng.uniform(0, 0.7))
        assert_whole(store, begun, lost)
        lost.add(begun)
        if number % 3 == 2:  # closed in between, so that arrays are there to go stale
            with xt.corrections(store) as known, known.stroke():
                pass
    assert begun > kills
    assert not list(store.rglob(f"*{PARTIAL}"))
    shutil.rmtree(store)


if __name__ == "__main__":
    paint(sys.argv[1])
