"""Finds out what was given to be opened, by its first bytes and its attributes, and opens it.

Knows files, layers and arrays; knows no runs and no models.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from napari_xt.errors import ImageFormatError, ImageNotFoundError, ImageReadError
from napari_xt.io.images.guard import check_array, consistent_levels
from napari_xt.io.images.npy import MAGIC as NPY
from napari_xt.io.images.npy import open_npy
from napari_xt.io.images.omezarr import ZARR_FILES, open_zarr
from napari_xt.io.images.pictures import open_picture
from napari_xt.io.images.pyramid import guess_axes
from napari_xt.io.images.slides import SlideError, is_slide, open_slide
from napari_xt.io.images.source import RGB_NAMES, UNKNOWN, ArrayLike, PixelSize, Source, pixel_size
from napari_xt.io.images.strangers import not_read_here
from napari_xt.io.images.tiff import open_tiff

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_SUFFIX = re.compile(
    r"((\.ome|\.xt)?\.(zarr|tiff?)|\.(png|jpe?g|npy|svs|ndpi|btf|scn|bif|mrxs|vms|qptiff))$", re.IGNORECASE
)


def open_path(place: str) -> Source:
    """Open the image at a path or URL.

    Parameters
    ----------
    place
        Path (``~`` is the home folder) or URL.

    Raises
    ------
    ImageNotFoundError
        Where there is nothing.
    ImageFormatError
        Where there is no image that is understood, or a damaged one.
    ImageReadError
        Where the system denies access or a server does not deliver.
    """
    if "://" in place and not place.lower().startswith("file://"):
        return open_zarr(place, stem(urlsplit(place).path))
    path = _local(place)
    try:
        return open_zarr(path, stem(path)) if os.path.isdir(path) else _open_file(path)
    except PermissionError as error:
        raise ImageReadError(path, "permission denied", "check who may read it") from error


def stem(path: str) -> str:
    """Return the name of the image at ``path``: the file's name without what says the format."""
    name = PurePosixPath(unquote(path).replace(os.sep, "/").rstrip("/")).name
    short = _SUFFIX.sub("", name)
    return (short if short != name else Path(name).stem) or "image"


def _local(place: str) -> str:
    """The absolute path of something that exists."""
    if place.lower().startswith("file://"):
        place = unquote(urlsplit(place).path)
    path = os.path.abspath(os.path.expanduser(place)) if place else ""
    if not os.path.exists(path):
        raise ImageNotFoundError(path or "the image", "no such file or folder", "check the path")
    return os.path.dirname(path) if os.path.basename(path) in ZARR_FILES else path


def _open_file(path: str) -> Source:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageFormatError(path, "is no regular file", "give the path of an image")
    with open(path, "rb") as file:
        start = file.read(512)
    if is_slide(path, start):
        return open_slide(path, stem(path))
    if start.startswith(_TIFF):
        return _open_tiff(path)
    if start.startswith((_PNG, _JPEG)):
        return open_picture(path, stem(path), png=start.startswith(_PNG))
    if start.startswith(NPY):
        return open_npy(path, stem(path))
    raise not_read_here(path, start)


def _open_tiff(path: str) -> Source:
    try:
        return open_tiff(path, stem(path))
    except SlideError as error:
        try:
            return open_slide(path, stem(path))
        except ImageFormatError:
            raise error from None


def open_array(source: Any, name: str = "image") -> Source:
    """Open a numpy, zarr or dask array, or a list of them that is a pyramid, finest first.

    Raises
    ------
    ImageFormatError
        Where it is no array of a shape that is understood, or no pyramid.
    """
    levels = _arrays(source, name)
    axes = guess_axes(name, levels[0].shape)
    return Source(name, None, axes, consistent_levels(name, axes, levels), rgb=True)


def _arrays(source: Any, name: str) -> tuple[ArrayLike, ...]:
    levels = (source,) if is_array(source) else tuple(source) if isinstance(source, Sequence) else ()
    if not levels or not all(is_array(level) for level in levels):
        why = f"{type(source).__name__} is no image"
        raise ImageFormatError(name, why, "give a path, a napari Image layer, an array or a list of levels")
    for level in levels:
        check_array(name, level)
    return levels


def is_array(source: object) -> bool:
    """Whether ``source`` has what an array has."""
    return all(hasattr(source, name) for name in ("shape", "dtype", "ndim", "__getitem__"))


def is_layer(source: object) -> bool:
    """Whether ``source`` has what a napari Image layer has."""
    return all(hasattr(source, name) for name in ("data", "multiscale", "scale", "rgb", "name"))


def open_layer(layer: Any) -> Source:
    """Open the data of a napari Image layer, with the layer's scale and units.

    Leading axes of a layer are sliders: z and t, from the last to the first, where the layer does not name them and
    they are too long for channels.
    """
    name = str(layer.name)
    levels = _arrays(tuple(layer.data) if layer.multiscale else layer.data, name)
    axes = _layer_axes(layer, levels[0].shape)
    path = getattr(getattr(layer, "source", None), "path", None)
    return Source(
        name=name,
        path=os.path.abspath(path) if isinstance(path, str) and os.path.exists(path) else None,
        axes=axes,
        levels=consistent_levels(name, axes, levels),
        pixel=_layer_pixel(layer, axes),
        stated_by="napari layer",
        rgb=bool(layer.rgb),
    )


def _layer_axes(layer: Any, shape: tuple[int, ...]) -> str:
    spatial = len(shape) - bool(layer.rgb)
    tail = "c" if layer.rgb else ""
    labels = "".join(str(label).lower() for label in getattr(layer, "axis_labels", ()) or ())
    if len(labels) == spatial == len(set(labels)) and set("yx") <= set(labels) <= set("tzyx" if tail else "tczyx"):
        return labels + tail
    if spatial > 4:
        raise ImageFormatError(str(layer.name), f"a layer of shape {tuple(shape)} has too many axes", "slice it first")
    if spatial == 3 and not tail and shape[0] <= 16 and shape[0] < min(shape[1:]):
        return "cyx"
    return "tzyx"[-spatial:] + tail


def _layer_pixel(layer: Any, axes: str) -> PixelSize:
    spatial = axes[:-1] if layer.rgb else axes
    scale, units = tuple(layer.scale), tuple(getattr(layer, "units", ()) or ())
    if len(scale) != len(spatial) or len(units) != len(spatial):
        return UNKNOWN
    y, x = spatial.index("y"), spatial.index("x")
    return pixel_size(scale[y], scale[x], units[y], units[x])


def names_of_channels(source: Source) -> tuple[str, ...]:
    """Return one name for each channel: the file's where it has enough, colours, or numbers."""
    if len(source.channel_names) == source.channels:
        return source.channel_names
    if is_rgb(source):
        return RGB_NAMES[: source.channels]
    return tuple(f"channel {i}" for i in range(source.channels))


def is_rgb(source: Source) -> bool:
    """Whether to show the channels as one colour picture: three or four, last axis, 8 or 16 bits."""
    deep = np.dtype(source.levels[0].dtype) in (np.dtype("u1"), np.dtype("u2"))
    return source.rgb and source.axes.endswith("c") and source.channels in (3, 4) and deep
