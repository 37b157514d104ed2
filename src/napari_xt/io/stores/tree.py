"""The arrays of a store: made, opened and described by one list.

Knows Zarr and the layout; must not know runs or the journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ZipStore

from napari_xt.errors import StoreError, printable
from napari_xt.io.stores import ngff
from napari_xt.io.stores.layout import FORMAT, Header, Layout
from napari_xt.io.stores.shelf import create_shelf

SUFFIX = ".xt.zarr"
CHUNK_PX = 512  # of the overview and the coarse mask levels
TABLE_CHUNK = 64  # regions along a chunk of scores and status
JOURNAL = "journal"
MAX_DESCRIPTION_BYTES = 64 << 20

OVERVIEW, PROBABILITY, SCORES, STATUS, MASK = "0", "probability", "scores", "status", "labels/mask"
PARTS = ("layout", "job", "settings", "plan", "model", "notes")


@dataclass(frozen=True, slots=True)
class Tree:
    """The open arrays of a store; ``mask`` finest first, empty as the others are None where the model has no such head.

    ``overview`` is ``(c, y, x)`` or ``(y, x)``, ``mask`` uint8 ``(y, x)``, ``probability`` uint8 ``(K, h, w)``,
    ``scores`` float32 ``(rows, cols, K)``, ``status`` uint8 ``(rows, cols)``.
    """

    overview: zarr.Array[Any]
    mask: tuple[zarr.Array[Any], ...]
    probability: zarr.Array[Any] | None
    scores: zarr.Array[Any] | None
    status: zarr.Array[Any]


class _Spec(NamedTuple):
    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float
    names: tuple[str, ...]


def create_tree(store: LocalStore, name: str, header: Header) -> None:
    """Make the groups and the empty arrays of a store called ``name``."""
    layout = header.layout
    described = {"ome": ngff.image_metadata(name, layout), "napari_xt": describe(header)}
    zarr.create_group(store, attributes=described)
    zarr.create_group(store, path=JOURNAL)
    if layout.mask is not None:
        zarr.create_group(store, path="labels", attributes={"ome": ngff.labels_metadata(["mask"])})
        zarr.create_group(store, path=MASK, attributes={"ome": ngff.mask_metadata(layout)})
    for spec in _specs(layout):
        zarr.create_array(
            store,
            name=spec.path,
            shape=spec.shape,
            chunks=spec.chunks,
            dtype=spec.dtype,
            fill_value=spec.fill,
            compressors=[ZstdCodec(level=1, checksum=True)],
            dimension_names=spec.names,
        )
    create_shelf(store, layout)


def open_tree(
    store: LocalStore | ZipStore, layout: Layout, mode: Literal["r", "r+"], derived: LocalStore | None = None
) -> Tree:
    """The arrays of a store; those that can be made again from the others and the journal by way of ``derived``.

    Raises
    ------
    StoreError
        Where one is missing or has another shape than the layout says.
    """
    first = {OVERVIEW, PROBABILITY, f"{MASK}/0"}
    other = derived or store
    arrays = {spec.path: _open(store if spec.path in first else other, spec, mode) for spec in _specs(layout)}
    return Tree(
        overview=arrays[OVERVIEW],
        mask=tuple(array for path, array in arrays.items() if path.startswith(MASK)),
        probability=arrays.get(PROBABILITY),
        scores=arrays.get(SCORES),
        status=arrays[STATUS],
    )


def describe(header: Header) -> dict[str, Any]:
    """The value of the root's ``napari_xt`` attribute: plain JSON values."""
    parts = {"layout": header.layout.to_json()} | {part: getattr(header, part) for part in PARTS[1:]}
    described = {"format": FORMAT, "numerics": header.job.get("numerics", 1), **parts}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=_plain))
    return plain


def is_store(path: Path) -> bool:
    """Whether there is a prediction store at ``path``, of whatever format."""
    return "format" in _attribute(path)


def read_header(path: Path) -> Header:
    """What the store at ``path`` is of.

    Raises
    ------
    StoreError
        Where there is nothing, no prediction, one of a newer format, or a damaged one.
    """
    if not path.exists():
        raise StoreError(path, "there is no such file or folder", "check the path")
    found = _attribute(path)
    if "format" not in found:
        raise StoreError(path, "it is no prediction of napari-xt", f"give the path of a folder NAME{SUFFIX}")
    if not isinstance(found["format"], int) or found["format"] > FORMAT:
        version = printable(str(found["format"]))
        raise StoreError(path, f"it has store format {version}, newer than {FORMAT}", "install a newer napari-xt")
    try:
        layout, *rest = (dict(found[part]) for part in PARTS)
        return Header(Layout.from_json(layout), *rest)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(path, f"its description is damaged: {error!r}") from error


def _attribute(path: Path) -> Mapping[str, Any]:
    """The root's ``napari_xt`` attribute, empty where there is none; read without Zarr, which trusts what it opens."""
    file = path / "zarr.json"
    try:
        if file.stat().st_size > MAX_DESCRIPTION_BYTES:
            return {}
        found = json.loads(file.read_bytes())["attributes"]["napari_xt"]
    except PermissionError as error:
        raise StoreError(path, "it can't be read: permission denied", "check its permissions") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _specs(layout: Layout) -> Iterator[_Spec]:
    shape = layout.overview_shape
    chunks = (*(min(n, 4) for n in shape[:-2]), CHUNK_PX, CHUNK_PX)
    yield _Spec(OVERVIEW, shape, chunks, layout.overview_dtype, 0, ngff.axis_names(len(shape)))
    if layout.mask is not None:
        yield from _mask_specs(layout, len(layout.mask))
    rows, cols = layout.grid.shape
    if layout.scores is not None:
        k = len(layout.scores)
        table = (TABLE_CHUNK, TABLE_CHUNK, k)
        yield _Spec(SCORES, (rows, cols, k), table, "float32", np.nan, ("row", "col", "class"))
    yield _Spec(STATUS, (rows, cols), (TABLE_CHUNK, TABLE_CHUNK), "uint8", 0, ("row", "col"))


def _mask_specs(layout: Layout, classes: int) -> Iterator[_Spec]:
    side = layout.grid.block_px
    for level, shape in enumerate(layout.mask_shapes):
        chunk = side if level == 0 else CHUNK_PX
        yield _Spec(f"{MASK}/{level}", shape, (chunk, chunk), "uint8", 0, ("y", "x"))
    cell = side // layout.stride
    yield _Spec(
        PROBABILITY, (classes, *layout.probability_shape), (classes, cell, cell), "uint8", 0, ("class", "y", "x")
    )


def _open(store: LocalStore | ZipStore, spec: _Spec, mode: Literal["r", "r+"]) -> zarr.Array[Any]:
    place = getattr(store, "root", "store")
    try:
        array = zarr.open_array(store, path=spec.path, mode=mode)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StoreError(place, f"it is damaged: its array {spec.path} can't be opened: {error}") from error
    if (array.shape, array.chunks, array.dtype) != (spec.shape, spec.chunks, np.dtype(spec.dtype)):
        raise StoreError(place, f"it is damaged: its array {spec.path} is {array.dtype} {array.shape}")
    return array


def _plain(value: object) -> object:
    """A NumPy number as JSON knows it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value: {value!r}")
