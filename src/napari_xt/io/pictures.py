"""Opens PNG and JPEG: pictures that have no parts which could be read alone, upright as they are meant to be seen.

Knows the two formats, EXIF orientation and world files; knows no pyramids.
"""

from __future__ import annotations

import warnings
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin
from PIL.Image import Image as PillowImage

from napari_xt.errors import ImageFormatError
from napari_xt.io.geo import placed_by_world_file
from napari_xt.io.guard import check_size
from napari_xt.io.source import UNKNOWN, Source
from napari_xt.io.turned import turned

_ORIENTATION = 274


def open_picture(path: str, name: str, *, png: bool) -> Source:
    """Open a PNG or JPEG; the whole picture is in memory.

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
        Where it is damaged, cut short or too large.
    """
    try:
        pixels, orientation = _decode(path, png)
    except (ImageFormatError, PermissionError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on damage
        why = (str(error).splitlines() or [""])[0][:80] or type(error).__name__
        kind = "PNG" if png else "JPEG"
        raise ImageFormatError(
            path, f"the {kind} is damaged or cut short ({why})", "copy or export it again"
        ) from error
    pixels.setflags(write=False)
    axes = "yx" if pixels.ndim == 2 else "yxc"
    placed = placed_by_world_file(path)
    stored = Source(
        name=name,
        path=path,
        axes=axes,
        levels=(pixels,),
        pixel=UNKNOWN if placed is None else placed.pixel((pixels.shape[0], pixels.shape[1])),
        stated_by="world file",
        georeference=None if placed is None else placed.georeference,
        rgb=True,
    )
    return turned(stored, orientation)


def _decode(path: str, png: bool) -> tuple[NDArray[Any], object]:
    """The pixels as they are stored, and their EXIF orientation."""
    plugin: Any = PngImagePlugin.PngImageFile if png else JpegImagePlugin.JpegImageFile
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF or animation chunks, which are not used
        with plugin(file) as picture:
            check_size(path, f"the picture of {picture.width} x {picture.height} px", _decoded_bytes(picture))
            if png and _is_deep(picture):
                file.seek(0)
                return _with_colour(np.asarray(imagecodecs.png_decode(file.read()))), _orientation(picture)
            picture.load()
            return np.array(_plain_mode(picture)), _orientation(picture)


def _orientation(picture: PillowImage) -> object:
    """What EXIF says, None where there is none or a damaged one: a picture is shown all the same.

    A PNG may say it behind its pixels.
    """
    try:
        return picture.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything
        return None


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
