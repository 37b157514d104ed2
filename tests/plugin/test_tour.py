"""The guided tour takes its steps in a real viewer, and says what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from napari_xt.plugin.recording import MAX_BYTES, Recording
from napari_xt.plugin.tour import Tour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_tour_from_the_sample_to_the_clipboard(make_napari_viewer: Callable[..., Any], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    recording = Recording(viewer)
    tour = Tour(viewer, tmp_path, watch=recording.look)
    told = []
    for step in (tour.sample, tour.first_overlay, tour.summary, tour.toggle, tour.row, tour.exported, tour.line):
        told.append(step())
        recording.hold(told[-1])
    assert "2299 x 2472 px" in told[0]
    assert "all 90 regions" in told[1]
    assert "F1 0.7" in told[2]
    assert viewer.scene.camera.zoom > 5
    assert (tmp_path / "scene.geojson").stat().st_size > 100_000
    assert "xt.run(viewer" in told[-1]
    path = recording.save(tmp_path / "tour.gif")
    assert path.stat().st_size <= MAX_BYTES
    with Image.open(path) as pictures:
        assert pictures.n_frames >= len(told)


@pytest.mark.slow
def test_the_whole_tour(make_napari_viewer: Callable[..., Any], tmp_path: Path) -> None:
    steps = {step.name: step.text for step in Tour(make_napari_viewer(show=True), tmp_path, mosaic_s=3.0).steps()}
    assert "Resume (" in steps["killed"]
    assert "100%" in steps["killed"]
    assert "change their class" in steps["context"]
    assert "29,000 x 25,000" in steps["mosaic"]
