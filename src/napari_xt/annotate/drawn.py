"""Areas that were drawn elsewhere as corrections of a prediction: one stroke, which can be undone.

Knows annotations, corrections and how pixels lie in polygons; must not know viewers, models or runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np
import pandas as pd

from napari_xt.errors import AnnotationError, ImageNotFoundError, SettingsError
from napari_xt.geometry import Box
from napari_xt.io.annotations import Annotation, read_annotations
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.corrections.sparse import NONE
from napari_xt.io.image import open_image
from napari_xt.io.measures.inside import Floats, bounds, pixels_inside
from napari_xt.io.prediction import Prediction

BAND_PX = 1 << 22  # pixels that are drawn at once


def read_drawn(prediction: Prediction, file: str | os.PathLike[str]) -> list[Annotation]:
    """Read the areas of a GeoJSON file, in level-0 pixels of a prediction's image; each has a class.

    Raises
    ------
    AnnotationError
        It can't be read, holds no area, one without a class, or one that is not in the image at all.
    """
    found = _read(prediction, file)
    if not found:
        raise AnnotationError(file, "it holds no areas", "give a GeoJSON file of polygons")
    nameless = sum(not one.label for one in found)
    if nameless:
        raise AnnotationError(file, f"{nameless} of {len(found)} areas have no class", "give each a class")
    image = Box(0, 0, *prediction.layout.frame.shape_px)
    outside = sum(bounds(ring for part in one.polygons for ring in part).clip(image).empty for one in found)
    if outside:
        raise AnnotationError(file, f"{outside} of {len(found)} areas lie outside the image", "check whose they are")
    return found


def draw(corrections: Corrections, areas: Sequence[Annotation], *, tool: str = "import") -> pd.DataFrame:
    """Paint areas over the mask, the later over the earlier, as one stroke; classes that are new are added.

    Parameters
    ----------
    corrections
        Of the prediction.
    areas
        In level-0 px. A pixel of the run is inside where its middle is.
    tool
        What the log says.

    Returns
    -------
    DataFrame
        ``class``, ``areas`` and ``pixels``, run pixels that lie in them, by class.

    Raises
    ------
    SettingsError
        The prediction has no mask.
    CorrectionsLockedError, StoreError
        Nothing can be written now.
    """
    if not corrections.mask:
        raise SettingsError(corrections.prediction.path, "has no mask to paint in", "take another prediction")
    counts: dict[str, list[int]] = {}
    with corrections.stroke(tool=tool) as stroke:
        values = _values(corrections, areas)
        for one in areas:
            count = counts.setdefault(one.label, [0, 0])
            count[0] += 1
            for polygon in one.polygons:
                for box, inside in _pixels(corrections, polygon):
                    stroke.fill(box, np.where(inside, np.uint8(values[one.label]), np.uint8(NONE)))
                    count[1] += int(inside.sum())
    return pd.DataFrame([(name, *count) for name, count in counts.items()], columns=["class", "areas", "pixels"])


def _read(prediction: Prediction, file: str | os.PathLike[str]) -> list[Annotation]:
    """With the image at hand where it can be opened: maps, and slides with a margin, need it."""
    place = prediction.header.notes.get("image")
    try:
        image = open_image(place) if isinstance(place, str) and os.path.exists(place) else None
    except (ImageNotFoundError, OSError, ValueError):
        image = None
    if image is None:
        return read_annotations(file)
    with closing(image):
        return read_annotations(file, image)


def _values(corrections: Corrections, areas: Sequence[Annotation]) -> Mapping[str, int]:
    known = {one.name: one.value for one in corrections.classes}
    for one in areas:
        if one.label not in known:
            known[one.label] = corrections.classes.add(one.label, one.color)
    return known


def _pixels(corrections: Corrections, rings: Sequence[Floats]) -> Iterator[tuple[Box, np.ndarray]]:
    """Parts of the mask, and which of their pixels lie within rings of level-0 px."""
    run = [ring / np.array(corrections.layout.frame.px_per_run) for ring in rings]
    whole = bounds(run).clip(Box(0, 0, *corrections.shape))
    rows = max(1, BAND_PX // max(1, whole.width))
    for top in range(whole.y0, whole.y1, rows):
        box = Box(top, whole.x0, min(top + rows, whole.y1), whole.x1)
        yield box, pixels_inside(run, box)
