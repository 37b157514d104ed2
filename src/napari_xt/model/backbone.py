"""timm's backbones behind one wrapper: which sizes they take, at which strides their maps lie, channels first.

Knows timm; knows nothing of regions, windows or heads. Dimensions:

    B  images    C  input channels    P  side of the input (px)    c  channels of a map    s  stride of a map
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model._timm import timm
from napari_xt.model.convolution import hasten_convolutions
from napari_xt.model.published import published, unreachable
from napari_xt.model.swin_attention import fuse_window_attention

SEARCHED = 8  # sides that are tried, up and down, to name one that a backbone takes,
GRAIN = 32  # in steps of its last stride, or of this where its usual side is not even one
# what timm raises for a name, a size or an option that is not to be
REFUSALS = (AssertionError, AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)

Options = dict[str, Any]


class _Misfit(ValueError):
    """A backbone would run at that size, and its maps would be of no use."""


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What a backbone is at one size, measured without a single weight.

    Parameters
    ----------
    name
        timm's name; for a name of the Hugging Face hub the one that builds the same network without asking it, where
        there is one.
    side
        P, of the input ``(B, C, P, P)``.
    strides, channels
        Of its maps ``(B, c, P / s, P / s)``, in the order in which it gives them.
    fixed
        Whether it is built for ``side`` and takes no other; else any multiple of its largest stride will do.
    parameters
        Number of its parameters.
    mean, std
        Per channel, what its published weights were trained with.
    """

    name: str
    side: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    fixed: bool
    parameters: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def backbone(
    name: str, in_channels: int, side: int, patch_px: int | None = None, pretrained: bool = False
) -> nn.Module:
    """Build a timm backbone: ``(B, C, P, P)`` to a list of maps ``(B, c, P / s, P / s)``, one per stride.

    Parameters
    ----------
    name
        timm's name of a backbone that offers ``features_only``, or ``hf-hub:owner/name``.
    in_channels
        C, any number.
    side
        P.
    patch_px
        Side of its patches; None for its own.
    pretrained
        Fill it with its published weights (from the cache, or the Hugging Face hub); else with random ones.

    Raises
    ------
    ModelError
        timm has no such backbone, it offers no feature maps or does not take that size (the message names one that it
        does), or its weights can't be had.
    """
    _, options = _measured(name, in_channels, side, patch_px)
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except OSError as error:
        raise unreachable(name, error) from error
    except Exception as error:
        why, do = f"its weights can't be had: {error}", ""
        if "size mismatch" in str(error):
            why = f"its weights are for {published(name).side} px and patches of their own size"
            do = "choose those, or set pretrained to False"
        raise ModelError(f"region_encoder = {name!r}", why, do) from error
    fuse_window_attention(net)
    hasten_convolutions(net)
    net.register_forward_hook(_channels_first)
    return net


def encoder_info(name: str, in_channels: int = 3, side: int | None = None, patch_px: int | None = None) -> EncoderInfo:
    """Measure a backbone by running its shapes alone: no weights are allocated, none are fetched.

    Parameters
    ----------
    name, in_channels, patch_px
        As for `backbone`.
    side
        P; None for the side that it was published with.

    Raises
    ------
    ModelError
        As `backbone`.
    """
    return _measured(name, in_channels, side, patch_px)[0]


def parameter_names(name: str) -> list[str]:
    """Names of all tensors of the whole timm model, classifier included, in order, without batch counters."""
    return [key for key in timm.create_model(name).state_dict() if not key.endswith("num_batches_tracked")]


def _channels_first(net: nn.Module, _given: object, maps: list[Tensor]) -> list[Tensor]:
    """Turn the maps of the backbones that keep channels last (Swin, MambaOut, ...)."""
    last = getattr(net, "output_fmt", None) == "NHWC"
    return [m.permute(0, 3, 1, 2) if last else m for m in maps]


@lru_cache(maxsize=64)
def _measured(name: str, in_channels: int, side: int | None, patch_px: int | None) -> tuple[EncoderInfo, Options]:
    """What `encoder_info` says, and the options with which timm builds it."""
    try:
        with torch.random.fork_rng(devices=[]):
            info, options = _without_weights(name, in_channels, side or published(name).side, patch_px)
        _heeds(info, in_channels, patch_px)
    except ModelError:
        raise
    except OSError as error:
        raise unreachable(name, error) from error
    except REFUSALS as error:
        raise _refusal(name, in_channels, side, patch_px, error) from error
    return info, options


def _without_weights(name: str, in_channels: int, side: int, patch_px: int | None) -> tuple[EncoderInfo, Options]:
    """Build and run it with shapes alone; one that looks at numbers while doing so, with numbers."""
    try:
        with torch.device("meta"):
            return _run(name, in_channels, side, patch_px)
    except RuntimeError as error:
        if "meta" not in str(error).lower():
            raise
        return _run(name, in_channels, side, patch_px)


def _run(name: str, in_channels: int, side: int, patch_px: int | None) -> tuple[EncoderInfo, Options]:
    net, options = _build(name, in_channels, side, patch_px)
    _windows_fit(net)
    with torch.no_grad():
        maps = _channels_first(net, None, net.eval()(torch.zeros(1, in_channels, side, side)))
    channels, count, told = tuple(m.shape[1] for m in maps), sum(p.numel() for p in net.parameters()), published(name)
    fixed = "img_size" in options
    return EncoderInfo(told.name, side, _strides(maps, side), channels, fixed, count, told.mean, told.std), options


def _strides(maps: list[Tensor], side: int) -> tuple[int, ...]:
    """Strides of the maps of an input of ``side``, all of which must fit into it without a rest."""
    sides = [m.shape[-1] for m in maps]
    for feature in maps:
        height, width = feature.shape[-2:]
        if height != width or side % height:
            raise _Misfit(f"a map would be {height} x {width}, no whole fraction of {side}")
    # a map that was rounded may be a whole fraction by chance: 3 -> 2, 3 -> 1, 1 -> 1
    if any(wide % narrow or (wide // narrow).bit_count() > 1 for wide, narrow in pairwise(sides)) or sides.count(1) > 1:
        raise _Misfit(f"its maps would be {', '.join(map(str, sides))} wide")
    return tuple(side // s for s in sides)


def _windows_fit(net: nn.Module) -> None:
    """Refuse a Swin whose attention windows do not tile its maps: timm would fill them up with zeros, and see those."""
    for module in net.modules():
        grid = getattr(module, "input_resolution", getattr(module, "feat_size", None))
        window = getattr(module, "window_size", None)
        if isinstance(grid, tuple) and isinstance(window, tuple) and (grid[0] % window[0] or grid[1] % window[1]):
            raise _Misfit(f"windows of {window[0]} x {window[1]} do not tile a map of {grid[0]} x {grid[1]}")


def _build(name: str, in_channels: int, side: int, patch_px: int | None) -> tuple[nn.Module, Options]:
    """Build it with random weights and those options that it knows; also return these."""
    for patches in _patch_options(patch_px):
        for size in ({"img_size": side}, {}):
            options = {"in_chans": in_channels, **size, **patches}
            try:
                return timm.create_model(name, features_only=True, **options), options
            except TypeError as error:
                unknown = re.search(r"unexpected keyword argument[^']*'(\w+)'", str(error))
                if unknown is None or unknown[1] not in options:
                    raise
    raise _no_patches(name, patch_px)


def _heeds(info: EncoderInfo, in_channels: int, patch_px: int | None) -> None:
    """Refuse a patch size that a backbone was told and that changed nothing."""
    if patch_px not in (None, info.strides[0]):
        own = encoder_info(info.name, in_channels)
        if (own.strides, own.parameters) == (info.strides, info.parameters):
            raise _no_patches(info.name, patch_px)


def _no_patches(name: str, patch_px: int | None) -> ModelError:
    why = f"{name} has no patches whose size can be set"
    return ModelError(f"patch_px = {patch_px}", why, "leave it None, or take a Swin, Hiera, ViT or ConvNeXt")


def _patch_options(patch_px: int | None) -> list[Options]:
    """How backbones are told their patch size: most by one number, Hiera by the kernel of patches that overlap."""
    if patch_px is None:
        return [{}]
    p = patch_px
    return [
        {"patch_size": p},
        {"patch_kernel": (2 * p - 1,) * 2, "patch_stride": (p, p), "patch_padding": (p - 1,) * 2},
    ]


def _refusal(name: str, in_channels: int, side: int | None, patch_px: int | None, error: Exception) -> ModelError:
    """Say why a backbone can't be had like that, and name the nearest sides that it takes."""
    what = f"region_encoder = {name!r}"
    usual = published(name).side
    side = side or usual
    try:
        own = _without_weights(name, in_channels, usual, None)[0].strides
    except _Misfit:
        own = (1, GRAIN)
    except REFUSALS:
        return ModelError(what, f"can't be used: {error}")
    grain = max(1, own[-1] * (patch_px or own[0]) // own[0])
    whole = side // grain
    below, above = range(whole - (side % grain == 0), 0, -1), range(whole + 1, whole + 1 + SEARCHED)
    near = (
        _first_taken(name, in_channels, [i * grain for i in steps[:SEARCHED]], patch_px) for steps in (below, above)
    )
    taken = " or ".join(str(s) for s in near if s)
    patches = "" if patch_px is None else f" in patches of {patch_px}"
    why = f": {error}" if isinstance(error, _Misfit) else ""
    do = f"it takes {taken}" if taken else "choose another one, or other patches"
    return ModelError(what, f"does not take {side} px (a region with its halo){patches}{why}", do)


def _first_taken(name: str, in_channels: int, sides: list[int], patch_px: int | None) -> int | None:
    for side in sides:
        try:
            return _without_weights(name, in_channels, side, patch_px)[0].side
        except REFUSALS:
            continue
    return None
