"""Opens PNG and JPEG: pictures that have no parts which could be read alone, upright as they are meant to be seen.

Knows the two formats, EXIF orientation and world files; must not know how large ones are kept.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin
from PIL.Image import Exif
from PIL.Image import Image as PillowImage

from napari_xt.errors import ImageFormatError, StoreError, XTError
from napari_xt.io.images.bands import check_declared
from napari_xt.io.images.cached import LARGE_PX, cached_levels
from napari_xt.io.images.geo import placed_by_world_file
from napari_xt.io.images.guard import MAX_DECODED_BYTES, check_size
from napari_xt.io.images.source import UNKNOWN, ArrayLike, Source
from napari_xt.io.images.turned import turned

_ORIENTATION, _TAIL = 274, 2**17


def open_picture(path: str, name: str, *, png: bool) -> Source:
    """Open a PNG or JPEG: a small one is decoded whole, a large one once, into a pyramid in the user's cache.

    Parameters
    ----------
    path
        Absolute path of a file that starts as such a file does.
    name
        Name of the image.
    png
        Which of the two it is.

    Raises
    ------
    ImageFormatError
        Where it is damaged or cut short, or must be decoded whole and is too large for that.
    ImageReadError
        Where it changed while it was decoded.
    StoreError
        Where the cache can't be written.
    """
    try:
        levels, orientation, close = _opened(path, png)
    except (XTError, PermissionError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on damage
        why = (str(error).splitlines() or [""])[0][:80] or type(error).__name__
        kind = "PNG" if png else "JPEG"
        raise ImageFormatError(
            path, f"the {kind} is damaged or cut short ({why})", "copy or export it again"
        ) from error
    height, width = levels[0].shape[:2]
    placed = placed_by_world_file(path)
    stored = Source(
        name=name,
        path=path,
        axes="yx" if levels[0].ndim == 2 else "yxc",
        levels=levels,
        pixel=UNKNOWN if placed is None else placed.pixel((height, width)),
        stated_by="world file",
        georeference=None if placed is None else placed.georeference,
        rgb=True,
        close=close,
    )
    return turned(stored, orientation)


def _opened(path: str, png: bool) -> tuple[tuple[ArrayLike, ...], object, Callable[[], None]]:
    """The levels as they are stored, their EXIF orientation, and what lets them go."""
    plugin: Any = PngImagePlugin.PngImageFile if png else JpegImagePlugin.JpegImageFile
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF or animation chunks, which are not used
        with plugin(file) as picture:
            _check(path, picture)
            if _in_rows(picture) and (kept := _kept(path, picture, png)):
                late = png and "exif" not in picture.info
                return kept[0], _orientation(picture, path if late else ""), kept[1]
            pixels, orientation = _decoded(file, picture, png)
    pixels.setflags(write=False)
    return (pixels,), orientation, _keep


def _kept(path: str, picture: PillowImage, png: bool) -> tuple[tuple[ArrayLike, ...], Callable[[], None]] | None:
    """The levels in the cache; None where that can't be written and the memory will do."""
    try:
        return cached_levels(path, "PNG" if png else "JPEG")
    except StoreError:
        if _decoded_bytes(picture) > MAX_DECODED_BYTES:
            raise
        return None


def _keep() -> None:
    """Pixels in memory hold nothing open."""


def _check(path: str, picture: PillowImage) -> None:
    """Refuse what no file of this size holds, and what must be decoded whole and is too large for that."""
    height, width = picture.height, picture.width
    check_declared(path, height, width, height * width * _stored_bits(picture) // 8, os.path.getsize(path))
    if not _in_rows(picture):
        kind = "interlaced (progressive) " if _is_whole(picture) else ""
        check_size(path, f"the {kind}picture of {width} x {height} px", _decoded_bytes(picture))


def _in_rows(picture: PillowImage) -> bool:
    return picture.width * picture.height > LARGE_PX and not _is_whole(picture)


def _is_whole(picture: PillowImage) -> bool:
    """Whether no row is there before the file's end."""
    return bool(picture.info.get("interlace") or picture.info.get("progressive"))


def _decoded(file: BinaryIO, picture: PillowImage, png: bool) -> tuple[NDArray[Any], object]:
    """The pixels as they are stored, and their EXIF orientation."""
    if png and _is_deep(picture):
        file.seek(0)
        return _with_colour(np.asarray(imagecodecs.png_decode(file.read()))), _orientation(picture)
    picture.load()
    return np.array(_plain_mode(picture)), _orientation(picture)


def _orientation(picture: PillowImage, tail_of: str = "") -> object:
    """What EXIF says, None where there is none or a damaged one: a picture is shown all the same.

    A PNG may say it behind its pixels: that of a large one is read from the ``tail_of`` its file, since Pillow would
    decode all of it to come there.
    """
    try:
        return (_exif_in_tail(tail_of) if tail_of else picture.getexif()).get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything
        return None


def _exif_in_tail(path: str) -> Exif:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        tail = file.read()
    exif, at = Exif(), tail.rfind(b"eXIf")
    end = at + 4 + int.from_bytes(tail[max(0, at - 4) : max(0, at)])
    if at >= 4 and zlib.crc32(tail[at:end]).to_bytes(4) == tail[end : end + 4]:
        exif.load(tail[at + 4 : end])
    return exif


def _stored_bits(picture: PillowImage) -> int:
    """Of a pixel, before it is packed; few where Pillow's mode does not say it."""
    return 8 * len(picture.getbands()) if picture.mode in ("RGB", "RGBA", "CMYK", "LA") else 1


def _decoded_bytes(picture: PillowImage) -> int:
    return picture.width * picture.height * 4 * (2 if _is_deep(picture) else 1)


def _is_deep(picture: PillowImage) -> bool:
    """Whether it has 16 bits a channel, which Pillow would cut to 8 where there is colour or alpha."""
    return any("16B" in str(part[3]) for part in getattr(picture, "tile", ()))


def _with_colour(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey with alpha becomes red, green, blue and alpha."""
    two = pixels.ndim == 3 and pixels.shape[2] == 2
    return np.ascontiguousarray(pixels[..., [0, 0, 0, 1]]) if two else pixels


def _plain_mode(picture: PillowImage) -> PillowImage:
    """Grey, RGB or RGBA, whatever the file's palette or ink is."""
    if picture.mode in ("L", "RGB", "RGBA"):
        transparent = picture.mode != "RGBA" and "transparency" in picture.info
        return picture.convert("RGBA") if transparent else picture
    if picture.mode == "1":
        return picture.convert("L")
    alpha = picture.mode in ("LA", "PA") or "transparency" in picture.info
    return picture.convert("RGBA" if alpha else "RGB")
