"""COCO JSON: boxes as ``x, y, width, height``, areas of the mask as run-length encoded masks.

Knows the format; must not know how the things were found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.exports.things import Points, Thing, class_color, things
from napari_xt.io.exports.wanted import Wanted, provenance
from napari_xt.io.prediction import Prediction

_ENCODE = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode
IMAGE_ID = 1
MOST_PX = 2**32  # readers count pixels in 32 bits


def write_coco(prediction: Prediction, path: Path, wanted: Wanted) -> None:
    """Write one image, its categories, and an annotation for each box and each connected area; masks are exact.

    ``info`` says what the file is of. A class of the mask and one of the boxes that have one name are one category.

    Raises
    ------
    SettingsError
        Where masks are wanted of an image with more pixels than the format can count.
    """
    height, width = prediction.layout.frame.shape_px
    if "mask" in wanted.what and height * width >= MOST_PX:
        why = "has more pixels than COCO's masks can count"
        raise SettingsError(f"{width} x {height} px", why, "export what='boxes', or the mask as GeoJSON")
    categories = _categories(prediction)
    rows = _annotations(things(prediction, replace(wanted, simplify=0.0)), categories, (height, width))
    head = {
        "info": {"description": f"napari-xt prediction, {wanted.source}"} | provenance(prediction, wanted),
        "licenses": [],
        "images": [{"id": IMAGE_ID, "file_name": _file_name(prediction), "width": width, "height": height}],
        "categories": list(categories.values()),
    }
    with path.open("wb") as file:
        file.write(json.dumps(head, allow_nan=False).encode()[:-1] + b',\n"annotations": [')
        for number, row in enumerate(rows, start=1):
            numbered = {"id": number, "image_id": IMAGE_ID} | row
            file.write((b",\n" if number > 1 else b"\n") + _ENCODE(numbered).encode())
        file.write(b"\n]}\n")


def _categories(prediction: Prediction) -> dict[str, dict[str, Any]]:
    layout = prediction.layout
    colors = {name: class_color(layout, name, index) for index, name in enumerate(layout.boxes or ())}
    colors = {name: layout.rgba(value)[:3] for value, name in enumerate(layout.mask or ()) if value} | colors
    ids = enumerate(colors.items(), start=1)
    return {name: {"id": number, "name": name, "color": list(color)} for number, (name, color) in ids}


def _file_name(prediction: Prediction) -> str:
    """The image's name as the run noted it, else the store's."""
    noted = prediction.header.notes.get("image")
    return Path(noted).name if isinstance(noted, str) and noted else prediction.path.name


def _annotations(
    found: Iterable[Thing], categories: Mapping[str, Mapping[str, Any]], shape: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    for thing in found:
        row = {"category_id": categories[thing.name or ""]["id"], "iscrowd": 0}
        if thing.kind == "box":
            (x0, y0), (x1, y1) = thing.rings[0][0].tolist(), thing.rings[0][2].tolist()
            box = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
            yield row | {"bbox": box, "area": round(box[2] * box[3], 3)} | dict(thing.numbers)
        elif mask := mask_of(thing.rings, shape):
            yield row | mask


def mask_of(rings: Iterable[Points], shape: tuple[int, int]) -> dict[str, Any] | None:
    """``bbox``, ``area`` and ``segmentation`` of the pixels whose centres lie within ``rings``; None where none does.

    Parameters
    ----------
    rings
        Closed, with edges along the axes.
    shape
        ``(height, width)`` of the image.
    """
    height = shape[0]
    starts, ends = _column_runs((np.ceil(ring - 0.5).astype(np.int64) for ring in rings), height)
    if not len(starts):
        return None
    x0, y0 = int(starts[0] // height), int((starts % height).min())
    x1, y1 = int(starts[-1] // height) + 1, int(((ends - 1) % height).max()) + 1
    counts = {"size": list(shape), "counts": _packed(_lengths(starts, ends, height * shape[1]))}
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": int((ends - starts).sum()), "segmentation": counts}


def _column_runs(rings: Iterable[NDArray[np.int64]], height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of pixels start and end in the image read column by column: a column's rings cross it in pairs."""
    crossings = []
    for x, y in (ring.T for ring in rings):
        level = np.flatnonzero((y[:-1] == y[1:]) & (x[:-1] != x[1:]))
        low, high = np.minimum(x[level], x[level + 1]), np.maximum(x[level], x[level + 1])
        width = high - low
        column = np.repeat(low - np.cumsum(width) + width, width) + np.arange(width.sum())
        crossings.append(column * height + np.repeat(y[level], width))
    pairs = np.sort(np.concatenate(crossings)).reshape(-1, 2)
    starts, ends = pairs[pairs[:, 0] < pairs[:, 1]].T
    return starts, ends


def _lengths(starts: NDArray[np.int64], ends: NDArray[np.int64], total: int) -> list[int]:
    """Lengths of what is outside and inside, in turn; runs that meet at a column's end are one."""
    apart = ends[:-1] != starts[1:]
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    found: list[int] = np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0).tolist()
    return [*found, total - int(ends[-1])] if ends[-1] < total else found


def _packed(lengths: list[int]) -> str:
    """Lengths as COCO packs them: from the fourth on less the last but one, five bits a letter, lowest first."""
    letters = []
    for index, length in enumerate(lengths):
        rest, more = length - (lengths[index - 2] if index > 2 else 0), True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            letters.append(48 + (bits | 32 if more else bits))
    return bytes(letters).decode("ascii")
