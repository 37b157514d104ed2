"""Where a conversion comes to lie, and the folder beside it in which it is begun, gone on with, or forgotten.

Knows folders and a small journal; must not know what is written into them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from napari_xt.errors import SettingsError, StoreError, StoreLockedError, StoreMismatchError
from napari_xt.io.images.identity import same_image
from napari_xt.io.images.omezarr import ZARR_FILES
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import PARTIAL, remove_partials, sync_folder, write_file

IMAGE, JOURNAL, LOCK, PROGRESS, REPLACED = "image", "journal", "run.lock", "progress.json", "replaced"
GUARD, PATIENCE_S = "guard.sqlite", 10.0
RESTART = "restart=True (--restart)"


class Place:
    """The output path, and the folder beside it in which a conversion is begun."""

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        self.out, self.job = out, job
        self.aside = out.with_name(out.name + PARTIAL)
        self.image, self.journal = self.aside / IMAGE, self.aside / JOURNAL

    def check_source(self, source: str | None) -> None:
        """Refuse to write into the source, or around it."""
        if source is None or "://" in source:
            return
        one, other = Path(os.path.realpath(source)), Path(os.path.realpath(self.out))
        if one.is_relative_to(other) or (one.is_dir() and other.is_relative_to(one)):
            raise SettingsError(f"out = {self.out}", "is where the source lies", "give another output path")

    def finished(self, restart: bool) -> bool:
        """Whether a killed conversion had put the whole image in its place already."""
        if restart or not os.path.lexists(self.out) or not self.aside.is_dir() or self.image.exists():
            return False
        done = self._progress()
        if done is None or not done.get("whole") or not self._same(done):
            return False
        shutil.rmtree(self.aside)
        return True

    def check_out(self, restart: bool) -> None:
        """Refuse what is not to be replaced."""
        there = os.path.lexists(self.out)
        if there and not restart:
            raise StoreError(self.out, "it exists already", f"give another output path or {RESTART}")
        if there and not any((self.out / name).is_file() for name in ZARR_FILES):
            raise StoreError(self.out, "it is no Zarr and is not replaced", "give another output path")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out."""
        self.journal.mkdir(parents=True, exist_ok=True)
        with _alone(self.journal / GUARD):
            owner = lock.take(self.journal / LOCK, self.out)
        try:
            yield
        finally:
            lock.release(self.journal / LOCK, owner)

    def begun(self, restart: bool) -> tuple[int, int]:
        """How far an earlier conversion came: columns, and strips of the next one; (0, 0): all is to be made."""
        found = self._progress()
        if found is not None and self.image.is_dir() and not restart:
            if not self._same(found):
                why = "another image, or one with other settings, was being converted there"
                raise StoreMismatchError(self.out, why, f"give another output path or {RESTART}")
            remove_partials(self.image)
            return found["column"], found["strip"]
        if (self.aside / REPLACED).exists() and not os.path.lexists(self.out):
            (self.aside / REPLACED).rename(self.out)  # killed between two renames: it stays until the new one is whole
        for left in (self.image, self.aside / REPLACED):
            if left.exists():
                shutil.rmtree(left)
        self.image.mkdir()
        return 0, 0

    def note(self, column: int, strip: int, *, whole: bool = False) -> None:
        """Journal how far it came."""
        said = {"job": dict(self.job), "column": column, "strip": strip, "whole": whole}
        write_file(self.journal / PROGRESS, json.dumps(said).encode())

    def publish(self, restart: bool) -> None:
        """Give the whole image its name."""
        self.check_out(restart)
        sync_folder(self.image)
        if os.path.lexists(self.out):
            self.out.rename(self.aside / REPLACED)
        self.image.rename(self.out)
        sync_folder(self.out.parent)

    def forget(self) -> None:
        """Remove what is beside the image; a conversion of which nothing is written leaves nothing."""
        shutil.rmtree(self.aside, ignore_errors=True)

    def _progress(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.journal / PROGRESS).read_bytes())
            sound = isinstance(found["column"] + found["strip"], int) and isinstance(found["job"], dict)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return found if sound else None

    def _same(self, found: dict[str, Any]) -> bool:
        mine, theirs = dict(self.job), dict(found["job"])
        return same_image(mine.pop("image"), str(theirs.pop("image", ""))) and mine == theirs


@contextmanager
def _alone(guard: Path) -> Iterator[None]:
    """No other process is inside at the same moment: the system lets go of SQLite's lock where one is killed in it."""
    try:
        with closing(sqlite3.connect(guard, timeout=PATIENCE_S, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield
    except sqlite3.Error as error:
        raise StoreLockedError(guard, f"another process is about to write there ({error})", "try again") from error
