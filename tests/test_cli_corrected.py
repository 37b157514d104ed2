"""The verbs about corrections: taken in, learned from, given out, and in one line why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import napari_xt as xt
from napari_xt.annotate.drawn import read_drawn
from napari_xt.cli import main
from napari_xt.errors import SettingsError
from napari_xt.model.config import ModelCard
from small_model import small_model, squares

SHAPE = (192, 256)  # 3 x 4 regions
RING = [[10, 20], [60, 20], [60, 50], [10, 50], [10, 20]]  # x, y
HOLE = [[20, 30], [30, 30], [30, 40], [20, 40], [20, 30]]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrected")
    xt.save_model(small_model(), folder / "small.safetensors", ModelCard(name="small", title="A small one"))
    xt.convert(squares(SHAPE), folder / "scene.ome.zarr")
    return folder


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "scene.small.xt.zarr"
    xt.predict(folder / "scene.ome.zarr", folder / "small.safetensors", out=out, keep="features")
    return out


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def written(path: Path, *areas: tuple[str, list[list[list[int]]]]) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"objectType": "annotation", **({"classification": {"name": name}} if name else {})},
            "geometry": {"type": "Polygon", "coordinates": rings},
        }
        for name, rings in areas
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_areas_become_corrections(store: Path, tmp_path: Path, call: Call) -> None:
    file = written(tmp_path / "a.geojson", ("crown", [RING, HOLE]), ("moss", [HOLE]))
    code, printed, said = call("import", store, file, "--check")
    assert (code, said) == (0, "")
    assert "new classes  moss" in printed
    assert not (store / "corrections").exists()
    code, printed, said = call("import", store, file, "--author", "Ada")
    assert (code, said) == (0, "")
    assert "1 areas, 1400 px" in printed
    with xt.corrections(store) as known:
        mask = known.mask[0][:]
        assert (mask[20:50, 10:60] == 1).sum() == 1400
        assert (mask[30:40, 20:30] == known.classes["moss"].value).all()
        assert known.log()[["author", "tool"]].values.tolist() == [["Ada", "import"]]
        known.undo()
        np.testing.assert_array_equal(known.mask[0][:], xt.open_prediction(store).mask[0][:])


def test_areas_of_a_coarser_run_lie_where_they_were_drawn(folder: Path, tmp_path: Path, call: Call) -> None:
    small = xt.predict(squares((384, 512)), folder / "small.safetensors", out=tmp_path / "a.xt.zarr", pixel_size="5 cm")
    assert small.layout.frame.px_per_run == (2, 2)
    written(tmp_path / "a.geojson", ("moss", [RING]))
    assert call("import", small.path, tmp_path / "a.geojson")[0] == 0
    with xt.corrections(small) as known:
        there = known.mask[0][:] == known.classes["moss"].value
    assert there[10:25, 5:30].all()
    assert there.sum() == 15 * 25


@pytest.mark.parametrize(
    ("areas", "said"),
    [
        ([], "it holds no areas"),
        ([("", [RING])], "1 of 1 areas have no class"),
        ([("moss", [[[900, 0], [990, 0], [990, 90], [900, 0]]])], "outside the image"),
    ],
    ids=["none", "no class", "elsewhere"],
)
def test_a_file_that_can_not_be_taken_is_told_in_one_line(
    areas: list[tuple[str, list[list[list[int]]]]], said: str, store: Path, tmp_path: Path, call: Call
) -> None:
    code, _, error = call("import", store, written(tmp_path / "a.geojson", *areas))
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (store / "corrections").exists()


def test_a_model_learns_and_predicts_again(store: Path, folder: Path, tmp_path: Path, call: Call) -> None:
    code, _, error = call("refine", store, "--model", folder / "small.safetensors")
    assert (code, error.count("\n")) == (2, 1)
    with xt.corrections(store, author="Ada") as known:
        for col in range(4):
            with known.stroke() as stroke:
                stroke.region(0, col, state="accepted")
    code, _, error = call("refine", store)
    assert code == 2
    assert "--model FILE" in error
    (tmp_path / "small.safetensors").write_bytes((folder / "small.safetensors").read_bytes())
    code, printed, _ = call("refine", store, "--steps", 5)
    assert code == 0
    assert "small+1.safetensors" in printed
    again = xt.open_prediction(tmp_path / "scene.small+1.xt.zarr")
    with xt.corrections(again, read_only=True) as known:
        assert set(known.regions["state"]) == {"accepted"}
    code, printed, _ = call("refine", store, "--steps", 5, "--no-predict", "--out", tmp_path / "b.safetensors")
    assert code == 0
    assert not (tmp_path / "scene.small+2.xt.zarr").exists()


def test_crops_are_given_out(store: Path, tmp_path: Path, call: Call) -> None:
    code, _, error = call("training-set", store, tmp_path / "project")
    assert code == 2
    assert "no region of it was corrected" in error
    with xt.corrections(store) as known, known.stroke() as stroke:
        stroke.region(1, 1, state="accepted")
    code, printed, _ = call("training-set", store, tmp_path / "project")
    assert code == 0
    assert "coco.json" in printed
    assert len(list((tmp_path / "project").rglob("*.ome.zarr"))) == 1


def test_a_prediction_without_mask_has_nowhere_to_draw(folder: Path, tmp_path: Path, call: Call) -> None:
    found = xt.predict(squares(SHAPE), folder / "small.safetensors", out=tmp_path / "boxes.xt.zarr", outputs=("boxes",))
    file = written(tmp_path / "a.geojson", ("moss", [RING]))
    assert len(read_drawn(found, file)) == 1
    code, _, error = call("import", found.path, file)
    assert code == 2
    assert "no mask to paint in" in error
    with pytest.raises(SettingsError):
        xt.training_set(found, tmp_path / "project")
