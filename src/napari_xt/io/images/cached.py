"""Large pictures that can't be read in parts: decoded once, in rows, into a pyramid that the user's cache keeps.

Knows rows, pyramids and the cache; must not know screens or how a picture packs its rows.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageFormatError, ImageReadError, StoreError, StoreLockedError
from napari_xt.io.conversion.place import Place
from napari_xt.io.conversion.sweep import STRIP_BYTES, Sweep
from napari_xt.io.conversion.target import LEAST_CHUNK, Target
from napari_xt.io.conversion.work import Part, write
from napari_xt.io.images.bands import Bands, Kind
from napari_xt.io.images.cache import Hold, tidy
from napari_xt.io.images.decoding import DECODING, tell
from napari_xt.io.images.keys import full_key
from napari_xt.io.images.omezarr import open_zarr
from napari_xt.io.images.source import ArrayLike, Wrapped
from napari_xt.io.stores.durable import DurableStore, writing

logger = logging.getLogger(__name__)

LARGE_PX = 2**26
"""Pictures of more pixels go through the cache; the others are decoded whole, in memory."""

IMAGE, FORM = "image.ome.zarr", 1
WAIT_S = 0.2


def cached_levels(path: str, kind: Kind, page: int = 0) -> tuple[tuple[ArrayLike, ...], Callable[[], None]]:
    """Return the levels ``(y, x)`` or ``(y, x, c)`` of a picture, finest first, and what lets them go.

    Parameters
    ----------
    path
        Absolute path of the file.
    kind, page
        As of `Bands`.

    Raises
    ------
    ImageFormatError
        The picture is damaged.
    ImageReadError
        It changed while it was read.
    StoreError
        The cache can't be written.
    """
    key = _key(path, page)
    hold = Hold(key)
    try:
        out = hold.path / IMAGE
        if not out.exists():
            _decode(path, kind, page, out, key)
            tidy()
        pyramid = open_zarr(str(out), "picture")
        levels = tuple(ChannelsLast(level) if level.ndim == 3 else level for level in pyramid.levels)
    except (ImageFormatError, ImageReadError):
        hold.remove()  # nothing to go on with
        raise
    except BaseException:
        hold.release()
        raise

    def close() -> None:
        pyramid.close()
        hold.release()

    return levels, close


@dataclass(frozen=True, slots=True)
class ChannelsLast(Wrapped):
    """An array ``(c, y, x)`` as ``(y, x, c)``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return (*self.stored.shape[1:], self.stored.shape[0])

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sizes of the chunks."""
        chunks: tuple[int, ...] = self.stored.chunks  # type: ignore[attr-defined]
        return (*chunks[1:], chunks[0])

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read a part."""
        y, x, c = full_key(key, self.shape)
        pixels = np.asarray(self.stored[c, y, x])
        return np.moveaxis(pixels, 0, -1) if isinstance(c, slice) else pixels


def _key(path: str, page: int) -> str:
    """What tells this file, as it is now, from others."""
    known = os.stat(path)
    facts = (FORM, os.path.realpath(path), known.st_size, known.st_mtime_ns, page)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _decode(path: str, kind: Kind, page: int, out: Path, key: str) -> None:
    """Write the pyramid, or wait until another process has."""
    logger.info("%s: %s", path, DECODING)
    while not out.exists():
        try:
            with writing(out):
                _write(Bands(path, kind, page), Place(out, {"image": key}), lambda: _check(path, page, key))
        except StoreLockedError:
            time.sleep(WAIT_S)
            tell(0, 0)
        except StoreError as error:
            if out.exists():
                return
            if getattr(error.__cause__, "errno", None) == errno.ENOSPC:
                Place(out, {}).forget()
            raise


def _check(path: str, page: int, key: str) -> None:
    if _key(path, page) != key:
        raise ImageReadError(path, "it changed while it was decoded", "open it again")


def _write(rows: Bands, place: Place, check: Callable[[], None]) -> None:
    *lead, height, width = rows.shape
    side = _side(width * (lead[0] if lead else 1) * rows.dtype.itemsize)
    axes = "cyx" if lead else "yx"
    target = Target("0.5", axes, rows.shape, rows.dtype, lead[0] if lead else 1, side, None, "zstd")
    whole = tuple(slice(0, n) for n in lead)
    part = Part(Sweep(0, len(target.shapes) - 1, width, tuple(lead)), (whole, 0, width), side, -(-height // side))

    def describe(store: DurableStore) -> None:
        check()
        target.describe(store, {"multiscales": [target.multiscale("picture", {}, {}, "mean")]})

    write(rows, target, [part], place, describe, tell)


def _side(row_bytes: int) -> int:
    """Rows of a strip that fits the memory; all of a picture's width must be in one, since rows come once."""
    side = 512
    while side > LEAST_CHUNK and side * row_bytes > STRIP_BYTES:
        side //= 2
    return side
