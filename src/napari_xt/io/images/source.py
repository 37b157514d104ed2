"""What every format hands to `Image`: lazy arrays with their axes, and a pixel size with its unit.

Knows no file format and reads no pixels.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError

if TYPE_CHECKING:
    from napari_xt.io.images.geo import Georeference

UNITS_UM: Mapping[str, float] = MappingProxyType(
    {
        "angstrom": 1e-4,
        "nanometer": 1e-3,
        "micrometer": 1.0,
        "millimeter": 1e3,
        "centimeter": 1e4,
        "decimeter": 1e5,
        "meter": 1e6,
        "kilometer": 1e9,
        "inch": 25_400.0,
        "foot": 304_800.0,
        "us_survey_foot": 1_200_000_000 / 3937,
        "yard": 914_400.0,
    }
)
"""Names of lengths (those of OME-Zarr) and their size in micrometres."""

_ALIASES = {
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
}

PixelSize = tuple[tuple[float, float], str]
"""A pixel's size ``(y, x)`` and the name of its unit."""

Window = tuple[float, float]
"""Values that are shown black and in full colour."""

UNKNOWN: PixelSize = ((1.0, 1.0), "pixel")
SET_BY_USER = "set by user"
RGB_NAMES = ("red", "green", "blue", "alpha")


class RemoteError(OSError):
    """A server did not deliver: the sentence says which key, why, and after how many attempts."""


class ArrayLike(Protocol):
    """What a level is: an array that may live on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part."""


@dataclass(frozen=True, slots=True)
class Wrapped(ABC):
    """An array that is read by way of another one, ``stored``, of the same type and, unless it says so, shape."""

    stored: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.stored.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.stored.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.stored.ndim

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Sizes of the chunks, None where there are none."""
        return getattr(self.stored, "chunks", None)

    @abstractmethod
    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read a part."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=bool(copy))


def _nothing() -> None:
    """Close a source that holds nothing open."""


@dataclass(frozen=True, slots=True)
class Source:
    """An opened image before a plane is chosen.

    Parameters
    ----------
    name
        Stem of the file's name, or the layer's name.
    path
        Absolute path or URL; None for arrays.
    axes
        One lower-case letter for each axis of the levels; holds "y" and "x", perhaps "c".
    levels
        Lazy arrays, finest first.
    pixel
        Size of a level-0 pixel.
    channel_names
        Names from the file's metadata, or empty.
    channel_colors
        ``"#rrggbb"`` for each channel, "" where the file does not say it, or empty.
    channel_windows
        ``(low, high)`` for each channel, what is shown black and in full colour, None where the file does not say it.
    stated_by
        What told the pixel size: ``"ome-xml"``, ``"ngff"``, ``"geotiff"``, ...; of no meaning where it is unknown.
    georeference
        How level-0 pixels lie on the Earth, where the file says it.
    nodata
        The whole number that stands where nothing was recorded; real numbers are NaN there.
    bounds_offset
        Level-0 pixel ``(y, x)`` at which the slide's own bounds begin, where it has bounds.
    rgb
        Whether the channels are red, green, blue and perhaps alpha.
    close
        Releases the file handles.
    """

    name: str
    path: str | None
    axes: str
    levels: tuple[ArrayLike, ...]
    pixel: PixelSize = UNKNOWN
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    channel_windows: tuple[Window | None, ...] = ()
    stated_by: str = ""
    georeference: Georeference | None = None
    nodata: int | None = None
    bounds_offset: tuple[int, int] | None = None
    rgb: bool = False
    close: Callable[[], None] = _nothing

    @property
    def channels(self) -> int:
        """Number of channels, 1 without a channel axis."""
        return self.levels[0].shape[self.axes.index("c")] if "c" in self.axes else 1


def unit_name(text: object) -> str | None:
    """Return the full name of a length (``"µm"`` -> ``"micrometer"``), None where ``text`` names no known length."""
    name = str(text or "").strip().lower().replace("metre", "meter").replace(" ", "_")
    singular = name.removesuffix("s")
    return next((unit for key in (name, singular) if (unit := _ALIASES.get(key, key)) in UNITS_UM), None)


def pixel_size(y: object, x: object, unit_y: object, unit_x: object = None) -> PixelSize:
    """Return a pixel size from metadata, `UNKNOWN` where a number or unit makes no sense.

    Two different units become micrometres.
    """
    name_y, name_x = unit_name(unit_y), unit_name(unit_x if unit_x is not None else unit_y)
    size = positive(y), positive(x)
    if name_y is None or name_x is None or size[0] is None or size[1] is None:
        return UNKNOWN
    if name_y == name_x:
        return (size[0], size[1]), name_y
    return (size[0] * UNITS_UM[name_y], size[1] * UNITS_UM[name_x]), "micrometer"


def positive(value: object) -> float | None:
    """Return ``value`` as a finite positive number, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever metadata holds
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def hex_color(text: object) -> str:
    """Return ``"#rrggbb"`` from six digits, with or without ``#`` and two more for alpha; "" where it is none."""
    found = re.fullmatch(r"#?([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?", str(text))
    return f"#{found[1].lower()}" if found else ""


def window(low: object, high: object) -> Window | None:
    """Return two finite numbers, the second larger, else None."""
    try:
        first, last = float(low), float(high)  # type: ignore[arg-type]  # whatever metadata holds
    except (TypeError, ValueError):
        return None
    return (first, last) if math.isfinite(first) and math.isfinite(last) and first < last else None


def parse_pixel_size(value: str | float | tuple[float, float]) -> PixelSize:
    """Return the pixel size that a user gave.

    Parameters
    ----------
    value
        ``"0.5 um"``, ``"10 cm"``, a number or ``(y, x)`` in micrometres.

    Raises
    ------
    SettingsError
        Where it is not a positive length.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\D.*?)?\s*", value)
        number, unit = match.groups() if match else ("", None)
        pixel = pixel_size(number, number, unit or "um")
    else:
        y, x = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
        pixel = pixel_size(y, x, "um")
    if pixel is UNKNOWN:
        raise SettingsError("pixel_size", f"{value!r} is not a length", 'write a number with a unit, as "0.5 um"')
    return pixel
