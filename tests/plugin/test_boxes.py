"""Boxes as layers: what is new is added, what is gone is taken away, and the table stays in step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Layer

from napari_xt.plugin import boxes
from napari_xt.plugin.boxes import boxes_layer, centres, in_color_of, kind_for, rectangles, set_boxes, sides


def table(ids: list[int]) -> pd.DataFrame:
    y0 = np.array(ids, float) * 10
    edges = {"y0": y0, "x0": y0 + 1, "y1": y0 + 4, "x1": y0 + 10}
    return pd.DataFrame({"id": np.array(ids, np.int64), **edges, "class": "tree", "score": np.float32(0.5)})


def test_edges_are_half_a_pixel_before_middles() -> None:
    np.testing.assert_array_equal(rectangles(table([0]))[0], [(-0.5, 0.5), (-0.5, 9.5), (3.5, 9.5), (3.5, 0.5)])
    np.testing.assert_array_equal(centres(table([0]))[0], (1.5, 5.0))
    np.testing.assert_array_equal(sides(table([0])), [6.0])


@pytest.mark.parametrize("kind", ["shapes", "points"])
def test_layers_of_any_number_of_boxes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 3 if kind == "shapes" else -1)
    for ids in ([], [5], [5, 1, 7]):
        assert kind_for(table(ids)) == kind
        layer = Layer.create(*boxes_layer(table(ids)))
        assert list(layer.features["id"]) == ids
        assert len(layer.data) == len(ids)


@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), max_size=4))
def test_layer_follows_the_table(steps: list[list[int]]) -> None:
    layer = Layer.create(*boxes_layer(table([3, 4])))
    for ids in steps:
        assert set_boxes(layer, table(ids), all=True)
        assert sorted(layer.features["id"]) == sorted(ids)
        shown = dict(zip(layer.features["id"], layer.data, strict=True))
        for box_id, box in zip(ids, rectangles(table(ids)), strict=True):
            np.testing.assert_allclose(shown[box_id], box)


def test_many_new_rectangles_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "AT_ONCE", 4)
    layer = Layer.create(*boxes_layer(table([])))
    assert [set_boxes(layer, table(list(range(10))), all=False) for _ in range(3)] == [False, False, True]
    assert sorted(layer.features["id"]) == list(range(10))


RED = (1.0, 0.0, 0.0, 1.0)


def test_style_that_the_user_gave_stays() -> None:
    for give in ("edge_color", "current_edge_color"):
        layer = Layer.create(*boxes_layer(table([1, 2])))
        setattr(layer, give, "red")
        for ids in ([3, 4, 5], [], [1]):
            set_boxes(layer, table(ids), all=True)
            assert {tuple(map(float, color)) for color in layer.edge_color} == ({RED} if ids else set())


def test_colour_goes_from_kind_to_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = Layer.create(*boxes_layer(table([1, 2])))
    shapes.edge_color = "red"
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", -1)
    points = Layer.create(*in_color_of(shapes, boxes_layer(table([1]))))
    assert tuple(map(float, points.border_color[0])) == RED
    monkeypatch.setattr(boxes, "SHAPES_UP_TO", 10)
    again = Layer.create(*in_color_of(points, boxes_layer(table([1]))))
    assert tuple(map(float, again.edge_color[0])) == RED
