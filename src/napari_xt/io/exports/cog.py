"""A pyramidal TIFF in the order of a Cloud Optimized GeoTIFF: first what describes it, coarse pixels before fine.

Knows the layout of TIFF files; must not know what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tifffile import TiffFile, TiffPage

OFFSETS, COUNTS = 324, 325  # of tiles
LONG, LONG8 = 4, 16  # types of numbers in tags


@dataclass(frozen=True, slots=True)
class _Width:
    """How wide numbers are in classic TIFF and in BigTIFF."""

    offset: str
    count: str
    start: int
    kind: int

    @property
    def size(self) -> int:
        """Bytes of an offset."""
        return struct.calcsize(self.offset)

    @property
    def entry(self) -> int:
        """Bytes of a tag."""
        return 4 + 2 * self.size


CLASSIC, BIG = _Width("I", "H", 8, LONG), _Width("Q", "Q", 16, LONG8)


@dataclass(frozen=True, slots=True)
class _Tag:
    code: int
    kind: int
    count: int
    data: bytes


def arrange(source: Path, out: Path) -> None:
    """Write the little-endian TIFF ``source``, whose pages are levels of one image, finest first, as a COG."""
    with TiffFile(source) as tif, out.open("wb") as file:
        pages = [page for page in tif.pages if isinstance(page, TiffPage)]
        width = BIG if tif.is_bigtiff else CLASSIC
        tags = [list(_tags(tif, page, width)) for page in pages]
        begin = width.start + sum(_described(page, width) for page in tags)
        for page, level in zip(reversed(pages), reversed(tags), strict=True):
            begin = _moved(level, page, begin, width)
        file.write(_head(width))
        at = width.start
        for number, level in enumerate(tags):
            at += _described(level, width)
            file.write(_directory(level, at - _described(level, width), 0 if number + 1 == len(tags) else at, width))
        for page in reversed(pages):
            _copy_tiles(tif, page, file)


def _tags(tif: TiffFile, page: TiffPage, width: _Width) -> Iterator[_Tag]:
    """The tags of a page, as bytes; those of the tiles' places in the widest numbers."""
    handle = tif.filehandle
    for tag in sorted(page.tags, key=lambda tag: tag.code):
        if tag.code in (OFFSETS, COUNTS):
            places = page.dataoffsets if tag.code == OFFSETS else page.databytecounts
            yield _Tag(tag.code, width.kind, len(places), _packed(places, width))
        else:
            handle.seek(tag.valueoffset)
            yield _Tag(tag.code, int(tag.dtype), tag.count, handle.read(tag.valuebytecount))


def _moved(tags: list[_Tag], page: TiffPage, begin: int, width: _Width) -> int:
    """Put the tiles of a level at ``begin``, one after the other; returns where they end."""
    places, at = [], begin
    for count in page.databytecounts:
        places.append(at if count else 0)
        at += count
    number = next(i for i, tag in enumerate(tags) if tag.code == OFFSETS)
    tags[number] = replace(tags[number], data=_packed(places, width))
    return at


def _head(width: _Width) -> bytes:
    return struct.pack("<2sHI", b"II", 42, 8) if width is CLASSIC else struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)


def _described(tags: list[_Tag], width: _Width) -> int:
    """Bytes of a directory, with the values that lie behind it; even."""
    behind = sum(_even(len(tag.data)) for tag in tags if len(tag.data) > width.size)
    return _even(struct.calcsize(f"<{width.count}") + len(tags) * width.entry + width.size) + behind


def _directory(tags: list[_Tag], at: int, following: int, width: _Width) -> bytes:
    """A directory that lies at ``at``, with the values that lie behind it; the next one lies at ``following``."""
    head = struct.pack(f"<{width.count}", len(tags))
    place = at + _even(len(head) + len(tags) * width.entry + width.size)
    entries, behind = [], []
    for tag in tags:
        value = tag.data
        if len(value) > width.size:
            behind.append(value.ljust(_even(len(value)), b"\0"))
            value, place = struct.pack(f"<{width.offset}", place), place + len(behind[-1])
        entries.append(
            struct.pack(f"<HH{width.offset}", tag.code, tag.kind, tag.count) + value.ljust(width.size, b"\0")
        )
    whole = head + b"".join(entries) + struct.pack(f"<{width.offset}", following)
    return whole.ljust(_even(len(whole)), b"\0") + b"".join(behind)


def _copy_tiles(tif: TiffFile, page: TiffPage, out: BinaryIO) -> None:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tif.filehandle.seek(offset)
        out.write(tif.filehandle.read(count))


def _packed(numbers: list[int] | tuple[int, ...], width: _Width) -> bytes:
    return struct.pack(f"<{len(numbers)}{width.offset}", *numbers)


def _even(size: int) -> int:
    return size + size % 2
