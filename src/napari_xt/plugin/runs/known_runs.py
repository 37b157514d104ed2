"""The stores that were written of an image, the newest first. Knows folders and stores; must not know layers or Qt."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from napari_xt.engine.output import SUFFIX, results_folder
from napari_xt.errors import XTError
from napari_xt.io.prediction import open_prediction

LISTED = 12  # stores, the newest


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A store, and what to call it in a list."""

    path: Path
    label: str


def known_runs(name: str, source: str | None, more: Iterable[str] = ()) -> list[KnownRun]:
    """The runs over an image that there are stores of.

    Parameters
    ----------
    name, source
        Of the image; ``source`` is its path or None.
    more
        Stores that are known to be of it, wherever they lie.
    """
    folders = [results_folder()]
    folders += [Path(source).parent] if source and "://" not in source else []
    found = {path for folder in folders for path in folder.glob(f"{_literal(name)}.*{SUFFIX}")}
    found |= {Path(path) for path in more if os.path.isdir(path)}
    newest = sorted(found, key=_time, reverse=True)[:LISTED]
    return [KnownRun(path, label) for path in newest if (label := _label(path))]


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _time(path: Path) -> float:
    try:
        return (path / "journal").stat().st_mtime
    except OSError:
        return 0.0


def _label(path: Path) -> str:
    try:
        found = open_prediction(path)
    except XTError:
        return ""
    state = "" if found.complete else f" ({round(100 * found.coverage)} %)"
    return f"{path.name.removesuffix(SUFFIX)}{state}"
