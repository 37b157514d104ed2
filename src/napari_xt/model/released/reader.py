"""Reads the checkpoints that were published with the paper: which variant a file holds, and its tensors by our names.

What the tensors can't tell (hyper or naive attention, in-context patches, regions along a window) comes from the
caller, from the YAML beside the file, or is the released default; the report says which. Knows files; knows no torch.
Nothing is read before all names and shapes are right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ModelError, printable
from napari_xt.model.config import XTConfig
from napari_xt.model.released.config import Asked, Attention, released_config
from napari_xt.model.released.pickle_reader import Checkpoint, StoredTensor, read_checkpoint
from napari_xt.model.released.settings import settings_beside
from napari_xt.model.released.shapes import BACKBONES, Backbone, Decoder, Shape, Tensor, body, tensors

FLOATS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
DERIVED = ("relative_coords_table", "relative_position_index", "attn_mask", "k_bias")  # buffers that Swin makes itself
OURS_ALONE = ("background_token", "null_context")
LARGEST, MOST_CLASSES = 1_000_000_000, 100_000  # numbers and classes of a file; the largest released has 215 million
SHOWN = 8  # names of a file's own that are passed on, and figures


@dataclass(frozen=True, slots=True)
class Released:
    """A released checkpoint, described; `read` gives its numbers.

    Parameters
    ----------
    path
        The file.
    config
        The network that its tensors fit.
    names
        The file's name of each tensor by our name; all others of our network are not in the file.
    report
        What was found, ignored and assumed, a line each.
    metrics
        Figures that the file carries, for instance ``accuracy_top1`` in 0..1.
    """

    path: Path
    config: XTConfig
    names: Mapping[str, str]
    report: tuple[str, ...]
    metrics: Mapping[str, float]
    stored: Mapping[str, StoredTensor]

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of our name, float32, row-major, writable; the class token as ``(D,)``.

        Raises
        ------
        ModelError
            The file is damaged or has changed, or holds numbers that are not finite.
        """
        values = self.stored[name].read().astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ModelError(self.path, f"{self.names[name]} holds numbers that are not finite")
        return values.reshape(-1) if name == "class_token" else values

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """All tensors of our network by name, read one by one; those that the file does not have are zeros."""
        yield from ((name, self.read(name)) for name in self.names)
        yield from ((name, np.zeros(self.config.context.dim, np.float32)) for name in OURS_ALONE)


def read_released(
    path: str | os.PathLike[str],
    attention: Attention | None = None,
    in_context_patches: int | None = None,
    window: int | None = None,
) -> Released:
    """Find out which variant a checkpoint of the paper's code holds.

    Parameters
    ----------
    path
        A file of ``torch.save``: a state dict, or a dict with one under ``state_dict``; names with or without
        ``module.`` in front.
    attention, in_context_patches, window
        What the tensors can't tell; None asks the YAML beside the file, see `settings_beside`, and else takes
        ``"hyper"``, 0 (all) and 2 (1 for models without context).

    Raises
    ------
    ModelError
        It is no such file, it lacks a tensor, or one is misshapen or not expected; they are named.
    SettingsError
        ``attention`` is none that these layers have.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    state, ignored = _state_dict(checkpoint)
    found, derived = _named(path, state)
    shapes = {name: value.shape for name, value in found.items() if isinstance(value, StoredTensor)}
    backbone, decoder = _recognise(shapes)
    wanted = tensors(backbone, decoder)
    _compare(path, backbone, wanted, found)
    stored = {t.ours: value for t in wanted if isinstance(value := found[t.theirs], StoredTensor)}
    _check_sizes(path, decoder, list(stored.values()))
    settings = settings_beside(path, backbone, decoder)
    asked = Asked(attention, in_context_patches, window)
    config, choices = released_config(path.stem, backbone, decoder, asked, settings)
    return Released(
        path,
        config,
        names={t.ours: t.theirs for t in wanted},
        report=(_summary(backbone, decoder, stored), *_ignored(checkpoint, ignored, derived), *choices),
        metrics=_metrics(checkpoint.content),
        stored=stored,
    )


def _state_dict(checkpoint: Checkpoint) -> tuple[dict[object, object], list[str]]:
    """The state dict, and the names of what lies beside it."""
    content = checkpoint.content
    if isinstance(content, dict):
        inner = content.get("state_dict")
        if isinstance(inner, dict):
            return inner, [str(key) for key in content if key != "state_dict"]
        if any(isinstance(value, StoredTensor) for value in content.values()):
            return content, []
    raise ModelError(checkpoint.path, "holds no state dict", "choose a checkpoint of the paper's code")


def _named(path: Path, state: dict[object, object]) -> tuple[dict[str, object], int]:
    """The entries without ``module.`` and without derived buffers, and how many of those there were."""
    names = {str(key).removeprefix("module."): value for key, value in state.items()}
    if len(names) != len(state):
        raise ModelError(path, "has names both with and without 'module.'", "get the file again")
    kept = {name: value for name, value in names.items() if name.rpartition(".")[2] not in DERIVED}
    return kept, len(names) - len(kept)


def _recognise(shapes: Mapping[str, Shape]) -> tuple[Backbone, Decoder]:
    """The backbone that fits the tensors best, and the decoder that they state."""
    hiera = any(name.startswith("encoder.model.blocks.") for name in shapes)
    family = [backbone for backbone in BACKBONES if backbone.name.startswith("hiera") == hiera]
    backbone = min(family, key=lambda backbone: _misfits(backbone, shapes))
    inner = [name for name in shapes if name.startswith("decoder.layers.")]
    mamba = any(".mixer." in name for name in inner)
    if not mamba and not any(".attn." in name for name in inner) and "decoder.cls_token" not in shapes:
        ratio = _length(shapes, "decoder.layers.0.bias") // backbone.channels
        classes = _length(shapes, "decoder.layers.3.bias")
        return backbone, Decoder("none", 1, backbone.channels, max(1, ratio), classes)
    layers = len({name.split(".")[2] for name in inner})  # not the highest number: that could be anything
    dim, classes = _length(shapes, "decoder.cls.0.weight"), _length(shapes, "decoder.cls.1.bias")
    ratio = 4 if mamba else _length(shapes, "decoder.layers.0.mlp.gate_proj.weight") // max(1, dim)
    return backbone, Decoder("mamba" if mamba else "hyper", max(1, layers), dim, max(1, ratio), classes)


def _misfits(backbone: Backbone, shapes: Mapping[str, Shape]) -> int:
    wanted = {t.theirs: t.shape for t in body(backbone)}
    surplus = sum(name.startswith("encoder.") and name not in wanted for name in shapes)
    return surplus + sum(shapes.get(name) != shape for name, shape in wanted.items())


def _length(shapes: Mapping[str, Shape], name: str) -> int:
    """First dimension of a tensor; 0: there is none of that name, which `_compare` will say."""
    return next(iter(shapes.get(name, ())), 0)


def _compare(path: Path, backbone: Backbone, wanted: list[Tensor], found: Mapping[str, object]) -> None:
    """Every tensor must be there in its shape, and no other."""
    expected = {t.theirs: t.shape for t in wanted}
    if missing := [name for name in expected if name not in found]:
        why = f"lacks {len(missing)} of the {len(expected)} tensors of xT with {backbone.name}: {_first(missing)}"
        raise ModelError(path, why, "choose a checkpoint of the paper's code")
    for name, shape in expected.items():
        value = found[name]
        if not isinstance(value, StoredTensor) or value.dtype not in FLOATS:
            raise ModelError(path, f"{name} is no tensor of floating numbers")
        if value.shape != shape:
            raise ModelError(path, f"{name} has the shape {value.shape} instead of {shape}")
    if surplus := [name for name in found if name not in expected]:
        why = f"has {len(surplus)} tensors that xT with {backbone.name} does not have: {_first(surplus)}"
        raise ModelError(path, why, "choose a checkpoint of the paper's code")


def _first(names: list[str]) -> str:
    return ", ".join(names[:2]) + (" ..." if len(names) > 2 else "")


def _check_sizes(path: Path, decoder: Decoder, stored: list[StoredTensor]) -> None:
    """A forged file could state few bytes many times, or more than any machine holds."""
    if sum(tensor.size for tensor in stored) > LARGEST or decoder.classes > MOST_CLASSES:
        raise ModelError(path, "is far larger than any released model")
    if sum(tensor.size * FLOATS[tensor.dtype] for tensor in stored) > path.stat().st_size:
        raise ModelError(path, "has tensors that share their numbers, which released models do not")


def _summary(backbone: Backbone, decoder: Decoder, stored: Mapping[str, StoredTensor]) -> str:
    layers = (
        "no context" if decoder.kind == "none" else f"{decoder.layers} {decoder.kind} layers of width {decoder.dim}"
    )
    numbers = sum(tensor.size for tensor in stored.values())
    return f"{backbone.name}, {layers}, {decoder.classes} classes: {len(stored)} tensors, {numbers:,} numbers"


def _ignored(checkpoint: Checkpoint, beside: list[str], derived: int) -> list[str]:
    shown = ", ".join(map(_words, beside[:SHOWN])) + (" ..." if len(beside) > SHOWN else "")
    lines = [f"ignored beside the state dict: {shown}"] if beside else []
    if derived:
        lines.append(f"ignored {derived} buffers that Swin makes itself")
    if checkpoint.strange:
        lines.append(f"left alone {len(checkpoint.strange)} classes and functions that the file names")
    return lines


def _metrics(content: object) -> dict[str, float]:
    metrics = content.get("metrics") if isinstance(content, dict) else None
    items = metrics.items() if isinstance(metrics, dict) else ()
    figures = [(name, value) for name, value in items if type(value) in (int, float) and abs(value) < LARGEST]
    return {_words(name): float(value) for name, value in figures[:SHOWN]}


def _words(name: object) -> str:
    return printable(str(name))[:40]
