"""A prediction as one zip file, for who has neither its image nor its model: without what only another run would need.

Knows stores and zip files; must not know models, runs or screens.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from zarr.storage import ZipStore

from napari_xt.errors import SettingsError, StoreError
from napari_xt.io.corrections.disk import FOLDER
from napari_xt.io.corrections.holding import LOCK as HELD
from napari_xt.io.corrections.journal import Journal
from napari_xt.io.images.files import MOST_BYTES
from napari_xt.io.prediction import PACKED, Prediction, open_prediction
from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import PARTIAL, appearing, free_bytes
from napari_xt.io.stores.layout import FEATURES, TOKENS
from napari_xt.io.stores.ledger import Ledger
from napari_xt.io.stores.place import CORRECTIONS, LEDGER, LOCK, ledger_path, lock_path
from napari_xt.io.stores.tree import JOURNAL, open_tree, read_header

ZIP = ".zip"
DESCRIPTION = "zarr.json"
JOURNALS = (LEDGER, CORRECTIONS)
LEFT_OUT = (TOKENS, FEATURES, "preview", FOLDER)  # for other models, for the run, and what a journal says too
ENDS = ("", "-wal", "-shm", "-journal")
REPLACED = (
    DESCRIPTION,
    *(f"{JOURNAL}/{name}" for name in (LOCK, HELD)),
    *(f"{JOURNAL}/{name}{end}" for name in JOURNALS for end in ENDS),
)
SMALL_FILES = (".json", ".sqlite")  # their names' ends: they are deflated, chunks are compressed already
MADE = (1980, 1, 1, 0, 0, 0)  # of every file in it: one prediction makes one zip
AT_ONCE = 1 << 20

Progress = Callable[[int, int], None]


def pack(
    prediction: Prediction | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write a prediction to one zip file, and return its path.

    It holds what is needed to look at it, measure and export it: overview, mask, probability, boxes, scores,
    corrections. Tokens and features are left out, as is the way to the image but for its name. `open_prediction` and
    napari open it as it is, and unpacked as well.

    Parameters
    ----------
    prediction
        A prediction, or the path of its store.
    out
        The file, ``NAME.xt.zarr.zip``; default: beside the store. One that is there is replaced when it is whole.
    progress
        Called with ``(done, total)`` files.

    Raises
    ------
    StoreError
        The store can't be read, a process is writing it, or the file can't be written.
    SettingsError
        ``out`` can't be such a file.
    """
    there = prediction if isinstance(prediction, Prediction) else open_prediction(prediction)
    if there.path.is_file():
        raise StoreError(there.path, "it is packed already", "copy the file")
    place = there.path.with_name(there.path.name + ZIP) if out is None else Path(os.path.abspath(os.fspath(out)))
    _check(there, place)
    with appearing(place) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as packed:
        _add_journal(packed, there.path, aside.parent)
        _add(packed, DESCRIPTION, json.dumps(_description(there.path), indent=2).encode())
        files = list(_files(there.path))
        for done, (name, path) in enumerate(files):
            if progress is not None:
                progress(done, len(files))
            _add(packed, name, path)
        if progress is not None:
            progress(len(files), len(files))
    return place


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is called as a packed prediction is."""
    return os.fspath(path).lower().endswith(PACKED)


def open_packed(path: Path, threshold: float | None = None) -> Prediction:
    """The prediction in the zip file at ``path``, read where it lies; see `open_prediction`.

    Raises
    ------
    StoreError
        It is no packed prediction, or is damaged.
    """
    aside = Path(tempfile.mkdtemp(prefix="napari-xt-"))
    try:
        with _damages(path):
            _take_out(path, aside)
            header = read_header(aside)
            tree = open_tree(ZipStore(path, mode="r"), header.layout, "r")
            with Ledger(ledger_path(aside), read_only=True):
                prediction = Prediction(path, header, tree, threshold, journal=ledger_path(aside))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    weakref.finalize(prediction, shutil.rmtree, aside, ignore_errors=True)
    return prediction


@contextmanager
def _damages(path: Path) -> Iterator[None]:
    """What is wrong inside is told of the zip file."""
    try:
        yield
    except StoreError as error:
        raise StoreError(path, error.why, error.do) from error
    except (zipfile.BadZipFile, OSError, KeyError, NotImplementedError, RuntimeError) as error:
        raise StoreError(path, f"it is no packed prediction: {error}", "get it once more") from error


def _take_out(path: Path, aside: Path) -> None:
    """Put the description and the journal, which are no arrays, into the folder ``aside``."""
    with zipfile.ZipFile(path) as packed:
        large = next((member for member in packed.infolist() if member.file_size > MOST_BYTES), None)
        if large is not None:
            raise StoreError(path, f"it is damaged: {large.filename[:80]} has {large.file_size} bytes")
        (aside / JOURNAL).mkdir()
        known = packed.namelist()
        journals = [f"{JOURNAL}/{name}" for name in JOURNALS if name == LEDGER or f"{JOURNAL}/{name}" in known]
        for name in (DESCRIPTION, *journals):
            if packed.getinfo(name).file_size > free_bytes(aside):
                raise StoreError(path, f"there is no room for its journal in {aside.parent}", "free some and try again")
            with packed.open(name) as source, (aside / name).open("wb") as target:
                shutil.copyfileobj(source, target, AT_ONCE)


def _check(prediction: Prediction, place: Path) -> None:
    writer = lock.owner(lock_path(prediction.path))
    if writer is not None and writer.alive:
        why = f"process {writer.pid} on {writer.host} is writing it"
        raise StoreError(prediction.path, why, "wait for it or stop it")
    if not is_packed(place):
        raise SettingsError(place, "its name does not say that it is a packed prediction", f"end it with {PACKED}")
    if place.is_dir() or place.is_relative_to(prediction.path):
        raise SettingsError(place, "no file can be there", "give another path")
    if not place.parent.is_dir():
        raise SettingsError(place, "its folder is not there", "make the folder or give another path")


def _add_journal(packed: zipfile.ZipFile, store: Path, folder: Path) -> None:
    copy = folder / LEDGER
    with Ledger(ledger_path(store), read_only=True) as ledger:
        ledger.copy_to(copy)
    _add(packed, f"{JOURNAL}/{LEDGER}", copy)
    copy.unlink()
    there = store / JOURNAL / CORRECTIONS
    if there.exists():
        copy = folder / CORRECTIONS
        with closing(Journal(there, read_only=True)) as journal:
            journal.copy_to(copy)
        _add(packed, f"{JOURNAL}/{CORRECTIONS}", copy)
        copy.unlink()


def _add(packed: zipfile.ZipFile, name: str, what: Path | bytes) -> None:
    member = zipfile.ZipInfo(name, MADE)
    member.compress_type = zipfile.ZIP_DEFLATED if name.endswith(SMALL_FILES) else zipfile.ZIP_STORED
    member.external_attr = 0o644 << 16
    if isinstance(what, bytes):
        packed.writestr(member, what)
        return
    member.file_size = what.stat().st_size
    with what.open("rb") as source, packed.open(member, "w") as target:
        shutil.copyfileobj(source, target, AT_ONCE)


def _files(store: Path) -> Iterator[tuple[str, Path]]:
    """The files that go in as they are, each with its name in the zip, in the order of these."""
    for folder, folders, names in os.walk(store):
        folders[:] = sorted(
            name for name in folders if Path(folder, name).relative_to(store).as_posix() not in LEFT_OUT
        )
        for name in sorted(names):
            path = Path(folder, name)
            inside = path.relative_to(store).as_posix()
            if inside not in REPLACED and not name.endswith(PARTIAL) and stat.S_ISREG(path.lstat().st_mode):
                yield inside, path


def _description(store: Path) -> dict[str, Any]:
    """The root's description, which says that nothing is kept, and of the image no more than its name."""
    found: dict[str, Any] = json.loads((store / DESCRIPTION).read_bytes())
    ours = found["attributes"]["napari_xt"]
    if shelf := ours["layout"].get("shelf"):
        ours["layout"]["shelf"] = {**shelf, "keep": "nothing"}
    ours["notes"] = dict(_notes(ours["notes"]))
    return found


def _notes(notes: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in notes.items():
        if name == "image" and isinstance(value, str) and "://" not in value:
            yield name, PureWindowsPath(value).name
        elif name != "image_relative" or (isinstance(value, str) and ".." not in value.split("/")):
            yield name, value
