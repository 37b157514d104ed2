"""The configuration of a released model, and where each value comes from that its tensors can't tell.

Knows values only; knows no files and no torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar, get_args

from napari_xt.errors import ModelError, SettingsError
from napari_xt.model.config import HYPER_HEAD_DIM, ContextConfig, XTConfig
from napari_xt.model.released.settings import IMAGE_KEYS, Settings
from napari_xt.model.released.shapes import Backbone, Decoder

Attention = Literal["hyper", "naive"]
REDUCTION = 32  # pixels along a token
T = TypeVar("T", int, str)


class Asked(NamedTuple):
    """What the caller says; None: nothing."""

    attention: Attention | None = None
    in_context_patches: int | None = None
    window: int | None = None


def released_config(
    stem: str, backbone: Backbone, decoder: Decoder, asked: Asked, settings: Settings
) -> tuple[XTConfig, list[str]]:
    """The configuration, and a line for each value that the tensors can't tell.

    Parameters
    ----------
    stem
        The file's name without its ending; the published ones end in ``image-region-top1``.
    backbone, decoder
        What the tensors tell.
    asked, settings
        What the caller and the YAML say, in this order of preference.

    Raises
    ------
    SettingsError
        ``asked.attention`` is none that these layers have.
    ModelError
        Another value is none that these layers can have.
    """
    image = settings.number(*IMAGE_KEYS)
    told = None if image is None else image // backbone.region_px
    window, line = _choose("window", asked.window, told, _usual_window(stem, backbone, decoder), settings)
    context, lines = _context(backbone, decoder, asked, settings)
    config = XTConfig(
        region_encoder=backbone.name,
        region_px=backbone.region_px,
        halo_px=0,
        window=window,
        context=context,
        label=settings.texts("class_names", decoder.classes) or tuple(f"class {i}" for i in range(decoder.classes)),
        label_head="pooled" if decoder.kind == "none" else "token",
        stored="float32",
    )
    mean, std = settings.numbers("mean", 3) or config.mean, settings.numbers("std", 3) or config.std
    return replace(config, mean=mean, std=std), [*lines, line]


def _context(backbone: Backbone, decoder: Decoder, asked: Asked, settings: Settings) -> tuple[ContextConfig, list[str]]:
    if asked.attention is not None and (decoder.kind != "hyper" or asked.attention not in get_args(Attention)):
        why = "must be 'hyper' or 'naive', of a model with such layers"
        raise SettingsError(f"attention = {asked.attention!r}", why, f"this one has the context {decoder.kind!r}")
    config = ContextConfig(
        kind=decoder.kind,
        layers=decoder.layers,
        dim=decoder.dim,
        tokens_per_side=backbone.region_px // REDUCTION,
        mlp_ratio=decoder.mlp_ratio,
        in_context_patches=max(0, asked.in_context_patches or 0),
        project=decoder.kind != "none",
    )
    if decoder.kind != "hyper":
        return config, []
    told = settings.text("attention_method")
    attention, first = _choose("attention", asked.attention, told, "hyper", settings)
    patches = settings.number("in_context_patches")
    patches, second = _choose("in_context_patches", asked.in_context_patches, patches, 0, settings)
    naive = attention == "naive"
    if not naive and decoder.dim % HYPER_HEAD_DIM:
        why = f"is no multiple of the {HYPER_HEAD_DIM} channels of a head of hyper attention"
        raise ModelError(f"width {decoder.dim} of the tokens", why, "if it was trained so, say attention='naive'")
    config = replace(
        config, causal=not naive, attention="naive" if naive else "hyper", in_context_patches=max(0, patches)
    )
    return config, [first, second]


def _choose(name: str, asked: T | None, told: T | None, usual: T, settings: Settings) -> tuple[T, str]:
    if asked is not None:
        return asked, f"{name} = {asked}, as asked"
    if told is not None:
        return told, f"{name} = {told}, from {settings.source}"
    why = settings.note or f"{settings.source} does not say"
    return usual, f"{name} = {usual} is assumed, the released default: {why}"


def _usual_window(stem: str, backbone: Backbone, decoder: Decoder) -> int:
    """Regions along the image's side as the published files' names say, ``...-512-256-...``; else as most have."""
    match = re.search(r"[-_](\d{3,4})[-_](\d{3})(?=[-_]|$)", stem)
    image, region = map(int, match.groups()) if match else (0, 0)
    if image and region == backbone.region_px and image % region == 0:
        return image // region
    return 1 if decoder.kind == "none" else 2
