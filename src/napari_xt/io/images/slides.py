"""Opens slides that only openslide reads: MIRAX, Hamamatsu VMS and VMU, Ventana BIF, odd NDPI. An optional package.

Knows openslide and its properties; decodes nothing itself and is asked only where tifffile can't.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageFormatError, MissingDependencyError
from napari_xt.io.images.guard import check_array, consistent_levels
from napari_xt.io.images.keys import full_key
from napari_xt.io.images.source import Source, pixel_size

if TYPE_CHECKING:
    from openslide import OpenSlide

CELL = 512  # pixels along a side of what is read at a time
_TEXTS = (b"[Virtual Microscope Specimen]", b"[Uncompressed Virtual Microscope Specimen]")
_SQLITE = b"SQLite format 3\0"
_INSTALL = 'pip install "napari-xt[openslide]"'


class SlideError(ImageFormatError):
    """A TIFF that is not understood here, but that openslide may read."""


def is_slide(path: str, start: bytes) -> bool:
    """Whether the file is one of several that are a slide together, or a slide that is no TIFF.

    Parameters
    ----------
    path
        Absolute path of a file.
    start
        Its first bytes.
    """
    stem, suffix = os.path.splitext(path)
    if suffix.lower() == ".mrxs":  # the file itself is a small picture
        return os.path.isfile(os.path.join(stem, "Slidedat.ini"))
    return start.startswith(_TEXTS) or (suffix.lower() == ".svslide" and start.startswith(_SQLITE))


def open_slide(path: str, name: str) -> Source:
    """Open a slide with openslide.

    Parameters
    ----------
    path
        Absolute path of an existing file.
    name
        Name of the image.

    Raises
    ------
    MissingDependencyError
        Where openslide is not installed.
    ImageFormatError
        Where openslide can't read it.
    """
    handle = _Handle(path)
    found = handle.slide.properties
    if found.get("openslide.vendor") == "generic-tiff":  # tiles side by side, as here
        raise ImageFormatError(path, "is no slide that openslide knows", "convert it to OME-Zarr")
    levels = [SlideLevel(handle, k, _dimensions(handle, k), _step(handle, k)) for k in range(handle.slide.level_count)]
    for level in levels:
        check_array(path, level)
    bounds = [_whole(found.get(f"openslide.bounds-{axis}")) for axis in "yx"]
    return Source(
        name=name,
        path=path,
        axes="yxc",
        levels=consistent_levels(path, "yxc", levels),
        pixel=pixel_size(found.get("openslide.mpp-y"), found.get("openslide.mpp-x"), "um"),
        stated_by="openslide.mpp",
        bounds_offset=None if bounds[0] is None or bounds[1] is None else (bounds[0], bounds[1]),
        rgb=True,
        close=handle.close,
    )


def _dimensions(handle: _Handle, level: int) -> tuple[int, int, int]:
    width, height = handle.slide.level_dimensions[level]
    return int(height), int(width), 3


def _step(handle: _Handle, level: int) -> float:
    return float(handle.slide.level_downsamples[level])


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else None


def _openslide(path: str) -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:  # the shared library may be missing
        raise MissingDependencyError(path, "is a slide that needs openslide", _INSTALL) from error
    return openslide


class _Handle:
    """An open slide. Reads that are under way keep it open; one that failed spoils it, so it is then opened anew."""

    def __init__(self, path: str) -> None:
        self._path, self._package = path, _openslide(path)
        self._lock = threading.Lock()
        self._slide: OpenSlide | None = self._opened()
        colour = self.slide.properties.get("openslide.background-color", "FFFFFF")
        self._background = np.frombuffer(bytes.fromhex(colour), np.uint8) if len(colour) == 6 else np.full(3, 255)

    @property
    def slide(self) -> OpenSlide:
        """What is open."""
        slide = self._slide
        if slide is None:
            raise OSError("the slide is closed")
        return slide

    def read(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """``(Y, X, 3)`` at ``place`` (level-0 px, y and x); what was not scanned has the slide's background colour."""
        slide = self.slide
        try:
            picture = slide.read_region((place[1], place[0]), level, (size[1], size[0]))
        except self._package.OpenSlideError:
            with self._lock:
                if self._slide is slide:
                    self._slide = self._opened()
            raise
        pixels = np.asarray(picture)
        alpha = pixels[..., 3:]
        if alpha.min(initial=255) == 255:
            return pixels[..., :3]
        mixed = pixels[..., :3] * (alpha / np.float32(255)) + self._background * (1 - alpha / np.float32(255))
        return np.rint(mixed).astype(np.uint8)

    def close(self) -> None:
        """Let the slide go: it is closed when nobody reads it any more."""
        with self._lock:
            self._slide = None

    def _opened(self) -> OpenSlide:
        try:
            slide: OpenSlide = self._package.OpenSlide(self._path)
        except self._package.OpenSlideUnsupportedFormatError as error:
            raise ImageFormatError(self._path, "is no slide that openslide knows", "convert it to OME-Zarr") from error
        except self._package.OpenSlideError as error:
            why = (str(error).splitlines() or [""])[0][:100]
            raise ImageFormatError(self._path, f"openslide can't open it ({why})", "copy or export it again") from error
        return slide


@dataclass(frozen=True, slots=True)
class SlideLevel:
    """A level of a slide, ``(Y, X, 3)`` uint8, read in cells, so that a pixel is the same whatever it is read with."""

    handle: _Handle
    level: int
    shape: tuple[int, int, int]
    step: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 3

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[int, int, int]:
        """What is read at a time."""
        return CELL, CELL, 3

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read a part: whole numbers and forward slices."""
        keys = full_key(key, self.shape)
        spans = [_span(part, size) for part, size in zip(keys[:2], self.shape, strict=False)]
        out = np.empty((spans[0][1] - spans[0][0], spans[1][1] - spans[1][0], 3), np.uint8)
        cells = (range(first // CELL, -(-last // CELL)) for first, last in spans)
        for row, col in product(*cells):
            self._place(out, (spans[0][0], spans[1][0]), row * CELL, col * CELL)
        steps = tuple(slice(None, None, part.step) if isinstance(part, slice) else 0 for part in keys[:2])
        return out[(*steps, keys[2])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=bool(copy))

    def _place(self, out: NDArray[np.uint8], start: tuple[int, int], y: int, x: int) -> None:
        """Read the cell at ``(y, x)`` and put into ``out``, which begins at ``start``, what lies in it."""
        size = min(CELL, self.shape[0] - y), min(CELL, self.shape[1] - x)
        cell = self.handle.read((round(y * self.step), round(x * self.step)), self.level, size)
        top, left = y - start[0], x - start[1]
        part = cell[max(0, -top) : out.shape[0] - top, max(0, -left) : out.shape[1] - left]
        out[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]] = part


def _span(part: slice | int, size: int) -> tuple[int, int]:
    """First and last + 1 of what a forward slice or a whole number asks for."""
    if not isinstance(part, slice):
        return part, part + 1
    start, stop, _ = part.indices(size)
    return start, max(start, stop)
