"""What a model is, as values: the configuration that a checkpoint carries and from which its network is built.

Imports no torch, so that a model can be listed and planned for without loading it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, Self, get_args

from napari_xt.errors import ModelError

ContextKind = Literal["mamba", "transformer_xl", "hyper", "longformer", "none", "custom"]
Scan = Literal["raster", "region", "zigzag", "two_stream"]
Normalisation = Literal["range", "percentile"]
CUSTOM = "custom"  # a module of the user's own, passed to `XT`
MAX_CLASSES = 253  # mask values 254 and 255 are kept for corrections
HEAD_DIM, HYPER_HEAD_DIM = 32, 128  # channels of an attention head where the number of heads is not stated
LATER = {"later": True}  # fields added after the first release: JSON holds them only where they say something


@dataclass(frozen=True, slots=True)
class ContextConfig:
    """The context encoder, and how regions become its tokens.

    Parameters
    ----------
    kind
        ``"mamba"``, ``"transformer_xl"``, ``"hyper"``, ``"longformer"``, ``"none"`` (every region for itself) or
        ``"custom"`` (a module that is passed to `XT`).
    layers
        Number of layers.
    dim
        Width D of a token.
    tokens_per_side
        A region gives ``tokens_per_side ** 2`` tokens.
    scan
        Order of a window's tokens. ``"raster"``: row-major over the window's assembled token map, as in the released
        code; ``"region"``: one region after the other; ``"zigzag"``: raster with every other row backwards;
        ``"two_stream"``: raster twice, of which the second pass counts.
    recurrent
        One layer's weights are applied ``layers`` times (Shen et al., 2022, "Sliced Recursive Transformer").
    heads
        Attention heads; 0 stands for one per 128 channels (``"hyper"``, as released) or per 32 (the others).
    mlp_ratio
        Inner width of a layer's MLP over ``dim`` (not of Mamba, which has none).
    causal
        Whether a token of ``"hyper"`` sees only those before it, as in the released models.
    attention
        ``"naive"`` puts exact attention with ``dim`` heads of one channel in place of HyperAttention, as released.
    segment_tokens, memory_tokens
        Transformer-XL: tokens of a segment, and how many before it are remembered.
    attention_window, window_2d
        Longformer: tokens that a token sees; ``window_2d`` takes them from a square around it.
    in_context_patches
        Label models only: the class token sees windows of so many tokens one by one, and their mean counts; 0: all.
    summary
        How a region's map becomes its tokens: ``"pool"`` averages, ``"queries"`` learns what to look for.
    overview_tokens
        So many tokens of a low-resolution view of the whole window stand before the regions' (Zhang et al., 2024,
        SliME); 0 or ``k * k * tokens_per_side ** 2``.
    project
        False leaves the tokens as the region encoder gives them: no projection, no norm (the released local baseline).
    """

    kind: ContextKind = "mamba"
    layers: int = 4
    dim: int = 192
    tokens_per_side: int = 2
    scan: Scan = "raster"
    recurrent: bool = field(default=False, metadata=LATER)
    heads: int = field(default=0, metadata=LATER)
    mlp_ratio: int = field(default=4, metadata=LATER)
    causal: bool = field(default=False, metadata=LATER)
    attention: Literal["hyper", "naive"] = field(default="hyper", metadata=LATER)
    segment_tokens: int = field(default=512, metadata=LATER)
    memory_tokens: int = field(default=512, metadata=LATER)
    attention_window: int = field(default=256, metadata=LATER)
    window_2d: bool = field(default=False, metadata=LATER)
    in_context_patches: int = field(default=0, metadata=LATER)
    summary: Literal["pool", "queries"] = field(default="pool", metadata=LATER)
    overview_tokens: int = field(default=0, metadata=LATER)
    project: bool = field(default=True, metadata=LATER)

    def __post_init__(self) -> None:
        _one_of("context.kind", self.kind, get_args(ContextKind))
        _one_of("context.scan", self.scan, get_args(Scan))
        _one_of("context.attention", self.attention, ("hyper", "naive"))
        _one_of("context.summary", self.summary, ("pool", "queries"))
        for name in ("layers", "tokens_per_side", "mlp_ratio", "segment_tokens"):
            _at_least(f"context.{name}", getattr(self, name), 1)
        for name in ("heads", "memory_tokens", "overview_tokens", "in_context_patches"):
            _at_least(f"context.{name}", getattr(self, name), 0)
        _at_least("context.attention_window", self.attention_window, 2)
        if self.dim < 4 or self.dim % 4:
            raise ModelError(f"context.dim = {self.dim}", "must be a positive multiple of 4")
        if self.dim % self.head_count:
            raise ModelError(f"context.dim = {self.dim}", f"must be a multiple of context.heads = {self.head_count}")
        self._check_kinds()
        self._check_overview()

    def _check_kinds(self) -> None:
        if self.in_context_patches == 1:
            raise ModelError("context.in_context_patches = 1", "must be 0 (all tokens) or at least 2")
        if self.in_context_patches and self.kind != "hyper":
            why = f"is defined for hyper, not for {self.kind}"
            raise ModelError(f"context.in_context_patches = {self.in_context_patches}", why, "set it to 0")
        if self.window_2d and self.scan != "raster":
            why = f"does not go with the scan {self.scan}"
            raise ModelError("context.window_2d = True", why, "set scan to raster")
        if not self.project and self.kind != "none":
            raise ModelError("context.project = False", f"does not go with {self.kind}", "set kind to none")

    def _check_overview(self) -> None:
        side = self.overview_side
        if side * side * self.tokens_per_side**2 != self.overview_tokens:
            each = self.tokens_per_side**2
            why = f"must be 0 or tokens_per_side ** 2 times a square: {each}, {4 * each}, {9 * each} ..."
            raise ModelError(f"context.overview_tokens = {self.overview_tokens}", why)

    @property
    def head_count(self) -> int:
        """Number of attention heads."""
        return self.heads or max(1, self.dim // (HYPER_HEAD_DIM if self.kind == "hyper" else HEAD_DIM))

    @property
    def overview_side(self) -> int:
        """The low-resolution view of a window is so many regions wide and high; 0: there is none."""
        return math.isqrt(self.overview_tokens // self.tokens_per_side**2)


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """The local features: ``channels`` numbers every ``stride`` pixels; ``hidden`` is the width while they are made."""

    channels: int = 16
    stride: int = 4
    hidden: int = 64

    def __post_init__(self) -> None:
        for name in ("channels", "hidden"):
            _at_least(f"local.{name}", getattr(self, name), 1)
        _one_of("local.stride", self.stride, (2, 4, 8, 16))


@dataclass(frozen=True, slots=True)
class XTConfig:
    """Everything that fixes a network's shape and what its numbers mean.

    Parameters
    ----------
    region_encoder
        Name of a timm backbone that offers ``features_only``, or ``"custom"`` (a module that is passed to `XT`).
    region_px, halo_px
        Side of a region's inner and the pixels read beyond it on each side, in run pixels.
    in_channels, channel_names
        Number and meaning of the input channels.
    mean, std
        Per channel, on pixel values scaled to 0..1 as ``normalisation`` says.
    scale_um
        Pixel size that the model was trained at, micrometres; None for any.
    window
        Regions along a side of the window that was trained; 0 stands for the whole image.
    context, local
        The context encoder and the local features.
    mask, boxes, scores, label
        Class names of each head, or None for no such head. ``mask[0]`` is always ``"background"``.
    threshold
        Boxes below this score are not shown unless asked for.
    suppression_iou
        Of two boxes of one class that overlap by more than this IoU only the better one stays.
    label_head
        ``"token"`` classifies a class token that stands behind a window's tokens, ``"pooled"`` their mean (the naive
        head of the released code).
    sub_regions_px
        Nested tokenization: a region is cut into sub-regions of this side, those again, ...; the last size, with the
        halo, is what the region encoder sees. Empty: the region itself.
    patch_px
        Side of the region encoder's patches; None for the backbone's own.
    stored
        Type that tokens and local features are rounded to before anything uses them.
    skip_background
        Whether regions that a coarse level shows to be empty are not run, unless a run says otherwise.
    normalisation
        What becomes 0 and 1 before ``mean`` and ``std``: ``"range"``, the ends of the dtype's range (real numbers are
        taken to be in 0..1); ``"percentile"``, the image's own ``percentiles``, channel by channel.
    percentiles
        The lower and the higher one, 0 to 100.
    version
        Of this description; a newer one is refused.
    """

    region_encoder: str = "tf_efficientnet_lite0"
    region_px: int = 256
    halo_px: int = 32
    in_channels: int = 3
    channel_names: tuple[str, ...] = ("red", "green", "blue")
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale_um: float | None = None
    window: int = 8
    context: ContextConfig = field(default_factory=ContextConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    mask: tuple[str, ...] | None = None
    boxes: tuple[str, ...] | None = None
    scores: tuple[str, ...] | None = None
    threshold: float = 0.3
    suppression_iou: float = 0.4
    version: int = 1
    label: tuple[str, ...] | None = field(default=None, metadata=LATER)
    label_head: Literal["token", "pooled"] = field(default="token", metadata=LATER)
    sub_regions_px: tuple[int, ...] = field(default=(), metadata=LATER)
    patch_px: int | None = field(default=None, metadata=LATER)
    stored: Literal["float16", "float32"] = field(default="float16", metadata=LATER)
    skip_background: bool = field(default=False, metadata=LATER)
    normalisation: Normalisation = field(default="range", metadata=LATER)
    percentiles: tuple[float, float] = field(default=(0.1, 99.9), metadata=LATER)

    def __post_init__(self) -> None:
        if self.version > 1:
            raise ModelError(f"model version {self.version}", "is newer than this napari-xt", "upgrade napari-xt")
        _at_least("region_px", self.region_px, 32)
        _at_least("halo_px", self.halo_px, 0)
        _at_least("window", self.window, 0)
        if self.region_px % self.local.stride or self.halo_px % self.local.stride:
            raise ModelError(
                f"region_px = {self.region_px}, halo_px = {self.halo_px}", "must be multiples of local.stride"
            )
        _one_of("stored", self.stored, ("float16", "float32"))
        if self.patch_px is not None:
            _at_least("patch_px", self.patch_px, 1)
        self._check_nesting()
        self._check_channels()
        self._check_classes()
        self._check_label()

    def _check_nesting(self) -> None:
        for outer, inner in pairwise((self.region_px, *self.sub_regions_px)):
            if inner < 1 or inner >= outer or outer % inner:
                why = f"each size must divide the one before: {inner} does not divide {outer}"
                raise ModelError(f"sub_regions_px = {self.sub_regions_px}", why)

    def _check_channels(self) -> None:
        for name in ("channel_names", "mean", "std"):
            if len(getattr(self, name)) != self.in_channels:
                raise ModelError(name, f"must have in_channels = {self.in_channels} entries")
        if min(self.std) <= 0:
            raise ModelError(f"std = {self.std}", "must be positive")
        _one_of("normalisation", self.normalisation, get_args(Normalisation))
        ends = list(self.percentiles)
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 100:
            raise ModelError(f"percentiles = {self.percentiles}", "must be two numbers from 0 to 100, the lower first")

    def _check_classes(self) -> None:
        if not self.outputs:
            raise ModelError("mask, boxes, scores, label", "name the classes of at least one head")
        if self.mask is not None and (self.mask[:1] != ("background",) or not 2 <= len(self.mask) <= MAX_CLASSES + 1):
            raise ModelError(f"mask = {self.mask}", f"must be 'background' and 1 to {MAX_CLASSES} further classes")
        if not 0 <= self.threshold <= 1:
            raise ModelError(f"threshold = {self.threshold}", "must lie in 0..1")

    def _check_label(self) -> None:
        _one_of("label_head", self.label_head, ("token", "pooled"))
        if self.label and self.label_head == "token" and self.context.kind == "none":
            raise ModelError("label_head = 'token'", "needs a context encoder", "set label_head to pooled")
        if self.context.in_context_patches and self.outputs != ("label",):
            raise ModelError("context.in_context_patches", f"goes with label alone, not with {self.outputs}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The heads that the model has, of ``mask``, ``boxes``, ``scores``, ``label``."""
        return tuple(name for name in ("mask", "boxes", "scores", "label") if getattr(self, name) is not None)

    @property
    def dense(self) -> bool:
        """Whether a head decodes local features."""
        return self.mask is not None or self.boxes is not None

    @property
    def encoder_px(self) -> int:
        """Side of the square that the region encoder sees at a time."""
        return (self.region_px, *self.sub_regions_px)[-1] + 2 * self.halo_px

    @property
    def tokens_per_region(self) -> int:
        """L, the number of tokens of a region."""
        return self.context.tokens_per_side**2

    def sequence_length(self, regions: int) -> int:
        """N, the number of tokens that the context encoder sees of a window of so many regions."""
        walked = regions * self.tokens_per_region * (2 if self.context.scan == "two_stream" else 1)
        by_token = self.label is not None and self.label_head == "token"
        return self.context.overview_tokens + walked + by_token

    @property
    def outer_px(self) -> int:
        """Side of a region with its halo."""
        return self.region_px + 2 * self.halo_px

    def to_json(self) -> str:
        """The configuration as canonical JSON (sorted keys, no spaces): equal configurations give equal text."""
        return json.dumps(_told(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            The text is no such JSON, or has a field that this version does not know.
        """
        try:
            values = json.loads(text)
            values["context"] = ContextConfig(**values.get("context", {}))
            values["local"] = LocalConfig(**values.get("local", {}))
            told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**told)
        except ModelError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            known = ", ".join(f.name for f in fields(cls))
            raise ModelError("model configuration", f"can't be read: {error}", f"known fields: {known}") from error


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is told about a trained model: title, licence, provenance and measured figures.

    A ``synthetic`` model was trained on made-up images and is never offered for real ones. ``thumbnails`` show what it
    was trained on: PNG files in base64, see `napari_xt.model.thumbnails`.
    """

    name: str
    title: str = ""
    licence: str = ""
    provenance: str = ""
    use: str = "research use only, not for diagnosis"
    metrics: Mapping[str, float] = field(default_factory=dict)
    synthetic: bool = False
    thumbnails: Sequence[str] = field(default=(), repr=False)


def _told(config: Any) -> dict[str, Any]:
    """Fields by name, without those that were added later and are as they always were."""
    values = {f.name: (getattr(config, f.name), f) for f in fields(config)}
    said = {n: v for n, (v, f) in values.items() if not (f.metadata == LATER and v == f.default)}
    return {name: _told(value) if is_dataclass(value) else value for name, value in said.items()}


def _at_least(name: str, value: int, least: int) -> None:
    if value < least or value != int(value):
        raise ModelError(f"{name} = {value!r}", f"must be a whole number of at least {least}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{name} = {value!r}", "is not known", f"choose one of {', '.join(map(str, choices))}")
