"""The journal of corrections: strokes and what each changed, in SQLite.

Knows rows and bytes; must not know arrays or predictions, nor what the bytes mean.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from napari_xt.errors import StoreError
from napari_xt.geometry import Box
from napari_xt.io.stores.durable import appearing
from napari_xt.io.stores.ledger import open_database, sqlite_errors

FORMAT = 1
LOST = 2  # of a stroke that was undone before another began
REMARK = "was "  # begins the kinds of parts that change nothing any more
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE strokes (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, author TEXT NOT NULL, tool TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE parts (
    seq INTEGER PRIMARY KEY, stroke INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    y0 INTEGER NOT NULL, x0 INTEGER NOT NULL, y1 INTEGER NOT NULL, x1 INTEGER NOT NULL,
    pixels INTEGER NOT NULL, summary TEXT NOT NULL, before BLOB, after BLOB
);
CREATE INDEX part_of ON parts (stroke);
INSERT INTO meta VALUES ('format', 1), ('revision', 0), ('clean', 0), ('floor', 0);
"""
PUT_PART = """
INSERT INTO parts (stroke, kind, key, y0, x0, y1, x1, pixels, summary, before, after)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
GET_PARTS = "SELECT kind, key, y0, x0, y1, x1, pixels, summary, before, after FROM parts"
GET_STANDING = f"{GET_PARTS} WHERE stroke IN (SELECT id FROM strokes WHERE NOT undone) ORDER BY seq"  # noqa: S608 - of constants
GET_SUMMARIES = "SELECT stroke, y0, x0, y1, x1, pixels, summary FROM parts ORDER BY seq"
LAST = "SELECT max(id) FROM strokes WHERE NOT undone"
NEXT = "SELECT min(id) FROM strokes WHERE undone = 1"


class StrokeRow(NamedTuple):
    """A stroke: ``time`` in seconds since the epoch; ``undone`` is 1 where it can be done again, 2 where not."""

    id: int
    time: float
    author: str
    tool: str
    undone: int = 0


class Part(NamedTuple):
    """Something that a stroke changed: ``before`` and ``after`` are its bytes, ``box`` where, in run pixels."""

    kind: str
    key: str
    box: Box
    pixels: int
    summary: str
    before: bytes | None
    after: bytes | None


class Journal:
    """An open journal, for several threads.

    Parameters
    ----------
    path
        The SQLite file, which must exist.
    read_only
        Open it beside a writer, without creating or changing anything.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = RLock()
        with sqlite_errors(path):
            self._db = open_database(path, read_only)
        try:
            self._check_format()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path) -> None:
        """Write an empty journal at ``path``, whole or not at all."""
        with appearing(path) as aside, sqlite_errors(path), closing(sqlite3.connect(aside)) as db:
            db.executescript(f"PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; {SCHEMA}")

    def settle(self) -> None:
        """Fold the log into the one file, where nobody reads it, and close it."""
        with self._lock:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.close()

    def close(self) -> None:
        """Close it."""
        self._db.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One transaction: all of it is on the disk at the end, or nothing."""
        with self._lock, sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def copy_to(self, path: Path) -> None:
        """Write what the journal says at this moment to a new one at ``path``."""
        with self._lock, sqlite_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
            self._db.backup(db)
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")

    def add(self, stroke: StrokeRow, parts: Iterable[Part]) -> None:
        """Note a stroke, if it is new, and more of what it changed; inside ``exclusive``."""
        if self._db.execute("INSERT OR IGNORE INTO strokes VALUES (?, ?, ?, ?, ?)", stroke).rowcount:
            self._db.execute("UPDATE strokes SET undone = ? WHERE undone", (LOST,))
        rows = (  # SQLite would keep numpy's integers as bytes
            (stroke.id, kind, key, *map(int, (b.y0, b.x0, b.y1, b.x1)), *rest) for kind, key, b, *rest in parts
        )
        self._db.executemany(PUT_PART, rows)

    def mark_undone(self, stroke: int, undone: bool) -> None:
        """Note that a stroke is undone, or done again; inside ``exclusive``."""
        self._db.execute("UPDATE strokes SET undone = ? WHERE id = ?", (int(undone), stroke))

    def set(self, key: str, value: int) -> None:
        """Note a number; inside ``exclusive``."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def get(self, key: str) -> int:
        """A number that was noted, 0 where none was."""
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        if row is not None and not isinstance(row, int):
            raise StoreError(self.path, f"the corrections are damaged: {key} is no number")
        return int(row or 0)

    def strokes(self) -> list[StrokeRow]:
        """All strokes, undone ones too, from the first on."""
        with self._lock, sqlite_errors(self.path):
            return [StrokeRow(*row) for row in self._db.execute("SELECT * FROM strokes ORDER BY id")]

    def parts_of(self, stroke: int) -> list[Part]:
        """What one stroke changed, in order."""
        with self._lock, sqlite_errors(self.path):
            return [_part(row) for row in self._db.execute(f"{GET_PARTS} WHERE stroke = ? ORDER BY seq", (stroke,))]

    def standing(self) -> Iterator[Part]:
        """What all strokes changed that are not undone, in order."""
        with self._lock, sqlite_errors(self.path):
            yield from map(_part, self._db.execute(GET_STANDING))

    def summaries(self) -> list[tuple[int, int, int, int, int, int, str]]:
        """``(stroke, y0, x0, y1, x1, pixels, summary)`` of all parts."""
        with self._lock, sqlite_errors(self.path):
            return self._db.execute(GET_SUMMARIES).fetchall()

    def last(self) -> int | None:
        """The stroke that undoing would take back."""
        found: int | None = self._one(LAST)
        return found if found is not None and found > self.get("floor") else None

    def next(self) -> int | None:
        """The stroke that was undone last and can be done again."""
        found: int | None = self._one(NEXT)
        return found

    def newest(self) -> int:
        """The highest number of a stroke, 0 before the first."""
        return int(self._one("SELECT coalesce(max(id), 0) FROM strokes"))

    def make_remarks(self, stroke: int) -> None:
        """Make what strokes up to ``stroke`` changed remarks, which change nothing; inside ``exclusive``."""
        self._db.execute(
            "UPDATE parts SET kind = ? || kind, before = NULL, after = NULL WHERE stroke <= ?", (REMARK, stroke)
        )

    def _one(self, sql: str, *values: object) -> Any:
        with self._lock, sqlite_errors(self.path):
            row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _check_format(self) -> None:
        found = self.get("format")
        if found > FORMAT:
            raise StoreError(
                self.path, f"its corrections have format {found}, newer than {FORMAT}", "install a newer napari-xt"
            )


def _part(row: tuple[object, ...]) -> Part:
    kind, key, y0, x0, y1, x1, pixels, summary, before, after = row
    box = Box(int(y0), int(x0), int(y1), int(x1))  # type: ignore[call-overload]
    return Part(str(kind), str(key), box, int(pixels), str(summary), before, after)  # type: ignore[call-overload,arg-type]
