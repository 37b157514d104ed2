"""One door to every image: lazy levels with axes and a pixel size, read as `(C, Y, X)` whatever the file's order.

Knows axes, levels and planes; knows no model, no run and no screen.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from threading import Event
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError, SettingsError
from napari_xt.geometry import Box
from napari_xt.io.images.decoding import Progress, telling
from napari_xt.io.images.formats import is_layer, is_rgb, names_of_channels, open_array, open_layer, open_path
from napari_xt.io.images.geo import Georeference
from napari_xt.io.images.identity import DAMAGED, word
from napari_xt.io.images.pyramid import chunk_boxes, extended
from napari_xt.io.images.source import (
    SET_BY_USER,
    UNITS_UM,
    ArrayLike,
    PixelSize,
    RemoteError,
    Source,
    Window,
    parse_pixel_size,
)
from napari_xt.io.images.stacked import stack

SAMPLES, SAMPLE_PX = 32, 64
T = TypeVar("T")


def open_image(
    source: Any,
    *,
    pixel_size: str | float | tuple[float, float] | None = None,
    plane: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Image:
    """Open an image lazily.

    PNG, JPEG and TIFF in one strip of more than 64 million pixels can't be read in parts: they are decoded once, into
    a pyramid in the user's cache.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr, path of a TIFF (slides, GeoTIFF), PNG, JPEG or ``.npy``, a napari Image layer, a
        numpy, zarr or dask array of shape (Y, X), (Y, X, 3 | 4) or (C, Y, X), a list of such levels, finest first, an
        `Image`, or a list of layers or images that are the channels of one scene.
    pixel_size
        Size of a level-0 pixel where the file does not say it or lies: ``"0.5 um"``, ``"10 cm"``, or micrometres as a
        number or ``(y, x)``.
    plane
        Index of each axis that is not y, x or channel, as ``{"t": 3}``; 0 where it is not named.
    progress
        Called with how many strips of such a large picture are decoded, and of how many; what it raises stops the
        decoding, which goes on from there the next time.

    Returns
    -------
    Image
        It holds the file open until `Image.close`.

    Raises
    ------
    ImageNotFoundError, ImageFormatError, ImageReadError
        Where there is no image, none that is understood, a damaged one, or no access.
    SettingsError
        Where ``pixel_size`` or ``plane`` makes no sense.
    """
    pixel = None if pixel_size is None else parse_pixel_size(pixel_size)
    if isinstance(source, Image):
        return source if pixel is None and plane is None else source.replaced(pixel, plane)
    if isinstance(source, (list, tuple)) and source and all(isinstance(s, Image) or is_layer(s) for s in source):
        joined = stack([s.stated if isinstance(s, Image) else open_layer(s) for s in source])
        first = source[0].plane if isinstance(source[0], Image) else None
        return Image(joined, pixel=pixel, plane=first if plane is None else plane)
    with telling(progress):
        image = Image(_opened(source), pixel=pixel)
    try:
        return image if plane is None else image.with_plane(plane)
    except SettingsError:
        image.close()
        raise


def _opened(source: Any) -> Source:
    if isinstance(source, (str, os.PathLike)):
        return open_path(os.fsdecode(source))
    return open_layer(source) if is_layer(source) else open_array(source)


class Image:
    """A lazy image: one plane of it is read, box by box, as ``(C, Y, X)`` in the source's dtype.

    Made by `open_image`. A context manager; safe to read from many threads.
    """

    def __init__(
        self,
        source: Source,
        *,
        pixel: PixelSize | None = None,
        plane: Mapping[str, int] | None = None,
        closed: Event | None = None,
        known: dict[object, Any] | None = None,
    ) -> None:
        self._source = source
        self._given = pixel
        self._pixel = pixel or source.pixel
        self._closed = closed or Event()
        self._known = {} if known is None else known
        self._levels = extended(source.levels, source.axes)
        self._plane = self._full_plane(plane or {})

    @property
    def name(self) -> str:
        """Stem of the file's name (``"scene"`` for ``scene.ome.zarr``), or the layer's name."""
        return self._source.name

    @property
    def source(self) -> str | None:
        """Absolute path or URL, None for arrays."""
        return self._source.path

    @property
    def axes(self) -> str:
        """One letter for each axis of `levels`, e.g. ``"yxc"``."""
        return self._source.axes

    @property
    def levels(self) -> tuple[ArrayLike, ...]:
        """The lazy arrays as they are stored, finest first; computed lazily where the file has no coarser ones."""
        return self._levels

    @property
    def level_shapes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of each level."""
        y, x = self.axes.index("y"), self.axes.index("x")
        return tuple((int(level.shape[y]), int(level.shape[x])) for level in self._levels)

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` of level 0."""
        return self.level_shapes[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels that `read` returns, in native byte order."""
        return np.dtype(self._levels[0].dtype).newbyteorder("=")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._source.channels

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name for each channel."""
        return names_of_channels(self._source)

    @property
    def channel_colors(self) -> tuple[str, ...]:
        """``"#rrggbb"`` for each channel, "" where the file does not say it."""
        stated = self._source.channel_colors
        return stated if len(stated) == self.channels else ("",) * self.channels

    @property
    def channel_windows(self) -> tuple[Window | None, ...]:
        """``(low, high)`` to be shown of each channel, None where the file does not say it."""
        stated = self._source.channel_windows
        return stated if len(stated) == self.channels else (None,) * self.channels

    @property
    def rgb(self) -> bool:
        """Whether the last axis holds red, green, blue and perhaps alpha in 8 or 16 bits."""
        return is_rgb(self._source)

    @property
    def scale(self) -> tuple[float, float]:
        """Size ``(y, x)`` of a level-0 pixel in `unit`, ``(1.0, 1.0)`` where it is unknown."""
        return self._pixel[0]

    @property
    def unit(self) -> str:
        """Name of a length, ``"pixel"`` where the size is unknown."""
        return self._pixel[1]

    @property
    def scale_um(self) -> tuple[float, float] | None:
        """Size ``(y, x)`` of a level-0 pixel in micrometres, None where it is unknown."""
        factor = UNITS_UM.get(self.unit)
        return None if factor is None else (self.scale[0] * factor, self.scale[1] * factor)

    @property
    def alpha(self) -> int | None:
        """Index of the channel that says where there is a picture at all (0 = not), None where there is no such one."""
        last = self.channels - 1
        return last if last > 0 and self.channel_names[last].lower() == "alpha" else None

    @property
    def nodata(self) -> int | None:
        """The whole number of which the file says that nothing was recorded; real numbers are NaN there."""
        return self._source.nodata

    @property
    def scale_source(self) -> str:
        """What told `scale`: ``"ome-xml"``, ``"ngff"``, ``"geotiff"``, ..., ``"set by user"`` or ``"unknown"``."""
        if self._given is not None:
            return SET_BY_USER
        return "unknown" if self.unit == "pixel" else self._source.stated_by or "unknown"

    @property
    def stated(self) -> Source:
        """The image before a plane is chosen, with the pixel size that holds; closing it does nothing."""
        return replace(self._source, pixel=self._pixel, stated_by=self.scale_source, close=lambda: None)

    @property
    def georeference(self) -> Georeference | None:
        """How level-0 pixels lie on the Earth, None where the file does not say it."""
        return self._source.georeference

    @property
    def bounds_offset(self) -> tuple[int, int] | None:
        """Level-0 pixel ``(y, x)`` at which the slide's own bounds begin, None where it has none."""
        return self._source.bounds_offset

    @property
    def plane(self) -> Mapping[str, int]:
        """The index that is read of each axis that is not y, x or channel."""
        return MappingProxyType(self._plane)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Length of each axis of level 0."""
        return MappingProxyType(dict(zip(self.axes, map(int, self._levels[0].shape), strict=True)))

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read a box of a level.

        Parameters
        ----------
        box
            In the level's pixels, inside the level.
        level
            Index of the level, 0 = finest.

        Returns
        -------
        ndarray
            ``(C, Y, X)``, the source's dtype in native byte order, C order, yours to change.

        Raises
        ------
        ImageReadError
            Where the pixels are damaged or the image is closed.
        SettingsError
            Where the box or level lies outside.
        """
        self._check(box, level)
        index = self._index(box)
        try:
            pixels = np.asarray(self._levels[level][index])
        except Exception as error:  # codecs and file systems raise almost anything
            raise self._damage(box, level, error) from error
        ordered = np.moveaxis(pixels, _order(self.axes), range(pixels.ndim))
        whole = ordered if "c" in self.axes else ordered[None]
        copy = None if isinstance(self._levels[level], zarr.Array) else True  # what Zarr returns is nobody else's
        return np.array(whole, dtype=self.dtype, order="C", copy=copy)

    def with_plane(self, plane: Mapping[str, int] | None) -> Image:
        """Return the same open image at another plane; axes that are not named are 0.

        Raises
        ------
        SettingsError
            Where there is no such axis or index.
        """
        return self.replaced(None, plane or {})

    def replaced(self, pixel: PixelSize | None, plane: Mapping[str, int] | None) -> Image:
        """Return the same open image with another pixel size or plane where one is given."""
        chosen = self._plane if plane is None else plane
        return Image(self._source, pixel=pixel or self._given, plane=chosen, closed=self._closed, known=self._known)

    def measured(self, what: object, measure: Callable[[], T]) -> T:
        """What ``measure`` returns, called once for each ``what`` of this plane while the image is open."""
        key = what, tuple(self._plane.items())
        if key not in self._known:
            self._known[key] = measure()
        found: T = self._known[key]
        return found

    def identity(self) -> str:
        """Return what tells this plane from another: 32 words of 8 letters, one for each of 32 squares of 64 px.

        A word is drawn from shape, dtype and axes and the pixels of a square at a fixed place of level 0; that of a
        square that can't be read is ``--------``, so that a damaged image has an identity too. See `same_image`.
        """
        facts = repr((self._levels[0].shape, self.dtype.str, self.axes)).encode()
        return "".join(self._word(facts, box) for box in self._sample_boxes())

    @property
    def closed(self) -> bool:
        """Whether its pixels can't be read any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Release the file; its planes can't be read any more. Closing twice is fine."""
        if not self._closed.is_set():
            self._closed.set()
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.shape[1]} x {self.shape[0]} px, {self.channels} x {self.dtype}, {len(self._levels)} levels"
        scale = "unknown scale" if self.unit == "pixel" else f"{self.scale[0]:g} x {self.scale[1]:g} {self.unit}"
        return f"<Image {self.name!r}: {size}, {self.axes}, {scale}>"

    def _full_plane(self, plane: Mapping[str, int]) -> dict[str, int]:
        others = {axis: size for axis, size in self.sizes.items() if axis not in "yxc"}
        known = ", ".join(f"{axis} (0 to {size - 1})" for axis, size in others.items()) or "none"
        for axis, index in plane.items():
            if axis not in others or not _is_index(index, others[axis]):
                raise SettingsError("plane", f"{self.name} has no {axis} = {index!r}", f"its axes are: {known}")
        return {axis: int(plane.get(axis, 0)) for axis in others}

    def _index(self, box: Box) -> tuple[slice | int, ...]:
        place: dict[str, slice | int] = {"y": box.slices[0], "x": box.slices[1], "c": slice(None), **self._plane}
        return tuple(place[axis] for axis in self.axes)

    def _check(self, box: Box, level: int) -> None:
        if self._closed.is_set():
            raise ImageReadError(self.source or self.name, "the image is closed", "open it again")
        if not 0 <= level < len(self._levels):
            raise SettingsError("level", f"{self.name} has no level {level}", f"it has 0 to {len(self._levels) - 1}")
        if box.empty or box.clip(Box(0, 0, *self.level_shapes[level])) != box:
            raise SettingsError("box", f"{box} is not inside level {level} of {self.name}")

    def _damage(self, box: Box, level: int, error: Exception) -> ImageReadError:
        """The error that names the first chunk of ``box`` that can't be read."""
        y, x = box.y0, box.x0
        for part in chunk_boxes(self._levels[level], self.axes, box):
            try:
                self._levels[level][self._index(Box(part.y0, part.x0, part.y0 + 1, part.x0 + 1))]
            except Exception as cause:  # noqa: BLE001 - whatever it is, it is the one to tell
                y, x, error = part.y0, part.x0, cause
                break
        why = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        place = f"chunk at y={y}, x={x} of level {level}"
        do = "check the address and the network" if isinstance(error, RemoteError) else "the file may be damaged"
        return ImageReadError(self.source or self.name, f"{place} can't be read: {why}", do)

    def _sample_boxes(self) -> Iterator[Box]:
        (height, width), places = self.shape, random.Random(0)
        for _ in range(SAMPLES):
            y, x = (int(places.random() * max(1, size - SAMPLE_PX + 1)) for size in (height, width))
            yield Box(y, x, min(height, y + SAMPLE_PX), min(width, x + SAMPLE_PX))

    def _word(self, facts: bytes, box: Box) -> str:
        try:
            return word(facts, self.read(box).tobytes())
        except ImageReadError as error:
            if self._closed.is_set() or isinstance(error.__cause__, RemoteError):
                raise
            return DAMAGED


def _is_index(value: object, size: int) -> bool:
    return isinstance(value, (int, np.integer)) and 0 <= int(value) < size


def _order(axes: str) -> list[int]:
    """Where the axes that are left after choosing a plane must come from to be ``(c, y, x)``."""
    left = [axis for axis in axes if axis in "cyx"]
    return [left.index(axis) for axis in "cyx" if axis in left]
