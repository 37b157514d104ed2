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
from napari_xt.io.stores.durable import write_file

CLOCK_S = 2.0  # the start of one process, asked twice, may differ by this much
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """A writing process: ``start`` and ``boot`` tell it from a later one with the same ``pid``.

    ``start`` is in seconds since the machine's start ``boot``; where that has no name, since the epoch.
    """

    pid: int
    host: str
    start: float
    token: str
    boot: str = ""

    @classmethod
    def me(cls) -> Owner:
        """This process, with a token of its own for each lock."""
        return cls(os.getpid(), socket.gethostname(), process_start(os.getpid()), uuid4().hex, boot_name())

    @property
    def alive(self) -> bool:
        """Whether the process runs; one on another host is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            same = self.boot == boot_name() and abs(process_start(self.pid) - self.start) < CLOCK_S
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def process_start(pid: int) -> float:
    """When a process began, by a clock that is not set while it runs.

    On Linux that is the one since the machine's start: the seconds since the epoch that psutil tells there move when
    the clock is set, as after a laptop was suspended.

    Raises
    ------
    psutil.NoSuchProcess
        There is none.
    """
    if not boot_name():
        return psutil.Process(pid).create_time()
    booted = psutil.boot_time()  # first: older versions of psutil keep it for what follows
    return psutil.Process(pid).create_time() - booted


def boot_name() -> str:
    """What tells this start of the machine from others, empty where the system does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


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
        pid, host, start, token = int(data["pid"]), str(data["host"]), float(data["start"]), str(data["token"])
        return Owner(pid, host, start, token, str(data.get("boot", "")))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
