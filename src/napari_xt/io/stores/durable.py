"""Files that are on the disk when we say so: written aside, fsynced, renamed; folders fsynced on ``flush``.

Knows files and Zarr's store interface; must not know what the files mean.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from uuid import uuid4

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from napari_xt.errors import StoreError, XTError

PARTIAL = ".partial"  # ends the names of files and folders that are being written


class DurableStore(LocalStore):
    """A ``LocalStore`` whose files survive a loss of power: Zarr's own is atomic, and never fsyncs.

    A file is fsynced before it takes its name; the folders that hold new names are fsynced by ``flush``. Zarr gives up
    at the first of many files that can't be written, while its threads go on with the others: once one failed, no other
    is begun.

    Parameters
    ----------
    root, read_only
        As for a ``LocalStore``.
    late
        Files, too, are fsynced by ``flush``, each once however often it was written: a loss of power before leaves
        them with anything in them.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False, late: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._late: set[Path] | None = set() if late else None
        self._folders: set[Path] = set()
        self._changed = Condition()
        self._busy = 0  # files that are being written or removed
        self._ended: OSError | None = None

    async def set(self, key: str, value: Buffer) -> None:
        """Write ``value`` at ``key``, whole or not at all."""
        self._check_writable()
        await asyncio.to_thread(self._put, self.root / key, value.to_bytes())

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write ``value`` at ``key`` from this thread (newer versions of Zarr do)."""
        self._check_writable()
        self._put(self.root / key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove ``key``, a file."""
        self._check_writable()
        await asyncio.to_thread(self._remove, self.root / key)

    def delete_sync(self, key: str) -> None:
        """Remove ``key`` from this thread."""
        self._check_writable()
        self._remove(self.root / key)

    def flush(self) -> None:
        """Return when every name that was written or removed is on the disk."""
        for path in sorted(self._late or ()):
            if path.exists():
                sync(path)
        self._late = None if self._late is None else set()
        folders, self._folders = self._folders, set()
        for folder in sorted(folders):
            if folder.is_dir():
                sync_folder(folder)

    def end(self) -> None:
        """Begin no file any more; return when none is being written."""
        with self._changed:
            self._ended = self._ended or OSError(errno.ECANCELED, "an earlier file was not written")
            self._changed.wait_for(lambda: not self._busy)

    def link(self, key: str, file: Path, good: Callable[[], bool]) -> bool:
        """Let ``key`` be another name of ``file``, which is on this disk for good and never written to.

        False where that can't be, or the file, once it can't vanish any more, turns out not to be ``good``.
        """
        path = self.root / key
        aside = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
        try:
            with self._counted(fatal=False):
                self._make_folder(path)
                os.link(file, aside)
                if not good():
                    return False
                aside.replace(path)
                self._folders.add(path.parent)
                return True
        except OSError:
            return False
        finally:
            aside.unlink(missing_ok=True)

    def _put(self, path: Path, data: bytes) -> None:
        with self._counted():
            self._make_folder(path)
            write_file(path, data, late=self._late is not None)
            if self._late is not None:
                self._late.add(path)
            self._folders.add(path.parent)

    def _make_folder(self, path: Path) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.update(parent for parent in path.parents if parent.is_relative_to(self.root))

    def _remove(self, path: Path) -> None:
        with self._counted():
            path.unlink(missing_ok=True)
            self._folders.add(path.parent)

    @contextmanager
    def _counted(self, *, fatal: bool = True) -> Iterator[None]:
        with self._changed:
            if self._ended is not None:
                raise OSError(*self._ended.args)
            self._busy += 1
        try:
            yield
        except OSError as error:
            if fatal:
                self._ended = error
            raise
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a failure inside what can't be written, and how much disk is free where that is the cause."""
    try:
        yield
    except XTError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A place of the same name aside, which takes the place of ``path`` at the end; nothing of it stays otherwise."""
    folder = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with writing(path):
            folder.mkdir()
            yield folder / path.name
            for file in (folder / path.name, *(folder / path.name).rglob("*")):
                sync(file) if file.is_file() else sync_folder(file)
            os.replace(folder / path.name, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_error(path: Path, error: OSError) -> StoreError:
    """What to say of a store or file at ``path`` that can't be written: how much disk is free where that is why."""
    why = f"it can't be written: {error.strerror or error}"
    if error.errno == errno.ENOSPC:
        return StoreError(path, f"{why}, {free_bytes(path)} bytes are free", "free some and run again")
    full = error.errno == errno.EDQUOT
    return StoreError(path, why, "free some and run again" if full else "give another output path")


def free_bytes(path: Path) -> int:
    """The room on the disk that ``path``, which need not exist, lies on."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def write_file(path: Path, data: bytes, *, late: bool = False) -> None:
    """Write ``data`` to ``path``: a reader sees the old bytes or the new, never a part.

    So it is whenever the power goes, unless the file is to be fsynced ``late``, by who asks for that.
    """
    aside = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            if not late:
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Return when the names in the folder ``path`` are on the disk; Windows has no such call and needs none."""
    if os.name != "nt":
        sync(path)


def sync(path: Path) -> None:
    """Return when what ``path`` holds is on the disk."""
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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
