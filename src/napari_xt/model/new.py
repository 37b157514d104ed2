"""New models by the names of the paper: a valid configuration for what is wanted, or what to change about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from napari_xt.errors import ModelError
from napari_xt.model.backbone import encoder_info
from napari_xt.model.config import ContextConfig, LocalConfig, XTConfig
from napari_xt.model.region import RegionEncoder
from napari_xt.model.xt import XT

REGION_ENCODERS = {
    "swin-t": "swinv2_tiny_window16_256",
    "swin-s": "swinv2_small_window16_256",
    "swin-b": "swinv2_base_window16_256",
    "swin-l": "swinv2_large_window12to16_192to256",
    "hiera-t": "hiera_tiny_224",
    "hiera-s": "hiera_small_224",
    "hiera-b": "hiera_base_224",
    "hiera-b+": "hiera_base_plus_224",
    "hiera-l": "hiera_large_224",
    "convnext-t": "convnext_tiny",
    "convnextv2-t": "convnextv2_tiny",
    "efficientnet": "tf_efficientnet_lite0",
}
"""The paper's names, and those of what else is often used, for timm's; any other timm name stands for itself."""
REGION_PX, HALO_PX = 256, 32  # of encoders that take any size


def new_model(
    classes: Sequence[str],
    region_encoder: str = "efficientnet",
    context: str = "mamba",
    *,
    outputs: Sequence[str] = ("mask", "boxes", "scores"),
    in_channels: int = 3,
    pretrained: bool = False,
    seed: int = 0,
    **options: Any,
) -> XT:
    """Make a model for classes of one's own, with random heads; what has not been trained says nothing yet.

    Parameters
    ----------
    classes
        Their names, without the background.
    region_encoder
        A name of the paper (``"swin-t"``, ``"hiera-b+"``, ...; see ``REGION_ENCODERS``) or any timm backbone that
        offers ``features_only``. One that takes a single size sees larger regions as nested sub-regions.
    context
        ``"transformer-xl"``, ``"hyper"``, ``"mamba"``, ``"longformer"`` or ``"none"``.
    outputs
        Which heads: ``mask``, ``boxes``, ``scores`` (of regions), ``label`` (of the image).
    in_channels
        C of the images.
    pretrained
        Whether the region encoder starts from timm's ImageNet weights, which are fetched where they are not at hand.
    seed
        Of the random weights.
    **options
        Further fields of `XTConfig` and `ContextConfig` by name, for instance ``window=4, layers=2, scale_um=0.5``.

    Raises
    ------
    ModelError
        A name is unknown or values do not go together; it says which to change.
    """
    config = _config(tuple(classes), region_encoder, context, tuple(outputs), in_channels, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XT(config)
    if pretrained and isinstance(model.region, RegionEncoder):
        model.region.load_pretrained(REGION_ENCODERS.get(region_encoder.lower(), region_encoder))
    model.name = "new"
    return model.eval().requires_grad_(False)


def _config(
    classes: tuple[str, ...], region_encoder: str, context: str, outputs: tuple[str, ...], channels: int, options: Any
) -> XTConfig:
    known = sorted({f.name for f in (*fields(XTConfig), *fields(ContextConfig))})
    if unknown := sorted(set(options) - set(known)):
        what = f"{unknown[0]} = {options[unknown[0]]!r}"
        raise ModelError(what, "is no field of a model", f"choose of {', '.join(known)}")
    of_context = {f.name: options.pop(f.name) for f in fields(ContextConfig) if f.name in options}
    kind: Any = context.lower().replace("-", "_")
    name = REGION_ENCODERS.get(region_encoder.lower(), region_encoder)
    usual = {"in_channels": channels, **_input(name, channels, options)}
    return XTConfig(
        **_heads(classes, outputs, kind), **(usual | options), context=ContextConfig(kind=kind, **of_context)
    )


def _input(name: str, channels: int, options: dict[str, Any]) -> dict[str, Any]:
    """Sizes and intensities for a region encoder; one of a fixed size sees larger regions in sub-regions."""
    info = encoder_info(name, channels, patch_px=options.get("patch_px"))
    region = options.get("region_px", info.side if info.fixed else REGION_PX)
    nested = info.fixed and region > info.side and region % info.side == 0
    grid: dict[str, Any] = {
        "region_encoder": info.name,
        "region_px": region,
        "halo_px": 0 if info.fixed else math.lcm(HALO_PX, max(info.strides)),
        "sub_regions_px": (info.side,) if nested else (),
        "local": LocalConfig(stride=max(4, min(info.strides))),
    }
    if channels == len(info.mean):
        return grid | {"mean": info.mean, "std": info.std}
    names = tuple(f"channel {i}" for i in range(channels))
    return grid | {"channel_names": names, "mean": (0.5,) * channels, "std": (0.25,) * channels}


def _heads(classes: tuple[str, ...], outputs: tuple[str, ...], kind: str) -> dict[str, Any]:
    with_background = ("background", *classes)
    named = {"mask": with_background, "boxes": classes, "scores": with_background, "label": classes}
    if unknown := [output for output in outputs if output not in named]:
        raise ModelError(f"outputs = {unknown[0]!r}", "is no head", f"choose of {', '.join(named)}")
    heads: dict[str, Any] = {output: named[output] for output in outputs}
    return heads | ({"label_head": "pooled"} if kind == "none" else {})
