"""What the user has set in napari's Preferences. Knows names of the manifest; must not know Qt, layers or runs."""

from __future__ import annotations

import os
import sys
from typing import Any

from napari_xt.io.images.cache import FOLDER_VARIABLE

PLUGIN = "napari-xt"
AUTO = "auto"


def preferred_settings() -> dict[str, object]:
    """The fields of `RunSettings` that the user has set there; what a run says itself goes before."""
    found = _section("runs")
    device, memory = getattr(found, "device", AUTO), getattr(found, "memory_gib", 0.0)
    settings: dict[str, object] = {} if device == AUTO else {"device": device}
    return settings | ({"memory_limit_bytes": round(memory * 2**30)} if memory else {})


def use_cache_folder() -> None:
    """Let decoded pictures lie in the folder that is set there, if one is; those that are open stay where they are."""
    if folder := str(getattr(_section("runs"), "cache_folder", "")).strip():
        os.environ[FOLDER_VARIABLE] = os.path.expanduser(folder)


def author() -> str:
    """Who corrects, empty where nobody said it."""
    return str(getattr(_section("corrections"), "author", "")).strip()


def remember_author(name: str) -> None:
    """Let `author` be ``name`` from now on; nothing where napari does not know us."""
    if (section := _section("corrections")) is not None:
        section.author = name.strip()


def _section(name: str) -> Any:
    """A section of our preferences, None where napari does not know us, or does not run."""
    if "napari.settings" not in sys.modules:
        return None
    from napari.settings import get_plugin_settings

    try:
        return getattr(get_plugin_settings(PLUGIN), name)
    except (KeyError, AttributeError):
        return None
