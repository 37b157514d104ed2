"""What a store says of the image it was made from: pixel size and its source, place on the Earth, one warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import napari_xt as xt
from napari_xt.cli import main
from napari_xt.io.images.geo import Georeference
from napari_xt.model.config import ModelCard
from small_model import small_model, squares

KEYS = [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]
MAP: list[Any] = [
    (34735, "H", len(KEYS), KEYS, True),
    (33550, "d", 3, (0.1, 0.1, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0), True),
]


def image(path: Path, extra: Any = ()) -> Path:
    tifffile.imwrite(path, squares((128, 160)), tile=(64, 64), extratags=extra, metadata=None)
    return path


@pytest.mark.parametrize(
    ("extra", "options", "size"),
    [
        (MAP, {}, {"size": [0.1, 0.1], "unit": "meter", "source": "geotiff"}),
        (MAP, {"pixel_size": "12 cm"}, {"size": [12.0, 12.0], "unit": "centimeter", "source": "set by user"}),
        ((), {}, {"size": [1.0, 1.0], "unit": "pixel", "source": "unknown"}),
    ],
    ids=["geotiff", "set", "unknown"],
)
def test_notes(tmp_path: Path, extra: Any, options: dict[str, Any], size: dict[str, object]) -> None:
    path = image(tmp_path / "a.tif", extra)
    prediction = xt.predict(path, small_model(), out=tmp_path / "a.xt.zarr", **options)
    notes = prediction.header.notes
    assert notes["image"] == str(path)
    assert notes["pixel_size"] == size
    place = Georeference.from_json(notes.get("georeference"))
    assert place == (Georeference((0.1, 0.0, 500_000.0, 0.0, -0.1, 5_400_000.0), 32633) if extra else None)
    warnings = prediction.header.plan["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == (size["unit"] == "pixel")


def test_an_unknown_pixel_size_is_told_once_in_each_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    xt.save_model(small_model(), tmp_path / "small.safetensors", ModelCard(name="small"))
    run = ["run", str(image(tmp_path / "a.tif")), "--model", str(tmp_path / "small.safetensors")]
    assert main(run) == 0
    told, warned = capfd.readouterr()
    assert told.count("nothing states the pixel size") == warned.count("nothing states the pixel size") == 1
    assert main([*run, "--pixel-size", "10 cm", "--restart"]) == 0
    assert "pixel size" not in "".join(capfd.readouterr())


def test_an_array_has_no_place(tmp_path: Path) -> None:
    notes = xt.predict(np.zeros((64, 64, 3), "u1"), small_model(), out=tmp_path / "a.xt.zarr").header.notes
    assert set(notes) == {"image", "pixel_size", "python"}
