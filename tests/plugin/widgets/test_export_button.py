"""The Export button: when it can be pressed, that it writes what `export` writes, stops, and tells of errors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from napari.utils.notifications import notification_manager

from napari_xt.engine.run import predict
from napari_xt.io.export import export
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.widgets import export as button_module
from napari_xt.plugin.widgets.export import ExportButton, _with_suffix
from plugin_fixtures import picture
from small_model import small_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_xt.io.prediction import Prediction

LONG_MS = 20_000


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return predict(picture(200, 300), small_model(), out=tmp_path_factory.mktemp("button") / "run.xt.zarr")


@pytest.fixture
def button(make_napari_viewer: Callable[..., Any], qtbot: QtBot, prediction: Prediction) -> ExportButton:
    from napari.layers import Layer

    viewer = make_napari_viewer()
    made = ExportButton(viewer)
    qtbot.addWidget(made)
    assert not made.isEnabled()
    for data in read_layers(prediction.path):
        viewer.add_layer(Layer.create(*data))
    assert made.isEnabled()
    notification_manager.records.clear()
    return made


def finish(button: ExportButton, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: button.job is not None and button.job.done, timeout=LONG_MS)
    assert button.text() == "Export"


def test_it_writes_what_export_writes(
    button: ExportButton, prediction: Prediction, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = str(tmp_path / "a"), "geojson (*.geojson *.geojson.gz)"
    monkeypatch.setattr(button_module.QFileDialog, "getSaveFileName", lambda *_: chosen)
    button.click()
    assert button.text().startswith("Stop export")
    finish(button, qtbot)
    assert (tmp_path / "a.geojson").read_bytes() == export(prediction, tmp_path / "b.geojson").read_bytes()
    assert notification_manager.records[-1].message == f"exported to {tmp_path / 'a.geojson'}"


def test_error_is_told_and_the_next_works(button: ExportButton, qtbot: QtBot, tmp_path: Path) -> None:
    button.start(str(tmp_path / "no folder" / "a.csv"), "csv")
    finish(button, qtbot)
    assert "its folder is not there" in notification_manager.records[-1].message
    button.start(str(tmp_path / "a.csv"), "")
    finish(button, qtbot)
    assert (tmp_path / "a.csv").stat().st_size > 0


def test_click_stops_and_nothing_is_left(
    button: ExportButton, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(store: str, path: str, *, format: str | None, progress: Callable[[int, int], None]) -> None:
        def tell(done: int, total: int) -> None:
            time.sleep(0.02)
            progress(done, total)

        export(store, path, format=format, progress=lambda done, total: [tell(done, total) for _ in range(1000)])

    monkeypatch.setattr(button_module, "export", slowly)
    button.start(str(tmp_path / "a.geojson"), "")
    qtbot.wait(50)
    first = button.job
    button.start(str(tmp_path / "b.geojson"), "")
    assert button.job is first, "one at a time"
    button.click()
    finish(button, qtbot)
    assert list(tmp_path.iterdir()) == []
    assert not notification_manager.records


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("a", "csv", ("a.csv", "csv")),
        ("a.tif", "geotiff", ("a.tif", "geotiff")),
        ("a.geojson", "csv", ("a.geojson", "")),
        ("a.b", "coco", ("a.b.coco.json", "coco")),
        ("a", "", ("a", "")),
    ],
)
def test_name_says_the_format(path: str, kind: str, expected: tuple[str, str]) -> None:
    assert _with_suffix(path, kind) == expected
