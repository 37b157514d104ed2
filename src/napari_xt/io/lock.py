"""The lock of a store: a file that names the process that writes it.

Knows processes and one file; must not know what is locked. The caller sees to it that only one process at a time
takes or releases a lock (``Ledger.exclusive``).
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from napari_xt.errors import StoreLockedError
from napari_xt.io.durable import write_file

CLOCK_S = 2.0  # the start of one process, asked twice, may differ by this much when the clock is set


@dataclass(frozen=True, slots=True)
class Owner:
    """A writing process: ``start`` in seconds since the epoch tells it from a later one with the same ``pid``."""

    pid: int
    host: str
    start: float
    token: str

    @classmethod
    def me(cls) -> Owner:
        """This process, with a token of its own for each lock."""
        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time(), uuid4().hex)

    @property
    def alive(self) -> bool:
        """Whether the process runs; one on another host is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.start) < CLOCK_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def take(path: Path, store: Path) -> Owner:
    """Write this process's name to the lock file ``path`` of ``store``; a dead process's is taken over.

    Raises
    ------
    StoreLockedError
        Where a live process holds it.
    """
    holder = owner(path)
    if holder is not None and holder.alive:
        raise StoreLockedError(
            store,
            f"process {holder.pid} on {holder.host} is writing it",
            f"wait for it, give another output path, or delete {path.name} in journal if that process is gone",
        )
    mine = Owner.me()
    write_file(path, json.dumps(asdict(mine)).encode())
    return mine


def release(path: Path, mine: Owner) -> None:
    """Remove the lock file ``path`` if it is still ``mine``."""
    if owner(path) == mine:
        path.unlink(missing_ok=True)


def owner(path: Path) -> Owner | None:
    """The process that the lock file ``path`` names; None where there is none (a file that makes no sense is none)."""
    try:
        data = json.loads(path.read_bytes())
        return Owner(int(data["pid"]), str(data["host"]), float(data["start"]), str(data["token"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
