"""Boxes as layers: what is new is added, what is gone is taken away, and the table stays in step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.layers import Layer

from napari_xt.geometry import Box
from napari_xt.plugin.boxes import layer as boxes
from napari_xt.plugin.boxes.layer import box_colors, boxes_layer, rectangles, set_boxes
from napari_xt.plugin.boxes.table import BoxTable

RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)
ONE, TWO = {"tree": RED}, {"tree": RED, "bush": BLUE}


def frame(ids: list[int], classes: tuple[str, ...] = ("tree",)) -> pd.DataFrame:
    y0 = np.array(ids, float) * 10
    edges = {"y0": y0, "x0": y0 + 1, "y1": y0 + 4, "x1": y0 + 10}
    names = [classes[i % len(classes)] for i in ids]
    scores = np.array([0.5 + i / 100 for i in ids], np.float32)
    return pd.DataFrame(
        {"id": np.array(ids, np.int64), **edges, "class": pd.Series(names, dtype=object), "score": scores}
    )


def table(ids: list[int], colors: dict[str, Any] = ONE) -> BoxTable:
    return BoxTable.of(frame(ids, tuple(colors)), list(colors), list(colors.values()), 0.5, (400, 400))


def put(layer: Any, wanted: BoxTable, *, all: bool = True, by: Any = "one") -> bool:
    return set_boxes(layer, wanted, np.arange(len(wanted)), by, all=all)


def test_edges_are_half_a_pixel_before_middles() -> None:
    corners = [(-0.5, 0.5), (-0.5, 9.5), (3.5, 9.5), (3.5, 0.5)]
    np.testing.assert_array_equal(rectangles(frame([0]))[0], corners)
    np.testing.assert_array_equal(table([0]).rectangles(np.array([0]))[0], corners)


@pytest.mark.parametrize("ids", [[], [5], [5, 1, 7]])
def test_layers_of_a_few_boxes(ids: list[int]) -> None:
    layer = Layer.create(*boxes_layer(table(ids)))
    assert list(layer.features["id"]) == ids
    assert len(layer.data) == len(ids)


def test_layer_of_many_boxes_waits_for_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 2)
    layer = Layer.create(*boxes_layer(table([5, 1, 7])))
    assert len(layer.data) == len(layer.features) == 0
    assert (layer.ndim, list(layer.features.columns)) == (2, ["id", "class", "score"])


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), max_size=4))
def test_layer_follows_the_table(steps: list[list[int]]) -> None:
    layer = Layer.create(*boxes_layer(table([3, 4])))
    for ids in steps:
        assert put(layer, table(ids))
        assert sorted(layer.features["id"]) == sorted(ids)
        shown = dict(zip(layer.features["id"], layer.data, strict=True))
        for box_id, box in zip(ids, rectangles(frame(ids)), strict=True):
            np.testing.assert_allclose(shown[box_id], box)


def test_changes_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "AT_ONCE", 4)
    layer = Layer.create(*boxes_layer(table([])))
    ten = table(list(range(10)))
    assert [put(layer, ten, all=False) for _ in range(3)] == [False, False, True]
    assert sorted(layer.features["id"]) == list(range(10))
    assert not put(layer, table([20, 21]), all=False)
    assert list(layer.features["id"]) == [], "taking away is a portion"
    assert put(layer, table([20, 21]), all=False)


def test_style_that_the_user_gave_stays() -> None:
    for give in ("edge_color", "current_edge_color"):
        layer = Layer.create(*boxes_layer(table([1, 2])))
        setattr(layer, give, "red")
        for ids in ([3, 4, 5], [], [1]):
            put(layer, table(ids))
            assert {tuple(map(float, c)) for c in layer.edge_color} == ({(1.0, 0.0, 0.0, 1.0)} if ids else set())


def test_several_classes_have_their_colours() -> None:
    layer = Layer.create(*boxes_layer(table([2, 3], TWO)))
    put(layer, table([2, 3, 4, 5], TWO), by="class")
    found = dict(zip(layer.features["class"], map(tuple, layer.edge_color), strict=True))
    assert found == {"tree": (1, 0, 0, 1), "bush": (0, 0, 1, 1)}


def test_scores_have_colours_without_steps() -> None:
    many = table(list(range(30)))
    colors = box_colors(many, np.arange(30), "score")
    assert colors is not None
    assert len(np.unique(colors, axis=0)) == 30
    assert np.abs(np.diff(colors, axis=0)).max() < 0.1


def test_tables_are_searched_by_place_score_and_class() -> None:
    found = table(list(range(10)), TWO)
    np.testing.assert_array_equal(found.within(Box(12, 0, 21, 99), found.kept()), [1, 2])
    assert list(np.flatnonzero(found.kept(0.55))) == [5, 6, 7, 8, 9]
    assert list(np.flatnonzero(found.kept(hidden=["tree"]))) == [1, 3, 5, 7, 9]
    assert list(found.rows(np.array([7, 99, 2]))) == [7, 2]
    assert list(found.features(np.array([3]))["class"]) == ["bush"]
