"""Packed predictions: all that is needed to look at one, in a file that is whole, and nothing of who made it."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import export_case
import numpy as np
import pandas as pd
import pytest
import store_case

from napari_xt.cli import main
from napari_xt.errors import SettingsError, StoreError
from napari_xt.io import pack as packing
from napari_xt.io.pack import pack
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import ShelfLayout
from napari_xt.io.stores.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

NOTES = {"image": "/images/secret/scene.tif", "image_relative": "scene.tif"}


@pytest.fixture
def whole(tmp_path: Path) -> Prediction:
    found = export_case.prediction(tmp_path / "scene.xt.zarr", notes=NOTES)
    for folder in ("tokens", "features", "preview"):
        (found.path / folder).mkdir()
        (found.path / folder / "zarr.json").write_text("{}")
    return found


def unpacked(path: Path) -> Path:
    folder = path.parent / "unpacked" / path.stem
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    return folder


@pytest.mark.parametrize(
    "opened", [open_prediction, lambda path: open_prediction(unpacked(path))], ids=["zip", "folder"]
)
def test_packed_prediction_says_what_the_store_says(
    whole: Prediction, tmp_path: Path, opened: Callable[[Path], Prediction]
) -> None:
    packed = opened(pack(whole))
    assert packed.complete
    assert packed.coverage == whole.coverage
    pd.testing.assert_frame_equal(packed.boxes, whole.boxes)
    pd.testing.assert_frame_equal(packed.scores, whole.scores)
    pd.testing.assert_frame_equal(packed.failed, whole.failed)
    assert packed.area() == whole.area()
    for ours, theirs in zip(packed.mask, whole.mask, strict=True):
        np.testing.assert_array_equal(ours[:], theirs[:])
    assert whole.probability is not None
    assert packed.probability is not None
    np.testing.assert_array_equal(packed.probability[:], whole.probability[:])
    np.testing.assert_array_equal(packed.overview[:], whole.overview[:])
    assert packed.tokens is packed.features is None


def test_what_only_a_run_needs_stays_at_home(whole: Prediction) -> None:
    with zipfile.ZipFile(pack(whole)) as file:
        names = file.namelist()
        assert not [name for name in names if name.split("/")[0] in packing.LEFT_OUT or "lock" in name]
        assert len(names) == len(set(names))
        text = b"".join(file.read(name) for name in names)
    assert b"someone" not in text
    notes = open_prediction(whole.path.with_name("scene.xt.zarr.zip")).header.notes
    assert notes["image"] == notes["image_relative"] == "scene.tif"


def test_one_prediction_makes_one_file_and_replaces_it(whole: Prediction, tmp_path: Path) -> None:
    one, other = pack(whole), pack(whole.path, tmp_path / "other.xt.zarr.zip")
    assert one == tmp_path / "scene.xt.zarr.zip"
    assert one.read_bytes() == other.read_bytes()
    assert pack(whole) == one
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.xt.zarr.zip",
        "scene.xt.zarr",
        "scene.xt.zarr.zip",
    ]


def test_kept_tokens_are_not_promised(tmp_path: Path) -> None:
    shelf = ShelfLayout(tokens=(4, 8), local=(2, 16, 16), dtype="float16", waits=False, keep="features")
    found = export_case.prediction(tmp_path / "kept.xt.zarr", shelf=shelf)
    packed = unpacked(pack(found))
    assert found.tokens is not None
    assert open_prediction(packed).tokens is None
    header = replace(store_case.header(found.layout), notes={}, plan=found.header.plan)
    with Store.open_writer(packed, header) as store:
        assert store.complete
        assert store.keep == "nothing"


def test_unfinished_prediction_is_packed_as_far_as_it_is(tmp_path: Path) -> None:
    layout = export_case.layout()
    header = replace(store_case.header(layout), plan={"regions": len(list(layout.grid.regions()))})
    with Store.open_writer(tmp_path / "half.xt.zarr", header) as store:
        store.commit([export_case.block(layout, export_case.mask(), 0, 1)])
        with pytest.raises(StoreError, match=f"process {os.getpid()} .* is writing it; wait for it or stop it"):
            pack(store.path)
    packed = open_prediction(pack(tmp_path / "half.xt.zarr"))
    assert not packed.complete
    assert 0 < packed.coverage < 1
    pd.testing.assert_frame_equal(packed.boxes, open_prediction(tmp_path / "half.xt.zarr").boxes)


def test_stop_leaves_what_was_there(whole: Prediction, tmp_path: Path) -> None:
    place = tmp_path / "scene.xt.zarr.zip"
    place.write_bytes(b"before")

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(whole, progress=stop)
    assert place.read_bytes() == b"before"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("scene.zip", "does not say that it is a packed prediction"),
        ("none/scene.xt.zarr.zip", "its folder is not there"),
        ("scene.xt.zarr/scene.xt.zarr.zip", "no file can be there"),
    ],
    ids=["name", "folder", "inside"],
)
def test_places_that_no_file_can_have(whole: Prediction, tmp_path: Path, out: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        pack(whole, tmp_path / out)


def test_what_is_no_packed_prediction_is_said_so(whole: Prediction, tmp_path: Path) -> None:
    bad = tmp_path / "bad.xt.zarr.zip"
    bad.write_bytes(b"PK nothing")
    with pytest.raises(StoreError, match=r"bad.xt.zarr.zip: it is no packed prediction"):
        open_prediction(bad)
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr("zarr.json", "{}")
    with pytest.raises(StoreError, match=r"bad.xt.zarr.zip: it is no packed prediction"):
        open_prediction(bad)
    with zipfile.ZipFile(pack(whole)) as good, zipfile.ZipFile(bad, "w") as file:
        for name in good.namelist():
            if not name.startswith("probability"):
                file.writestr(name, good.read(name))
    with pytest.raises(StoreError, match=r"bad.xt.zarr.zip: it is damaged: its array probability"):
        open_prediction(bad)
    with pytest.raises(StoreError, match="it is packed already"):
        pack(tmp_path / "scene.xt.zarr.zip")


def test_command_line_packs(whole: Prediction, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(whole.path)]) == 0
    assert "scene.xt.zarr.zip" in capsys.readouterr().out
    assert main(["pack", str(whole.path / "none")]) == 2
    said = json.dumps(capsys.readouterr().err)
    assert "napari-xt: error:" in said
    assert "Traceback" not in said
