"""Where a store comes to lie: made aside and renamed, taken up again, or refused; locked whichever.

Knows folders, locks and headers; must not know what is written into a store later.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from napari_xt.errors import StoreError, StoreMismatchError
from napari_xt.io.images.identity import same_image
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import PARTIAL, DurableStore, sync_folder
from napari_xt.io.stores.layout import Header
from napari_xt.io.stores.ledger import Ledger
from napari_xt.io.stores.tree import JOURNAL, SUFFIX, create_tree, describe, is_store, read_header

LOCK = "run.lock"
LEDGER = "ledger.sqlite"
CORRECTIONS = "corrections.sqlite"
SHOWN = 40  # characters of a value in a message
ELSE = "give another output path or restart=True"


def prepare(path: Path, header: Header, restart: bool) -> tuple[Ledger, lock.Owner]:
    """See to it that a store of ``header`` lies at ``path``, locked by this process.

    Raises
    ------
    StoreError
        Where something else lies at ``path``, or it can't be written; StoreLockedError where another process writes.
    StoreMismatchError
        Where the store there is of another run and ``restart`` is not set.
    """
    _remove_leftovers(path)
    if os.path.lexists(path):
        _refuse_foreign(path)
        return _restart(path, header) if restart else _resume(path, header)
    aside, owner = _make_aside(path, header)
    try:
        _rename(aside, path)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not is_store(path):
            raise
        return _resume(path, header)  # another process was quicker
    return _open_own(path, owner)


def same_job(path: Path, header: Header) -> bool:
    """Whether a readable store of the same job as ``header`` lies at ``path``."""
    try:
        _refuse_foreign(path)
        _refuse_other(path, read_header(path), header)
    except (StoreError, StoreMismatchError):
        return False
    return True


def ledger_path(store: Path) -> Path:
    """The journal of the store at ``store``."""
    return store / JOURNAL / LEDGER


def lock_path(store: Path) -> Path:
    """The lock file of the store at ``store``."""
    return store / JOURNAL / LOCK


def _resume(path: Path, header: Header) -> tuple[Ledger, lock.Owner]:
    _refuse_other(path, read_header(path), header)
    ledger = Ledger(ledger_path(path))
    try:
        with ledger.exclusive():
            return ledger, lock.take(lock_path(path), path)
    except BaseException:
        ledger.close()
        raise


def _restart(path: Path, header: Header) -> tuple[Ledger, lock.Owner]:
    """Put a new store in the place of the one at ``path``, which goes only when the new one is whole."""
    if (path / JOURNAL / CORRECTIONS).exists():
        raise StoreError(path, "it holds corrections that somebody made", "give another output path and carry them")
    held = _lock_old(path)
    try:
        aside, owner = _make_aside(path, header)
    except BaseException:
        lock.release(lock_path(path), held)
        raise
    old = _aside(path)
    path.rename(old)
    try:
        _rename(aside, path)
    except OSError:
        old.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return _open_own(path, owner)


def _lock_old(path: Path) -> lock.Owner:
    """Lock a store that is going to be replaced, even if its journal is damaged."""
    try:
        ledger = Ledger(ledger_path(path))
    except StoreError:
        return lock.take(lock_path(path), path)
    with ledger, ledger.exclusive():
        return lock.take(lock_path(path), path)


def _make_aside(path: Path, header: Header) -> tuple[Path, lock.Owner]:
    """A whole store beside ``path``, locked from its first file on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        (aside / JOURNAL).mkdir(parents=True)
        owner = lock.take(lock_path(aside), path)
        files = DurableStore(aside)
        create_tree(files, path.name.removesuffix(SUFFIX), header)
        Ledger.create(ledger_path(aside))
        files.flush()
        sync_folder(aside / JOURNAL)
        sync_folder(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside, owner


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}{PARTIAL}")


def _rename(aside: Path, path: Path) -> None:
    aside.rename(path)
    sync_folder(path.parent)


def _open_own(path: Path, owner: lock.Owner) -> tuple[Ledger, lock.Owner]:
    """The journal of a store that was made locked."""
    try:
        return Ledger(ledger_path(path)), owner
    except BaseException:
        lock.release(lock_path(path), owner)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes were making beside ``path``."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        holder = lock.owner(lock_path(aside))
        pid = aside.name.removesuffix(PARTIAL).rpartition(".")[2].partition("-")[0]
        alive = holder.alive if holder else pid.isdigit() and psutil.pid_exists(int(pid))
        if not alive:
            shutil.rmtree(aside, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        raise StoreError(path, "it is a link to nothing", "give another output path")
    if not is_store(path):
        kind = "folder" if path.is_dir() else "file"
        raise StoreError(
            path, f"it is a {kind} that holds no prediction, and stays as it is", "give another output path"
        )
    read_header(path)


def _refuse_other(path: Path, there: Header, here: Header) -> None:
    ours = describe(here)
    field = differing(there.job, ours["job"]) or differing(_shape(there.layout.to_json()), _shape(ours["layout"]))
    if field is not None:
        raise StoreMismatchError(path, field, ELSE)


def _shape(layout: Mapping[str, Any]) -> dict[str, object]:
    """What two layouts of one job have in common: colours and what is kept may differ."""
    shelf = layout.get("shelf") or {"waits": False}
    return {**layout, "colors": None, "shelf": shelf.get("waits", True)}


def differing(there: Mapping[str, object], here: Mapping[str, object]) -> str | None:
    """The first field in which a store and a run differ, in words; None where they agree."""
    for field in dict.fromkeys([*here, *there]):
        old, new = there.get(field), here.get(field)
        if _canonical(old) == _canonical(new) or (field == "image" and _same_image(old, new)):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return f"{field}, {differing(old, new)}"
        return f"{field}: the store has {_short(old)}, this run {_short(new)}"
    return None


def _same_image(old: object, new: object) -> bool:
    """Whether a damaged image and its repaired twin, or two sound ones, are the same."""
    return isinstance(old, str) and isinstance(new, str) and same_image(old, new)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else _canonical(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
