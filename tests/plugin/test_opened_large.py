"""A large prediction is opened: its tables are read, sorted and filtered in threads while the viewer goes on."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from export_case import prediction as exportable
from probability_case import stored

from napari_xt.io.prediction import Prediction
from napari_xt.io.stores.layout import Status
from napari_xt.plugin.boxes.in_view import boxes_in_view
from napari_xt.plugin.layers import adopt
from napari_xt.plugin.layers.hover import overlay_of
from napari_xt.plugin.layers.overlays import TAG, Overlay
from napari_xt.plugin.layers.shown import shown_runs
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.tables.table_source import Column, Rows
from napari_xt.plugin.widgets.regions import RegionsWidget
from napari_xt.plugin.widgets.table import TablePage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

Make = Callable[..., Any] if TYPE_CHECKING else Any
LONG_MS = 20_000
MILLION = 1_000_000


@pytest.fixture
def read_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that have read boxes and scores of a prediction that counts as large."""
    names: list[str] = []
    whole = Prediction._table

    def told(self: Prediction, *args: Any) -> Any:
        names.append(threading.current_thread().name)
        return whole(self, *args)

    monkeypatch.setattr(Prediction, "_table", told)
    monkeypatch.setattr(adopt, "AT_ONCE_BYTES", 0)
    return names


def by_role(viewer: Any) -> dict[str, Any]:
    return {layer.metadata[TAG]["role"]: layer for layer in viewer.layers if TAG in layer.metadata}


def test_tables_are_read_in_a_thread_and_then_it_looks_as_ever(
    make_napari_viewer: Make, slicing: str, read_in: list[str], qtbot: QtBot, tmp_path: Path
) -> None:
    states = {"r1_1": Status.NOT_YET, "r2_2": Status.SKIPPED, "r3_1": Status.FAILED}
    made = stored(tmp_path / "a.xt.zarr", (2300, 260), **states)
    expected = Overlay(made)
    read_in.clear()
    viewer = make_napari_viewer(show=True)
    viewer.window.add_dock_widget(RegionsWidget(viewer))
    viewer.open(made.path, plugin="napari-xt")
    layers = by_role(viewer)
    overlay = overlay_of(layers["mask"])
    assert overlay is not None
    qtbot.waitUntil(lambda: overlay.filled and boxes_in_view(layers["boxes"]) is not None, timeout=LONG_MS)
    np.testing.assert_array_equal(layers["mask"].data[-1], expected.mask[-1])
    np.testing.assert_array_equal(layers["mask"].data[0][:], expected.mask[0][:])
    np.testing.assert_array_equal(layers["scores"].data, expected.scores)
    drawn = len(made.boxes)
    qtbot.waitUntil(lambda: layers["boxes"].nshapes == drawn, timeout=LONG_MS)
    (run,) = shown_runs(viewer)
    assert sum(run.boxes.counts().values()) == drawn
    assert "MainThread" in read_in, "this test itself"
    assert read_in.count("MainThread") == 1
    assert "napari-xt-tables" in read_in


def test_layers_that_are_gone_before_it_is_read_are_left_alone(
    make_napari_viewer: Make, read_in: list[str], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    made = exportable(tmp_path / "a.xt.zarr")
    viewer.open(made.path, plugin="napari-xt")
    overlay = overlay_of(by_role(viewer)["mask"])
    assert overlay is not None
    viewer.layers.clear()
    qtbot.waitUntil(lambda: overlay.filled, timeout=LONG_MS)
    qtbot.wait(400)
    assert len(viewer.layers) == 0


def test_without_a_viewer_it_is_read_at_once(read_in: list[str], tmp_path: Path) -> None:
    made = exportable(tmp_path / "a.xt.zarr")
    (mask,) = (one for one in read_layers(made.path) if one[2] == "labels")
    assert mask[1]["metadata"][TAG]["overlay"].filled
    assert set(read_in) == {"MainThread"}


def test_a_million_rows_that_were_arranged_in_a_thread_are_shown_at_once(qtbot: QtBot) -> None:
    rng = np.random.default_rng(0)
    page = TablePage()
    qtbot.addWidget(page)
    page.show()
    page.view.sortByColumn(1, page.view.horizontalHeader().sortIndicatorOrder())

    def rows() -> Rows:
        names = Column("class", rng.integers(0, 2, MILLION), ("a", "b"))
        return Rows((names, Column("score", rng.random(MILLION))), np.zeros((MILLION, 4)))

    page.show_rows(rows())
    page.class_name.setCurrentText("b")
    page.filter()
    arrange, found = page.arranged(), rows()
    thread = threading.Thread(target=lambda: arrange(found))
    thread.start()
    thread.join()
    began = time.thread_time()
    page.show_rows(found)
    assert time.thread_time() - began < 0.05, "1 ms on an idle machine"
    assert np.all(np.diff(found.column("score").values[found.shown]) >= 0) or np.all(
        np.diff(found.column("score").values[found.shown]) <= 0
    )
    assert page.model.rowCount() == np.count_nonzero(found.columns[0].values == 1)
    assert page.histogram.counts.sum() == page.model.rowCount()
