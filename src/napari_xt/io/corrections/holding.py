"""Who corrects a prediction: one at a time. Knows a lock file; must not know what it locks."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from pathlib import Path

from napari_xt.errors import CorrectionsLockedError, printable
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import write_file

LOCK = "corrections.lock"


def take(path: Path, store: Path) -> lock.Owner:
    """Write this process's name to the lock file ``path`` of ``store``; a dead process's is taken over.

    Raises
    ------
    CorrectionsLockedError
        Where a live process holds it.
    """
    if (name := holder(path)) is not None:
        why = f"{name} is correcting it"
        raise CorrectionsLockedError(store, why, f"look at it read-only, or delete {path.name} if that process is gone")
    mine = lock.Owner.me()
    write_file(path, json.dumps({**asdict(mine), "user": user()}).encode())
    return mine


def holder(path: Path) -> str | None:
    """Who holds the lock file ``path``: process, user and host in words; None where nobody alive does."""
    owner = lock.owner(path)
    if owner is None or not owner.alive:
        return None
    name = printable(str(json.loads(path.read_bytes()).get("user", "")))[:60]
    return f"process {owner.pid}{f' of {name}' if name else ''} on {printable(owner.host)[:60]}"


def user() -> str:
    """The name of who runs this process, empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
