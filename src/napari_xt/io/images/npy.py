"""Opens ``.npy``: an array as numpy saves it, mapped and never unpickled.

Knows the header of such files; reads no pixels when it opens.
"""

from __future__ import annotations

import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from napari_xt.errors import ImageFormatError
from napari_xt.io.images.guard import check_array
from napari_xt.io.images.mapped import MappedArray
from napari_xt.io.images.pyramid import guess_axes
from napari_xt.io.images.source import Source

MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000  # characters; an array of numbers needs a hundred
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_npy(path: str, name: str) -> Source:
    """Open an array that numpy saved.

    Parameters
    ----------
    path
        Absolute path of a file that starts with `MAGIC`.
    name
        Name of the image.

    Raises
    ------
    ImageFormatError
        Where the file is damaged, cut short, holds Python objects, or an array that is no image.
    """
    with open(path, "rb") as file:
        shape, fortran, dtype = _header(path, file)
        start, size = file.tell(), file.seek(0, 2)
    if dtype.hasobject:
        raise ImageFormatError(path, "holds Python objects, which are never unpickled", "save numbers")
    array = MappedArray(path, start, shape, dtype, "F" if fortran else "C")
    check_array(path, array)
    end = start + array.size * dtype.itemsize
    if min(shape, default=0) < 0 or end > size:
        why = f"the file is cut short: an array of shape {shape} takes {end} bytes, it has {size}"
        raise ImageFormatError(path, why[:160], "copy or save it again")
    return Source(name, path, guess_axes(path, shape), (array,), rgb=True)


def _header(path: str, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and type; numpy reads the header as literals, never as code."""
    try:
        read: Any = _READERS[npy.read_magic(file)]  # a later version names fields of records
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old names of types
            shape, fortran, dtype = read(file, max_header_size=_MOST_HEADER)
    except Exception as error:  # damaged headers raise almost anything
        why = (str(error).splitlines() or [""])[0][:80] or type(error).__name__
        raise ImageFormatError(path, f"its header is damaged ({why})", "copy or save it again") from error
    return shape, fortran, np.dtype(dtype)
