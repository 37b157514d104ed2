"""New models by the names of the paper: a valid configuration for what is wanted, or what to change about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from napari_xt.errors import ModelError
from napari_xt.model.backbone import encoder_info
from napari_xt.model.checkpoint import load_model
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
BUNDLED = "canopy"  # a model of this package whose trained region encoder new models may begin with
WIDE = 64  # local channels of such a model: all that its pyramid knows, not what trees alone are told by
REGION_PX, HALO_PX = 256, 32  # of encoders that take any size


def new_model(
    classes: Sequence[str],
    region_encoder: str = BUNDLED,
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
        ``"canopy"``: the trained one of the bundled model, so that nothing is fetched and a few corrections are enough
        to learn from (`refine`). Or one with random weights: a name of the paper (``"swin-t"``, ``"hiera-b+"``, ...;
        see ``REGION_ENCODERS``) or any timm backbone that offers ``features_only``; one that takes a single size sees
        larger regions as nested sub-regions.
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
    trained = load_model(BUNDLED) if region_encoder == BUNDLED else None
    if trained is not None:
        region_encoder, options = trained.config.region_encoder, _as_trained(trained.config, in_channels) | options
    config = _config(tuple(classes), region_encoder, context, tuple(outputs), in_channels, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XT(config)
    if trained is not None:
        _take_over(model, trained)
    elif pretrained and isinstance(model.region, RegionEncoder):
        model.region.load_pretrained(REGION_ENCODERS.get(region_encoder.lower(), region_encoder))
    model.name, model.blank = "new", True
    return model.eval().requires_grad_(False)


def _as_trained(config: XTConfig, channels: int) -> dict[str, Any]:
    """Fields with which a trained region encoder sees what it was trained to see; any pixel size will do."""
    same: dict[str, Any] = {"local": replace(config.local, channels=WIDE)}
    if channels == config.in_channels:
        return same | {"mean": config.mean, "std": config.std}
    means = (sum(config.mean) / len(config.mean),) * channels, (sum(config.std) / len(config.std),) * channels
    return same | {"mean": means[0], "std": means[1], "normalisation": "percentile"}


def _take_over(model: XT, trained: XT) -> None:
    """Fill what fits with trained weights, rounded as a file has them; the first convolution sees other channels.

    All that the pyramid knows becomes local features. The context says nothing until it is learned from.
    """
    given, wanted = trained.state_dict(), model.state_dict()
    for name, target in wanted.items():
        found = given.get(name)
        if found is None or name.startswith(("mask_head", "box_head", "score_head", "label_head")):
            continue
        if found.shape == target.shape:
            target.copy_(found)
        elif found.dim() == target.dim() == 4 and found.shape[0] == target.shape[0]:
            target.copy_(found.mean(1, keepdim=True).expand_as(target) * (found.shape[1] / target.shape[1]))
    compact = wanted.get("region.pyramid.compact.weight")
    if compact is not None and compact.shape[0] == compact.shape[1]:
        compact.copy_(torch.eye(len(compact))[:, :, None, None])
        wanted["region.pyramid.compact.bias"].zero_()
    for name, target in wanted.items():
        if name.startswith("region.pyramid.smooth.") and name.endswith(".0.weight") and name not in given:
            target.zero_()[:, :, 1, 1] = torch.eye(len(target))  # a finer map than the trained one is added as it is
        if name.endswith("head.from_context.weight"):
            target.zero_()
    model.half().float()


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
