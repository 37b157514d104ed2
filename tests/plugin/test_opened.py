"""Tables of a prediction: made once, with intensities where its image is known, over shapes wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from export_case import SHAPE, prediction
from napari.layers import Shapes

from napari_xt.io.measure import measure
from napari_xt.io.objects import objects
from napari_xt.plugin.layers.overlays import Place
from napari_xt.plugin.tables.drawn import drawn_over
from napari_xt.plugin.tables.opened import Opened


def test_objects_with_intensities_are_measured_once(tmp_path: Path) -> None:
    image = tmp_path / "a.npy"
    np.save(image, np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8))
    opened = Opened(str(prediction(tmp_path / "a.xt.zarr", notes={"image": str(image)}).path))
    calls: list[tuple[int, int]] = []
    rows = opened.objects(lambda *far: calls.append(far), intensities=True)
    expected = objects(opened.prediction, str(image))
    means = [name for name in expected if name.startswith("mean:")]
    assert len(means) == 1
    column = rows.column(means[0])
    assert column is not None
    np.testing.assert_allclose(column.values, expected[means[0]])
    seen = len(calls)
    assert seen > 1
    opened.objects(lambda *far: calls.append(far), intensities=True)
    opened.summary(lambda *far: calls.append(far))
    assert len(calls) == seen


def test_image_that_has_gone_and_store_without_tokens(tmp_path: Path) -> None:
    opened = Opened(str(prediction(tmp_path / "a.xt.zarr", notes={"image": "/not/there"}).path))
    assert opened.image is None
    assert not opened.has_tokens


def test_shapes_of_a_turned_layer_lie_where_they_are_seen(tmp_path: Path) -> None:
    made = prediction(tmp_path / "a.xt.zarr")
    place = Place((0.5, 0.25), (7.0, -3.0), linear=np.diag((0.5, 0.25)))
    corners = np.array([[50, 60], [50, 300], [300, 300], [300, 60]], float)
    layer = Shapes(ndim=2, rotate=30, scale=(3, 2), translate=(11, 5))
    world = (corners - 0.5) * (0.5, 0.25) + (7, -3)
    layer.add_polygons([np.array([layer.world_to_data(point) for point in world])])
    drawn = drawn_over(layer, place)
    np.testing.assert_allclose(drawn.data[0] + 0.5, corners, atol=1e-4)
    one, other = measure(made, drawn), measure(made, [corners])
    np.testing.assert_array_equal(one["count"], other["count"])
