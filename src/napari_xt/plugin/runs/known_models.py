"""The models that a user can choose: the bundled ones, and files that were chosen before. Imports no torch.

Knows model files and one small file of the user's; must not know Qt, images or runs.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from napari_xt.errors import XTError
from napari_xt.io.stores.durable import write_file
from napari_xt.model.zoo import RELEASED, SUFFIX, ModelInfo, describe, list_models

REMEMBERED = 30  # files, the last ones
MAX_BYTES = 1 << 20  # of the file that holds what is remembered
ENDS = (SUFFIX, *RELEASED)  # of the names of model files


def known_models() -> list[ModelInfo]:
    """The bundled models, then the files that were added and are still there, the last one first."""
    bundled = list_models()
    paths = {info.path for info in bundled}
    found = []
    for path in reversed(_read()):
        if Path(path) not in paths and os.path.isfile(path):
            with suppress(XTError):
                found.append(describe(path))
    return bundled + found


def add_model(path: str | os.PathLike[str]) -> ModelInfo:
    """Look at a model file, and remember it for `known_models`.

    Raises
    ------
    ModelError
        It is no model file.
    """
    info = describe(Path(path).expanduser().absolute())
    kept = [*(one for one in _read() if one != str(info.path)), str(info.path)][-REMEMBERED:]
    with suppress(OSError):
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_file(_place(), json.dumps(kept, indent=1).encode())
    return info


def _place() -> Path:
    return platformdirs.user_config_path("napari-xt") / "models.json"


def _read() -> list[str]:
    """The paths that were added; of a damaged file what makes sense."""
    try:
        found = json.loads(_place().read_bytes()) if _place().stat().st_size <= MAX_BYTES else []
    except (OSError, ValueError, RecursionError):
        return []
    return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []
