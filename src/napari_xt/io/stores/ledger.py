"""The journal of a store: what is committed, in SQLite, with the candidate boxes in the same transaction.

Knows rows and bytes; must not know Zarr, arrays or what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from napari_xt.errors import StoreError
from napari_xt.io.stores.durable import free_bytes, write_error

BUSY_S = 10.0
ROOM = 1 << 16  # bytes that the files beside a journal need
FORGOTTEN = 0  # status of a region that is to be done again: of it only the attempts are known
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE blocks (row INTEGER, col INTEGER, crc INTEGER NOT NULL, PRIMARY KEY (row, col)) WITHOUT ROWID;
CREATE TABLE regions (
    idx INTEGER PRIMARY KEY, row INTEGER NOT NULL, col INTEGER NOT NULL,
    block_row INTEGER NOT NULL, block_col INTEGER NOT NULL,
    status INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 1, error TEXT NOT NULL,
    scores BLOB, boxes BLOB NOT NULL, kept BLOB
);
CREATE TABLE encoded (row INTEGER, col INTEGER, errors TEXT NOT NULL, PRIMARY KEY (row, col)) WITHOUT ROWID;
INSERT INTO meta VALUES ('format', 1), ('complete', 0), ('revision', 0);
"""
PUT_BLOCK = "INSERT INTO blocks VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET crc = excluded.crc"
PUT_REGION = """
INSERT INTO regions (idx, row, col, block_row, block_col, status, error, scores, boxes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET attempts = attempts + 1, status = excluded.status, error = excluded.error,
scores = excluded.scores, boxes = excluded.boxes
"""
PUT_ENCODED = "INSERT OR REPLACE INTO encoded VALUES (?, ?, ?)"
GET_REGIONS = """
SELECT idx, row, col, status, attempts, error, scores, boxes, kept FROM regions WHERE status > 0 ORDER BY idx
"""
TRIED_AGAIN = """
INSERT INTO regions (idx, row, col, block_row, block_col, status, error, boxes) VALUES (?, ?, ?, ?, ?, 0, ?, x'')
ON CONFLICT DO UPDATE SET attempts = attempts + 1, error = excluded.error
"""
FORGET = """
UPDATE regions SET status = 0, error = '', scores = NULL, boxes = x'', kept = NULL
WHERE block_row = ? AND block_col = ?
"""


class BlockRow(NamedTuple):
    """A committed block: ``crc`` is the crc32 of its bytes."""

    row: int
    col: int
    crc: int


class NewRegion(NamedTuple):
    """A region as it is committed, by its index in the grid; ``scores`` and ``boxes`` are the bytes of arrays."""

    idx: int
    row: int
    col: int
    block_row: int
    block_col: int
    status: int
    error: str
    scores: bytes | None
    boxes: bytes


class RegionRow(NamedTuple):
    """A committed region as it is read; ``kept`` has a byte per box, None before the final merge."""

    idx: int
    row: int
    col: int
    status: int
    attempts: int
    error: str
    scores: bytes | None
    boxes: bytes
    kept: bytes | None


class Ledger:
    """An open journal. Use it from one thread at a time; that need not be the thread that opened it.

    Parameters
    ----------
    path
        The SQLite file, which must exist.
    read_only
        Open it beside a writer, without creating or changing anything.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with sqlite_errors(self.path):
            self._db = open_database(path, read_only)

    @classmethod
    def create(cls, path: Path) -> None:
        """Write an empty journal at ``path``."""
        with sqlite_errors(path), closing(sqlite3.connect(path)) as db:
            db.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """Write what the journal says at this moment to a new one at ``path``, but nothing of encoded regions."""
        with sqlite_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
            self._db.backup(db)
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("DELETE FROM encoded")
            db.execute("DELETE FROM meta WHERE key = 'keep'")
            db.execute("VACUUM")

    def settle(self) -> None:
        """Fold the write-ahead log into the one file, so that it opens on a read-only disk; not while it is read."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode = DELETE")
        with sqlite_errors(self.path):  # what is written after it waits for readers again
            self._db.execute(f"PRAGMA busy_timeout = {round(BUSY_S * 1000)}")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One transaction: no other process writes inside it, and all of it is on the disk at the end, or nothing."""
        with sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself when the disk was full
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside was there at one moment."""
        with sqlite_errors(self.path):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    def record(
        self,
        blocks: Iterable[BlockRow],
        regions: Iterable[NewRegion],
        encoded: Iterable[tuple[int, int, str]] = (),
    ) -> None:
        """Commit ``blocks`` with their ``regions``; a region that was there before counts one more attempt.

        ``encoded`` are those of which tokens are kept, as `record_encoded` takes them.
        """
        with self.exclusive():
            self._db.executemany(PUT_BLOCK, blocks)
            self._db.executemany(PUT_REGION, regions)
            self._db.executemany(PUT_ENCODED, encoded)
            self._reopen()

    def record_encoded(self, blocks: Iterable[tuple[int, int, str]]) -> None:
        """Note that blocks ``(row, col, errors)`` are encoded, though not yet decoded."""
        with self.exclusive():
            self._db.executemany(PUT_ENCODED, blocks)

    def encoded(self) -> dict[tuple[int, int], str]:
        """The blocks ``(row, col)`` that are encoded, with their errors."""
        with sqlite_errors(self.path):
            return {(row, col): text for row, col, text in self._db.execute("SELECT row, col, errors FROM encoded")}

    def drop(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Forget ``blocks``, which turned out to be damaged, and their regions."""
        keys = list(blocks)
        with self.exclusive():
            self._db.executemany("DELETE FROM blocks WHERE row = ? AND col = ?", keys)
            self._db.executemany("DELETE FROM regions WHERE block_row = ? AND block_col = ?", keys)
            self._reopen()

    def reopen(self, blocks: Iterable[tuple[int, int]], stale: Iterable[tuple[int, int]]) -> None:
        """Forget ``blocks``, which are to be done again, but not how often; and that ``stale`` ones are encoded."""
        keys = list(blocks)
        with self.exclusive():
            self._db.executemany("DELETE FROM blocks WHERE row = ? AND col = ?", keys)
            self._db.executemany(FORGET, keys)
            self._db.executemany("DELETE FROM encoded WHERE row = ? AND col = ?", list(stale))
            self._reopen()

    def tried_again(self, regions: Iterable[tuple[int, int, int, int, int, str]]) -> None:
        """Count one more attempt of regions ``(idx, row, col, block_row, block_col, error)`` that failed again."""
        with self.exclusive():
            self._db.executemany(TRIED_AGAIN, regions)
            self._set("revision", self.revision + 1)

    def finish(self, kept: Mapping[int, bytes]) -> None:
        """Store which boxes of each region (by its index) the final merge kept, and that the run is complete."""
        with self.exclusive():
            rows = [(flags, index) for index, flags in kept.items()]
            self._db.executemany("UPDATE regions SET kept = ? WHERE idx = ?", rows)
            self._set("complete", 1)
            self._set("revision", self.revision + 1)

    def blocks(self) -> dict[tuple[int, int], int]:
        """The committed blocks ``(row, col)`` with their checksums."""
        with sqlite_errors(self.path):
            return {(row, col): crc for row, col, crc in self._db.execute("SELECT row, col, crc FROM blocks")}

    def regions(self) -> list[RegionRow]:
        """The committed regions by index."""
        with sqlite_errors(self.path):
            return [RegionRow(*row) for row in self._db.execute(GET_REGIONS)]

    def having(self, status: int) -> list[int]:
        """The indices of the committed regions that have a status."""
        with sqlite_errors(self.path):
            return [index for (index,) in self._db.execute("SELECT idx FROM regions WHERE status = ?", (status,))]

    def counts(self) -> dict[int, int]:
        """How many regions have each status."""
        with sqlite_errors(self.path):
            return dict(
                self._db.execute("SELECT status, count(*) FROM regions WHERE status > 0 GROUP BY status").fetchall()
            )

    @property
    def keep(self) -> str | None:
        """What stays of the encoded regions, where that was settled anew since the store was made."""
        with sqlite_errors(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = 'keep'").fetchone()
        return None if row is None else str(row[0])

    def settle_keep(self, keep: str) -> None:
        """Settle what stays of the encoded regions."""
        with self.exclusive():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('keep', ?)", (keep,))

    @property
    def complete(self) -> bool:
        """Whether the run is finished and merged."""
        return bool(self._get("complete"))

    @property
    def revision(self) -> int:
        """A number that grows with every change."""
        return self._get("revision")

    def _reopen(self) -> None:
        """What was merged no longer holds."""
        if self.complete:
            self._db.execute("UPDATE regions SET kept = NULL")
            self._set("complete", 0)
        self._set("revision", self.revision + 1)

    def _get(self, key: str) -> int:
        with sqlite_errors(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise StoreError(self.path, f"it is damaged: it has no {key}")
        return int(row[0])

    def _set(self, key: str, value: int) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Say of a failure inside that it is of the journal at ``path``."""
    try:
        yield
    except sqlite3.Error as error:
        if _full(path, error):
            raise write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise StoreError(path, f"the journal can't be read or written: {error}") from error


def _full(path: Path, error: sqlite3.Error) -> bool:
    """Whether the disk is full: SQLite says so plainly of its own file, not always of those beside it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    beside = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and path.exists()
    return code == sqlite3.SQLITE_FULL or (beside and free_bytes(path) < ROOM)


def open_database(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open ``path``, which must exist: rw and ro never create it."""
    if not read_only:
        return _connect(path, "rw")
    try:
        return _connect(path, "ro")
    except sqlite3.OperationalError:
        # On a read-only disk SQLite can't make the index of a log; without a log it needs none.
        log = path.with_name(f"{path.name}-wal")
        if not path.exists() or (log.exists() and log.stat().st_size):
            raise
        return _connect(path, "ro&immutable=1")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, timeout=BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
    try:
        if mode == "rw":
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        db.execute("SELECT count(*) FROM meta").fetchone()
    except BaseException:
        db.close()
        raise
    return db
