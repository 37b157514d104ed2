"""The engine: its speed over the bare network, a gigapixel in one window, its memory, and a kill in the middle.

*speed* is what ``napari-xt bench engine`` measures; what bare network and run mean stands in `napari_xt.engine.bench`.
*global* runs 29,000 x 25,000 px, mirrored from the bundled scene and computed where it is read, as one window with all
outputs in a process of its own, and 4,000 x 4,000 px in another: seconds from the call, and the kernel's high-water
mark of the whole process. The bare network's time for as many regions is measured before, by itself. *resume* kills
such a run (SIGKILL) when half of its regions are encoded, runs the same command again, and sets both against an
undisturbed run; every encoded region is noted in a file as it is encoded.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from figures import Figures, apart, options, resident, tell

from napari_xt.engine import bench, stages
from napari_xt.engine.device import machine
from napari_xt.engine.plan import plan
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.model.checkpoint import load_model

PARTS = ("speed", "global", "resume")
LARGE, SMALL, RESUMED = (25_000, 29_000), (4_000, 4_000), (8_192, 8_192)
QUICK_LARGE, QUICK_SMALL = (700, 900), (300, 300)
MORE, START = 1.25, 15.0  # what a whole run may take: so many times the bare network's time, and seconds


def one_run(height: int, width: int, out: Path, noted: Path | None) -> dict[str, float]:
    """A run, or what is left of it, in this process; the index of each encoded region goes to ``noted``."""
    model = load_model(bench.MODEL)
    if noted is not None:
        note_encoded(noted)
    age = time.time() - psutil.Process().create_time()
    with mirrored_scene(height, width) as image:
        times = bench.run(image, model, out=out, window="global", restart=False)
    peak = resident("VmHWM")
    return {"age": age, "first": times.first, "encoded": times.encoded, "total": times.total, "peak": peak}


def note_encoded(path: Path) -> None:
    """Have every region that is encoded from now on noted in a file, which survives a kill."""
    encode, file = stages.encode, path.open("ab", buffering=0)

    def noting(*given: Any, **named: Any) -> list[stages.Encoded]:
        done = encode(*given, **named)
        file.write(np.array([e.region.index for e in done], np.int32).tobytes())
        return done

    stages.encode = noting


def in_one_window(figures: Figures, large: tuple[int, int], small: tuple[int, int]) -> None:
    """A gigapixel, and what its memory is over that of a small image."""
    model = load_model(bench.MODEL)
    with mirrored_scene(*large) as image:
        found = plan(image, model, machine=machine(), window=model.config.window)
        network = bench.bare(model, image, found, repeats=1, windows=min(found.windows, 16))
    alone = found.regions / network.speed
    with TemporaryDirectory() as folder:
        told = {
            size: apart(__file__, "--run", *size, Path(folder, f"{size[0]}.xt.zarr"), "") for size in (small, large)
        }
    run, peak = told[large], told[large]["peak"]
    name = f"{large[1]}x{large[0]}"
    limit = MORE * alone + START
    figures.add(
        f"engine.global.{name}.time",
        run["total"],
        "s",
        limit=limit,
        bare_seconds=alone,
        precision=found.precision,
        encoding=run["encoded"],
    )
    figures.add(f"engine.global.{name}.over_limit", run["total"] / limit, "of the limit")
    share = (run["total"] - run["encoded"]) / run["total"]
    figures.add(f"engine.global.{name}.context_decode", share, "of the time")
    figures.add(f"engine.global.{name}.first", run["first"], "s")
    figures.add(f"engine.global.{name}.memory", peak / 2**30, "GiB")
    small_peak = told[small]["peak"]
    figures.add(f"engine.global.{name}.memory_over_small", peak / small_peak, "times", small_gib=small_peak / 2**30)


def killed_half_way(figures: Figures, size: tuple[int, int]) -> None:
    """What a kill costs: regions that are encoded twice, and time."""
    with mirrored_scene(*size) as image:
        regions = plan(image, bench.MODEL, machine=machine()).regions
    with TemporaryDirectory() as name:
        folder = Path(name)
        undisturbed, whole = timed(size, folder / "whole.xt.zarr", folder / "whole")
        first, _ = timed(size, folder / "killed.xt.zarr", folder / "first", kill_at=regions // 2)
        second, rest = timed(size, folder / "killed.xt.zarr", folder / "second")
        before, after = (set(np.fromfile(folder / part, np.int32).tolist()) for part in ("first", "second"))
    assert before | after == set(range(regions)), "a region was encoded by neither"
    side = f"{size[1]}x{size[0]}"
    figures.add(f"engine.resume.{side}.twice", len(before & after), "regions", before=len(before), after=len(after))
    more = first + second - undisturbed
    figures.add(
        f"engine.resume.{side}.extra_time",
        (more - rest["age"]) / undisturbed,
        "of the time",
        undisturbed=undisturbed,
        first=first,
        second=second,
        process_start=rest["age"],
        first_start=whole["age"],
    )


def timed(size: tuple[int, int], out: Path, noted: Path, kill_at: int | None = None) -> tuple[float, dict[str, Any]]:
    """Seconds of a run in a process of its own, and what it tells; killed once so many regions are encoded."""
    call = [sys.executable, __file__, "--run", *map(str, (*size, out, noted))]
    noted.touch()
    begin = time.perf_counter()
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        while kill_at is not None and process.poll() is None:
            if noted.stat().st_size >= 4 * kill_at:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        printed, _ = process.communicate()
    spent = time.perf_counter() - begin
    if kill_at is None and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, call)
    return spent, json.loads(printed.splitlines()[-1]) if kill_at is None else {}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_argument("--side", type=int, default=bench.SIDE, help=f"speed: of the image, px (default: {bench.SIDE})")
    parser.add_argument("--image", metavar="WIDTHxHEIGHT", help="global, resume: size of the image, px")
    parser.add_argument("--run", nargs=4, metavar=("H", "W", "OUT", "NOTED"), help="one run, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = arguments()
    if given.run:
        height, width, out, noted = given.run
        tell(json.dumps(one_run(int(height), int(width), Path(out), Path(noted) if noted else None)))
        return
    figures = Figures()
    size = tuple(map(int, given.image.split("x")[::-1])) if given.image else None
    if "speed" in given.only:
        bench.measure(figures, 512 if given.quick else given.side, 1 if given.quick else bench.REPEATS)
    if "global" in given.only:
        sizes = (QUICK_LARGE, QUICK_SMALL) if given.quick else (size or LARGE, SMALL)
        in_one_window(figures, *sizes)
    if "resume" in given.only:
        killed_half_way(figures, QUICK_LARGE if given.quick else size or RESUMED)
    figures.write(given.json)


if __name__ == "__main__":
    main()
