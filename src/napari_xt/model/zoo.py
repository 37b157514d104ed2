"""Which models there are, and what a model file says of itself. Imports no torch and loads no weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from napari_xt.errors import ModelError, ModelNotFoundError
from napari_xt.model.config import ModelCard, XTConfig

METADATA_KEY = "napari_xt"
SUFFIX = ".safetensors"
HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors format


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model file without its weights."""

    name: str
    path: Path
    config: XTConfig
    card: ModelCard

    @property
    def digest(self) -> str:
        """sha256 of the configuration and the tensors."""
        return file_digest(self.path)


def list_models() -> list[ModelInfo]:
    """The bundled models."""
    return [describe(path) for path in sorted(_bundled().glob(f"*{SUFFIX}"))]


def find_model(name: str | os.PathLike[str]) -> Path:
    """The file of a bundled model's name or of a path.

    Raises
    ------
    ModelNotFoundError
        There is neither.
    """
    bundled = _bundled() / f"{os.fspath(name)}{SUFFIX}"
    if os.fspath(name).isidentifier() and os.path.isfile(bundled):
        return bundled
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return Path(path)
    names = ", ".join(p.stem for p in sorted(_bundled().glob(f"*{SUFFIX}")))
    hint = f"bundled: {names}; or give the path of a {SUFFIX} file"
    raise ModelNotFoundError(os.fspath(name) or "the model", "there is no such model", hint)


def describe(path: str | os.PathLike[str]) -> ModelInfo:
    """Read what a model file says of itself.

    Raises
    ------
    ModelError
        It is no model file of this project.
    """
    path = Path(path)
    metadata = _read_header(path).get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    try:
        stored = json.loads(text or "")
        config = XTConfig.from_json(json.dumps(stored["config"]))
        known = {f.name for f in fields(ModelCard)}
        card = ModelCard(**{k: v for k, v in stored["card"].items() if k in known})
    except ModelError as error:
        raise ModelError(path, f"{error.what}: {error.why}", error.do) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(path, "is not a napari-xt model", "convert it or choose another file") from error
    return ModelInfo(path.stem, path, config, card)


def tensor_digest(config: XTConfig, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of a configuration and its tensors in the order of their names; floats count by their float32 value."""
    digest = hashlib.sha256(config.to_json().encode())
    for name, values in sorted(tensors.items()):
        digest.update(f"{name}:{values.shape}".encode())
        digest.update(values.astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """`tensor_digest` of a model file: that of the model that `load_model` makes of it."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _digest(path: Path, _mtime: int, _size: int) -> str:
    try:
        return tensor_digest(describe(path).config, load_file(path))
    except SafetensorError as error:
        raise ModelError(path, f"can't be read: {error}", "get the file again") from error


def _read_header(path: Path) -> dict[str, object]:
    """The JSON header of a safetensors file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(HEADER_LIMIT, path.stat().st_size - 8):
                raise ModelError(path, "is not a safetensors file", "choose a model file")
            header = json.loads(file.read(size))
    except OSError as error:
        raise ModelError(path, f"can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(path, "is not a safetensors file", "choose a model file") from error
    if not isinstance(header, dict):
        raise ModelError(path, "is not a safetensors file", "choose a model file")
    return header


def _bundled() -> Path:
    return Path(str(files("napari_xt") / "models"))
