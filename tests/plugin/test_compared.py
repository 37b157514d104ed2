"""The layer of differences in a real viewer: right at every zoom, named, and gone with the same button."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import export_case
import numpy as np
import pytest

from napari_xt.io.compare import MEANINGS, ONLY_A, difference
from napari_xt.plugin.layers import compared
from napari_xt.plugin.layers.compared import hide_difference, show_difference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    Make = Callable[..., Any]

LONG_MS = 20_000


def shown(viewer: Any, a: Any, b: Any, qtbot: QtBot, class_name: str | None = None) -> Any:
    found: list[Any] = []
    show_difference(viewer, a, b, class_name, done=found.append)
    qtbot.waitUntil(lambda: bool(found), timeout=LONG_MS)
    return found[0]


def test_difference_is_a_layer_on_demand(make_napari_viewer: Make, slicing: str, qtbot: QtBot, tmp_path: Path) -> None:
    one = export_case.prediction(tmp_path / "one.xt.zarr")
    other = export_case.prediction(tmp_path / "other.xt.zarr", export_case.mask(seed=1))
    viewer = make_napari_viewer(show=True)
    layer = shown(viewer, one, other.path, qtbot)
    assert layer.name == "one against other"
    assert list(layer.features["class"])[ONLY_A] == "only one"
    assert len(layer.features) == len(MEANINGS)
    assert not layer.editable
    np.testing.assert_array_equal(np.asarray(layer.data), np.asarray(difference(one, other)[0]))
    np.testing.assert_allclose(layer.scale, one.layout.frame.scale)
    again = shown(viewer, one, other, qtbot, "rock")
    assert [layer.name for layer in viewer.layers] == [again.name] == ["one against other: rock"]
    assert hide_difference(viewer)
    assert not viewer.layers
    assert not hide_difference(viewer)
    qtbot.wait(50)


def test_what_can_not_be_compared_is_said(make_napari_viewer: Make, qtbot: QtBot, tmp_path: Path) -> None:
    one = export_case.prediction(tmp_path / "one.xt.zarr")
    viewer = make_napari_viewer()
    with pytest.raises(Exception, match="is in neither mask"):
        compared.difference_layer(one, one, "tree")
    assert shown(viewer, one, one, qtbot, "tree") is None
    assert not viewer.layers
