"""The cache's folder of decoded pictures: one entry for each, those that were used last are kept, none goes in use.

Knows folders, processes and time; must not know what an entry holds.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import platformdirs

from napari_xt.errors import StoreError
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import write_file, writing

LIMIT_BYTES = 64 << 30  # of all entries
PATIENCE_S = 60.0
FOLDER_VARIABLE = "NAPARI_XT_CACHE"  # of the environment: where the pictures lie, if not in the user's cache
LOCK, USED, USERS, GOING = "lock.sqlite", "used", "users", ".going"


def folder() -> Path:
    """Where the entries lie."""
    named = os.environ.get(FOLDER_VARIABLE)
    return (Path(named) if named else platformdirs.user_cache_path("napari-xt")) / "pictures"


class Hold:
    """An entry that stays while this process holds it.

    Parameters
    ----------
    key
        Name of the entry; it is made where it is not there.

    Raises
    ------
    StoreError
        The cache's folder can't be written.
    """

    def __init__(self, key: str) -> None:
        self.path = folder() / key
        with writing(self.path), _alone(self.path.parent):
            (self.path / USERS).mkdir(parents=True, exist_ok=True)
            mine = lock.Owner.me()
            self._note = self.path / USERS / mine.token
            write_file(self._note, json.dumps(asdict(mine)).encode())
            (self.path / USED).touch()

    def release(self) -> None:
        """Let it go; twice is fine."""
        self._note.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the entry, unless another holds it."""
        self.release()
        with _alone(self.path.parent):
            _remove(self.path)


def tidy(limit: int = LIMIT_BYTES) -> None:
    """Remove the entries that were used longest ago and that nobody holds, until ``limit`` bytes are left."""
    root = folder()
    with writing(root), _alone(root):
        for half in root.glob(f"*{GOING}"):
            shutil.rmtree(half, ignore_errors=True)
        entries = sorted((path for path in root.iterdir() if path.is_dir()), key=_used)
        sizes = {path: _bytes(path) for path in entries}
        total = sum(sizes.values())
        for path in entries:
            if total <= limit:
                return
            if _remove(path):
                total -= sizes[path]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other processes and threads from coming and going meanwhile; one that is killed lets go."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(root / LOCK, timeout=PATIENCE_S, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield
    except sqlite3.Error as error:
        raise StoreError(root, f"the cache can't be locked: {error}", "check the folder") from error


def _remove(path: Path) -> bool:
    """Remove an entry that no living process holds; whether it did. It loses its name first, whole."""
    if any(owner is not None and owner.alive for owner in map(lock.owner, (path / USERS).glob("*"))):
        return False
    going = path.with_name(path.name + GOING)
    try:
        path.rename(going)
    except OSError:
        return False
    shutil.rmtree(going, ignore_errors=True)
    return True


def _used(path: Path) -> float:
    try:
        return (path / USED).stat().st_mtime
    except OSError:
        return 0.0


def _bytes(path: Path) -> int:
    """What the files under ``path`` take; one that goes meanwhile takes nothing."""
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total
