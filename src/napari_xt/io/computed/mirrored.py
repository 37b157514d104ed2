"""The bundled aerial scene, repeated as in mirrors to any size: a large real image that takes no disk.

Knows arrays and where the scene lies; knows no model and no run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.pyramid import COARSEST_PX, halve
from napari_xt.io.images.source import Source

SCENE = "samples/yellowstone.ome.tif"
MOST_PX = 1 << 20  # along a side

Scene = NDArray[np.uint8]


def mirrored_scene(height: int, width: int) -> Image:
    """Open the bundled scene of Yellowstone and its mirror images side by side, computed where they are read.

    Parameters
    ----------
    height, width
        In pixels of the scene's own size. The scene is cut so that its pixels are halved evenly on every level.

    Returns
    -------
    Image
        RGB uint8 with levels, chunks of 512 x 512 px. It takes the memory of the scene alone; the same size has the
        same pixels, name and identity always.

    Raises
    ------
    SettingsError
        A side is not 1 to 2**20 px.
    """
    for side in (height, width):
        if not 1 <= side <= MOST_PX:
            raise SettingsError(f"size {width}x{height}", f"a side must be 1 to {MOST_PX} pixels")
    count = 1 + max(0, (max(height, width) - 1).bit_length() - (COARSEST_PX - 1).bit_length())
    with as_file(files("napari_xt") / SCENE) as path, open_image(path) as image:
        scenes = _halvings(image, count)
        name, pixel = f"{image.name}-{width}x{height}", (image.scale, image.unit)
    levels = tuple(_mirrored(scene, -(-height >> k), -(-width >> k)) for k, scene in enumerate(scenes))
    return Image(Source(name, None, "yxc", levels, pixel, rgb=True))


def _halvings(image: Image, count: int) -> list[Scene]:
    """The scene ``(Y, X, 3)``, cut, and its means over 2 x 2, 4 x 4, ... pixels."""
    whole = 2 ** (count - 1)
    height, width = (side // whole * whole for side in image.shape)
    scenes = [np.ascontiguousarray(image.read(Box(0, 0, height, width)).transpose(1, 2, 0))]
    for _ in range(count - 1):
        scenes.append(halve(scenes[-1], 0, 1))
    return scenes


def _mirrored(scene: Scene, height: int, width: int) -> ComputedArray:
    return ComputedArray((height, width, scene.shape[2]), partial(_read, scene))


def _read(scene: Scene, box: Box) -> Scene:
    pixels = np.empty((*box.shape, scene.shape[2]), scene.dtype)
    for to_rows, rows in _folded(box.y0, box.y1, scene.shape[0]):
        for to_cols, cols in _folded(box.x0, box.x1, scene.shape[1]):
            pixels[to_rows, to_cols] = scene[rows, cols]
    return pixels


def _folded(first: int, last: int, size: int) -> Iterator[tuple[slice, slice]]:
    """The parts of ``first..last`` that lie in one image of a side of ``size`` each, and where they come from."""
    for number in range(first // size, -(-last // size)):
        begin, end = max(first, number * size), min(last, (number + 1) * size)
        near, far = begin - number * size, end - number * size
        if number % 2:
            near, far = size - 1 - near, size - 1 - far  # from the far edge back
            yield slice(begin - first, end - first), slice(near, far if far >= 0 else None, -1)
        else:
            yield slice(begin - first, end - first), slice(near, far)
