"""Two runs of the list of last runs side by side: a layer and a table, gone with the same button."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import export_case
import numpy as np
import pytest
from napari.layers import Labels

from napari_xt.io.compare import compare
from napari_xt.plugin.layers.compared import shown_difference
from napari_xt.plugin.runs.known_runs import KnownRun
from napari_xt.plugin.widgets.compare import TOO_FEW, ComparePanel
from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

LONG_MS = 60_000


@pytest.fixture
def panel(make_napari_viewer: Make, qtbot: QtBot) -> tuple[Any, ComparePanel]:
    viewer = make_napari_viewer(show=True)
    Labels(np.zeros((2, 2), np.uint8))  # napari's first one makes colours, which warns where threads are about
    made = ComparePanel(viewer)
    qtbot.addWidget(made)
    return viewer, made


def test_layer_and_table_come_and_go(panel: tuple[Any, ComparePanel], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, made = panel
    paths = [tmp_path / f"{name}.xt.zarr" for name in ("one", "other")]
    one, other = export_case.prediction(paths[0]), export_case.prediction(paths[1], export_case.mask(seed=1))
    made.offer([KnownRun(path, path.stem) for path in paths])
    made.button.click()
    qtbot.waitUntil(lambda: shown_difference(viewer) and "IoU" in made.told.text(), timeout=LONG_MS)
    table = compare(one, other)
    for _, row in table.iterrows():
        assert f"{row['kind']}: {row['class']}" in made.told.text()
        assert f"IoU {row['iou']:.3f}" in made.told.text()
    assert made.button.isChecked()
    made.button.click()
    assert not made.button.isChecked()
    assert not viewer.layers
    assert made.told.text() == ""
    made.button.click()
    made.button.click()  # before it has come
    qtbot.waitUntil(lambda: not made._coming, timeout=LONG_MS)
    assert not viewer.layers
    made.button.click()
    qtbot.waitUntil(lambda: shown_difference(viewer) and not made.task.busy, timeout=LONG_MS)
    viewer.layers.clear()
    assert not made.button.isChecked()


def test_what_can_not_be_compared_is_said(panel: tuple[Any, ComparePanel], qtbot: QtBot, tmp_path: Path) -> None:
    viewer, made = panel
    made.offer([KnownRun(tmp_path / "one.xt.zarr", "one")])
    assert made.told.text() == TOO_FEW
    assert not made.button.isEnabled()
    export_case.prediction(tmp_path / "one.xt.zarr")
    made.offer([KnownRun(tmp_path / f"{name}.xt.zarr", name) for name in ("one", "gone")])
    made.button.click()
    qtbot.waitUntil(lambda: "gone" in made.told.text() and not made._coming, timeout=LONG_MS)
    assert not made.button.isChecked()
    assert not viewer.layers


def test_list_of_runs_opens_it(canopy: Path, make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(picture(200, 300), name="scene")
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run xT", area="right")
    for name, window in (("a", 1), ("b", 2)):
        widget.form.more.out.setText(str(tmp_path / f"{name}.xt.zarr"))
        widget.form.more.window_.setValue(window)
        widget.run_button.click()
        qtbot.waitUntil(lambda: widget.handle.state.over, timeout=LONG_MS)
    assert widget.compare.isHidden()
    widget.runs_button.fill()
    next(action for action in widget.runs_button.list.actions() if action.text() == "Compare two...").trigger()
    assert widget.compare.isVisible()
    assert {widget.compare.a.currentText(), widget.compare.b.currentText()} == {"a", "b"}
    widget.compare.button.click()
    qtbot.waitUntil(lambda: shown_difference(viewer) and "IoU" in widget.compare.told.text(), timeout=LONG_MS)
    widget.compare.button.click()
    assert not shown_difference(viewer)
