"""Areas of GeoJSON files as layers: where they belong, with holes, in the colours of their classes."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from napari.layers import Layer
from npe2 import PluginManager

from napari_xt.errors import AnnotationError
from napari_xt.io.annotations import Annotation
from napari_xt.plugin import annotations
from napari_xt.plugin.annotations import annotations_layer, get_reader, one_outline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import napari

OUTER = [[0, 0], [60, 0], [60, 40], [0, 40], [0, 0]]
HOLE = [[20, 10], [20, 30], [40, 30], [40, 10], [20, 10]]
MORE = [[70, 10], [90, 10], [90, 20]]


def written(path: Path, **head: object) -> Path:
    tumour = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}, "name": "left"}
    kinds = [([OUTER, HOLE], tumour), ([MORE], {"objectType": "annotation"})]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": told}
        for rings, told in kinds
    ]
    text = json.dumps({"type": "FeatureCollection", **head, "features": features}).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def test_holes_stay_open_and_classes_keep_their_colours(tmp_path: Path) -> None:
    data, style, kind = annotations_layer(written(tmp_path / "a.geojson"))
    layer = Layer.create(data, style, kind)
    assert (kind, layer.name) == ("shapes", "a")
    assert layer.features.to_dict("list") == {"class": ["Tumor", ""], "name": ["left", ""]}
    np.testing.assert_allclose(layer.edge_color, [[200 / 255, 0, 0, 1], [0, 229 / 255, 1, 1]])
    mask = layer.to_masks((50, 100))[0]
    assert (mask[20, 10], mask[20, 30], mask[20, 50]) == (True, False, True)


def test_it_lies_over_the_image_that_is_open(tmp_path: Path, make_napari_viewer: Callable[..., napari.Viewer]) -> None:
    viewer = make_napari_viewer(show=False)
    viewer.add_image(np.zeros((3, 50, 100)), scale=(1, 0.5, 0.5), translate=(0, 7, 8), units=("pixel", "um", "um"))
    PluginManager.instance().discover()
    viewer.open(written(tmp_path / "a.geojson.gz"), plugin="napari-xt")
    layer = viewer.layers[-1]
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    np.testing.assert_allclose(layer.translate, (7, 8))
    np.testing.assert_allclose(layer.data_to_world(layer.data[1][0]), (7 + 0.5 * 9.5, 8 + 0.5 * 69.5))


def test_the_size_of_pixels_that_a_file_states_is_used(tmp_path: Path) -> None:
    told = {"flavour": "qupath", "pixel_size": [0.5, 0.25], "unit": "micrometer"}
    data = annotations_layer(written(tmp_path / "a.geojson", napari_xt=told))
    layer = Layer.create(*data)
    np.testing.assert_allclose(layer.scale, (0.5, 0.25))
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2


def test_many_areas_are_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "SHAPES_UP_TO", 1)
    layer = Layer.create(*annotations_layer(written(tmp_path / "a.geojson")))
    assert type(layer).__name__ == "Points"
    assert len(layer.data) == 2


def test_a_file_without_areas_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(AnnotationError, match="holds no areas"):
        annotations_layer(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    ("path", "ours"), [("a.geojson", True), ("A.GEOJSON.GZ", True), ("a.json", False), ("a.tif", False)]
)
def test_the_reader_takes_geojson(path: str, *, ours: bool) -> None:
    assert (get_reader(path) is not None) == ours
    assert (get_reader([path, "b.geojson"]) is not None) == ours


def test_one_outline_goes_by_way_of_each_hole() -> None:
    ring = np.array([[0, 0], [0, 9], [9, 9]], float)
    outline = one_outline([ring, ring / 3, ring / 2])
    assert len(outline) == 4 + 4 + 1 + 4 + 1
    assert Annotation(((ring,),)).label == ""
