"""Labelled scenes, and random windows of them as training samples.

Knows pixels and boxes, and of a model how it wants intensities; knows nothing of networks or losses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.errors import ImageFormatError
from napari_xt.geometry import Box
from napari_xt.io.image import open_image
from napari_xt.io.images.intensity import Limits, measured_limits
from napari_xt.model.config import XTConfig
from napari_xt.model.intensity import between

SCALES = (0.55, 1.7)


@dataclass(frozen=True, slots=True)
class Scene:
    """A labelled image.

    ``pixels`` ``(C, Y, X)`` as they are stored; ``boxes`` float64 ``(n, 4)``, y0, x0, y1, x1 in px, half-open, of one
    class; ``limits`` the values of each channel that become 0 and 1, none for the dtype's range (see `measured`).
    """

    name: str
    pixels: NDArray[Any]
    boxes: NDArray[np.float64]
    limits: Limits = ()

    def measured(self, config: XTConfig) -> Scene:
        """The scene with its own limits where a model wants such: those that a run over this image would measure."""
        if config.normalisation == "range" or self.limits:
            return self
        channels = range(len(self.pixels))
        return replace(self, limits=measured_limits(open_image(self.pixels), channels, config.percentiles))

    def part(self, box: Box, name: str = "") -> Scene:
        """The scene inside ``box``, with the boxes whose centre lies there."""
        rows, cols = box.slices
        moved = self.boxes - np.array([box.y0, box.x0, box.y0, box.x0])
        centre = (moved[:, :2] + moved[:, 2:]) / 2
        inside = ((centre >= 0) & (centre < box.shape)).all(axis=1)
        return Scene(name or self.name, self.pixels[:, rows, cols], moved[inside], self.limits)


@dataclass(frozen=True, slots=True)
class Sample:
    """A window of a scene as the network sees it.

    ``pixels`` float32 ``(C, H, W)`` in 0..1 with halo; ``boxes`` float64 ``(n, 4)`` and ``valid`` (the part that is
    labelled) in pixels of the window without halo.
    """

    pixels: Tensor
    boxes: NDArray[np.float64]
    valid: Box


def read_boxes(path: Path) -> NDArray[np.float64]:
    """Read a CSV of boxes with the columns ``x0, y0, x1, y1`` (pixels) as ``(n, 4)`` y0, x0, y1, x1.

    Raises
    ------
    ImageFormatError
        The file lacks one of the columns or holds something else than numbers.
    """
    try:
        return pd.read_csv(path)[["y0", "x0", "y1", "x1"]].to_numpy(dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise ImageFormatError(path, f"is no table of boxes: {error}", "columns x0,y0,x1,y1 are needed") from error


def read_scene(image: Path) -> Scene:
    """Read an RGB image and the boxes of the ``.csv`` beside it."""
    with open_image(image) as source:
        pixels = source.read(Box(0, 0, *source.shape))[:3]
    return Scene(image.stem, pixels, read_boxes(image.with_suffix(".csv")))


def draw_sample(scene: Scene, shape_px: tuple[int, int], halo_px: int, rng: np.random.Generator) -> Sample:
    """Draw a window at a random place, scale and orientation, with random colours.

    Parameters
    ----------
    scene
        Where from. What lies outside is mirrored and not valid; its limits, or its dtype's range, become 0 and 1.
    shape_px, halo_px
        Size of the window in pixels, and what is seen beyond it.
    rng
        The only source of chance.
    """
    turn = bool(rng.integers(2))
    height, width = shape_px[::-1] if turn else shape_px
    zoom = float(np.exp(rng.uniform(*np.log(SCALES))))
    source = _place(scene.pixels.shape[1:], (height / zoom, width / zoom), rng)
    margin = round(halo_px / zoom)
    seen = _mirrored(scene.pixels, source.grow(margin))
    size = (height + 2 * halo_px, width + 2 * halo_px)
    tensor = _scaled(seen, scene.limits)[None]
    pixels = F.interpolate(tensor, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    factor = np.array([size[0] / seen.shape[1], size[1] / seen.shape[2]] * 2)
    offset = np.array([source.y0, source.x0] * 2)
    boxes = (scene.boxes - offset) * factor
    extent = (np.array([0, 0, *scene.pixels.shape[1:]]) - offset) * factor
    valid = Box(*(int(v) for v in np.round(extent))).clip(Box(0, 0, height, width))
    sample = _orient(Sample(pixels, boxes, valid), (height, width), turn, rng)
    return Sample(recolour(sample.pixels, rng).contiguous(), sample.boxes, sample.valid)


def _scaled(pixels: NDArray[Any], limits: Limits) -> Tensor:
    """``pixels (C, Y, X)`` with 0 and 1 where the limits are; what is not finite is half-way."""
    if limits:
        scaled = np.stack([between(plane, ends) for plane, ends in zip(pixels, limits, strict=True)])
    else:
        most = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        scaled = pixels.astype(np.float32) / np.float32(most)
    return torch.from_numpy(np.nan_to_num(scaled, nan=0.5, posinf=0.5, neginf=0.5))


def _place(shape: tuple[int, ...], size: tuple[float, float], rng: np.random.Generator) -> Box:
    """A random place of ``size`` in a scene; centred where it is larger than the scene."""
    sides = [max(1, round(s)) for s in size]
    first = [int(rng.integers(0, n - s + 1)) if n >= s else -((s - n) // 2) for n, s in zip(shape, sides, strict=True)]
    return Box(first[0], first[1], first[0] + sides[0], first[1] + sides[1])


def _mirrored(pixels: NDArray[Any], box: Box) -> NDArray[Any]:
    def indices(first: int, last: int, size: int) -> NDArray[np.int64]:
        folded = np.arange(first, last) % (2 * size)
        return np.where(folded < size, folded, 2 * size - 1 - folded)

    _, height, width = pixels.shape
    return pixels[:, indices(box.y0, box.y1, height)[:, None], indices(box.x0, box.x1, width)]


def _orient(sample: Sample, shape: tuple[int, int], turn: bool, rng: np.random.Generator) -> Sample:
    """Mirror along y, along x, and transpose if ``turn``: together all eight orientations."""
    pixels, boxes, valid = sample.pixels, sample.boxes, sample.valid
    height, width = shape
    if rng.integers(2):
        pixels, boxes = (
            pixels.flip(1),
            np.stack([height - boxes[:, 2], boxes[:, 1], height - boxes[:, 0], boxes[:, 3]], 1),
        )
        valid = Box(height - valid.y1, valid.x0, height - valid.y0, valid.x1)
    if rng.integers(2):
        pixels, boxes = (
            pixels.flip(2),
            np.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], 1),
        )
        valid = Box(valid.y0, width - valid.x1, valid.y1, width - valid.x0)
    if turn:
        pixels, boxes = pixels.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
        valid = Box(valid.x0, valid.y0, valid.x1, valid.y1)
    return Sample(pixels, boxes, valid)


def recolour(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Other light, season, camera and sharpness: what changes between scenes but not what a tree is."""
    x = pixels.clamp(0, 1) ** float(np.exp(rng.uniform(-0.4, 0.4)))
    grey = x.mean(0, keepdim=True)
    x = grey + (x - grey) * float(rng.uniform(0.2, 1.5))
    gains = torch.from_numpy(np.exp(rng.normal(0, 0.16, (len(x), 1, 1)))).float()
    contrast, shift = float(rng.uniform(0.6, 1.35)), float(rng.uniform(-0.12, 0.12))
    x = ((x * gains - 0.5) * contrast + 0.5 + shift).clamp(0, 1)
    choice = rng.integers(5)
    if choice == 0:
        x = F.avg_pool2d(x[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    elif choice == 1:
        noise = torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.05), x.shape)).float()
        x = (x + noise).clamp(0, 1)
    return x
