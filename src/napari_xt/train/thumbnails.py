"""Which pictures the bundled models carry of what they were trained on, and the command that puts them there.

    python -m napari_xt.train.thumbnails canopy.safetensors --data FOLDER
    python -m napari_xt.train.thumbnails context-proof.safetensors

``FOLDER`` holds the two labelled scenes of `canopy`; what is never trained on is not shown. Knows scenes; the weights
and the digest of a file stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.synthetic import MASK, SyntheticSlide
from napari_xt.model.thumbnails import SHOWN, put_thumbnails
from napari_xt.model.zoo import describe
from napari_xt.train.canopy import split
from napari_xt.train.context_proof import TRAINED_ON
from napari_xt.train.scenes import Scene, read_scene

Picture = NDArray[np.uint8]


def of_scenes(data: Path, side: int) -> list[Picture]:
    """Squares of the parts of the two scenes that `canopy` is trained on: those with the most crowns."""
    part, _ = split(read_scene(data / "yellowstone_a.png"))
    ordway = read_scene(data / "ordway_029.png")
    return [*_fullest(part, side, SHOWN - 1), *_fullest(ordway, side, 1)]


def of_slide(slide: SyntheticSlide, side: int) -> list[Picture]:
    """Squares of a slide, one with cells of each class."""
    found: dict[int, Picture] = {}
    for index in range(slide.shape[0] // side * (slide.shape[1] // side)):
        row, col = divmod(index, slide.shape[1] // side)
        box = Box(row * side, col * side, (row + 1) * side, (col + 1) * side)
        kind = int(slide.mask(box, 0).max())
        if kind and kind not in found:
            found[kind] = slide.pixels(box)
        if len(found) == len(MASK) - 1:
            break
    return [found[kind] for kind in sorted(found)]


def _fullest(scene: Scene, side: int, count: int) -> list[Picture]:
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    rows, cols = (n // side for n in scene.pixels.shape[1:])
    inside = (centres // side < (rows, cols)).all(axis=1)
    crowns = np.zeros((rows, cols), int)
    np.add.at(crowns, tuple((centres[inside] // side).astype(int).T), 1)
    best = np.argsort(-crowns, axis=None, kind="stable")[:count]
    return [_square(scene, side, *divmod(int(place), cols)) for place in best]


def _square(scene: Scene, side: int, row: int, col: int) -> Picture:
    pixels = scene.pixels[:3, row * side : (row + 1) * side, col * side : (col + 1) * side]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8)


def main() -> None:
    """Put the pictures into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, help="of canopy: the folder of its labelled scenes")
    chosen = parser.parse_args()
    info = describe(chosen.model)
    if info.card.synthetic:
        pictures = of_slide(TRAINED_ON, info.config.region_px)
    elif chosen.data is None:
        parser.error("--data is needed: the folder of the labelled scenes")
    else:
        pictures = of_scenes(chosen.data, info.config.region_px)
    put_thumbnails(chosen.model, pictures)


if __name__ == "__main__":
    main()
