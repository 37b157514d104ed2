"""Files that are on the disk when we say so: written aside, fsynced, renamed; folders fsynced on ``flush``.

Knows files and Zarr's store interface; must not know what the files mean.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

PARTIAL = ".partial"  # ends the names of files and folders that are being written


class DurableStore(LocalStore):
    """A ``LocalStore`` whose files survive a loss of power: Zarr's own is atomic, and never fsyncs.

    A file is fsynced before it takes its name; the folders that hold new names are fsynced by ``flush``.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._folders: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        """Write ``value`` at ``key``, whole or not at all."""
        self._check_writable()
        await asyncio.to_thread(self._put, self.root / key, value.to_bytes())

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write ``value`` at ``key`` from this thread (newer versions of Zarr do)."""
        self._check_writable()
        self._put(self.root / key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove ``key``."""
        await super().delete(key)
        self._folders.add((self.root / key).parent)

    def flush(self) -> None:
        """Return when every name that was written or removed is on the disk."""
        folders, self._folders = self._folders, set()
        for folder in sorted(folders):
            if folder.is_dir():
                sync_folder(folder)

    def _put(self, path: Path, data: bytes) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.update(parent for parent in path.parents if parent.is_relative_to(self.root))
        write_file(path, data)
        self._folders.add(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: a reader sees the old bytes or the new, never a part, whenever the power goes."""
    aside = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Return when the names in the folder ``path`` are on the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partials(root: Path) -> None:
    """Remove the files under ``root`` that a killed writer left half-written."""
    for path in list(_files(root)):
        if path.name.endswith(PARTIAL):
            path.unlink(missing_ok=True)


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)
