"""A zarr store in a folder that reads regular files only: links to devices and pipes would never end.

Knows files; looks into none.
"""

from __future__ import annotations

import os
import stat

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

MOST_BYTES = 2**31
"""The largest file that is read at once; shards, of which parts are read, may be larger."""


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
        try:
            found = os.stat(self.root / key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise OSError(f"{key[:80]} is no regular file")
        if byte_range is None and found.st_size > MOST_BYTES:
            raise OSError(f"{key[:80]} has {found.st_size} bytes, more than {MOST_BYTES}")
        return await super().get(key, prototype, byte_range)
