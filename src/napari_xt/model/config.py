"""What a model is, as values: the configuration that a checkpoint carries and from which its network is built.

Imports no torch, so that a model can be listed and planned for without loading it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from napari_xt.errors import ModelError

ContextKind = Literal["mamba", "none"]
MAX_CLASSES = 253  # mask values 254 and 255 are kept for corrections


@dataclass(frozen=True, slots=True)
class ContextConfig:
    """The context encoder.

    Parameters
    ----------
    kind
        ``"mamba"`` or ``"none"`` (every region for itself).
    layers
        Number of layers.
    dim
        Width D of a token.
    tokens_per_side
        A region gives ``tokens_per_side ** 2`` tokens.
    scan
        Order of the tokens: ``"raster"`` is row-major over the window's assembled token map, as in the released code.
    """

    kind: ContextKind = "mamba"
    layers: int = 4
    dim: int = 192
    tokens_per_side: int = 2
    scan: Literal["raster"] = "raster"

    def __post_init__(self) -> None:
        _one_of("context.kind", self.kind, ("mamba", "none"))
        _one_of("context.scan", self.scan, ("raster",))
        for name in ("layers", "tokens_per_side"):
            _at_least(f"context.{name}", getattr(self, name), 1)
        if self.dim < 4 or self.dim % 4:
            raise ModelError(f"context.dim = {self.dim}", "must be a positive multiple of 4")


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
        Name of a timm backbone that offers ``features_only``.
    region_px, halo_px
        Side of a region's inner and the pixels read beyond it on each side, in run pixels.
    in_channels, channel_names
        Number and meaning of the input channels.
    mean, std
        Per channel, on pixel values scaled to 0..1 by the dtype's range.
    scale_um
        Pixel size that the model was trained at, micrometres; None for any.
    window
        Regions along a side of the window that was trained; 0 stands for the whole image.
    context, local
        The context encoder and the local features.
    mask, boxes, scores
        Class names of each head, or None for no such head. ``mask[0]`` is always ``"background"``.
    threshold
        Boxes below this score are not shown unless asked for.
    suppression_iou
        Of two boxes of one class that overlap by more than this IoU only the better one stays.
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
        self._check_channels()
        self._check_classes()

    def _check_channels(self) -> None:
        for name in ("channel_names", "mean", "std"):
            if len(getattr(self, name)) != self.in_channels:
                raise ModelError(name, f"must have in_channels = {self.in_channels} entries")
        if min(self.std) <= 0:
            raise ModelError(f"std = {self.std}", "must be positive")

    def _check_classes(self) -> None:
        if not any((self.mask, self.boxes, self.scores)):
            raise ModelError("mask, boxes, scores", "name the classes of at least one head")
        if self.mask is not None and (self.mask[:1] != ("background",) or not 2 <= len(self.mask) <= MAX_CLASSES + 1):
            raise ModelError(f"mask = {self.mask}", f"must be 'background' and 1 to {MAX_CLASSES} further classes")
        if not 0 <= self.threshold <= 1:
            raise ModelError(f"threshold = {self.threshold}", "must lie in 0..1")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The heads that the model has, of ``mask``, ``boxes``, ``scores``."""
        return tuple(name for name in ("mask", "boxes", "scores") if getattr(self, name) is not None)

    @property
    def tokens_per_region(self) -> int:
        """L, the number of tokens of a region."""
        return self.context.tokens_per_side**2

    @property
    def outer_px(self) -> int:
        """Side of the square that the region encoder sees."""
        return self.region_px + 2 * self.halo_px

    def to_json(self) -> str:
        """The configuration as canonical JSON (sorted keys, no spaces): equal configurations give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

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
    """What is told about a trained model: title, licence, provenance and measured figures."""

    name: str
    title: str = ""
    licence: str = ""
    provenance: str = ""
    use: str = "research use only, not for diagnosis"
    metrics: Mapping[str, float] = field(default_factory=dict)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least or value != int(value):
        raise ModelError(f"{name} = {value!r}", f"must be a whole number of at least {least}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{name} = {value!r}", "is not known", f"choose one of {', '.join(map(str, choices))}")
