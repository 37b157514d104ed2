"""Runs that are killed or stopped: nothing is lost, and the same command again ends as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
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
    model = f"{folder}/small.safetensors"
    return ["run", f"{folder}/large.zarr", "--model", model, "--pixel-size", "10cm", "--out", str(out), *options]


def assert_same(out: Path, whole: Path) -> None:
    ours, theirs = xt.open_prediction(out), xt.open_prediction(whole)
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
    assert_same(out, folder / "whole.xt.zarr")


RUNS = {
    "windows": (),
    "windows, all kept": ("--keep", "features", "--preview"),
    "waiting": ("--window", "global"),
    "waiting, all kept": ("--window", "global", "--keep", "features", "--preview"),
}
KILLS = {"windows": 50, "windows, all kept": 10, "waiting": 50, "waiting, all kept": 10}
KILLER = """
import os, signal, sys
folder, last = sys.argv.pop(1), int(sys.argv.pop(1))
removal = {"os.remove", "os.rmdir"}  # folders are removed by names of their own
events = {"open", "os.rename", "os.mkdir", "sqlite3.connect"}
seen = 0

def count(event, arguments):
    global seen
    if event in removal or (event in events and folder in str(arguments[0])):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
from napari_xt.cli import main
code = main()
print("seen", seen)
sys.exit(code)
"""


def killed_at(event: int, folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run that kills itself when it does its n-th thing to files at ``out``; 0: never, it says how many."""
    call = [sys.executable, "-c", KILLER, out.name, str(event), *command(folder, out, *options)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), KILLS.items())
def test_kills_at_random(name: str, kills: int, folder: Path, tmp_path: Path) -> None:
    """Half of them at a random time, half at a random touch of a file, the last ones of which remove what waited."""
    whole, options = tmp_path / "whole" / "whole.xt.zarr", RUNS[name]
    begin = time.monotonic()
    with killed_at(0, folder, whole, *options) as process:
        wait_for(whole.parent.exists, process)
        begin = time.monotonic()
        said, _ = process.communicate(timeout=PATIENCE_S)
    seconds, events, rng = time.monotonic() - begin, int(said.split()[-1]), random.Random(kills)
    for number in range(kills // 2):
        out = tmp_path / str(number) / "new.xt.zarr"
        with killed_at(rng.randint(1, events), folder, out, *options) as process:
            _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, -signal.SIGKILL), said
        with case.child(*command(folder, out, *options)) as process:
            wait_for(lambda process=process: listens(process.pid), process)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 1 + seconds))
            process.kill()
        assert main(command(folder, out, *options)) == 0
        assert_same(out, whole)
        assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
        shutil.rmtree(out.parent)


SIGNALS = [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
by_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


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
    assert_same(out, folder / "whole.xt.zarr")


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
    assert said == stopped_by(number)


def stopped_by(number: signal.Signals) -> str:
    """The one line that a run says then."""
    why = f"stopped by {number.name}: what is done is kept; run the same command again to go on"
    return f"napari-xt: error: {why}\n"


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
    assert_same(out, folder / "whole.xt.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_signals_at_any_moment(options: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    whole, rng = tmp_path / "whole" / "whole.xt.zarr", random.Random(str(options))
    begin = time.monotonic()
    assert main(command(folder, whole, *options)) == 0
    seconds = time.monotonic() - begin
    for place in map(str, range(6)):
        out = tmp_path / place / "new.xt.zarr"
        for _ in range(2):
            with case.child(*command(folder, out, *options)) as process:
                wait_for(lambda process=process: listens(process.pid), process)  # type: ignore[misc]
                time.sleep(1 + rng.uniform(0, seconds))
                process.send_signal(number := rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
                _, said = process.communicate(timeout=PATIENCE_S)
            if process.returncode == 128 + number:
                assert said == stopped_by(number)
            else:
                assert xt.open_prediction(out).complete  # it came too late
                assert "Traceback" not in said
        assert main(command(folder, out, *options)) == 0
        assert_same(out, whole)


@pytest.mark.slow
def test_nohup_is_heard(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.xt.zarr"
    with case.child(*command(folder, out), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        wait_for(lambda: coverage(out) > 0, process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert_same(out, folder / "whole.xt.zarr")
