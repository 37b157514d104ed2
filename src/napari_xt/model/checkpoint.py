"""Model files, in and out: our own ``.safetensors`` and the checkpoints that were released with the paper.

Nothing in a file is ever executed. Knows files of tensors; knows no images and no stores.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from napari_xt.errors import ModelError
from napari_xt.model.config import ModelCard
from napari_xt.model.released.config import Attention
from napari_xt.model.released.reader import Released, read_released
from napari_xt.model.xt import XT
from napari_xt.model.zoo import METADATA_KEY, RELEASED, ModelInfo, describe, find_model


def load_model(
    name: str | os.PathLike[str] | ModelInfo,
    *,
    attention: Attention | None = None,
    in_context_patches: int | None = None,
    window: int | None = None,
    region_encoder: nn.Module | None = None,
    context: nn.Module | None = None,
) -> XT:
    """Load a model by name or from a file.

    Parameters
    ----------
    name
        A bundled model's name (`list_models`), the path of a ``.safetensors`` file of this project or of a ``.ckpt``
        that was released with the paper, or ``hf:owner/name/file`` for such a file on the Hugging Face Hub.
    attention, in_context_patches, window
        What the tensors of a released checkpoint can't tell. None: what the YAML beside it says, else the released
        default, and `XT.report` says that it was assumed.
    region_encoder, context
        The modules of one's own that the model was made with, see `XT`; their weights come from the file.

    Returns
    -------
    XT
        In evaluation mode, float32, on the CPU, without gradients.

    Raises
    ------
    ModelNotFoundError
        No bundled model and no file has that name.
    ModelError
        The file is damaged, is no model, or its tensors do not fit its configuration.
    SettingsError
        ``attention`` and the like are said of a file that needs no such thing.
    """
    told = {"attention": attention, "in_context_patches": in_context_patches, "window": window}
    info = name if isinstance(name, ModelInfo) else describe(find_model(name), **told)
    model = XT(info.config, region_encoder=region_encoder, context=context)
    if info.path.suffix in RELEASED:
        _fill_released(model, read_released(info.path))
        model.report = info.report
    else:
        _fill(model, info.path)
    model.name, model.given, model.card = info.name, info.given, info.card
    return model.eval().requires_grad_(False)


def convert_model(
    source: str | os.PathLike[str] | ModelInfo, path: str | os.PathLike[str], **told: Attention | int | None
) -> str:
    """Write a released checkpoint as a ``.safetensors`` file of this project; return its digest.

    The digest is that of the checkpoint itself, and so are the results.

    Parameters
    ----------
    source
        As `load_model` takes it.
    path
        The file to write; replaced if it is there.
    **told
        ``attention``, ``in_context_patches``, ``window``, as `load_model` takes them.

    Raises
    ------
    ModelNotFoundError, ModelError, SettingsError
        As `load_model` does.
    """
    info = source if isinstance(source, ModelInfo) else describe(find_model(source), **told)
    return save_model(load_model(info), path, info.card, torch.float32)


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
    return describe(path).digest


def _fill_released(model: XT, released: Released) -> None:
    wanted = model.state_dict()
    for name, values in released.tensors():
        _copy(released.path, name, torch.from_numpy(values), wanted[name])


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
