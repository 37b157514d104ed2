from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import export_case as case
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import store_case

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.errors import MissingDependencyError, SettingsError, StoreError, XTError
from napari_xt.geometry import Frame
from napari_xt.io import export as door
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.store import Store

UNITS = ["y0_um", "x0_um", "y1_um", "x1_um", "area_um2"]


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return case.prediction(tmp_path_factory.mktemp("export") / "run.xt.zarr", notes={"georeference": case.UTM})


def test_a_table_of_boxes_holds_every_number(prediction: Prediction, tmp_path: Path) -> None:
    path = xt.export(prediction, tmp_path / "boxes.csv")
    found, boxes = pd.read_csv(path), prediction.boxes
    assert path == tmp_path / "boxes.csv"
    assert list(found.columns) == [*boxes.columns, *UNITS, "source", "coverage"]
    pd.testing.assert_frame_equal(found[list(boxes.columns)], boxes, check_dtype=False, check_exact=False, rtol=1e-6)
    assert found["y0_um"].tolist() == pytest.approx((boxes["y0"] * 0.5).tolist())
    area = (boxes["y1"] - boxes["y0"]) * (boxes["x1"] - boxes["x0"]) * 0.125
    assert found["area_um2"].tolist() == pytest.approx(area.tolist())
    assert set(found["source"]) == {"final"}
    assert found["coverage"].tolist() == pytest.approx([prediction.coverage] * len(found))


def test_a_table_of_regions_says_which_failed(prediction: Prediction, tmp_path: Path) -> None:
    found = pd.read_csv(xt.export(prediction, tmp_path / "regions.csv", what="regions", source="prediction"))
    assert list(found.columns) == [*prediction.scores.columns, *UNITS, "source", "coverage"]
    assert found.loc[found["status"] == "failed", "p:open"].isna().tolist() == [True]
    assert set(found["source"]) == {"prediction"}


def test_a_table_of_areas(prediction: Prediction, tmp_path: Path) -> None:
    found = pd.read_csv(xt.export(prediction, tmp_path / "areas.csv", what="mask"))
    mask, box = case.mask(), found.iloc[0]
    for value, name in ((1, "crown"), (2, "rock")):
        assert found.loc[found["class"] == name, "area_px"].sum() == np.count_nonzero(mask == value)
    assert found["holes"].sum() > 10
    assert (found["area_um2"] == found["area_px"] * 0.125).all()
    part = mask[int(box["y0"]) : int(box["y1"]), int(box["x0"]) : int(box["x1"])]
    assert np.count_nonzero(part == ["background", "crown", "rock"].index(box["class"])) >= box["area_px"]


def test_parquet_is_the_table_and_says_what_it_is_of(prediction: Prediction, tmp_path: Path) -> None:
    path = xt.export(prediction, tmp_path / "boxes.parquet", box_threshold=0.5)
    found = pd.read_parquet(path)
    boxes = prediction.boxes.query("score >= 0.5").reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(boxes.columns)], boxes, check_dtype=False)
    assert len(boxes) < len(prediction.boxes)
    told = json.loads(pq.read_schema(path).metadata[b"napari_xt"])
    assert (told["source"], told["corrections"], told["model"], told["threshold"]) == ("final", 0, "canopy", 0.5)
    assert told["coverage"] == pytest.approx(prediction.coverage)
    assert told["failed_regions"] == 1


@pytest.mark.parametrize("name", ["boxes.csv", "boxes.parquet"])
def test_tables_may_be_empty_and_have_no_units(name: str, tmp_path: Path) -> None:
    found = replace(case.layout(), frame=Frame(case.SHAPE, case.SHAPE))
    prediction = case.prediction(tmp_path / "run.xt.zarr", found=found)
    path = xt.export(prediction.path, tmp_path / name, box_threshold=1.0)
    rows = pd.read_csv(path) if name.endswith("csv") else pd.read_parquet(path)
    assert list(rows.columns)[:9] == list(prediction.boxes.columns)
    assert not len(rows)
    assert not any("_um" in column for column in rows.columns)


WRONG = {
    "suffix": ({"name": "a.txt"}, SettingsError, "does not say which format"),
    "format": ({"format": "docx"}, SettingsError, "is not known; choose of csv"),
    "source": ({"source": "corrected"}, SettingsError, "is not known; choose of final, prediction"),
    "flavour": ({"flavour": "QuPath"}, SettingsError, "choose of qupath, map"),
    "flavour of a table": ({"flavour": "map"}, SettingsError, "is one of GeoJSON alone"),
    "what": ({"what": "labels"}, SettingsError, "can't hold it"),
    "two tables": ({"what": ["boxes", "regions"]}, SettingsError, "one file each"),
    "nothing": ({"what": []}, SettingsError, "one file each"),
    "simplify": ({"simplify": -1.0}, SettingsError, "is no tolerance"),
    "simplify coco": ({"simplify": 1.0, "format": "coco"}, SettingsError, "is for polygons, which this format has not"),
    "simplify table": ({"simplify": 1.0, "format": "csv"}, SettingsError, "is for polygons"),
    "simplify nan": ({"simplify": float("nan")}, SettingsError, "is no tolerance"),
    "no folder": ({"name": "none/a.csv"}, SettingsError, "its folder is not there"),
    "a folder": ({"name": "folder.csv"}, SettingsError, "a folder of this name"),
    "in the store": ({"name": "run.xt.zarr/a.csv"}, SettingsError, "lies in the prediction"),
}


@pytest.mark.parametrize(("changes", "error", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_sentence(
    changes: dict[str, object], error: type[XTError], words: str, prediction: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "run.xt.zarr").symlink_to(prediction.path)
    before = sorted(tmp_path.rglob("*"))
    name = changes.pop("name", "a.csv")
    with pytest.raises(error, match=words) as found:
        xt.export(prediction, tmp_path / str(name), **changes)
    changes["name"] = name
    assert "\n" not in str(found.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_prediction_without_boxes_gives_its_regions(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", boxes=None, mask=None)
    assert "p:open" in pd.read_csv(xt.export(prediction, tmp_path / "a.csv"))
    with pytest.raises(SettingsError, match=r"what = 'boxes': the prediction has none; choose of regions"):
        xt.export(prediction, tmp_path / "b.csv", what="boxes")


def test_what_is_not_finished_says_how_much_there_is(tmp_path: Path) -> None:
    found = case.layout()
    header = replace(store_case.header(found), plan={"regions": 180})
    with Store.open_writer(tmp_path / "run.xt.zarr", header) as store:
        store.commit([case.block(found, case.mask(), 0, 0)])
        path = xt.export(tmp_path / "run.xt.zarr", tmp_path / "a.geojson")
    told = json.loads(path.read_bytes())
    assert told["napari_xt"]["complete"] is False
    assert 0 < told["napari_xt"]["coverage"] == open_prediction(tmp_path / "run.xt.zarr").coverage < 1
    tiles = [feature for feature in told["features"] if feature["properties"]["objectType"] == "tile"]
    assert len(tiles) == 64


def test_regions_without_scores_are_written_only_if_asked_for(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", scores=None)
    kinds = [
        {feature["properties"]["objectType"] for feature in json.loads(path.read_bytes())["features"]}
        for what in (None, "regions")
        if (path := xt.export(prediction, tmp_path / "a.geojson", what=what))
    ]
    assert kinds == [{"annotation", "detection"}, {"tile"}]


class Stop(BaseException):
    """A signal that came in the middle."""


@pytest.mark.parametrize("name", sorted({kind.suffixes[0] for kind in door._WRITERS.values()}))
@pytest.mark.parametrize("error", [Stop, OSError, KeyboardInterrupt])
def test_a_stop_leaves_what_was_there(
    name: str, error: type[BaseException], prediction: Prediction, tmp_path: Path
) -> None:
    path = tmp_path / f"a{name}"
    path.write_text("before")

    def stop(_done: int, _total: int) -> None:
        raise error("now")

    with pytest.raises(StoreError if error is OSError else error):
        xt.export(prediction, path, progress=stop)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [path.name]


def test_a_signal_leaves_nothing(prediction: Prediction, tmp_path: Path) -> None:
    code = f"""
    import os, signal
    import napari_xt as xt
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be told to ignore it
    def stop(done, total):
        if done:
            os.kill(os.getpid(), signal.SIGINT)
    xt.export({str(prediction.path)!r}, {str(tmp_path / "a.geojson")!r}, progress=stop)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert not list(tmp_path.iterdir())


def test_what_was_there_is_replaced_whole(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")
    seen = []
    xt.export(prediction, path, progress=lambda _done, _total: seen.append(path.read_text()))
    assert set(seen) == {"before"}
    assert len(pd.read_csv(path)) == len(prediction.boxes)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_file_that_cant_be_written_is_said(prediction: Prediction, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="can't be written"):
        xt.export(prediction, tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "module", "arguments", "extra"),
    [
        ("a.parquet", "pyarrow", {}, "export"),
        ("a.geojson", "shapely", {"simplify": 1.0}, "export"),
        ("a.geojson", "pyproj", {"flavour": "map"}, "geo"),
    ],
)
def test_a_missing_extra_is_named(
    name: str,
    module: str,
    arguments: dict[str, object],
    extra: str,
    prediction: Prediction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"napari-xt\[{extra}\]"):
        xt.export(prediction, tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_damaged_mask_is_said(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr")
    chunk = next(file for file in (prediction.path / "labels/mask/0/c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(StoreError, match="its mask can't be read"):
        xt.export(prediction, tmp_path / "a.geojson")
    assert os.listdir(tmp_path) == ["run.xt.zarr"]


def test_formats_are_told() -> None:
    assert door.formats()["csv"] == (".csv",)
    ends = [suffix for suffixes in door.formats().values() for suffix in suffixes]
    assert len(set(ends)) == len(ends)


def test_two_exports_of_one_file_at_once_leave_one(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    both = [threading.Thread(target=xt.export, args=(prediction.path, path)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(pd.read_csv(path)) == len(prediction.boxes)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_the_command_writes_the_file_and_says_what_it_holds(
    prediction: Prediction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.geojson"
    line = [str(prediction.path), str(path), "--what", "boxes,regions", "--threshold", "0.5", "--source", "prediction"]
    assert main(["export", *line]) == 0
    printed = dict(row.split(None, 1) for row in capsys.readouterr().out.splitlines())
    assert printed == {"written": str(path), "source": "prediction", "coverage": "99.4%", "failed": "1 regions"}
    kinds = {feature["properties"]["objectType"] for feature in json.loads(path.read_bytes())["features"]}
    assert kinds == {"detection", "tile"}


def test_the_command_says_in_one_line_what_is_wrong(
    prediction: Prediction, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(prediction.path), str(tmp_path / "a.doc")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("napari-xt: error: ")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
