"""Runs that are killed or stopped: nothing is lost, and the same command again ends as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import zarr

import cli_case as case
import napari_xt as xt
from napari_xt.cli import main
from napari_xt.errors import StoreError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

SHAPE = (1100, 900)  # 18 x 15 regions, 3 x 2 steps
REGIONS = 18 * 15
PATIENCE_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an image, a model and the store of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("kill")
    case.write_good(folder)
    zarr.create_array(str(folder / "large.zarr"), data=case.scene(SHAPE), chunks=(256, 256, 3))
    assert main(command(folder, folder / "whole.xt.zarr")) == 0
    return folder


def command(folder: Path, out: Path, *options: str) -> list[str]:
    return ["run", f"{folder}/large.zarr", "--model", f"{folder}/small.safetensors", "--out", str(out), *options]


def assert_same(out: Path, folder: Path, whole: str = "whole.xt.zarr") -> None:
    ours, theirs = xt.open_prediction(out), xt.open_prediction(folder / whole)
    assert ours.complete
    arrays, expected = (dict(zarr.open_group(p.path, mode="r").arrays()) for p in (ours, theirs))
    for k, (mine, other) in enumerate(zip(ours.mask, theirs.mask, strict=True)):
        arrays[f"mask {k}"], expected[f"mask {k}"] = mine, other
    assert {"0", "probability", "scores", "status", "mask 0"} <= set(arrays)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name][...], array[...], err_msg=name)
    assert len(theirs.boxes)
    pd.testing.assert_frame_equal(ours.boxes, theirs.boxes)
    pd.testing.assert_frame_equal(ours.scores, theirs.scores)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def wait_for(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not moment():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)


def coverage(out: Path) -> float:
    try:
        return xt.open_prediction(out).coverage
    except StoreError:
        return -1.0


# when to kill, by what is to be seen at the output path
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while the store is made": lambda out: any(out.parent.iterdir()),
    "before the first block": lambda out: out.exists(),
    "after the first block": lambda out: coverage(out) > 0,
    "halfway": lambda out: coverage(out) > 0.5,
}


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.xt.zarr"
    sure = 0.0
    for moment in MOMENTS.values():
        with case.child(*command(folder, out)) as process:
            wait_for(lambda moment=moment: moment(out), process)  # type: ignore[misc]
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert coverage(out) >= sure or not out.exists()
        sure = max(sure, coverage(out))
    assert 0.5 < sure < 1
    assert main(command(folder, out)) == 0
    assert_same(out, folder)


@pytest.mark.slow
def test_large_windows_killed_at_random_while_regions_wait_on_disk(folder: Path, tmp_path: Path) -> None:
    assert main(command(folder, folder / "global.xt.zarr", "--window", "global")) == 0
    rng = random.Random(0)
    for number in range(20):
        out = tmp_path / str(number) / "new.xt.zarr"
        out.parent.mkdir()
        for _ in range(2):
            with case.child(*command(folder, out, "--window", "global")) as process:
                wait_for(lambda out=out: any(out.parent.iterdir()), process)  # type: ignore[misc]
                time.sleep(rng.uniform(0, 5))
                process.kill()
        assert main(command(folder, out, "--window", "global")) == 0
        assert_same(out, folder, "global.xt.zarr")
        assert not {"tokens", "features"} & {part.name for part in out.iterdir()}


@pytest.mark.slow
def test_twenty_runs_killed_at_random(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for number in range(20):
        out = tmp_path / str(number) / "new.xt.zarr"
        out.parent.mkdir()
        with case.child(*command(folder, out)) as process:
            wait_for(lambda out=out: any(out.parent.iterdir()), process)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 4))
            process.kill()
        assert main(command(folder, out)) == 0
        assert_same(out, folder)


by_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)


@by_signal
def test_a_signal_ends_a_run_soon_and_in_order(
    number: signal.Signals, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.xt.zarr"
    with case.child(*command(folder, out)) as process:
        wait_for(lambda: coverage(out) > 0, process)
        assert_ends(process, number)
    assert 0 < coverage(out) < 1
    capfd.readouterr()
    assert main(command(folder, out)) == 0
    assert f"{REGIONS}, {REGIONS} now" not in capfd.readouterr().out
    assert_same(out, folder)


@by_signal
def test_a_signal_while_it_loads_leaves_nothing(number: signal.Signals, folder: Path, tmp_path: Path) -> None:
    with case.child(*command(folder, tmp_path / "new.xt.zarr")) as process:
        wait_for(lambda: listens(process.pid), process)
        time.sleep(0.5)
        assert_ends(process, number)
    assert not list(tmp_path.iterdir())


def assert_ends(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send the signal ``number`` and see that ``process`` ends as promised."""
    begin = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - begin < 2 * business()
    assert process.returncode == 128 + number
    why = f"stopped by {number.name}: what is done is kept; run the same command again to go on"
    assert said == f"napari-xt: error: {why}\n"


def listens(pid: int) -> bool:
    """Whether a process handles SIGTERM itself."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return psutil.Process(pid).cpu_times().user > 1
    (caught,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def business() -> float:
    """How many times longer things take than on a machine that does nothing else."""
    return 1 + os.getloadavg()[0] / (os.cpu_count() or 1)


def test_a_second_signal_ends_it_at_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.xt.zarr"
    with case.child(*command(folder, out)) as process:
        wait_for(lambda: coverage(out) > 0, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said
    assert main(command(folder, out)) == 0
    assert_same(out, folder)
