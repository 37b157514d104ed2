"""Numbers that stand for "nothing was recorded": of real ones NaN is read, whole ones are told. Knows no format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.images.source import ArrayLike, Wrapped

NODATA = "napari-xt:nodata"  # among the attributes of a Zarr group


def whole_nodata(dtype: np.dtype[Any], stated: object) -> int | None:
    """Return the number that a file of whole numbers names for no-data, None where it names none that it can hold."""
    value = _number(stated)
    if dtype.kind not in "iu" or not value.is_integer():
        return None
    return int(value) if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None


def nodata_attributes(value: int) -> dict[str, object]:
    """``value`` as an attribute of a Zarr group, which `nodata_of` reads."""
    return {NODATA: value}


def nodata_of(dtype: np.dtype[Any], attributes: Mapping[str, object]) -> int | None:
    """What `nodata_attributes` made, None where the attributes of a group hold nothing of that kind."""
    return whole_nodata(dtype, attributes.get(NODATA))


def without_data(level: ArrayLike, stated: object) -> ArrayLike:
    """Return ``level`` with NaN for no-data.

    Parameters
    ----------
    level
        Any array; one of whole numbers, which know no NaN, stays as it is.
    stated
        The number that the file names, as GDAL writes it; what is no finite number changes nothing.
    """
    value = _number(stated)
    dtype = np.dtype(level.dtype)
    if dtype.kind != "f" or not math.isfinite(value):
        return level
    with np.errstate(over="ignore"):  # some write the lowest number of a wider type
        return NoDataArray(level, float(dtype.type(value)))


def hidden_pixels(
    pixels: NDArray[Any], channels: Sequence[int], alpha: int | None, nodata: int | None
) -> NDArray[np.bool_] | None:
    """Where there is no picture, ``(Y, X)``: what alpha hides, or what is no-data in all channels.

    Parameters
    ----------
    pixels
        ``(C, Y, X)``.
    channels
        Those that count.
    alpha, nodata
        As of `Image`; None for none. Without both there is nothing to be hidden, and None is returned.
    """
    hidden = None if alpha is None else pixels[alpha] == 0
    if nodata is None:
        return hidden
    nothing: NDArray[np.bool_] = (pixels[list(channels)] == nodata).all(axis=0)
    return nothing if hidden is None else hidden | nothing


def _number(stated: object) -> float:
    """The number that is stated, NaN where it is none."""
    try:
        return float(str(stated).strip("\0 "))
    except ValueError:
        return math.nan


@dataclass(frozen=True, slots=True)
class NoDataArray(Wrapped):
    """An array whose pixels of ``value`` are read as NaN."""

    value: float

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read a part."""
        pixels = np.asarray(self.stored[key])
        nothing = pixels == pixels.dtype.type(self.value)
        return np.where(nothing, pixels.dtype.type(np.nan), pixels) if nothing.any() else pixels
