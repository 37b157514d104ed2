"""A zarr store in a folder that reads regular files only: links to devices and pipes would never end.

Knows files; looks into none.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

MOST_BYTES = 2**31
"""The largest file that is read at once; shards, of which parts are read, may be larger."""

_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would wait for its writer


class FileStore(LocalStore):
    """A ``LocalStore`` for folders that nobody vouches for."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, None where there is no such file.

        Raises
        ------
        OSError
            It is no regular file, or too large to be read at once.
        """
        found = await asyncio.to_thread(_read, f"{self.root}{os.sep}{key}", key[:80], byte_range)
        return None if found is None else (prototype or default_buffer_prototype()).buffer.from_bytes(found)


def _read(path: str, key: str, byte_range: ByteRequest | None) -> bytes | None:
    try:
        number = os.open(path, _AT_ONCE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    with io.FileIO(number) as file:
        known = os.fstat(number)
        if stat.S_ISDIR(known.st_mode):
            return None
        if not stat.S_ISREG(known.st_mode):
            raise OSError(f"{key} is no regular file")
        if byte_range is None:
            if known.st_size > MOST_BYTES:
                raise OSError(f"{key} has {known.st_size} bytes, more than {MOST_BYTES}")
            return file.read()
        first, last = _span(byte_range, known.st_size)
        file.seek(first)
        return file.read(max(0, last - first))


def _span(byte_range: ByteRequest, size: int) -> tuple[int, int]:
    """The first byte of a range in a file of ``size``, and the one behind its last."""
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, min(byte_range.end, size)
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, size
    return max(0, size - byte_range.suffix), size
