from __future__ import annotations

import json
import os
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_case as case
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from napari_xt.errors import SettingsError, StoreError, StoreMismatchError
from napari_xt.geometry import Box, Frame, Grid
from napari_xt.io.stores.layout import Layout, Status
from napari_xt.io.stores.patches import mean
from napari_xt.io.stores.store import Header, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.xt.zarr"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "run.xt.zarr"
    case.write(path)
    return path


def whole_mask(found: Layout) -> np.ndarray:
    mask = np.zeros(found.shape, np.uint8)
    for key in case.blocks(found):
        data = case.block_data(found, *key)
        if data.mask is not None:
            mask[data.block.box.slices] = data.mask
    return mask


def test_mask_levels_hold_what_was_committed(written: Path) -> None:
    group, mask = zarr.open_group(written, mode="r"), whole_mask(case.layout())
    for level in range(4):
        array = group[f"labels/mask/{level}"]
        np.testing.assert_array_equal(array[:], mask[:: 2**level, :: 2**level])
    assert group["labels/mask/0"].chunks == (1024, 1024)


def test_overview_is_the_mean_of_the_source(written: Path) -> None:
    pixels = np.zeros((3, *case.SHAPE))
    for key in case.blocks(case.layout()):
        data = case.block_data(case.layout(), *key)
        pixels[(slice(None), *data.block.box.slices)] = data.pixels
    means = pixels.reshape(3, 1050, 8, 150, 8).mean(axis=(2, 4))
    np.testing.assert_array_equal(zarr.open_group(written, mode="r")["0"][:], np.floor(means + 0.5))


def test_tables_say_what_is_known_of_each_region(written: Path) -> None:
    group = zarr.open_group(written, mode="r")
    status, scores = group["status"][:], group["scores"][:]
    failed = np.arange(51).reshape(17, 3) % 11 == 5
    np.testing.assert_array_equal(status, np.where(failed, Status.FAILED, Status.DONE))
    np.testing.assert_array_equal(np.isnan(scores).any(axis=2), failed)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all outputs"),
        pytest.param({"mask": None}, id="no mask"),
        pytest.param({"boxes": None, "scores": None, "overview_channels": 1}, id="mask of a grey image"),
        pytest.param({"overview_channels": 6, "overview_dtype": "float32"}, id="six bands"),
        pytest.param({"frame": Frame(case.SHAPE, case.SHAPE)}, id="no scale"),
        pytest.param({"frame": Frame(case.SHAPE, case.SHAPE, (2.0, 2.0), "furlong")}, id="odd unit"),
        pytest.param({"colors": ((0, 0, 0, 0), (1, 2, 3, 255))}, id="colours"),
    ],
)
def test_is_valid_ome_zarr_and_read_without_a_warning(
    path: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    found = case.layout(**changes)
    with Store.open_writer(path, case.header(found)) as store:
        store.commit([case.block_data(found, 0, 0)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yaozarrs.validate_zarr_store(str(path))
            nodes = list(Reader(parse_url(str(path)))())
    assert [len(node.data) for node in nodes] == ([1] if found.mask is None else [1, 0, 4])
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


def test_scale_is_true(written: Path) -> None:
    image, _, labels = Reader(parse_url(str(written)))()
    assert image.metadata["coordinateTransformations"][0][0]["scale"] == pytest.approx([1, 0.8, 0.8])
    assert image.metadata["axes"][1]["unit"] == "meter"
    assert [steps[0]["scale"][0] for steps in labels.metadata["coordinateTransformations"]] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8]
    )
    assert labels.metadata["properties"][1] == {"class": "crown"}


def test_a_resume_ends_with_the_bytes_of_an_undisturbed_run(path: Path, written: Path) -> None:
    assert case.write(path, seed=3, limit=7) == 7
    assert case.write(path, seed=4) == 11
    assert case.contents(path) == case.contents(written)


def test_a_complete_store_is_returned_as_it_is(path: Path, written: Path) -> None:
    before = case.contents(written)
    with Store.open_writer(written, case.header()) as store:
        assert store.complete
        assert len(store.committed()) == 18
        store.finish(0.5)
    assert case.contents(written) == before


def test_a_block_whose_bytes_rotted_is_written_again(path: Path, written: Path) -> None:
    case.write(path, limit=18)
    chunk = path / "labels/mask/0/c/1/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with Store.open_writer(path, case.header()) as store:
        assert (1, 0) not in store.committed()
        assert len(store.committed()) == 17
    case.write(path)
    assert case.contents(path) == case.contents(written)


def test_nothing_uncommitted_is_left_on_resume(path: Path) -> None:
    with Store.open_writer(path, case.header()) as store:
        store.commit([case.block_data(case.layout(), 0, 1)])
    before = case.contents(path)
    with Store.open_writer(path, case.header()) as store:
        store._write_blocks([case.block_data(case.layout(), 1, 0)])
        store._shared.put_overview([case.block_data(case.layout(), 1, 0)])
        store._shared.put([case.block_data(case.layout(), 1, 0)])
        (path / "labels/mask/0/c/x.partial").write_bytes(b"half")
    assert case.contents(path) != before
    with Store.open_writer(path, case.header()):
        pass
    assert case.contents(path) == before


@pytest.mark.parametrize("data", [b"", b"nonsense"], ids=["empty", "nonsense"])
def test_what_can_be_made_again_is_made_again(path: Path, data: bytes) -> None:
    case.write(path, limit=9)
    before = case.contents(path)
    derived = [file for name in ("labels/mask/1", "labels/mask/3", "scores", "status") for file in chunks(path / name)]
    assert len(derived) >= 4
    for file in derived:  # what a loss of power may leave of files that no one has asked to be on the disk
        file.write_bytes(data)
    with Store.open_writer(path, case.header()):
        pass
    assert case.contents(path) == before


def test_a_complete_store_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set[str]()
    plain = os.fsync

    def fsync(handle: int) -> None:
        synced.add(os.path.realpath(f"/proc/self/fd/{handle}"))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    case.write(path, limit=18)
    waiting = {str(file) for name in ("labels/mask/1", "scores", "status") for file in chunks(path / name)}
    assert waiting
    assert not waiting & synced
    case.write(path)
    with Store.open_writer(path, case.header()) as store:
        assert store.complete
    assert waiting <= synced


def chunks(array: Path) -> list[Path]:
    return [file for file in (array / "c").rglob("*") if file.is_file()]


def test_may_be_used_in_another_thread(path: Path) -> None:
    store = Store.open_writer(path, case.header())
    thread = threading.Thread(target=store.commit, args=([case.block_data(case.layout(), 0, 0)],))
    thread.start()
    thread.join()
    assert store.committed() == {(0, 0)}
    store.close()
    store.close()


def test_a_closed_store_leaves_nothing_open_and_no_lock(path: Path) -> None:
    case.write(path, limit=2)
    assert sorted(os.listdir(path / "journal")) == ["ledger.sqlite", "zarr.json"]
    assert os.listdir(path.parent) == ["run.xt.zarr"]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        pytest.param(case.header(threshold=0.5), "threshold: the store has 0.3, this run 0.5", id="setting"),
        pytest.param(case.header(model="x" * 64), "model: the store has mmm", id="model"),
        pytest.param(case.header(image="x" * 64), "image: the store has iii", id="image"),
        pytest.param(case.header(numerics=2), "numerics: the store has 1, this run 2", id="numerics"),
        pytest.param(case.header(roi=[0, 0, 9, 9]), "roi: the store has null, this run [0, 0, 9, 9]", id="new field"),
        pytest.param(case.header(case.layout(mask=("background", "tree"))), "mask: the store has", id="classes"),
        pytest.param(
            case.header(case.layout(grid=Grid(*case.SHAPE, 512, halo_px=32))),
            "grid, halo_px: the store has 0, this run 32",
            id="grid",
        ),
    ],
)
def test_another_run_is_refused_and_named(written: Path, wanted: Header, named: str) -> None:
    before = case.contents(written)
    with pytest.raises(StoreMismatchError) as refused:
        Store.open_writer(written, wanted)
    assert named in str(refused.value)
    assert "restart=True" in str(refused.value)
    assert case.contents(written) == before


def test_notes_settings_and_colours_are_not_the_run(path: Path) -> None:
    case.write(path, limit=1)
    other = replace(case.header(case.layout(colors=((0,) * 4, (9,) * 4))), notes={"source": "moved"}, plan={})
    with Store.open_writer(path, other) as store:
        assert store.header.notes == {"source": "scene.ome.zarr"}
        assert store.header.plan == {"regions": 51}


def test_restart_replaces_another_run(path: Path) -> None:
    case.write(path, limit=3)
    with Store.open_writer(path, case.header(threshold=0.5), restart=True) as store:
        assert store.committed() == frozenset()
        assert store.header.job["threshold"] == 0.5
    assert os.listdir(path.parent) == ["run.xt.zarr"]


def test_restart_replaces_a_store_whose_journal_is_damaged(path: Path) -> None:
    case.write(path, limit=3)
    (path / "journal/ledger.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(StoreError, match="journal can't be read"):
        Store.open_writer(path, case.header())
    with Store.open_writer(path, case.header(), restart=True) as store:
        assert store.committed() == frozenset()


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_zarr(path: Path) -> None:
    zarr.create_group(path, attributes={"ome": {"version": "0.5"}})


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("restart", [False, True], ids=["plain", "restart"])
@pytest.mark.parametrize("make", [make_file, make_folder, make_zarr, make_link])
def test_what_is_no_store_is_refused_and_left_alone(path: Path, make: object, restart: bool) -> None:
    make(path)  # type: ignore[operator]
    before = [(entry, entry.is_file() and entry.read_bytes()) for entry in path.parent.rglob("*")]
    with pytest.raises(StoreError, match="give another output path") as refused:
        Store.open_writer(path, case.header(), restart=restart)
    assert str(path) in str(refused.value)
    assert [(entry, entry.is_file() and entry.read_bytes()) for entry in path.parent.rglob("*")] == before


@pytest.mark.parametrize("restart", [False, True], ids=["plain", "restart"])
def test_a_newer_format_is_refused(path: Path, restart: bool) -> None:
    case.write(path, limit=0)
    described = json.loads((path / "zarr.json").read_text())
    described["attributes"]["napari_xt"]["format"] = 2
    (path / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(StoreError, match=r"store format 2, newer than 1; install a newer napari-xt"):
        Store.open_writer(path, case.header(), restart=restart)


def test_an_unwritable_place_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="it can't be written"):
        Store.open_writer(tmp_path / "file" / "run.xt.zarr", case.header())
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_a_good_store(path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with Store.open_writer(path, case.header()) as store:
        store.commit([case.block_data(case.layout(), 0, 1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"No space left on device, \d+ bytes are free"):
                store.commit([case.block_data(case.layout(), 1, 0)])
        assert store.committed() == {(0, 1)}
    case.write(path)
    assert case.contents(path) == case.contents(written)


def test_a_failed_creation_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            Store.open_writer(path, case.header())
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"mask": np.zeros((3, 3), np.uint8)}, id="mask shape"),
        pytest.param({"mask": np.zeros((512, 512), np.int64)}, id="mask type"),
        pytest.param({"probability": np.zeros((3, 128, 128), np.uint8)}, id="classes"),
        pytest.param({"pixels": np.zeros((3, 512, 512), np.float32)}, id="pixels type"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path: Path, wrong: dict[str, np.ndarray]) -> None:
    with Store.open_writer(path, case.header()) as store:
        with pytest.raises(ValueError, match="expected"):
            store.commit([replace(case.block_data(case.layout(), 0, 0), **wrong)])
        assert store.committed() == frozenset()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"stride": 3}, id="stride"),
        pytest.param({"mask": tuple(map(str, range(255)))}, id="classes"),
        pytest.param({"frame": Frame((10, 10), (10, 10))}, id="frame"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        case.layout(**changes)


@pytest.mark.parametrize("colors", [None, ((0, 0, 0, 0), (255, 0, 0, 255))], ids=["no colours", "colours"])
def test_layout_goes_through_json(colors: object) -> None:
    found = case.layout(colors=colors)
    assert Layout.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "uint64", "bool"])
def test_means_do_not_depend_on_how_blocks_lie(dtype: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2 if dtype == "bool" else 100, (2, 37, 41)).astype(dtype)
    cells, whole = mean(image, Box(0, 0, 37, 41), 8)
    assert whole.dtype == image.dtype
    assert cells == Box(0, 0, 5, 6)
    for y0, x0 in [(0, 0), (16, 24), (32, 40)]:
        box = Box(y0, x0, 37, 41)
        part, values = mean(image[:, y0:, x0:], box, 8)
        np.testing.assert_array_equal(values, whole[(slice(None), *part.slices)])


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int64", "float32"])
def test_means_reach_the_ends_of_a_type(dtype: str) -> None:
    top = np.finfo(dtype).max if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    image = np.full((8, 8), top, dtype)
    _, values = mean(image, Box(0, 0, 8, 8), 4)
    assert np.all(values >= image[:2, :2] * 0.999) if dtype != "uint8" else np.all(values == 255)


def test_a_border_cell_belongs_to_the_block_that_holds_its_first_pixel() -> None:
    image = np.arange(20.0)[None].repeat(2, axis=0)
    left, right = (mean(image[:, x0:x1], Box(0, x0, 2, x1), 4) for x0, x1 in [(0, 10), (10, 20)])
    assert (left[0], right[0]) == (Box(0, 0, 1, 3), Box(0, 3, 1, 5))
    assert left[1][0].tolist() == [1.5, 5.5, 8.5]
    assert right[1][0].tolist() == [13.5, 17.5]


def test_a_run_without_blocks_can_be_finished(path: Path) -> None:
    with Store.open_writer(path, case.header()) as store:
        store.commit([])
        store.finish(0.5)
        assert store.complete
        store.commit([case.block_data(case.layout(), 0, 0)])
        assert not store.complete
