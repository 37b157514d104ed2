"""The sample that comes with the package: a real aerial image and the tree crowns that people drew in it.

Knows where the files lie; must not know Qt, models or runs.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import pandas as pd

from napari_xt.io.image import open_image
from napari_xt.plugin.boxes import LayerData, outlines, rectangles
from napari_xt.plugin.overlays import Place
from napari_xt.plugin.reader import image_layers

IMAGE, CROWNS = "samples/yellowstone.ome.tif", "samples/yellowstone.csv"


def canopy() -> list[LayerData]:
    """A NEON scene of Yellowstone, 10 cm a pixel, and its hand-drawn tree crowns, which are off at first."""
    root = files("napari_xt")
    with as_file(root / IMAGE) as path:
        image = open_image(path)
    with (root / CROWNS).open() as text:
        table = pd.read_csv(text)
    place = Place(image.scale, units=(image.unit, image.unit)).cells(1, 1)
    about = {"name": "hand-drawn crowns", "features": table[["class"]], "visible": False}
    return [*image_layers(image), (rectangles(table), {**outlines("white"), **about, **place}, "shapes")]
