"""Any image to OME-Zarr: the same pixels, true means, other people's readers, kills, stops and full disks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import convert_case as case
import dask.array as da
import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image as Pillow
from remote_case import Server

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.errors import ImageReadError, SettingsError, StoreError, StoreLockedError, StoreMismatchError
from napari_xt.geometry import Box
from napari_xt.io.conversion import sweep, work
from napari_xt.io.conversion.place import JOURNAL, LOCK, REPLACED, Place
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import DurableStore
from napari_xt.io.stores.patches import mean

OUT = "out.ome.zarr"


def levels(path: Path) -> list[np.ndarray]:
    ome = described(path)
    return [zarr.open_array(path / d["path"], mode="r")[...] for d in ome["multiscales"][0]["datasets"]]


def described(path: Path) -> dict[str, Any]:
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    found: dict[str, Any] = attributes.get("ome", attributes)
    return found


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_halved(fine: np.ndarray, coarse: np.ndarray) -> None:
    np.testing.assert_array_equal(coarse, mean(fine, Box(0, 0, *fine.shape[-2:]), 2)[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": "0.4"},
        {"shards": 1024},
        {"version": "0.4", "compressor": "blosc", "chunks": 256},
        {"compressor": "gzip", "chunks": 1000},
        {"compressor": "none", "chunks": 64, "shards": 512},
        {"compressor": "blosc"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_valid_whole_and_true(tmp_path: Path, options: dict[str, Any]) -> None:
    data = case.pixels((4500, 1300, 3))
    path = xt.convert(data, tmp_path / OUT, pixel_size="0.5 um", **options)
    assert [entry.name for entry in tmp_path.iterdir()] == [OUT]
    yaozarrs.validate_zarr_store(str(path))
    found = levels(path)
    np.testing.assert_array_equal(found[0], data.transpose(2, 0, 1))
    assert [level.shape[1:] for level in found] == [(4500, 1300), (2250, 650), (1125, 325)]
    for fine, coarse in pairwise(found):
        assert_halved(fine, coarse)
    with xt.open_image(path) as image:
        assert (image.scale, image.unit, len(image.levels)) == ((0.5, 0.5), "micrometer", 3)
        assert image.channel_names == ("red", "green", "blue")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_reads_it(tmp_path: Path, version: str) -> None:
    data = case.pixels((3, 2100, 300), "u2")
    path = xt.convert(data, tmp_path / OUT, version=version, pixel_size=(2.0, 4.0))
    node = next(iter(Reader(parse_url(str(path)))()))
    np.testing.assert_array_equal(np.asarray(node.data[0]), data)
    assert len(node.data) == 2
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    assert node.metadata["coordinateTransformations"][1][0]["scale"] == [1.0, 4.0, 8.0]


KINDS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">u2", ">i4", ">f4"]


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type(tmp_path: Path, dtype: str) -> None:
    data = (np.random.default_rng(1).normal(0, 60, (2050, 37)).clip(-128, 127) + 0).astype(dtype)
    path = xt.convert(data, tmp_path / OUT)
    first, second = levels(path)
    assert first.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(first, data)
    assert_halved(first, second)


def test_big_endian_tiff(tmp_path: Path) -> None:
    data = case.pixels((300, 200), "u2")
    tifffile.imwrite(tmp_path / "a.tif", data, byteorder=">", tile=(64, 64), compression="zlib")
    np.testing.assert_array_equal(levels(xt.convert(tmp_path / "a.tif", tmp_path / OUT))[0], data)


def test_no_data_poisons_nothing(tmp_path: Path) -> None:
    data = np.ones((2100, 8), "f4")
    data[0, 0], data[2, 2], data[4:6, :2], data[6, 0] = np.nan, np.inf, np.nan, -np.inf
    first, second = levels(xt.convert(data, tmp_path / OUT))
    np.testing.assert_array_equal(first, data)
    assert second[0, 0] == second[1, 1] == second[3, 0] == 1
    assert np.isnan(second[2, 0])
    assert np.isnan(second).sum() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3, 100_001), (5001, 1), (2049, 2047)], ids=str)
def test_odd_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    data = case.pixels(shape)
    found = levels(xt.convert(data, tmp_path / OUT, chunks=128 if 1 in shape else 512))
    np.testing.assert_array_equal(found[0], data)
    assert max(found[-1].shape) <= 2048
    for fine, coarse in pairwise(found):
        assert_halved(fine, coarse)


@pytest.mark.parametrize("axes", ["tczyx", "zyxc", "tyx", "czyx", "zcyx"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_all_planes(tmp_path: Path, axes: str, chunk: int) -> None:
    sizes = {"t": 2, "c": 3, "z": 4, "y": 70, "x": 90}
    data = case.pixels(tuple(sizes[axis] for axis in axes), "u2")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    chunks = tuple(min(sizes[axis], 32 if axis in "yx" else chunk) for axis in axes)
    array = group.create_array("0", shape=data.shape, chunks=chunks, dtype="u2")
    array[...] = data
    kinds = {"t": "time", "c": "channel"}
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    entries = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": units[a]} if a in units else {}) for a in axes]
    scale = [{"t": 5.0, "z": 3.0, "y": 0.5, "x": 0.25}.get(axis, 1.0) for axis in axes]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    channels = [{"label": f"dye {i}", "color": f"00FF0{i}"} for i in range(3)]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": entries, "datasets": [dataset]}],
        "omero": {"channels": channels},
    }
    path = xt.convert(tmp_path / "a.zarr", tmp_path / OUT, chunks=16)
    yaozarrs.validate_zarr_store(str(path))
    order = sorted(axes, key="tczyx".index)
    np.testing.assert_array_equal(levels(path)[0], data.transpose([axes.index(axis) for axis in order]))
    ome = described(path)
    multiscale = ome["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == order
    told = zip(order, multiscale["datasets"][0]["coordinateTransformations"][0]["scale"], strict=True)
    assert dict(told) == dict(zip(axes, scale, strict=True))
    assert {axis["name"]: axis.get("unit") for axis in multiscale["axes"] if axis["name"] != "c"} == {
        axis: units[axis] for axis in axes if axis != "c"
    }
    if "c" in axes:
        assert [(channel["label"], channel["color"]) for channel in ome["omero"]["channels"]] == [
            (f"dye {i}", f"00FF0{i}") for i in range(3)
        ]


def test_ome_tiff_says_all_that_it_knows(tmp_path: Path) -> None:
    data = case.pixels((2, 3, 2, 64, 80), "u2")
    metadata = {
        "axes": "TZCYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 2000.0,
        "PhysicalSizeZUnit": "nm",
        "TimeIncrement": 4.0,
        "Channel": {"Name": ["DAPI", "GFP"], "Color": [0x0000FFFF, 0x00FF00FF]},
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", data, metadata=metadata, tile=(32, 32))
    ome = described(path := xt.convert(tmp_path / "a.ome.tif", tmp_path / OUT))
    np.testing.assert_array_equal(levels(path)[0], data.transpose(0, 2, 1, 3, 4))
    multiscale = ome["multiscales"][0]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [4.0, 1.0, 2000.0, 0.5, 0.25]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [
        "second", None, "nanometer", "micrometer", "micrometer",
    ]  # fmt: skip
    assert [(c["label"], c["color"]) for c in ome["omero"]["channels"]] == [("DAPI", "0000FF"), ("GFP", "00FF00")]
    window = ome["omero"]["channels"][0]["window"]
    assert (window["min"], window["max"]) == (0, 65535)
    assert 0 <= window["start"] < window["end"] <= 249


@pytest.mark.parametrize("bands", [3, 4])
def test_colour_and_alpha(tmp_path: Path, bands: int) -> None:
    data = case.pixels((64, 80, bands))
    Pillow.fromarray(data).save(tmp_path / "a.png")
    path = xt.convert(tmp_path / "a.png", tmp_path / OUT)
    np.testing.assert_array_equal(levels(path)[0], data.transpose(2, 0, 1))
    channels = described(path)["omero"]["channels"]
    assert [channel["label"] for channel in channels] == ["red", "green", "blue", "alpha"][:bands]
    assert [channel["active"] for channel in channels] == [True, True, True, False][:bands]
    assert channels[0]["window"] == {"min": 0, "max": 255, "start": 0, "end": 255}


def test_where_it_lies_on_the_earth(tmp_path: Path) -> None:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, "d", 3, (2.0, 2.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4e6, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(tmp_path / "a.tif", case.pixels((64, 80)), extratags=tags, tile=(32, 32))
    path = xt.convert(tmp_path / "a.tif", tmp_path / OUT)
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    assert attributes["proj:code"] == "EPSG:32633"
    assert attributes["spatial:transform"] == [2.0, 0.0, 500_000.0, 0.0, -2.0, 4e6]
    assert described(path)["multiscales"][0]["axes"][0]["unit"] == "meter"
    with xt.open_image(path) as image, xt.open_image(tmp_path / "a.tif") as source:
        assert image.georeference == source.georeference is not None


def test_dask_layers_and_planes_without_names(tmp_path: Path) -> None:
    data = case.pixels((70, 300, 200))
    tifffile.imwrite(tmp_path / "a.tif", data[:20], photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(levels(xt.convert(tmp_path / "a.tif", tmp_path / OUT))[0], data[:20])
    lazy = da.from_array(data[0], chunks=(77, 90))
    np.testing.assert_array_equal(levels(xt.convert(lazy, tmp_path / "b.zarr"))[0], data[0])


@pytest.mark.parametrize("strip", [2**14, 2**17, 2**22], ids=str)
@pytest.mark.parametrize("shards", [None, 64])
def test_narrow_columns_and_many_sweeps_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip: int, shards: int | None
) -> None:
    monkeypatch.setattr("napari_xt.io.conversion.target.COARSEST_PX", 32)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(333, 901), chunks=(50, 70), dtype="u1")
    array[...] = case.pixels((333, 901))
    plain = files(xt.convert(tmp_path / "a.zarr", tmp_path / "plain.zarr", chunks=32, shards=shards))
    monkeypatch.setattr(sweep, "STRIP_BYTES", strip)
    monkeypatch.setattr(sweep, "BAND_BYTES", 4 * strip)
    assert files(xt.convert(tmp_path / "a.zarr", tmp_path / OUT, chunks=32, shards=shards)) == plain


@pytest.fixture(scope="module", params=[0, 512], ids=["chunks", "shards"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, int, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("kill", folder, 0, request.param)
    return request.param, int(done.stdout), files(folder / "out.zarr")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, str(Path(case.__file__)), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False, cwd=Path(case.__file__).parent)


@pytest.mark.parametrize("share", [0.03, 0.2, 0.45, 0.7, 0.9])
def test_killed_it_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[int, int, dict[str, bytes]], share: float
) -> None:
    shards, events, wanted = undisturbed
    assert run("kill", tmp_path, round(events * share), shards).returncode == -9
    assert not (tmp_path / "out.zarr").exists()
    assert (tmp_path / "out.zarr.partial").is_dir()
    told: list[int] = []
    xt.convert(
        case.pixels(),
        tmp_path / "out.zarr",
        chunks=256,
        shards=shards or None,
        progress=lambda done, _: told.append(done),
    )
    assert files(tmp_path / "out.zarr") == wanted
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.zarr"]
    if share > 0.6:
        assert len(told) < 9, "what was done is not done again"


@pytest.mark.parametrize("at", [2, 3, 5], ids=["before it has its name", "after", "unlocked"])
def test_killed_at_the_very_end(tmp_path: Path, undisturbed: tuple[int, int, dict[str, bytes]], at: int) -> None:
    shards, _, wanted = undisturbed
    assert run("end", tmp_path, at, shards).returncode == -9
    assert (tmp_path / "out.zarr").exists() == (at > 2)
    path = xt.convert(case.pixels(), tmp_path / "out.zarr", chunks=256, shards=shards or None)
    assert files(path) == wanted
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark")
def test_memory_is_bounded_and_each_chunk_read_once(tmp_path: Path) -> None:
    done = run("memory", tmp_path, 8192)
    assert done.returncode == 0, done.stderr
    before, after, reads, strip = map(int, done.stdout.split())
    assert reads == 1
    assert after - before < 4 * strip  # the image takes 192 MiB, and a third more with its pyramid


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_stopped_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    monkeypatch.setattr(work, "NOTE_S", 0.0)

    def stop(done: int, total: int) -> None:
        assert total == 9
        if done == 4:
            raise error

    with pytest.raises(error):
        xt.convert(case.pixels(), tmp_path / OUT, chunks=256, progress=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{OUT}.partial"]
    told: list[tuple[int, int]] = []
    xt.convert(case.pixels(), tmp_path / OUT, chunks=256, progress=lambda *at: told.append(at))
    assert told[0] in ((4, 9), (5, 9))
    assert told[-1] == (9, 9)
    whole = xt.convert(case.pixels(), tmp_path / "whole" / OUT, chunks=256)
    assert files(tmp_path / OUT) == files(whole)


def test_stopped_at_once_it_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        xt.convert(case.pixels(), tmp_path / OUT, progress=stop)
    assert not list(tmp_path.iterdir())


def begun(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """A conversion that was stopped after two strips."""
    monkeypatch.setattr(work, "NOTE_S", 0.0)

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        xt.convert(case.pixels(), folder / OUT, chunks=256, progress=stop, **options)
    return folder / OUT


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (case.pixels(), {"chunks": 128}),
        (case.pixels(), {"chunks": 256, "version": "0.4"}),
        (case.pixels() + 1, {"chunks": 256}),
        (case.pixels()[:-1], {"chunks": 256}),
        (case.pixels(), {"chunks": 256, "pixel_size": "1 um"}),
        (da.from_array(case.pixels(), chunks=(2300, 1150, 3)), {"chunks": 256}),
    ],
    ids=["chunks", "version", "pixels", "shape", "scale", "order"],
)
def test_another_conversion_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: np.ndarray, options: dict[str, Any]
) -> None:
    out = begun(tmp_path, monkeypatch)
    with pytest.raises(StoreMismatchError, match="restart=True"):
        xt.convert(data, out, **options)
    xt.convert(data, out, restart=True, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == [OUT]
    np.testing.assert_array_equal(levels(out)[0], data.transpose(2, 0, 1))


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = begun(tmp_path, monkeypatch)

    def appear(*_: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "zarr.json").touch()

    with pytest.raises(StoreError, match="exists already"):
        xt.convert(case.pixels(), out, chunks=256, progress=appear)
    assert [file.name for file in out.iterdir()] == ["zarr.json"]
    out.rename(tmp_path / "other")
    xt.convert(case.pixels(), out, chunks=256)
    np.testing.assert_array_equal(levels(out)[0], case.pixels().transpose(2, 0, 1))


def test_what_was_begun_and_is_damaged_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = begun(tmp_path, monkeypatch)
    (tmp_path / f"{OUT}.partial" / "image" / "1" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"is damaged.*--restart"):
        xt.convert(case.pixels(), out, chunks=256)
    xt.convert(case.pixels(), out, chunks=256, restart=True)


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = begun(tmp_path, monkeypatch)
    owner = lock.take(tmp_path / f"{OUT}.partial" / JOURNAL / LOCK, out)
    for restart in (False, True):
        with pytest.raises(StoreLockedError, match="is writing it"):
            xt.convert(case.pixels(), out, chunks=256, restart=restart)
    lock.release(tmp_path / f"{OUT}.partial" / JOURNAL / LOCK, owner)
    xt.convert(case.pixels(), out, chunks=256)


def test_of_two_that_begin_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that nobody writes there before either says so, if they are let."""
    look, both = lock.owner, threading.Barrier(2)

    def slow(path: Path) -> lock.Owner | None:
        found = look(path)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return found

    monkeypatch.setattr(lock, "owner", slow)
    place, refused, release = Place(tmp_path / OUT, {}), [], threading.Event()

    def write() -> None:
        try:
            with place.locked():
                release.wait(10)
        except StoreLockedError:
            refused.append(True)
            release.set()

    workers = [threading.Thread(target=write) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert refused == [True]


def test_what_is_there_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = xt.convert(case.pixels((50, 60)), tmp_path / OUT)
    before = files(out)
    with pytest.raises(StoreError, match=r"exists already.*--restart"):
        xt.convert(case.pixels(), out)
    begun(tmp_path, monkeypatch, restart=True)
    assert files(out) == before
    xt.convert(case.pixels(), out, restart=True)
    assert levels(out)[0].shape == (3, 2300, 1150)
    assert [entry.name for entry in tmp_path.iterdir()] == [OUT]


def test_killed_between_two_renames_the_old_one_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = xt.convert(case.pixels((50, 60)), tmp_path / OUT)
    before = files(out)
    begun(tmp_path, monkeypatch, restart=True)
    out.rename(tmp_path / f"{OUT}.partial" / REPLACED)
    with pytest.raises(Stop):
        xt.convert(case.pixels(), out, restart=True, progress=lambda *_: stop())
    assert files(out) == before


def stop() -> None:
    raise Stop


def test_no_folder_of_another_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("you")
    with pytest.raises(StoreError, match="is no Zarr"):
        xt.convert(case.pixels((5, 6)), tmp_path / "letters", restart=True)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "you"


@pytest.mark.parametrize("place", ["", "/0", "/new.zarr", "/.."])
def test_never_into_or_around_the_source(tmp_path: Path, place: str) -> None:
    source = xt.convert(case.pixels((50, 60)), tmp_path / "folder" / OUT)
    before = files(tmp_path)
    with pytest.raises(SettingsError, match="where the source lies"):
        xt.convert(source, f"{source}{place}", restart=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"chunks": 15}, "chunks = 15"),
        ({"chunks": 8}, "chunks = 8"),
        ({"chunks": 512.0}, "chunks = 512.0"),
        ({"shards": 700}, "shards = 700.*multiple"),
        ({"shards": 512, "version": "0.4"}, "0.4 has none"),
        ({"shards": 512 * 300}, "smaller"),
        ({"version": "0.6"}, "version = '0.6'"),
        ({"compressor": "zip"}, "choose zstd"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_bad_settings(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        xt.convert(case.pixels((50, 60)), tmp_path / OUT, **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_what_is_done_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "NOTE_S", 0.0)
    put, count = DurableStore._put, [0]

    def full(self: DurableStore, path: Path, data: bytes) -> None:
        count[0] += 1
        if count[0] == 60:
            with self._counted():
                raise OSError(errno.ENOSPC, "No space left on device")
        put(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(DurableStore, "_put", full)
        with pytest.raises(StoreError, match=r"No space left.*bytes are free.*free some"):
            xt.convert(case.pixels(), tmp_path / OUT, chunks=256)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{OUT}.partial"]
    xt.convert(case.pixels(), tmp_path / OUT, chunks=256)
    np.testing.assert_array_equal(levels(tmp_path / OUT)[0], case.pixels().transpose(2, 0, 1))


def test_a_damaged_source_is_named_and_mended_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "NOTE_S", 0.0)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(2000, 2000), chunks=(256, 256), dtype="u2")
    array[...] = data = case.pixels((2000, 2000), "u2")
    chunk = tmp_path / "a.zarr/c/6/3"
    good = chunk.read_bytes()
    chunk.write_bytes(good[: len(good) // 2])
    with pytest.raises(ImageReadError, match="chunk at y=1536, x=768 of level 0"):
        xt.convert(tmp_path / "a.zarr", tmp_path / OUT, chunks=256)
    assert not (tmp_path / OUT).exists()
    chunk.write_bytes(good)
    np.testing.assert_array_equal(levels(xt.convert(tmp_path / "a.zarr", tmp_path / OUT, chunks=256))[0], data)


def test_from_a_server(tmp_path: Path) -> None:
    xt.convert(data := case.pixels((700, 300)), tmp_path / "served" / OUT)
    server = Server(tmp_path / "served")
    try:
        path = xt.convert(f"{server.url}/{OUT}", tmp_path / OUT)
        np.testing.assert_array_equal(levels(path)[0], data)
        assert described(path)["multiscales"][0]["name"] == "out"
    finally:
        server.stop()


def test_converted_again_it_is_the_same(tmp_path: Path) -> None:
    once = xt.convert(case.pixels((2100, 300, 3)), tmp_path / "a.ome.zarr", pixel_size="0.3 um")
    (tmp_path / "twice").mkdir()
    twice, before = files(xt.convert(once, tmp_path / "twice" / "a.ome.zarr")), files(once)
    assert json.loads(twice.pop("zarr.json"))["attributes"]["ome"]["omero"] == described(once)["omero"]
    del before["zarr.json"]
    assert twice == before


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", case.pixels((300, 200)))
    return lambda *words: (main(["convert", *words]), *capfd.readouterr())


def test_command_line(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call("a.tif", OUT, "--ome-zarr", "0.4", "--chunks", "64", "--pixel-size", "10 cm")
    assert (code, err) == (0, "")
    assert str(tmp_path / OUT) in out
    assert json.loads((tmp_path / OUT / "0/.zarray").read_text())["chunks"] == [64, 64]
    code, out, err = call("a.tif", OUT)
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert call("a.tif", OUT, "--restart", "--shards", "1024", "--compressor", "blosc")[0] == 0
    assert call("none.tif", "b.zarr")[0] == 2
    monkeypatch.setattr(work, "NOTE_S", 0.0)
    note, count = Place.note, [0]

    def interrupted(*given: Any, **named: Any) -> None:
        note(*given, **named)
        count[0] += 1
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "note", interrupted)
        code, out, err = call("a.tif", "c.zarr", "--chunks", "16")
    assert (code, out) == (130, "")
    assert "run the same command again to go on" in err
    assert not (tmp_path / "c.zarr").exists()
    assert (tmp_path / "c.zarr.partial").exists()
    assert call("a.tif", "c.zarr", "--chunks", "16")[0] == 0
    np.testing.assert_array_equal(levels(tmp_path / "c.zarr")[0], case.pixels((300, 200)))
    assert not (tmp_path / "b.zarr.partial").exists()
