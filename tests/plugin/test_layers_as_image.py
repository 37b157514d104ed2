"""Layers that are one image: what is offered, what is opened, which channels a model takes and remembers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer

from napari_xt.io.image import open_image
from napari_xt.plugin.images import channels
from napari_xt.plugin.images.channels import (
    axes_of,
    contrast_limits,
    first_choice,
    image_of,
    offers,
    preferred,
    remember,
)
from napari_xt.plugin.reader import read_layers
from napari_xt.plugin.run import wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GREY = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)


def grey(name: str, pixels: Any = GREY, **style: Any) -> Layer:
    return ImageLayer(pixels, name=name, **style)


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[list[Layer]]:
    """Yield the layers of a file of two channels and three planes."""
    pixels = np.random.default_rng(1).integers(0, 60_000, (2, 3, 70, 90), np.uint16)
    about = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}, "PhysicalSizeZ": 2.0}
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, pixels, metadata=about, photometric="minisblack")
    layers = [Layer.create(*data) for data in read_layers(path)]
    yield layers
    layers.clear()  # the test's arguments live on for a while, and the file with them


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(channels.platformdirs, "user_config_path", lambda _app: tmp_path / "config")
    return tmp_path / "config" / "channels.json"


def labels(layers: Sequence[Layer], channels_wanted: int) -> list[str]:
    return [offer.label for offer in offers(layers, channels_wanted)]


def test_channels_of_a_file_are_one_image(cells: list[Layer], tmp_path: Path) -> None:
    assert labels(cells, 1) == labels(cells, 2) == labels(cells[1:], 1) == ["cells.ome.tif: DAPI, GFP"]
    image = open_image(image_of(cells[1:]))
    assert image.channel_names == ("DAPI", "GFP")
    with open_image(tmp_path / "cells.ome.tif") as file:
        assert image.identity() == file.identity()


def test_layers_are_joined_where_one_is_not_enough() -> None:
    layers = [grey("DAPI"), grey("GFP"), grey("alone", GREY[1:])]
    assert labels(layers, 1) == ["DAPI", "GFP", "alone"]
    assert labels(layers, 2) == ["DAPI", "GFP", "alone", "DAPI, GFP"]
    assert labels(layers, 3) == ["DAPI", "GFP", "alone"]
    assert labels([layers[0], layers[2]], 2) == ["DAPI", "alone"]
    found = offers(layers, 2)
    assert preferred(found, layers[1], 2) is found[-1]
    assert preferred(found, layers[1], 1) is found[1]
    assert preferred(found, grey("other"), 1) is None
    assert open_image(image_of(found[-1].layers)).channel_names == ("DAPI", "GFP")


@pytest.mark.parametrize(
    "other",
    [
        grey("b", scale=(0.5, 0.5)),
        grey("b", translate=(1, 0)),
        grey("b", rotate=10),
        grey("b", units=("um", "um")),
        grey("b", GREY.astype(np.float32)),
        grey("b", np.stack([GREY, GREY])),
    ],
    ids=["scale", "translate", "rotate", "units", "type", "axes"],
)
def test_layers_that_differ_are_not_joined(other: Layer) -> None:
    assert labels([grey("a"), other], 2) == ["a", "b"]


def test_layers_of_two_files_are_not_joined(tmp_path: Path) -> None:
    layers = [grey("a"), grey("b")]
    for layer, name in zip(layers, ("one.png", "two.png"), strict=True):
        layer._source = layer.source.model_copy(update={"path": str(tmp_path / name)})
    assert labels(layers, 2) == ["a", "b"]
    layers[1]._source = layers[0].source
    assert labels(layers, 2) == ["a", "b", "one.png: a, b"]


def test_colour_takes_a_further_channel() -> None:
    layers = [grey("photo", np.stack([GREY] * 3, -1)), grey("NIR")]
    assert labels(layers, 3) == ["photo", "NIR", "photo, NIR"]
    assert preferred(offers(layers, 3), layers[0], 3).layers == (layers[0],)
    image = open_image(image_of(layers))
    assert first_choice("unknown", ("nir", "red", "green"), image) == (3, 0, 1)


def test_alpha_is_no_channel_of_a_model() -> None:
    layers = [grey("a", np.stack([GREY] * 4, -1)), grey("b", np.stack([GREY] * 4, -1))]
    assert labels(layers, 3) == labels(layers, 7) == ["a", "b"]
    assert preferred(offers(layers, 4), layers[0], 4).layers == tuple(layers)
    assert len(contrast_limits(layers, range(6))) == 6


def test_plane_on_the_sliders_is_the_one_that_is_run(cells: list[Layer]) -> None:
    viewer = ViewerModel()
    for layer in cells:
        viewer.add_layer(layer)
    assert axes_of(cells[0]) == "zyx"
    viewer.dims.set_current_step(0, 2)
    assert wanted(viewer, cells, {}).plane == {"z": 2}
    assert wanted(viewer, cells, {"plane": {"z": 1}}).plane == {"z": 1}


@pytest.mark.parametrize("style", [{}, {"translate": (-20, 0, 0)}, {"scale": (0.3, 2, 2)}], ids=["", "moved", "scaled"])
def test_plane_of_joined_layers(style: dict[str, Any]) -> None:
    viewer, pixels = ViewerModel(), np.zeros((30, 60, 80), np.uint8)
    layers = [viewer.add_image(pixels, name=name, axis_labels=("z", "y", "x"), **style) for name in "ab"]
    viewer.dims.set_current_step(0, 12)
    assert wanted(viewer, layers, {}).plane == {"z": 12}
    assert open_image(image_of(layers), plane={"z": 12}).channels == 2


def test_choice_is_remembered_for_the_model(memory: Path) -> None:
    image = SimpleNamespace(channel_names=("DAPI", "GFP", "TRITC"), channels=3, alpha=None)
    assert first_choice("cells", ("nucleus", "membrane"), image) is None
    assert first_choice("cells", ("nucleus",), image) == (0,)
    remember("cells", ("TRITC", "DAPI"))
    remember("trees", ("red",))
    assert first_choice("cells", ("nucleus", "membrane"), image) == (2, 0)
    assert first_choice("trees", ("a", "b", "c"), image) == (0, 1, 2), "what was remembered does not fit"
    image.channel_names = ("DAPI", "GFP", "DAPI")
    assert first_choice("cells", ("nucleus", "membrane"), image) is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b'{"cells": 3}', b'{"cells": [1]}', b"\xff\xfe", b"[" * 100_000, b" " * 2**21]
)
def test_damaged_memory_is_forgotten(memory: Path, text: bytes) -> None:
    image = SimpleNamespace(channel_names=("a", "b"), channels=2, alpha=None)
    memory.parent.mkdir()
    memory.write_bytes(text)
    assert first_choice("cells", ("x", "y"), image) == (0, 1)
    remember("cells", ("b", "a"))
    assert first_choice("cells", ("x", "y"), image) == (1, 0)


def test_memory_that_cannot_be_written_is_no_error(memory: Path) -> None:
    memory.parent.write_text("a file")
    remember("cells", ("b", "a"))
    assert first_choice("cells", ("x",), SimpleNamespace(channel_names=("a",), channels=1, alpha=None)) == (0,)


def test_contrast_limits_are_those_of_the_channels_layers(cells: list[Layer]) -> None:
    cells[1].contrast_limits = (10, 20)
    assert contrast_limits(cells, (1, 1)) == ((10, 20), (10, 20))
    layers = [grey("a", contrast_limits=(1, 2)), grey("b", contrast_limits=(3, 4))]
    assert contrast_limits(layers, (1, 0)) == ((3, 4), (1, 2))
    assert contrast_limits([grey("photo", np.stack([GREY] * 3, -1))], (0, 1, 2)) == ((0, 255),) * 3
