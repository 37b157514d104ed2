"""Model files: one ``.safetensors`` whose metadata carries the configuration and the card. Never executes code.

Knows files of tensors; knows no images and no stores.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from napari_xt.errors import ModelError
from napari_xt.model.config import ModelCard
from napari_xt.model.xt import XT
from napari_xt.model.zoo import METADATA_KEY, ModelInfo, describe, file_digest, find_model


def load_model(name: str | os.PathLike[str] | ModelInfo) -> XT:
    """Load a model by name or from a file.

    Parameters
    ----------
    name
        A bundled model's name (`list_models`) or the path of a ``.safetensors`` file of this project.

    Returns
    -------
    XT
        In evaluation mode, float32, on the CPU, without gradients.

    Raises
    ------
    ModelNotFoundError
        No bundled model and no file has that name.
    ModelError
        The file is damaged, is no model of this project, or its tensors do not fit its configuration.
    """
    info = name if isinstance(name, ModelInfo) else describe(find_model(name))
    model = XT(info.config)
    _fill(model, info.path)
    model.name = info.name
    return model.eval().requires_grad_(False)


def save_model(model: XT, path: str | os.PathLike[str], card: ModelCard, dtype: torch.dtype = torch.float16) -> str:
    """Write a model with its card as one file, whole or not at all; return its digest.

    Parameters
    ----------
    model
        What to save.
    path
        Where to; replaced if it is there.
    card
        Stored beside the configuration.
    dtype
        Of the floating tensors in the file.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.state_dict().items()
    }
    metadata = {METADATA_KEY: json.dumps({"config": json.loads(model.config.to_json()), "card": asdict(card)})}
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.write(save(tensors, metadata))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return file_digest(path)


def _fill(model: XT, path: Path) -> None:
    """Copy the file's tensors into ``model``; every name and shape must be there, and every number finite."""
    wanted = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            _same_names(path, set(wanted), names)
            for name, target in wanted.items():
                _copy(path, name, file.get_tensor(name), target)
    except (SafetensorError, OSError) as error:
        raise ModelError(path, f"can't be read: {error}", "get the file again") from error


def _same_names(path: Path, wanted: set[str], found: set[str]) -> None:
    if missing := sorted(wanted - found):
        raise ModelError(path, f"lacks {len(missing)} tensors, first {missing[0]}")
    if surplus := sorted(found - wanted):
        raise ModelError(path, f"has {len(surplus)} tensors that its configuration does not, first {surplus[0]}")


def _copy(path: Path, name: str, value: torch.Tensor, target: torch.Tensor) -> None:
    if value.shape != target.shape:
        raise ModelError(path, f"{name} has the shape {tuple(value.shape)} instead of {tuple(target.shape)}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ModelError(path, f"{name} holds numbers that are not finite")
    target.copy_(value)
