"""What a plan predicts and refuses: memory, disk and time, from what was measured and what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zarr

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.engine import estimate, windows, writer
from napari_xt.engine import plan as planning
from napari_xt.engine.events import StageProgress
from napari_xt.engine.machine import Machine, Measured, cores, free_bytes, peak_bytes
from napari_xt.engine.measured import place, recall, remember
from napari_xt.engine.plan import Plan, plan
from napari_xt.engine.probe import Tensors, measure
from napari_xt.errors import SettingsError
from napari_xt.model.presets import CANOPY
from small_model import SMALL, small_model

PREFLIGHT = Path(__file__).parents[1] / "benchmarks" / "preflight.py"
MACHINE = Machine("cpu", "for a test", cores=8, memory_bytes=64 << 30)
GIB = 2**30


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own: what other tests' runs have taken is not known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def gigapixel() -> xt.Image:
    array = zarr.create_array(store={}, shape=(25_000, 29_000, 3), chunks=(512, 512, 3), dtype="u1")
    return xt.open_image(array)


def planned(image: object, machine: Machine = MACHINE, **options: object) -> Plan:
    return plan(image, "canopy", machine=machine, **options)


def words(found: Plan) -> dict[str, str]:
    return dict(re.split(r"\s{2,}|(?<=^precision) ", line, maxsplit=1) for line in str(found).splitlines())


# -- memory


def test_memory_grows_with_workers_windows_and_kept_pixels(gigapixel: xt.Image) -> None:
    base = planned(gigapixel, workers=2, window=8).memory_bytes
    assert planned(gigapixel, workers=8, window=8).memory_bytes > base
    assert planned(gigapixel, workers=2, window=16).memory_bytes > base
    assert planned(gigapixel, workers=2, window=4).memory_bytes < base


def test_workers_nobody_asked_for_are_as_many_as_memory_allows(gigapixel: xt.Image) -> None:
    many = replace(MACHINE, cores=64)
    limit = planned(gigapixel, many, window=8, workers=7).memory_bytes
    assert planned(gigapixel, many, window=8).workers == 64
    assert planned(gigapixel, many, window=8, memory_limit_bytes=limit).workers == 7
    with pytest.raises(SettingsError, match="workers=1 would need"):
        planned(gigapixel, many, window=8, memory_limit_bytes=limit, workers=64)


def test_a_setting_that_is_named_would_fit(gigapixel: xt.Image) -> None:
    limit = planned(gigapixel, window=4, workers=1).memory_bytes
    with pytest.raises(SettingsError, match="memory_limit_bytes") as refused:
        planned(gigapixel, window=32, memory_limit_bytes=limit)
    named = dict(re.findall(r"(\w+)=(\w+)", refused.value.do))
    assert named
    assert planned(gigapixel, **({"window": 32} | named), memory_limit_bytes=limit).memory_bytes <= limit


def test_what_no_setting_makes_fit(gigapixel: xt.Image) -> None:
    with pytest.raises(SettingsError, match="no setting makes it fit"):
        planned(gigapixel, memory_limit_bytes=10_000_000)


def test_without_a_limit_what_is_free_is_the_limit(gigapixel: xt.Image) -> None:
    need = planned(gigapixel, window=64, workers=1).memory_bytes
    assert planned(gigapixel, replace(MACHINE, free_bytes=need), window=64, workers=1)  # a prediction may be too high
    with pytest.raises(SettingsError, match=r"memory: a run over .* needs about .* GiB is free; window=16 would need"):
        planned(gigapixel, replace(MACHINE, free_bytes=need * 2 // 3), window=64, workers=1)


def test_the_command_line_refuses_in_one_line(
    gigapixel: xt.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scene = str(tmp_path / "scene.zarr")
    zarr.create_array(scene, data=np.zeros((300, 200, 3), np.uint8))
    for verb in ("plan", "run"):
        assert main([verb, scene, "--memory-limit-bytes", "1000000"]) == 2
        told = capfd.readouterr()
        assert re.fullmatch(r"napari-xt: error: memory_limit_bytes = 1000000: .*\n", told.err)
        assert not told.out
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["scene.zarr"]


# -- disk


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    gigapixel: xt.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**9))
    with pytest.raises(SettingsError, match=r"a\.xt\.zarr.* 1\.\d GB of disk, 1\.0 GB is free; window=16 would need"):
        xt.stream(gigapixel, "canopy", out=tmp_path / "a.xt.zarr", window="global")
    assert not (tmp_path / "a.xt.zarr").exists()


def test_disk_holds_what_is_kept(gigapixel: xt.Image) -> None:
    bare, tokens, features = (
        planned(gigapixel, window="global", keep=keep) for keep in ("nothing", "tokens", "features")
    )
    assert tokens.disk_bytes - bare.disk_bytes == 11_172 * 2 * 4 * 192
    assert features.disk_bytes - tokens.disk_bytes == 11_172 * 2 * 16 * 64 * 64
    assert bare.disk_peak_bytes == features.disk_peak_bytes == features.disk_bytes  # all wait on disk while it runs
    small = planned(gigapixel, window=8, keep="nothing")
    assert small.disk_peak_bytes == small.disk_bytes


# -- the card


def test_the_card_tells_time_memory_and_disk(gigapixel: xt.Image) -> None:
    fast = replace(MACHINE, cores=2, bfloat16=True, measured=Measured(seconds=0.036, activations=0, whole=True))
    told = words(planned(gigapixel, fast, window="global"))
    assert told["time"] == "about 3 min 20 s on an idle machine"
    assert re.fullmatch(r"about \d+ MB \(tokens of all regions kept\), 1\.\d GB while running", told["disk"])
    assert re.fullmatch(r"about [12]\.\d GiB at most", told["memory"])
    assert told["precision"] == "bfloat16, in which this machine is faster"
    assert "not measured" in words(planned(gigapixel))["time"]


@pytest.mark.parametrize(
    ("asked", "there", "taken", "told"),
    [
        ("auto", True, "bfloat16", "faster"),
        ("auto", False, "float32", "no bfloat16 on this machine"),
        ("float32", True, "float32", "as asked"),
        ("bfloat16", False, "bfloat16", "as asked"),
    ],
)
def test_precision_goes_by_a_rule(asked: str, there: bool, taken: str, told: str) -> None:
    found = planned(np.zeros((64, 64, 3), np.uint8), replace(MACHINE, bfloat16=there), precision=asked)
    assert found.precision == taken
    assert told in words(found)["precision"]
    assert any("slower" in text for text in found.warnings) == (asked == "bfloat16")


# -- what was measured


def test_a_finished_run_tells_the_time_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_xt.engine.probe.PAUSED", 1e9)  # however long this machine stands still
    scene, model = np.zeros((500, 500, 3), np.uint8), small_model()
    assert plan(scene, model).seconds is None
    xt.predict(scene, model, out=tmp_path / "a.xt.zarr")
    seconds = plan(scene, model).seconds
    assert seconds is not None
    assert plan(np.zeros((1000, 500, 3), np.uint8), model).seconds > seconds
    assert plan(scene, small_model(replace(SMALL, halo_px=0))).seconds is None


def test_a_run_that_tells_nothing_of_its_speed_is_not_remembered(tmp_path: Path) -> None:
    model = small_model()
    xt.predict(np.zeros((100, 100, 3), np.uint8), model, out=tmp_path / "few.xt.zarr")
    xt.predict(np.zeros((500, 500, 3), np.uint8), model, out=tmp_path / "part.xt.zarr", outputs="scores")
    assert not place().exists()


def test_a_run_that_goes_on_tells_nothing_of_what_was_encoded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY_REGIONS", 8)
    scene, model, out = np.zeros((500, 500, 3), np.uint8), small_model(), tmp_path / "a.xt.zarr"
    with closing(xt.stream(scene, model, out=out, window="global")) as events:
        next(event for event in events if isinstance(event, StageProgress) and event.stage == "decode")
    xt.predict(scene, model, out=out, window="global")
    assert not place().exists()
    xt.predict(scene, model, out=tmp_path / "b.xt.zarr", window="global")
    assert place().exists()


def test_a_probe_measures_and_leaves_the_model_alone(own_cache: Path) -> None:
    model, threads = small_model(), torch.get_num_threads()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure(model).measured
    assert found is not None
    assert 0 < found.seconds < 60
    assert 1e5 < found.activations < 1e8
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert place().is_relative_to(own_cache)
    assert measure(model).measured == found  # by now it is known


def test_tensors_are_counted_while_they_live() -> None:
    with Tensors(torch.nn.Identity()) as tensors:
        first = torch.zeros(1000)
        second = first + 1
        del first
        second.view(10, 100)
        torch.zeros(250)
    assert tensors.most == 8000


KNOWN = Measured(seconds=0.5, activations=7, batch=4)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"a": 1}', "[" * 100_000, '{"KEY": {"seconds": "fast"}}', '{"KEY": {"seconds": NaN}}'],
)
def test_a_damaged_memory_is_as_good_as_none(text: str) -> None:
    remember(CANOPY, MACHINE, "float32", KNOWN)
    (key,) = json.loads(place().read_text())
    place().write_text(text.replace("KEY", key))
    assert recall(CANOPY, MACHINE, "float32") is None
    remember(CANOPY, MACHINE, "float32", KNOWN)
    assert recall(CANOPY, MACHINE, "float32") == KNOWN


def test_a_memory_that_cannot_be_written_is_none(own_cache: Path) -> None:
    own_cache.write_text("a file where a folder should be")
    remember(CANOPY, MACHINE, "float32", KNOWN)
    assert recall(CANOPY, MACHINE, "float32") is None


def test_what_is_remembered_is_of_one_model_device_and_precision() -> None:
    remember(CANOPY, MACHINE, "float32", KNOWN)
    assert recall(CANOPY, MACHINE, "float32") == KNOWN
    assert recall(CANOPY, replace(MACHINE, device="auto"), "float32") == KNOWN
    assert recall(CANOPY, MACHINE, "bfloat16") is None
    assert recall(CANOPY, replace(MACHINE, device="cuda"), "float32") is None
    assert recall(SMALL, MACHINE, "float32") is None
    remember(CANOPY, replace(MACHINE, device="cuda:1"), "bfloat16", KNOWN)
    assert recall(CANOPY, replace(MACHINE, device="cuda"), "bfloat16") == KNOWN
    likely = recall(CANOPY, replace(MACHINE, device="auto"), "float32")
    assert likely is not None
    assert likely.seconds == KNOWN.seconds * MACHINE.cores  # one region after the other, whatever the workers


def test_a_whole_run_counts_more_than_a_probe() -> None:
    for seconds, whole, counts in (
        (0.2, False, 0.2),
        (0.3, False, 0.3),
        (0.5, True, 0.5),
        (0.1, False, 0.5),
        (0.4, True, 0.4),
    ):
        remember(CANOPY, MACHINE, "float32", Measured(seconds, 0, whole=whole))
        known = recall(CANOPY, MACHINE, "float32")
        assert known is not None
        assert known.seconds == counts


# -- what there is


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, id="version 2"),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "60000",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
            },
            id="version 1, six tenths",
        ),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000\n"}, id="hardly any"),
    ],
)
def test_cores_are_those_a_control_group_grants(files: dict[str, str], tmp_path: Path) -> None:
    assert cores(tree(tmp_path, files)) == 1


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}\n" for n in range(8)}
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores(tree(tmp_path, pairs)) == 4
    pairs |= {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}
    assert cores(tree(tmp_path, pairs)) == 4
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert cores(tmp_path) == 1


def test_free_memory_is_that_of_the_control_group(tmp_path: Path) -> None:
    held = free_bytes(tree(tmp_path / "full", {"proc/self/cgroup": "0::/\n", **group(GIB, GIB, 0)}))
    assert held <= GIB  # what this process has loaded already
    files = {"proc/self/cgroup": "0::/\n", **group(1 << 20, 3 << 18, 1 << 18)}
    assert free_bytes(tree(tmp_path / "part", files)) - held == pytest.approx(1 << 19, abs=64 << 20)
    assert peak_bytes() > 50 << 20


def group(limit: int, used: int, cache: int) -> dict[str, str]:
    base = "sys/fs/cgroup/memory"
    stat = f"anon 5\ninactive_file {cache}\n"
    return {f"{base}.max": str(limit), f"{base}.current": str(used), f"{base}.stat": stat}


# -- against runs


def test_what_is_counted_is_what_a_run_keeps() -> None:
    assert estimate.GROUP == writer.GROUP_REGIONS
    assert estimate.BATCHES == windows.BATCHES_AHEAD


SPREAD = {
    "the bundled scene": (2472, 2299, "canopy", {}),
    "small windows": (4000, 4000, "canopy", {"window": 4}),
    "large windows": (4000, 4000, "canopy", {"window": 16, "workers": 1}),
    "scores alone": (4000, 4000, "canopy", {"window": 8, "outputs": "scores"}),
    "features kept": (4000, 4000, "canopy", {"window": 8, "keep": "features", "precision": "float32"}),
    "a large network": (2500, 2500, "swinv2_tiny_window8_256", {"window": 4}),
    "waiting on disk": (12_000, 10_000, "canopy", {"window": "global"}),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the high-water mark of a process")
@pytest.mark.parametrize("case", SPREAD.values(), ids=SPREAD)
def test_memory_and_disk_come_as_predicted(case: tuple[int, int, str, dict[str, object]]) -> None:
    call = [sys.executable, str(PREFLIGHT), "--one", json.dumps(case)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for what in ("memory", "disk"):
        predicted, came = found[what]
        assert predicted == pytest.approx(came, rel=0.15), what
