"""Which models there are, and what a model file says of itself. Imports no torch and loads no weights."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

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
    if os.fspath(name).isidentifier() and bundled.is_file():
        return bundled
    path = Path(name).expanduser()
    if path.is_file():
        return path
    names = ", ".join(p.stem for p in sorted(_bundled().glob(f"*{SUFFIX}")))
    raise ModelNotFoundError(name, "there is no such model", f"bundled: {names}; or give the path of a {SUFFIX} file")


def describe(path: str | os.PathLike[str]) -> ModelInfo:
    """Read what a model file says of itself.

    Raises
    ------
    ModelError
        It is no model file of this project.
    """
    path = Path(path)
    header, _ = _read_header(path)
    metadata = header.get("__metadata__")
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


def file_digest(path: Path) -> str:
    """sha256 of a file's configuration and its tensors in the order of their names, as they are stored."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _digest(path: Path, _mtime: int, _size: int) -> str:
    header, start = _read_header(path)
    digest = hashlib.sha256(describe(path).config.to_json().encode())
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    with path.open("rb") as file:
        for name, entry in sorted(tensors.items()):
            if not isinstance(entry, dict):
                raise ModelError(path, f"the entry of {name} is damaged")
            first, last = entry["data_offsets"]
            file.seek(start + first)
            digest.update(f"{name}:{entry['dtype']}:{entry['shape']}".encode())
            digest.update(file.read(last - first))
    return digest.hexdigest()


def _read_header(path: Path) -> tuple[dict[str, object], int]:
    """The JSON header of a safetensors file and where its tensors begin."""
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
    return header, 8 + size


def _bundled() -> Path:
    return Path(str(files("napari_xt") / "models"))
