"""Corrections as a training set: each corrected region a crop of its image, all of them in one folder and COCO file.

Knows predictions, images and what is known of regions; must not know networks, training or screens.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.annotate.crop import LabelClass, cropped, write_crop
from napari_xt.annotate.project import Project, boxes_file
from napari_xt.annotate.truth import UNKNOWN, UNSURE, RegionTruth, Truths, truths
from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import corrections
from napari_xt.io.exports.coco import mask_of
from napari_xt.io.exports.polygons import trace
from napari_xt.io.exports.things import class_color
from napari_xt.io.exports.wanted import job_digest
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.identity import same_image
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.durable import appearing
from napari_xt.io.stores.layout import Layout

CROPS = "crops"
EDGES = ("y0", "x0", "y1", "x1")
DIGITS = 3  # after the point, of boxes


def training_set(
    prediction: Prediction | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    image: Any = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Add the corrected regions of a prediction to a folder of training crops, and return its COCO file.

    Each region of which anything is known becomes ``crops/IMAGE/yYxX.ome.zarr``: the image's own pixels of level 0, all
    channels, at their true size, and ``labels/mask`` with the same numbers in the whole folder, 255 where nothing is
    known or somebody does not know. ``coco.json`` has the boxes and areas of all crops, in px of the crop; an image
    there is ``complete`` where all of it is truth, background included. Complete crops have a ``.csv`` of boxes beside
    them, too, as training takes it.

    Of many images one after the other; a region that is in the folder already is replaced, one that is no longer
    corrected goes. A kill leaves whole crops, and perhaps some that ``coco.json`` does not have yet: the same call once
    more mends that.

    Parameters
    ----------
    prediction
        A prediction, or its path.
    folder
        Of this or other predictions, or new.
    image
        What `open_image` takes; default: where the image was at the run.
    progress
        Called with how many crops are written, and of how many.

    Raises
    ------
    SettingsError
        Nothing was corrected, or the image is another one.
    ImageNotFoundError, ImageReadError
        The image is not there, or damaged.
    StoreError
        The folder holds something else, or can't be written.
    """
    found = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    with corrections(found, read_only=True) as corrected:
        told, layout = truths(corrected), corrected.final.layout
    known = replace(told, regions=[region for region in told if _shown(region)])
    if not known.regions:
        raise SettingsError(found.path, "no region of it was corrected", "correct or accept some")
    opened = _opened(found, image)
    with nullcontext(opened) if opened is image else closing(opened):
        _check(found, opened)
        project = Project(Path(os.path.abspath(folder)))
        writer = _Writer(project, found, layout, opened, known)
        for done, region in enumerate(known, start=1):
            writer.add(region)
            if progress is not None:
                progress(done, len(known.regions))
    writer.drop_others()
    return project.write()


@dataclass(frozen=True, slots=True)
class _Cut:
    """A region as a crop: where it lies in level-0 px, and its labels there, in the folder's numbers."""

    box: Box
    labels: NDArray[np.uint8]


class _Writer:
    """Writes the crops of one prediction."""

    def __init__(self, project: Project, found: Prediction, layout: Layout, image: Image, known: Truths) -> None:
        self._project, self._layout, self._image = project, layout, image
        self._frame, self._job = layout.frame, job_digest(found)
        self._folder = f"{CROPS}/{_plain(image.name)}-{_short(str(found.header.job.get('image', '')))}"
        self._authors = list(known.authors)
        self._values = np.full(256, UNKNOWN, np.uint8)
        self._values[0] = 0
        for value, name in enumerate(known.mask[1:], start=1):
            self._values[value] = project.value(name, layout.rgba(value))
        self._kept: set[str] = set()

    def add(self, region: RegionTruth) -> None:
        """Write one, and say so to the project."""
        cut = self._cut(region)
        name = f"{self._folder}/y{cut.box.y0:06d}x{cut.box.x0:06d}.ome.zarr"
        boxes = _inside(region.boxes, cut.box)
        crop = self._said(region, cut.box, name)
        self._write(self._project.folder / name, cut, boxes if region.complete else None, crop)
        self._project.put(crop, [*self._areas(cut.labels), *self._boxes(boxes)])
        self._kept.add(name)

    def drop_others(self) -> None:
        """Let go what an earlier call wrote of this prediction and that is not known any more."""
        earlier = {one["file_name"] for one in self._project.crops if one.get("prediction") == self._job}
        self._project.drop(earlier - self._kept)

    def _cut(self, region: RegionTruth) -> _Cut:
        """The pixels of level 0 whose centres lie in a region, and its labels there."""
        inner, (fy, fx) = self._layout.grid.region(region.row, region.col).inner, self._frame.px_per_run
        edges = (inner.y0 * fy, inner.x0 * fx, inner.y1 * fy, inner.x1 * fx)
        box = Box(*(int(np.ceil(edge - 0.5)) for edge in edges)).clip(Box(0, 0, *self._frame.shape_px))
        rows, cols = (
            (((2 * np.arange(*ends) + 1) * run) // (2 * px) - first).clip(0, size - 1)
            for ends, run, px, first, size in (
                ((box.y0, box.y1), self._frame.shape_run[0], self._frame.shape_px[0], inner.y0, inner.height),
                ((box.x0, box.x1), self._frame.shape_run[1], self._frame.shape_px[1], inner.x0, inner.width),
            )
        )
        labels = np.where(region.labels >= UNSURE, np.uint8(UNKNOWN), self._values[region.labels])
        return _Cut(box, labels[np.ix_(rows, cols)])

    def _said(self, region: RegionTruth, box: Box, name: str) -> dict[str, Any]:
        return {
            "file_name": name,
            "width": box.width,
            "height": box.height,
            "complete": region.complete,
            "region_class": region.region_class,
            "source": self._image.source or self._image.name,
            "place_px": [box.y0, box.x0, box.y1, box.x1],
            "pixel_size": list(self._frame.scale),
            "unit": self._frame.unit,
            "authors": self._authors,
            "prediction": self._job,
        }

    def _write(self, path: Path, cut: _Cut, boxes: pd.DataFrame | None, said: Mapping[str, Any]) -> None:
        pixel = self._frame.scale, self._frame.unit
        part = cropped(self._image, cut.box, path.name.removesuffix(".ome.zarr"), pixel)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        with appearing(path) as aside:
            write_crop(aside, part, cut.labels, self._classes(), said)
        table = boxes_file(path)
        if boxes is None:
            table.unlink(missing_ok=True)
        else:
            with appearing(table) as aside:
                boxes[["x0", "y0", "x1", "y1", "class"]].to_csv(aside, index=False)

    def _classes(self) -> list[LabelClass]:
        names = self._layout.mask or ()
        return [LabelClass(int(self._values[v]), name, self._layout.rgba(v)) for v, name in enumerate(names)]

    def _areas(self, labels: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
        """The connected areas of a crop, as run-length encoded masks."""
        for area in trace([np.where(labels == UNKNOWN, np.uint8(0), labels)], labels.shape[1]):
            rings = (np.concatenate([ring, ring[:1]]) for ring in (area.exterior, *area.holes))
            packed = mask_of(rings, labels.shape)
            if packed is not None:
                yield {"category_id": int(area.value), "iscrowd": 0, **packed}

    def _boxes(self, boxes: pd.DataFrame) -> Iterator[dict[str, Any]]:
        for y0, x0, y1, x1, name in boxes.itertuples(index=False):
            color = class_color(self._layout, name, (self._layout.boxes or (name,)).index(name))
            value = self._project.value(name, (*color, 255))
            size = [round(x1 - x0, DIGITS), round(y1 - y0, DIGITS)]
            place = {"bbox": [round(x0, DIGITS), round(y0, DIGITS), *size], "area": round(size[0] * size[1], DIGITS)}
            yield {"category_id": value, "iscrowd": 0, **place}


def _shown(region: RegionTruth) -> bool:
    """Whether a crop can say what is known of a region: that a box is wrong it can't."""
    said = region.complete or region.region_class is not None or len(region.boxes) > 0
    return bool(said or (region.labels < UNSURE).any())


def _opened(prediction: Prediction, image: Any) -> Image:
    plane = prediction.header.job.get("plane")
    source = prediction.header.notes.get("image") if image is None else image
    return open_image(source, plane=plane if isinstance(plane, Mapping) and plane else None)


def _check(prediction: Prediction, image: Image) -> None:
    """Refuse an image that is not the one that was run."""
    shape = prediction.layout.frame.shape_px
    known = prediction.header.job.get("image")
    other = isinstance(known, str) and not same_image(image.identity(), known)
    if image.shape != shape or other:
        raise SettingsError(
            f"image {image.name}", f"is not that of {prediction.path.name}", "pass the one that was run"
        )


def _inside(boxes: pd.DataFrame, crop: Box) -> pd.DataFrame:
    """What of some boxes lies in a crop, in its px."""
    found = boxes[[*EDGES, "class"]].reset_index(drop=True)
    for edge, first, size in (("y", crop.y0, crop.height), ("x", crop.x0, crop.width)):
        for end in (f"{edge}0", f"{edge}1"):
            found[end] = (found[end].astype(float) - first).clip(0, size)
    return found[(found["y0"] < found["y1"]) & (found["x0"] < found["x1"])]


def _plain(name: str) -> str:
    """A name as a folder can have it anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "image"


def _short(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:8]
