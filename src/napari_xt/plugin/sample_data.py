"""Samples: a real aerial image with the crowns that people drew in it, its mirror images, a slide, what is made up.

Knows where the files lie and how large the slide is; must not know Qt, models or runs.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import pandas as pd

from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.io.computed.nuclei import PIXEL_UM, nuclei
from napari_xt.io.computed.synthetic import MASK, NEIGHBOURHOOD, REGION_PX, SyntheticSlide
from napari_xt.io.download import Remote
from napari_xt.io.image import open_image
from napari_xt.plugin.boxes.layer import LayerData, outlines, rectangles
from napari_xt.plugin.images.download import downloaded
from napari_xt.plugin.layers.overlays import CLASS_COLORS, Place, mask_style
from napari_xt.plugin.reader import image_layers, read_layers

IMAGE, CROWNS = "samples/yellowstone.ome.tif", "samples/yellowstone.csv"
MOSAIC = (25_000, 29_000)  # px
WHOLE_SLIDE = Remote(
    "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1.svs",
    177_552_579,
    "00a3d54482cd707abf254fe69dccc8d06b8ff757a1663f1290c23418c480eb30",
    "CC0",
)
SLIDE_PX = 8 * NEIGHBOURHOOD * REGION_PX  # 8 x 8 neighbourhoods


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


def context_proof() -> list[LayerData]:
    """A synthetic slide on which only a region's surroundings tell its class, and the true classes, off at first."""
    slide = SyntheticSlide((SLIDE_PX, SLIDE_PX))
    colors = [(0, 0, 0, 0), *(CLASS_COLORS[name] for name in MASK[1:])]
    about = {"name": "synthetic truth", "visible": False, "multiscale": True, **mask_style(MASK, colors)}
    return [*image_layers(open_image(slide)), (list(slide.truth), about, "labels")]


def mosaic() -> list[LayerData]:
    """The scene of Yellowstone and its mirror images side by side: a large real image that takes no disk."""
    return image_layers(mirrored_scene(*MOSAIC))


def fluorescence() -> list[LayerData]:
    """A made-up field of stained nuclei, and each nucleus as it was drawn, off at first."""
    picture, truth = nuclei()
    image = open_image(picture, pixel_size=PIXEL_UM)
    place = Place(image.scale, units=(image.unit, image.unit)).cells(1, 1)
    limits = (float(picture.min()), float(np.percentile(picture, 99.9)))
    style = {"name": "synthetic nuclei", "colormap": "gray", "contrast_limits": limits, **place}
    return [(picture, style, "image"), (truth, {"name": "synthetic truth", "visible": False, **place}, "labels")]


def whole_slide() -> list[LayerData]:
    """A public whole slide (OpenSlide's test data), downloaded the first time."""
    return read_layers(downloaded(WHOLE_SLIDE))
