"""Refuses tiles and strips of a TIFF that say they are larger than the file says: decoders believe the tile.

Knows the heads of JPEG, JPEG 2000 and PNG; decodes nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tifffile import TiffPage

_PNG, _JPEG, _J2K, _JP2 = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_STATED = frozenset({6, 7, 33007, 34892, 33003, 33004, 33005, 34712, 34933})  # TIFF's numbers for these
_BARE = (0x01, *range(0xD0, 0xD8))
_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9


class Size(NamedTuple):
    """What an encoded picture says of itself: rows, columns, samples of a pixel."""

    rows: int
    columns: int
    samples: int


def guard_segments(page: TiffPage) -> None:
    """Let every JPEG, JPEG 2000 or PNG tile or strip of a page and of those like it be checked before it is decoded.

    Parameters
    ----------
    page
        The keyframe of a series; it is changed, and so is what its file keeps to decode pages of its kind.
    """
    if int(page.compression) not in _STATED:
        return
    page.decode = _checked(page.decode, _allowed(page))
    # private, but the only way to the other pages that does not load them all
    getattr(page.parent.root, "_decoders", {})[page.hash] = page.decode


def _allowed(page: TiffPage) -> Size:
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    return Size(int(rows), int(columns), int(samples))


def _checked(decode: Callable[..., Any], allowed: Size) -> Callable[..., Any]:
    def check_and_decode(data: bytes | None, index: int, /, **tables: Any) -> Any:
        if data is not None:
            check_segment(tables.get("jpegheader") or data, allowed)
        return decode(data, index, **tables)

    return check_and_decode


def check_segment(data: bytes, allowed: Size) -> None:
    """Check what an encoded tile says of its size, where it is of a kind that says one.

    Tiles at the edge may be smaller than others. One that is wider and less high has the right number of pixels in the
    wrong places.

    Raises
    ------
    ValueError
        Where it is larger than ``allowed``.
    """
    size = stated_size(data)
    if size is None:
        return
    most = Size(allowed.rows, allowed.columns, max(4, allowed.samples))
    if any(stated > limit for stated, limit in zip(size, most, strict=True)):
        stated, fits = (f"{s.columns} x {s.rows} px with {s.samples} samples" for s in (size, allowed))
        raise ValueError(f"it says it has {stated}, not {fits}")


def stated_size(data: bytes) -> Size | None:
    """Return the size that the head of an encoded picture states, None for other bytes.

    Raises
    ------
    ValueError
        Where the head is cut short or states none.
    """
    try:
        if data.startswith(_JPEG):
            return _jpeg_size(data)
        if data.startswith(_J2K):
            return _jpeg2000_size(data, 0)
        if data.startswith(_JP2):
            return _jpeg2000_size(data, _codestream(data))
        return _png_size(data) if data.startswith(_PNG) else None
    except (struct.error, IndexError) as error:
        raise ValueError("its head is cut short") from error


def _png_size(data: bytes) -> Size:
    columns, rows = struct.unpack_from(">II", data, 16)
    return Size(rows, columns, 4)


def _jpeg_size(data: bytes) -> Size:
    """The frame header's, found as libjpeg does: bytes between segments are skipped (ITU T.81, B.1.1)."""
    at = 2
    while (found := re.compile(rb"\xff+([^\xff\x00])").search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker in _FRAME:
            return Size(*struct.unpack_from(">HHB", data, at + 3))
        if marker in (_SCAN, _END):
            break
        if marker not in _BARE:
            at += struct.unpack_from(">H", data, at)[0]
    raise ValueError("it has no frame header")


def _codestream(data: bytes) -> int:
    """Where the code stream begins among the boxes of a JP2 file (ITU T.800, I.4)."""
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 16 if length == 1 else 8
        if kind == b"jp2c":
            return at + head
        length = struct.unpack_from(">Q", data, at + 8)[0] if length == 1 else length
        if length < head:
            raise ValueError("it has no code stream")
        at += length


def _jpeg2000_size(data: bytes, at: int) -> Size:
    """The SIZ marker's (ITU T.800, A.5.1): the end of the picture in the reference grid less its begin."""
    if not data.startswith(_J2K, at):
        raise ValueError("its code stream does not begin with a size")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    samples = struct.unpack_from(">H", data, at + 40)[0]
    return Size(max(0, bottom - top), max(0, right - left), samples)
