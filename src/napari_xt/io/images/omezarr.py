"""Opens OME-Zarr 0.4 and 0.5, plain zarr arrays and groups of arrays, on disk or behind a URL.

Knows NGFF metadata; reads no pixels and writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeGuard

import zarr
from zarr.abc.store import Store

from napari_xt.errors import ImageFormatError, ImageNotFoundError, ImageReadError, MissingDependencyError, XTError
from napari_xt.io.images.files import FileStore
from napari_xt.io.images.geo import Georeference
from napari_xt.io.images.guard import consistent_levels, guarded
from napari_xt.io.images.nodata import nodata_of
from napari_xt.io.images.pyramid import guess_axes
from napari_xt.io.images.remote import open_remote
from napari_xt.io.images.source import (
    UNKNOWN,
    PixelSize,
    RemoteError,
    Source,
    Window,
    hex_color,
    pixel_size,
    positive,
    window,
)

logger = logging.getLogger(__name__)

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
MOST_LEVELS = 64
_KINDS = {"space": "zyx", "time": "t", "channel": "c"}

Node = zarr.Group | zarr.Array[Any]
Array = zarr.Array[Any]


def open_zarr(place: str, name: str) -> Source:
    """Open the image in a zarr folder or behind a URL.

    Parameters
    ----------
    place
        Absolute path of an existing folder, or a URL.
    name
        Name of the image.

    Raises
    ------
    ImageFormatError
        Where there is no zarr, or none that holds one image.
    ImageNotFoundError
        Where there is nothing at a URL.
    ImageReadError
        Where a server does not deliver.
    """
    store, version = _store(place)
    try:
        source = _source(place, name, _open_node(place, store, version))
    except RemoteError as error:
        store.close()
        raise ImageReadError(place, str(error), "check the address and the network") from error
    except BaseException:
        store.close()
        raise
    return replace(source, close=store.close)


def _source(place: str, name: str, node: Node) -> Source:
    try:
        return _from_array(place, name, node) if isinstance(node, zarr.Array) else _from_group(place, name, node)
    except (XTError, PermissionError, RemoteError):
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError) as error:
        raise ImageFormatError(place, f"its metadata is damaged ({_brief(error)})", "write the image again") from error


def _open_node(place: str, store: Store, version: Literal[2, 3] | None) -> Node:
    try:
        return zarr.open(store, mode="r", zarr_format=version, **_plain(version))
    except FileNotFoundError as error:
        raise ImageNotFoundError(place, "there is no zarr image", "check the address") from error
    except (PermissionError, RemoteError):
        raise
    except Exception as error:  # damaged JSON and unknown codecs raise almost anything
        raise ImageFormatError(place, f"is no zarr that can be read ({_brief(error)})", "write it again") from error


def _plain(version: int | None) -> dict[str, Any]:
    # consolidated metadata may be older than the arrays; over a network it saves many requests
    return {} if version is None else {"use_consolidated": False}


def _store(place: str) -> tuple[Store, Literal[2, 3] | None]:
    if "://" in place:
        return _remote(place), None
    return FileStore(place, read_only=True), local_version(place)


def _remote(place: str) -> Store:
    try:
        return open_remote(place)
    except ImportError as error:
        raise MissingDependencyError(place, f"needs a package for URLs ({_brief(error)})", "install it") from error
    except ValueError as error:
        raise ImageFormatError(place, f"is no URL that is understood ({_brief(error)})") from error


def local_version(place: str) -> Literal[2, 3]:
    """Return the zarr version of a folder; raises `ImageFormatError` where it is no zarr."""
    found = [name for name in ZARR_FILES if Path(place, name).is_file()]
    if found:
        return 3 if found[0] == "zarr.json" else 2
    empty = next(Path(place).iterdir(), None) is None
    why = "the folder is empty" if empty else "the folder is no zarr image (no zarr.json, .zgroup or .zarray in it)"
    raise ImageFormatError(place, why, "give the path of an image file or of an OME-Zarr folder")


def _from_array(place: str, name: str, array: Array) -> Source:
    array = guarded(place, array)
    axes = _named_axes(array) or guess_axes(place, array.shape)
    return Source(name, place, axes, (array,), rgb=True)


def _named_axes(array: Array) -> str | None:
    """The array's dimension names where each is one of t, c, z, y, x."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, (tuple, list)):
        return None
    axes = "".join(str(name).lower()[:8] for name in names)
    known = len(axes) == array.ndim == len(set(axes)) and set("yx") <= set(axes) <= set("tczyx")
    return axes if known else None


def _from_group(place: str, name: str, group: zarr.Group) -> Source:
    attributes: Mapping[str, Any] = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    if isinstance(ome, Mapping) and ome.get("multiscales"):
        return _from_multiscales(place, name, group, ome)
    if isinstance(ome, Mapping) and {"plate", "well", "bioformats2raw.layout"} & ome.keys():
        raise ImageFormatError(place, "holds several images", f"give the path of one, perhaps {place.rstrip('/')}/0")
    return _from_arrays(place, name, group)


def _from_arrays(place: str, name: str, group: zarr.Group) -> Source:
    """A group of arrays without metadata is a pyramid if each array is a smaller copy of the one before."""
    arrays = sorted((guarded(place, array) for _, array in group.arrays()), key=lambda array: -array.size)
    if not arrays:
        raise ImageFormatError(place, "the zarr group holds no image", "give the path of the image inside it")
    axes = _named_axes(arrays[0]) or guess_axes(place, arrays[0].shape)
    levels = consistent_levels(place, axes, arrays)
    if len(levels) < len(arrays):
        raise ImageFormatError(place, f"its {len(arrays)} arrays are no pyramid", "give the path of one of them")
    return Source(name, place, axes, levels, rgb=True)


def _from_multiscales(place: str, name: str, group: zarr.Group, ome: Mapping[str, Any]) -> Source:
    multiscale = ome["multiscales"][0]
    datasets: Sequence[Mapping[str, Any]] = multiscale["datasets"]
    if len(datasets) > MOST_LEVELS:
        raise ImageFormatError(place, f"it declares {len(datasets)} levels, more than {MOST_LEVELS}", "write it again")
    first = _level(place, group, datasets[0])
    if first is None:
        raise ImageFormatError(place, f"its level {datasets[0]['path']!r} is missing", "copy or write it again")
    axes, units = _axes(place, multiscale.get("axes"), first.ndim)
    channels = _channels(ome)
    scales = [_scale(multiscale, dataset, first.ndim) for dataset in datasets]
    rest = (_level(place, group, dataset) for dataset in datasets[1:])
    trusted = [
        level
        for level, scale in zip(rest, scales[1:], strict=True)
        if level is not None and _scale_fits(axes, (first, scales[0]), (level, scale))
    ]
    return Source(
        name=name,
        path=place,
        axes=axes,
        levels=consistent_levels(place, axes, (first, *trusted)),
        pixel=_pixel(axes, scales[0], units),
        stated_by="ngff",
        georeference=Georeference.from_attributes(group.attrs.asdict()),
        nodata=nodata_of(first.dtype, group.attrs.asdict()),
        channel_names=tuple(str(channel.get("label") or f"channel {i}") for i, channel in enumerate(channels)),
        channel_colors=tuple(hex_color(channel.get("color")) for channel in channels),
        channel_windows=tuple(_window(channel.get("window")) for channel in channels),
        rgb=True,
    )


def _level(place: str, group: zarr.Group, dataset: Mapping[str, Any]) -> Array | None:
    """The array of a level, None with a log message where there is none."""
    path = PurePosixPath(str(dataset["path"]))
    if path.is_absolute() or ".." in path.parts:
        raise ImageFormatError(place, f"its level {str(path)!r} lies outside the folder")
    node = group.get(str(path))
    if isinstance(node, zarr.Array):
        return guarded(place, node)
    logger.warning("%s: level %r is missing and is ignored", place, str(path))
    return None


def _axes(place: str, axes: object, ndim: int) -> tuple[str, dict[str, str]]:
    """Letters of the axes, and the unit of each that has one. Before 0.3 there were no names but an order."""
    entries = [_axis(axis) for axis in axes] if isinstance(axes, (list, tuple)) else [(a, "", "") for a in "tczyx"]
    spare = {kind: list(letters) for kind, letters in _KINDS.items()}
    spare["space"] = spare["space"][-sum(kind == "space" for _, kind, _ in entries) :]
    letters = [name if len(name) == 1 else _letter(spare, kind) for name, kind, _ in entries]
    text = "".join(letters)
    if len(text) != ndim or len(set(text)) != ndim or not {"y", "x"} <= set(text):
        raise ImageFormatError(place, f"its axes {letters} do not describe an array of {ndim} axes with y and x")
    return text, {letter: unit for letter, (_, _, unit) in zip(letters, entries, strict=True) if unit}


def _axis(axis: object) -> tuple[str, str, str]:
    if not isinstance(axis, Mapping):
        return str(axis).lower(), "", ""
    return str(axis["name"]).lower(), str(axis.get("type") or ""), str(axis.get("unit") or "")


def _letter(spare: dict[str, list[str]], kind: str) -> str:
    letters = spare.get(kind) or []
    return letters.pop(0) if letters else "?"


def _scale(multiscale: Mapping[str, Any], dataset: Mapping[str, Any], ndim: int) -> tuple[float, ...] | None:
    """The dataset's scale times the one of the whole pyramid, None where there is none that makes sense."""
    total: tuple[float, ...] | None = None
    for transforms in (dataset.get("coordinateTransformations"), multiscale.get("coordinateTransformations")):
        scale = next((t["scale"] for t in transforms or () if t.get("type") == "scale"), None)
        if _is_scale(scale, ndim):
            total = tuple(a * b for a, b in zip(total or (1.0,) * ndim, scale, strict=True))
    return total


def _is_scale(scale: object, ndim: int) -> TypeGuard[Sequence[float]]:
    return isinstance(scale, Sequence) and len(scale) == ndim and all(positive(value) for value in scale)


def _scale_fits(
    axes: str, fine: tuple[Array, tuple[float, ...] | None], coarse: tuple[Array, tuple[float, ...] | None]
) -> bool:
    """Whether the scales say the same as the shapes, within two pixels of the coarse level."""
    (array0, scale0), (array, scale) = fine, coarse
    if scale0 is None or scale is None or array.ndim != array0.ndim:
        return True
    fits = all(
        abs(array0.shape[i] * scale0[i] / scale[i] - array.shape[i]) < 2 for i in (axes.index("y"), axes.index("x"))
    )
    if not fits:
        logger.warning("a level of shape %s has a scale that contradicts its shape and is ignored", array.shape)
    return fits


def _pixel(axes: str, scale: tuple[float, ...] | None, units: Mapping[str, str]) -> PixelSize:
    if scale is None:
        return UNKNOWN
    y, x = axes.index("y"), axes.index("x")
    return pixel_size(scale[y], scale[x], units.get("y"), units.get("x"))


def _channels(ome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    omero = ome.get("omero")
    channels: Iterable[Any] = omero.get("channels") or () if isinstance(omero, Mapping) else ()
    return list(channels)


def _window(stated: object) -> Window | None:
    return window(stated.get("start"), stated.get("end")) if isinstance(stated, Mapping) else None


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:80] or type(error).__name__
