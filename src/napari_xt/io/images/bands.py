"""Rows of a picture that has no parts which could be read alone, decoded from top to bottom in bounded memory.

Knows PNG, JPEG and TIFF by way of libvips; must not know where the rows go.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageFormatError
from napari_xt.geometry import Box

Kind = Literal["PNG", "JPEG", "TIFF"]

MOST_RATIO = 4096  # no packer of these formats makes more of a byte
MOST_BYTES = 2**38  # of all pixels
_TYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}
_GREY_ALPHA, _INKS = 2, 4
_FULL = 255


class Bands:
    """The rows of a picture, ``(y, x)`` or ``(c, y, x)``; each is decoded once, so they are read in their order.

    Parameters
    ----------
    path
        Absolute path of the file.
    kind
        What it starts as.
    page
        Which one of a TIFF.

    Raises
    ------
    ImageFormatError
        It is damaged, or declares more pixels than its bytes can hold.
    """

    def __init__(self, path: str, kind: Kind, page: int = 0) -> None:
        import pyvips  # type: ignore[import-untyped]  # not before it is needed: it loads a library of 20 MB

        self.path, self._kind, self._error = path, kind, pyvips.Error
        loaders = {"PNG": "pngload", "JPEG": "jpegload", "TIFF": "tiffload"}
        options = {"page": page} if kind == "TIFF" else {}
        try:
            load = getattr(pyvips.Image, loaders[kind])
            picture = load(path, access="sequential", fail_on="truncated", unlimited=True, **options)
            self._region = pyvips.Region.new(picture)
        except pyvips.Error as error:
            raise self._damaged(error) from error
        if picture.format not in _TYPES:
            raise ImageFormatError(path, f"a {kind} of type {picture.format} can't be decoded in rows")
        self.dtype: np.dtype[Any] = np.dtype(_TYPES[picture.format])
        self._width, self._stored, self._inks = picture.width, picture.bands, picture.interpretation == "cmyk"
        count = {_GREY_ALPHA: 4, _INKS: 3 if self._inks else 4}.get(self._stored, self._stored)
        self.shape = (*((count,) if count > 1 else ()), picture.height, picture.width)
        self.chunks = (*self.shape[:-2], 1, picture.width)

    def read(self, lead: tuple[slice, ...], box: Box) -> NDArray[Any]:
        """The rows of ``box``, whole ones that come after all that were read before; the channels of ``lead``."""
        assert (box.x0, box.x1) == (0, self._width), "rows are decoded whole"
        try:
            raw = self._region.fetch(0, box.y0, self._width, box.height)
        except self._error as error:
            raise self._damaged(error) from error
        pixels = np.frombuffer(raw, self.dtype).reshape(box.height, self._width, self._stored)
        if self._inks:
            pixels = _seen(pixels)
        elif self._stored == _GREY_ALPHA:
            pixels = pixels[..., [0, 0, 0, 1]]
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[lead] if lead else pixels[..., 0])

    def _damaged(self, error: Any) -> ImageFormatError:
        why = " ".join(str(getattr(error, "detail", error)).split())[:80]
        return ImageFormatError(
            self.path, f"the {self._kind} is damaged or cut short ({why})", "copy or export it again"
        )


def check_declared(path: str, height: int, width: int, nbytes: int, stored: int) -> None:
    """Refuse a picture of ``nbytes`` once decoded that ``stored`` bytes can't hold, or no disk.

    Raises
    ------
    ImageFormatError
        It is such a one.
    """
    if nbytes > MOST_RATIO * stored:
        why = f"it declares {width} x {height} px, more than its {stored} bytes can hold"
        raise ImageFormatError(path, why, "copy or export it again")
    if nbytes > MOST_BYTES:
        why = f"its {width} x {height} px take {nbytes / 2**30:.0f} GiB, more than {MOST_BYTES / 2**30:.0f} GiB"
        raise ImageFormatError(path, why, "convert it to OME-Zarr or tiled TIFF")


def _seen(inks: NDArray[Any]) -> NDArray[Any]:
    """Red, green and blue of cyan, magenta, yellow and black, as Pillow makes them."""
    light = _FULL - inks[..., 3:].astype(np.uint16)
    product = inks[..., :3] * light + 128
    seen: NDArray[np.uint8] = (light - np.minimum(light, ((product >> 8) + product) >> 8)).astype(np.uint8)
    return seen
