"""Which models there are, and what a model file says of itself. Imports no torch and loads no weights.

A file is one of this project (``.safetensors``) or a checkpoint as published with the paper (``.ckpt``, ``.pt``).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from napari_xt.errors import ModelError, ModelNotFoundError, SettingsError
from napari_xt.model.config import ModelCard, XTConfig
from napari_xt.model.hub import fetch
from napari_xt.model.released.reader import Released, read_released

METADATA_KEY = "napari_xt"
SUFFIX = ".safetensors"
RELEASED = (".ckpt", ".pt", ".pth")
BUNDLED_NAME = re.compile(r"[\w-]+")
HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors format
ENCODING = (
    *("region_encoder", "region_px", "halo_px", "sub_regions_px", "patch_px"),
    *("in_channels", "mean", "std", "local", "stored"),
)  # fields of `XTConfig` that decide what the region encoder says,
TOKENS = ("dim", "tokens_per_side", "summary", "project")  # and of its `ContextConfig`


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model file without its weights; ``report`` says what was found and assumed in a released checkpoint."""

    name: str
    path: Path
    config: XTConfig
    card: ModelCard
    report: tuple[str, ...] = ()

    @property
    def given(self) -> str:
        """What a user gives to get it: a bundled model's name, the path of another."""
        return self.name if self.path == _bundled() / f"{self.name}{SUFFIX}" else str(self.path)

    @property
    def digest(self) -> str:
        """sha256 of the configuration and the tensors: that of the model that `load_model` makes of it."""
        stat = self.path.stat()
        return _digest(self.path, self.config, stat.st_mtime_ns, stat.st_size)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights once they are loaded, as float32."""
        return _weight_bytes(self.path)

    @property
    def encoder_digest(self) -> str:
        """As `XT.encoder_digest`."""
        stat = self.path.stat()
        return _encoder_digest(self.path, self.config, stat.st_mtime_ns, stat.st_size)


def list_models() -> list[ModelInfo]:
    """The bundled models."""
    return [describe(path) for path in sorted(_bundled().glob(f"*{SUFFIX}"))]


def find_model(name: str | os.PathLike[str]) -> Path:
    """The file of a bundled model's name, of a path, or of ``hf:owner/name/file`` (which is fetched).

    Raises
    ------
    ModelNotFoundError
        There is none.
    """
    if os.fspath(name).startswith("hf:"):
        return fetch(os.fspath(name))
    bundled = _bundled() / f"{os.fspath(name)}{SUFFIX}"
    if BUNDLED_NAME.fullmatch(os.fspath(name)) and os.path.isfile(bundled):
        return bundled
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return Path(path)
    names = ", ".join(p.stem for p in sorted(_bundled().glob(f"*{SUFFIX}")))
    hint = f"bundled: {names}; or give the path of a {SUFFIX} file or hf:owner/name/file"
    raise ModelNotFoundError(os.fspath(name) or "the model", "there is no such model", hint)


def describe(path: str | os.PathLike[str], **told: Any) -> ModelInfo:
    """Read what a model file says of itself.

    Parameters
    ----------
    path
        The file.
    **told
        Of a released checkpoint, what it can't tell: see `read_released`.

    Raises
    ------
    ModelError
        It is no model file.
    """
    path = Path(path)
    if path.suffix in RELEASED:
        return _describe_released(read_released(path, **told))
    if any(value is not None for value in told.values()):
        raise SettingsError(", ".join(told), "can only be said of released checkpoints", f"leave out for {path.name}")
    return _describe_own(path)


def _describe_released(found: Released) -> ModelInfo:
    card = ModelCard(
        name=found.path.stem,
        title="xT as released with its paper, Gupta et al. (2024)",
        licence="none is stated with the released weights",
        provenance="; ".join(found.report),
        metrics=found.metrics,
    )
    return ModelInfo(card.name, found.path, found.config, card, found.report)


def _describe_own(path: Path) -> ModelInfo:
    metadata = read_header(path).get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    try:
        stored = json.loads(text or "")
        config = XTConfig.from_json(json.dumps(stored["config"]))
        known = {f.name for f in fields(ModelCard)}
        told = {k: v for k, v in stored["card"].items() if k in known}
        card = ModelCard(**told | {"thumbnails": tuple(told.get("thumbnails", ()))})
    except ModelError as error:
        raise ModelError(path, f"{error.what}: {error.why}", error.do) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(path, "is not a napari-xt model", "convert it or choose another file") from error
    return ModelInfo(path.stem, path, config, card)


def tensor_digest(config: XTConfig, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of a configuration and its tensors in the order of their names; floats count by their float32 value."""
    return _digest_of(config.to_json(), tensors)


def encoder_digest(config: XTConfig, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of all that a region's tokens and local features depend on, of a model's configuration and tensors."""
    told = json.loads(config.to_json())
    facts = {name: told.get(name) for name in ENCODING} | {"dense": config.dense}
    facts |= {name: told["context"].get(name) for name in TOKENS}
    own = {name: values for name, values in tensors.items() if name.startswith("region.")}
    return _digest_of(json.dumps(facts, sort_keys=True), own)


def _digest_of(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, values in sorted(tensors.items()):
        digest.update(f"{name}:{values.shape}".encode())
        digest.update(values.astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _digest(path: Path, config: XTConfig, _mtime: int, _size: int) -> str:
    return tensor_digest(config, _tensors(path))


@lru_cache(maxsize=64)
def _encoder_digest(path: Path, config: XTConfig, _mtime: int, _size: int) -> str:
    return encoder_digest(config, _tensors(path))


def _weight_bytes(path: Path) -> int:
    if path.suffix in RELEASED:
        return path.stat().st_size
    shapes = [value.get("shape") for value in read_header(path).values() if isinstance(value, dict)]
    return 4 * sum(math.prod(shape) for shape in shapes if shape is not None)


def _tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    if path.suffix in RELEASED:
        return dict(read_released(path).tensors())
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(path, f"can't be read: {error}", "get the file again") from error


def read_header(path: Path) -> dict[str, object]:
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
