"""A run as text: what it says runs the same, on the command line, in Python and from a file of settings."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

import napari_xt as xt
from napari_xt.cli.parser import parser
from napari_xt.cli.verbs import wanted
from napari_xt.engine.script import Script, read_settings
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {
    "nothing": {},
    "roi": {"roi": "0,10,200,300", "threshold": 0.4},
    "off": {"context": False, "skip_background": True, "window": "global"},
    "channels": {"channels": {"nucleus": "DAPI", "membrane": 2}, "intensity": ((0.5, 300.25), (-1.0, 4.0))},
    "by index": {"channels": (2, 0, 1), "intensity": "percentile", "plane": {"t": 3, "z": 0}},
    "outputs": {"outputs": ("mask", "scores"), "pixel_size": "0.5 um", "level": 2},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def script(request: pytest.FixtureRequest) -> Script:
    return Script("my scene.ome.zarr", "canopy", RunSettings.of(**request.param), "out dir/a.xt.zarr")


def test_the_command_means_the_same(script: Script) -> None:
    chosen = parser().parse_args(shlex.split(script.shell())[1:])
    assert wanted(chosen) == ("canopy", script.settings)
    assert (chosen.image, chosen.out) == (script.image, script.out)
    assert script.shell() in script.sbatch()


def test_the_python_line_means_the_same(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setattr(xt, "predict", lambda *args, **options: said.update(options, args=args))
    exec(script.python())
    assert said.pop("args") == (script.image, "canopy")
    assert (said.pop("out"), said.pop("progress")) == (script.out, True)
    assert RunSettings.of(**said) == script.settings


def test_the_saved_settings_mean_the_same(script: Script, tmp_path: Path) -> None:
    script.save(tmp_path / "mine.json")
    assert read_settings(tmp_path / "mine.json") == ("canopy", script.settings)
    chosen = parser().parse_args(["run", "other.tif", "--settings", str(tmp_path / "mine.json"), "--threshold", "0.7"])
    assert wanted(chosen) == ("canopy", RunSettings.merged(script.settings, {"threshold": 0.7}))


def test_drawn_areas_go_with_the_settings(tmp_path: Path) -> None:
    (tmp_path / "drawn.geojson").write_text("{}")
    script = Script("a.tif", "canopy", RunSettings.of(roi=str(tmp_path / "drawn.geojson")))
    place = tmp_path / "there"
    place.mkdir()
    script.save(place / "mine.json")
    (tmp_path / "drawn.geojson").unlink()
    place = place.rename(tmp_path / "moved")
    _, settings = read_settings(place / "mine.json")
    assert settings.roi == str(place / "mine.areas.geojson")
    assert (place / "mine.areas.geojson").read_text() == "{}"


def test_what_only_this_machine_is_asked_for_stays_here() -> None:
    settings = RunSettings.of(device="cuda:1", workers=3, memory_limit_bytes=10**9, preview=True, keep="features")
    assert Script("a.tif", "canopy", settings).shell() == "napari-xt run a.tif --model canopy"
    assert Script("a.tif", "canopy", settings).console("scene") == "handle = xt.run(viewer, 'scene', 'canopy')"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"napari_xt": 2, "settings": {}}', '{"napari_xt": 1}', "\0" * 9])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(SettingsError, match="Save settings"):
        read_settings(tmp_path / "mine.json")


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        read_settings(tmp_path / "none.json")
