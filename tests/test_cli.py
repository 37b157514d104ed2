"""The command line through its door: what it prints, what it refuses in one line, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

import cli_case as case
import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import run
from napari_xt.engine.events import Event, Notice, RunStarted

Call = Callable[[str], tuple[int, str, str]]

VERBS = ("info", "plan", "run", "export", "models", "demo")
RUN = "run {d}/scene.png --model {d}/small.safetensors --out {d}/new.xt.zarr --pixel-size 10cm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of good and bad files and a finished store, which no test here may change."""
    folder = tmp_path_factory.mktemp("cli")
    case.write_good(folder)
    case.write_bad(folder)
    xt.predict(folder / "scene.png", folder / "small.safetensors", out=folder / "done.xt.zarr")
    return folder


@pytest.fixture
def call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command line in ``tmp_path``: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(words(line, folder))
        return code, *capfd.readouterr()

    return call


def words(line: str, folder: Path) -> list[str]:
    """The arguments in ``line``: {d} is the folder, {odd} a name with control characters, {locked} is read-only."""
    names = {"{d}": str(folder), "{odd}": case.ODD, "{locked}": str(locked(folder)), "{long}": "n" * 4000}
    return [re.sub(r"\{\w+\}", lambda found: names[found.group()], word) for word in line.split()]


def locked(folder: Path) -> Path:
    """A folder that can't be written, by root neither."""
    if os.geteuid() == 0:
        return Path("/proc")
    (folder / "locked").mkdir(mode=0o555, exist_ok=True)
    return folder / "locked"


# the command line, and what its message must hold
BAD = {
    "no verb": ("", "VERB"),
    "unknown verb": ("fly {d}/scene.png", "'fly'"),
    "no image": ("run", "image"),
    "unknown option": (f"{RUN} --wings 2", "--wings"),
    "abbreviated option": (f"{RUN} --rest", "--rest"),
    "option without value": (f"{RUN} --roi", "--roi"),
    "surplus argument": ("info {d}/scene.png {d}/scene.tif", "scene.tif"),
    "long option": (f"{RUN} --{{long}}", "nnn"),
    "image missing": ("run {d}/none.tif --out {d}/new.xt.zarr", "none.tif.*no such file"),
    "image missing, info": ("info {d}/none.tif", "none.tif.*no such file"),
    "image missing, plan": ("plan {d}/none.tif", "none.tif.*no such file"),
    "image below a file": ("info {d}/scene.png/none.tif", "none.tif.*no such file"),
    "image with a long name": ("info {d}/{long}", "nnn.*no such file"),
    "text as tif": ("run {d}/text.tif --out {d}/new.xt.zarr", "text.tif.*text file"),
    "text as tif, info": ("info {d}/text.tif", "text.tif.*text file"),
    "tif cut short": ("run {d}/cut.tif --out {d}/new.xt.zarr", "cut.tif"),
    "tif cut short, info": ("info {d}/cut.tif", "cut.tif"),
    "png cut short": ("run {d}/cut.png --out {d}/new.xt.zarr", "cut.png.*cut short"),
    "file without bytes": ("run {d}/zero.png --out {d}/new.xt.zarr", "zero.png.*empty"),
    "folder without files": ("run {d}/empty --out {d}/new.xt.zarr", "empty"),
    "folder of other files": ("run {d}/others --out {d}/new.xt.zarr", "others"),
    "odd name": ("info {d}/{odd}", r"two\\nlines \\x1b\[31m.tif"),
    "model unknown": ("run {d}/scene.png --model oak --out {d}/new.xt.zarr", "oak.*no such model.*canopy"),
    "model unknown, plan": ("plan {d}/scene.png --model oak", "oak.*no such model.*canopy"),
    "model without name": ("plan {d}/scene.png --model=", "model.*no such model"),
    "model with a long name": ("plan {d}/scene.png --model {long}", "nnn.*no such model"),
    "model of nobody's home": ("plan {d}/scene.png --model ~nobody-here/oak", "nobody-here.*no such model"),
    "model a folder": ("plan {d}/scene.png --model {d}/empty", "empty.*no such model"),
    "model of other channels": (RUN.replace("scene.png", "grey.png"), "small.*3 channels.*grey has 1"),
    "model of other channels, plan": ("plan {d}/grey.png --model {d}/small.safetensors", "3 channels.*grey has 1"),
    "model cut short": (RUN.replace("small.s", "cut.s"), "cut.safetensors"),
    "model a text": (RUN.replace("small.s", "text.s"), "text.safetensors.*not a safetensors file"),
    "model check, cut short": ("models check {d}/cut.safetensors", "cut.safetensors"),
    "model check, an image": ("models check {d}/scene.png", "scene.png"),
    "model check, missing": ("models check {d}/none.safetensors", "none.safetensors"),
    "model check, nothing": ("models check", "no file"),
    "models, unknown action": ("models paint", "'paint'"),
    "out below a file": (f"{RUN} --out {{d}}/text.tif/new.xt.zarr", "text.tif/new.xt.zarr"),
    "out in a locked folder": (f"{RUN} --out {{locked}}/new.xt.zarr", "new.xt.zarr.*written"),
    "out below a locked folder": (f"{RUN} --out {{locked}}/a/b/new.xt.zarr", "new.xt.zarr.*written"),
    "out with a long name": (f"{RUN} --out {{d}}/{{long}}", "nnn"),
    "out is a file": (f"{RUN} --out {{d}}/text.tif", "text.tif.*is a file that holds no prediction"),
    "out is the image": (f"{RUN} --out {{d}}/scene.png", "scene.png.*is a file that holds no prediction"),
    "out is a folder": (f"{RUN} --out {{d}}/others", "others.*is a folder that holds no prediction"),
    "out is a folder, restart": (f"{RUN} --restart --out {{d}}/others", "others.*holds no prediction"),
    "out is an empty folder": (f"{RUN} --out {{d}}/empty", "empty.*holds no prediction"),
    "out is another zarr": (f"{RUN} --out {{d}}/scene.zarr", "scene.zarr.*holds no prediction"),
    "out is another zarr, restart": (f"{RUN} --restart --out {{d}}/scene.zarr", "scene.zarr.*holds no prediction"),
    "out is another run": (f"{RUN} --window 2 --out {{d}}/done.xt.zarr", "done.xt.zarr.*window.*another output path"),
    "out is empty text": (f"{RUN} --out=", "holds no prediction"),
    "roi of words": (f"{RUN} --roi here", "roi = 'here'"),
    "roi of three": (f"{RUN} --roi 1,2,3", "roi = '1,2,3'"),
    "roi of no area": (f"{RUN} --roi 5,5,5,9", "roi = '5,5,5,9'.*empty"),
    "roi turned round": (f"{RUN} --roi 90,90,10,10", "roi = '90,90,10,10'.*empty"),
    "roi not a number": (f"{RUN} --roi nan,0,9,9", "roi = 'nan,0,9,9'"),
    "roi without end": (f"{RUN} --roi 0,0,inf,9", "roi = '0,0,inf,9'"),
    "roi outside": (f"{RUN} --roi 5000,0,5100,90", "roi = 5000,0,5100,90.*outside.*scene"),
    "roi outside, plan": ("plan {d}/scene.png --roi 5000,0,5100,90", "roi = 5000,0,5100,90.*outside.*scene"),
    "roi before": (f"{RUN} --roi=-9,-9,0,0", "roi = -9,-9,0,0.*outside"),
    "threshold too high": (f"{RUN} --threshold 7", "threshold = 7.0"),
    "threshold not a number": (f"{RUN} --threshold nan", "threshold = nan"),
    "threshold a word": (f"{RUN} --threshold high", "threshold = 'high'"),
    "no workers": (f"{RUN} --workers 0", "workers = 0"),
    "no batch": (f"{RUN} --batch 0", "batch = 0"),
    "device unknown": (f"{RUN} --device quantum", "device = 'quantum'"),
    "device unknown, plan": ("plan {d}/scene.png --device quantum", "device = 'quantum'"),
    "window of nothing": (f"{RUN} --window 0", "window = 0"),
    "level not there": (f"{RUN} --level 9", "level = 9.*scene"),
    "plane not there": (f"{RUN} --plane z=2", "z"),
    "channel not there": (f"{RUN} --channels 0,1,7", r"channels = \(0, 1, 7\).*scene"),
    "pixel size a word": (f"{RUN} --pixel-size wide", "pixel_size.*'wide'"),
    "output unknown": (f"{RUN} --outputs mask,leaves", "'leaves'"),
    "precision unknown": (f"{RUN} --precision half", "precision = 'half'"),
    "on error unknown": (f"{RUN} --on-error cry", "on_error = 'cry'"),
}


@pytest.mark.parametrize(("line", "named"), BAD.values(), ids=BAD)
def test_wrong_input_is_one_line_and_changes_nothing(
    line: str, named: str, call: Call, folder: Path, tmp_path: Path
) -> None:
    words(line, folder)
    before = case.contents(folder)
    code, printed, said = call(line)
    assert_one_line(said)
    assert re.search(named, said)
    assert (code, printed) == (2, "")
    assert case.contents(folder) == before
    assert not list(tmp_path.iterdir())


def assert_one_line(said: str) -> None:
    assert said.startswith("napari-xt: error: ")
    assert said.endswith("\n")
    assert "Traceback" not in said
    assert len(said) <= 301
    assert said[:-1].isprintable()


@pytest.mark.parametrize("name", ["tif cut short", "model cut short"])
def test_wrong_input_in_a_process_of_its_own(name: str, folder: Path, tmp_path: Path) -> None:
    line, named = BAD[name]
    before = case.contents(folder)
    with case.child(*words(line, folder), cwd=tmp_path) as process:
        printed, said = process.communicate(timeout=120)
    assert_one_line(said)
    assert re.search(named, said)
    assert (process.returncode, printed) == (2, "")
    assert case.contents(folder) == before


def test_the_demo_needs_a_screen(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    code, printed, said = call("demo")
    assert_one_line(said)
    assert (code, printed) == (2, "")
    assert "screen" in said


def test_the_demo_runs_only_if_its_picture_can_be_saved(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    code, printed, said = call("demo --screenshot {d}/empty")
    assert_one_line(said)
    assert (code, printed) == (2, "")
    assert re.search("empty.*can't be written", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["700", "700x", "0x600", "700x600x3", "2000000x5"])
def test_the_demo_says_what_size_it_understands(size: str, call: Call, tmp_path: Path) -> None:
    code, printed, said = call(f"demo --size {size} --out {{d}}/demo.xt.zarr")
    assert_one_line(said)
    assert (code, printed) == (2, "")
    assert size in said


@pytest.mark.slow
def test_the_demo_of_a_size_needs_no_screen_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "demo.xt.zarr"
    for encoded in (6, 0):
        with case.child("demo", "--size", "700x500", "--out", out, env=without_screen()) as process:
            printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "100%" in said
        assert re.search(rf"regions +6, {encoded} now, [\d.]+ a second\n", printed)
        assert re.search(r"memory +[\d.]+ GiB at most\n", printed)
    prediction = xt.open_prediction(out)
    assert (prediction.layout.shape, prediction.layout.grid.window) == ((500, 700), 0)
    assert len(prediction.boxes)


def without_screen() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "DISPLAY" not in name and "QT" not in name}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_there_for_each_verb(verb: str, call: Call) -> None:
    code, printed, said = call(f"{verb} --help")
    assert (code, said) == (0, "")
    assert printed.startswith(f"usage: napari-xt {verb}".rstrip())
    assert verb or all(f"    {name} " in printed for name in VERBS)


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"{xt.__version__}\n", "")


@pytest.mark.parametrize("name", ["scene.zarr", "scene.tif", "scene.png"])
def test_info_tells_what_an_image_holds(name: str, call: Call) -> None:
    code, printed, said = call(f"info {{d}}/{name}")
    assert (code, said) == (0, "")
    assert dict(line.split(maxsplit=1) for line in printed.splitlines()) == {
        "image": "scene",
        "axes": "yxc",
        "levels": "330 x 290",
        "dtype": "uint8",
        "channels": "red, green, blue",
        "scale": "1.0, 1.0",
        "unit": "pixel",
        "scale_source": "unknown",
    }
    code, printed, said = call(f"info --json {{d}}/{name}")
    assert (code, said) == (0, "")
    facts = json.loads(printed)
    assert (facts["image"], facts["axes"], facts["levels"], facts["dtype"]) == ("scene", "yxc", [[330, 290]], "uint8")
    assert facts["channels"] == ["red", "green", "blue"]


def test_plan_prints_the_card_and_writes_nothing(call: Call, folder: Path) -> None:
    before = case.contents(folder)
    code, printed, said = call("plan {d}/scene.tif --model {d}/small.safetensors --roi 0,0,70,70 --workers 2")
    assert (code, said) == (0, "")
    assert re.search("^regions +4 of 30 ", printed, re.MULTILINE)
    assert "2 workers" in printed
    assert case.contents(folder) == before


def test_run_prints_card_and_summary_and_gives_what_the_api_gives(call: Call, folder: Path, tmp_path: Path) -> None:
    line = "run {d}/scene.png --model {d}/small.safetensors --out new.xt.zarr --workers 2 --pixel-size 10cm"
    code, printed, said = call(line)
    assert (code, said) == (0, "")
    for told in ("30 of 30", "new.xt.zarr", "30, 30 now", " tree", "crown", "GiB at most"):
        assert told in printed
    ours, theirs = xt.open_prediction(tmp_path / "new.xt.zarr"), xt.open_prediction(folder / "done.xt.zarr")
    assert ours.complete
    assert len(ours.boxes)
    pd.testing.assert_frame_equal(ours.boxes, theirs.boxes)
    np.testing.assert_array_equal(ours.mask[0][...], theirs.mask[0][...])
    code, printed, _ = call(line)
    assert code == 0
    assert "30, 0 now" in printed


def test_notices_are_told_on_standard_error(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = run.stream

    def noting(*args: Any, **options: Any) -> Iterator[Event]:
        for event in stream(*args, **options):
            yield event
            if isinstance(event, RunStarted):
                yield Notice(event.run_id, event.seq, event.seconds, "the batch is 1 now\x1b[31m")

    monkeypatch.setattr(run, "stream", noting)
    code, out, err = call(RUN)
    assert code == 0
    assert err == "napari-xt: the batch is 1 now\\x1b[31m\n"
    assert "the batch" not in out


def test_a_threshold_counts_in_the_summary(call: Call, folder: Path) -> None:
    boxes = xt.open_prediction(folder / "done.xt.zarr").boxes
    threshold = float(boxes.score.median())
    line = "run {d}/scene.png --model {d}/small.safetensors --out new.xt.zarr"
    _, printed, _ = call(f"{line} --threshold {threshold}")
    assert re.search(rf"^boxes +{(boxes.score >= np.float32(threshold)).sum()} tree$", printed, re.MULTILINE)


@pytest.mark.parametrize("place", ["", "--out ~/new.xt.zarr"], ids=["beside the image", "at home"])
def test_where_a_store_goes(
    place: str, call: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "scene.png").write_bytes((folder / "scene.png").read_bytes())
    assert call(f"run scene.png --model {{d}}/small.safetensors --roi 0,0,64,64 {place}")[0] == 0
    expected = tmp_path / ("home/new.xt.zarr" if place else "scene.small.xt.zarr")
    assert xt.open_prediction(expected).complete


@pytest.mark.parametrize("window", ["4", "1"])
def test_damaged_regions_are_counted_and_told_by_the_exit_code(window: str, call: Call, tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "rotten.zarr"), data=case.scene(), chunks=(64, 64, 3))
    (tmp_path / "rotten.zarr/c/0/0/0").write_bytes(b"this is no chunk")
    line = f"run rotten.zarr --model {{d}}/small.safetensors --out new.xt.zarr --window {window} --pixel-size 10cm"
    for _ in range(2):  # as a store that is complete, too
        code, printed, said = call(line)
        assert (code, said) == (3, "")
        assert re.search(r"^failed +4 regions$", printed, re.MULTILINE)


def test_models_lists_and_checks(call: Call) -> None:
    code, printed, said = call("models")
    assert (code, said) == (0, "")
    assert re.search(r"^canopy .*mask, boxes, scores", printed, re.MULTILINE)
    code, printed, said = call("models check {d}/small.safetensors")
    assert (code, said) == (0, "")
    assert "A small one" in printed
    assert re.search(r"^digest +[0-9a-f]{64}$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "info {d}/scene.png", RUN.replace("{d}/new", "new")],
    ids=["help", "version", "info", "run"],
)
def test_a_pipe_that_nobody_reads_is_no_error(line: str, folder: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with case.child(*words(line, folder), cwd=tmp_path, stdout=write) as process:
        os.close(write)
        _, said = process.communicate(timeout=120)
    assert said == ""
    assert process.returncode in (128 + signal.SIGPIPE, 0 if "--" in line[:2] else -1)  # argparse may not notice


def test_closed_streams_are_no_error(folder: Path, tmp_path: Path) -> None:
    line = " ".join(words(RUN.replace("{d}/new", "new"), folder))
    code = f"import sys; sys.stdout = sys.stderr = None; from napari_xt.cli import main; sys.exit(main({line.split()}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120, check=False).returncode == 0
    assert xt.open_prediction(tmp_path / "new.xt.zarr").complete


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode elsewhere")
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_name_can_be_printed_on_any_terminal(encoding: str, folder: Path, tmp_path: Path) -> None:
    name = b"caf\xc3\xa9 \xff\x1b[31m.png"
    (tmp_path / os.fsdecode(name)).write_bytes((folder / "scene.png").read_bytes())
    env = os.environ | {"PYTHONIOENCODING": encoding}
    call = [*case.COMMAND, "info", name]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\udcff\x1b[31m" in done.stdout


LIGHT = {
    "import": ("", True),
    "help": ("main(['run', '--help'])", True),
    "version": ("main(['--version'])", True),
    "models": ("main(['models'])", False),
    "info": ("main(['info', {image!r}])", False),
}


@pytest.mark.parametrize(("action", "arrays_absent"), LIGHT.values(), ids=LIGHT)
def test_what_needs_no_network_loads_none(action: str, arrays_absent: bool, folder: Path) -> None:
    absent = ["torch", "timm", "napari", "qtpy", *(["zarr", "numpy"] if arrays_absent else [])]
    code = f"import sys; from napari_xt.cli import main; {action.format(image=str(folder / 'scene.tif'))}"
    code += f"\nprint('loaded', [name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("line", ["--version", "info {d}/none.tif"], ids=["well", "badly"])
def test_signals_are_as_they_were_before(line: str, call: Call) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    call(line)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_it_can_be_called_off_the_main_thread(call: Call) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(call("info {d}/scene.png")[0]))
    thread.start()
    thread.join()
    assert codes == [0]
