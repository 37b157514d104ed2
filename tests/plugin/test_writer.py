"""Layers of a run, saved through napari's own door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from napari.layers import Labels, Layer
from napari.plugins.io import save_layers
from npe2 import PluginManager

from napari_xt.engine.run import predict
from napari_xt.errors import SettingsError
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.writer import write_layers
from plugin_fixtures import picture
from small_model import small_model

if TYPE_CHECKING:
    from napari_xt.io.prediction import Prediction


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return predict(picture(200, 300), small_model(), out=tmp_path_factory.mktemp("writer") / "run.xt.zarr")


@pytest.fixture(autouse=True)
def plugins() -> None:
    """Let napari find the plugin without a viewer."""
    PluginManager.instance().discover()


def layers(prediction: Prediction) -> list[Layer]:
    return [Layer.create(*data) for data in read_layers(prediction.path)]


def kinds(path: Path) -> dict[str, int]:
    found = [feature["properties"]["objectType"] for feature in json.loads(path.read_bytes())["features"]]
    return {kind: found.count(kind) for kind in set(found)}


def test_all_layers_of_a_run_are_saved(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    assert save_layers(str(path), layers(prediction)) == [str(path)]
    found = kinds(path)
    assert (found["detection"], found["tile"]) == (len(prediction.boxes), len(prediction.scores))
    assert found["annotation"] > 0


def test_one_layer_is_saved_alone(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    (boxes,) = (layer for layer in layers(prediction) if layer.name.endswith("xT boxes"))
    assert save_layers(str(path), [boxes]) == [str(path)]
    assert kinds(path) == {"detection": len(prediction.boxes)}


def test_what_is_of_no_run_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    path = str(tmp_path / "a.geojson")
    drawn = Labels(np.zeros((5, 5), np.uint8), name="mine").as_layer_data_tuple()
    ours = [layer.as_layer_data_tuple() for layer in layers(prediction)]
    with pytest.raises(SettingsError, match=r"layer 'mine': is not of a run"):
        write_layers(path, [*ours, drawn])
    with pytest.raises(SettingsError, match="none of the layers is of a run"):
        write_layers(path, ours[:1])
    other = predict(picture(100, 100), small_model(), out=tmp_path / "other.xt.zarr")
    with pytest.raises(SettingsError, match="the layers are of several runs"):
        write_layers(path, [*ours, *(layer.as_layer_data_tuple() for layer in layers(other))])
