"""`napari-xt bench`: what it measures and writes; how long anything took is nobody's business here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from napari_xt import cli
from napari_xt.engine.bench import write_scene
from napari_xt.geometry import Box
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.io.image import open_image


def test_the_engine_is_measured_against_the_network_and_the_figures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert cli.main(["bench", "engine", "--side", "256", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert {"cpu", "cores", "torch"} <= set(written["machine"])
    names = {"first.29000x25000", *(f"over_bare.window_{w}.side256.float32" for w in (8, "global"))}
    assert {f"engine.{name}" for name in names} <= set(written["figures"])
    printed = capsys.readouterr().out
    for name, figure in written["figures"].items():
        assert name in printed
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0
    share = written["figures"]["engine.context_decode.window_global.side256.float32"]["value"]
    assert share < 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["flight"], "benchmark 'flight': is not known"),
        (["engine", "--side", "0"], "size 0x0"),
        (["context-proof", "--seeds", "0"], "seeds = 0"),
        (["engine", "--json", "."], "can't be written"),
    ],
)
def test_what_can_not_be_measured_is_said_before_anything_is(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == cli.WRONG_INPUT
    assert told in capsys.readouterr().err


def test_the_scene_is_written_as_it_is_read(tmp_path: Path) -> None:
    with open_image(write_scene(tmp_path / "scene.zarr", 700, 600)) as written, mirrored_scene(700, 600) as scene:
        assert written.shape == scene.shape
        box = Box(500, 100, 700, 600)
        assert (written.read(box) == scene.read(box)).all()
