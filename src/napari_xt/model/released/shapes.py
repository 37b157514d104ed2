"""Names and shapes of the tensors in the checkpoints that were published with the paper, in their order.

Written from the architectures (Swin V2: Liu et al., 2022; Hiera: Ryali et al., 2023; Mamba: Gu and Dao, 2023), so that
a file can be judged before any network is built. Dimensions: C channels of the region encoder's last map, D token
width. Knows numbers only; knows no files and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

STATE, CONVOLUTION, EXPANSION = 16, 4, 2  # of Mamba, as released
BIAS_HIDDEN = 512  # width of the MLP that makes Swin V2's position biases


@dataclass(frozen=True, slots=True)
class Backbone:
    """A region encoder: its name in timm, the side of a region and what fixes its shapes."""

    name: str
    region_px: int
    width: int
    depths: tuple[int, int, int, int]
    tensors: Callable[[Backbone], Named]

    @property
    def channels(self) -> int:
        """C."""
        return self.width * 8

    def shapes(self) -> dict[str, Shape]:
        """Shapes by timm's name in ``features_only`` form."""
        return dict(self.tensors(self))


def _linear(name: str, out: int, into: int) -> Named:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _mlp(name: str, width: int) -> Named:
    yield from _linear(f"{name}.fc1", 4 * width, width)
    yield from _linear(f"{name}.fc2", width, 4 * width)


def _swin(of: Backbone) -> Named:
    yield "patch_embed.proj.weight", (of.width, 3, 4, 4)
    yield "patch_embed.proj.bias", (of.width,)
    yield from _norm("patch_embed.norm", of.width)
    for stage, depth in enumerate(of.depths):
        width = of.width * 2**stage
        if stage:
            yield f"layers_{stage}.downsample.reduction.weight", (width, 2 * width)
            yield from _norm(f"layers_{stage}.downsample.norm", width)
        for block in range(depth):
            yield from _swin_block(f"layers_{stage}.blocks.{block}", width)


def _swin_block(name: str, width: int) -> Named:
    heads = width // 32
    yield f"{name}.attn.logit_scale", (heads, 1, 1)
    yield f"{name}.attn.q_bias", (width,)
    yield f"{name}.attn.v_bias", (width,)
    yield from _linear(f"{name}.attn.cpb_mlp.0", BIAS_HIDDEN, 2)
    yield f"{name}.attn.cpb_mlp.2.weight", (heads, BIAS_HIDDEN)
    yield f"{name}.attn.qkv.weight", (3 * width, width)
    yield from _linear(f"{name}.attn.proj", width, width)
    yield from _norm(f"{name}.norm1", width)
    yield from _mlp(f"{name}.mlp", width)
    yield from _norm(f"{name}.norm2", width)


def _hiera(of: Backbone) -> Named:
    yield "model.pos_embed", (1, (of.region_px // 4) ** 2, of.width)
    yield "model.patch_embed.proj.weight", (of.width, 3, 7, 7)
    yield "model.patch_embed.proj.bias", (of.width,)
    widths = [of.width * 2**stage for stage, depth in enumerate(of.depths) for _ in range(depth)]
    for block, (width, before) in enumerate(zip(widths, [of.width, *widths], strict=False)):
        yield from _hiera_block(f"model.blocks.{block}", width, before)


def _hiera_block(name: str, width: int, before: int) -> Named:
    yield from _norm(f"{name}.norm1", before)
    yield from _linear(f"{name}.attn.qkv", 3 * width, before)
    yield from _linear(f"{name}.attn.proj", width, width)
    yield from _norm(f"{name}.norm2", width)
    yield from _mlp(f"{name}.mlp", width)
    if width != before:
        yield from _linear(f"{name}.proj", width, before)


BACKBONES: Final = (
    Backbone("swinv2_tiny_window16_256", 256, 96, (2, 2, 6, 2), _swin),
    Backbone("swinv2_small_window16_256", 256, 96, (2, 2, 18, 2), _swin),
    Backbone("swinv2_base_window16_256", 256, 128, (2, 2, 18, 2), _swin),
    Backbone("swinv2_large_window12to16_192to256", 256, 192, (2, 2, 18, 2), _swin),
    Backbone("hiera_tiny_224", 224, 96, (1, 2, 7, 2), _hiera),
    Backbone("hiera_small_224", 224, 96, (1, 2, 11, 2), _hiera),
    Backbone("hiera_base_224", 224, 96, (2, 3, 16, 3), _hiera),
    Backbone("hiera_base_plus_224", 224, 112, (2, 3, 16, 3), _hiera),
    Backbone("hiera_large_224", 224, 144, (2, 6, 36, 4), _hiera),
)


@dataclass(frozen=True, slots=True)
class Decoder:
    """The part behind the region encoder: ``kind`` is ``"hyper"`` (or naive attention), ``"mamba"`` or ``"none"``."""

    kind: Literal["hyper", "mamba", "none"]
    layers: int
    dim: int
    mlp_ratio: int
    classes: int

    def shapes(self, channels: int) -> dict[str, Shape]:
        """Shapes by our name, of a decoder behind ``channels``; `released_name` has the released ones."""
        return dict(self._pooled(channels) if self.kind == "none" else self._context(channels))

    def _pooled(self, channels: int) -> Named:
        yield from _linear("label_head.hidden", self.mlp_ratio * channels, channels)
        yield from _norm("label_head.norm", self.mlp_ratio * channels)
        yield from _linear("label_head.out", self.classes, self.mlp_ratio * channels)

    def _context(self, channels: int) -> Named:
        yield "class_token", (1, 1, self.dim)
        yield from _linear("region.to_tokens", self.dim, channels)
        for layer in range(self.layers):
            yield from (_mamba if self.kind == "mamba" else _hyper)(f"context.layers.{layer}", self)
        yield from _norm("context_norm", self.dim)
        yield from _linear("label_head.out", self.classes, self.dim)


def _hyper(name: str, of: Decoder) -> Named:
    yield from _linear(f"{name}.attn.qkv", 3 * of.dim, of.dim)
    yield from _linear(f"{name}.attn.proj", of.dim, of.dim)
    yield f"{name}.input_layernorm.weight", (of.dim,)
    yield f"{name}.post_attention_layernorm.weight", (of.dim,)
    yield f"{name}.mlp.gate_proj.weight", (of.mlp_ratio * of.dim, of.dim)
    yield f"{name}.mlp.up_proj.weight", (of.mlp_ratio * of.dim, of.dim)
    yield f"{name}.mlp.down_proj.weight", (of.dim, of.mlp_ratio * of.dim)


def _mamba(name: str, of: Decoder) -> Named:
    inner, rank = EXPANSION * of.dim, -(-of.dim // 16)
    yield f"{name}.mixer.A_log", (inner, STATE)
    yield f"{name}.mixer.D", (inner,)
    yield f"{name}.mixer.in_proj.weight", (2 * inner, of.dim)
    yield f"{name}.mixer.conv1d.weight", (inner, 1, CONVOLUTION)
    yield f"{name}.mixer.conv1d.bias", (inner,)
    yield f"{name}.mixer.x_proj.weight", (rank + 2 * STATE, inner)
    yield from _linear(f"{name}.mixer.dt_proj", inner, rank)
    yield f"{name}.mixer.out_proj.weight", (of.dim, inner)
    yield from _norm(f"{name}.norm", of.dim)


_TOKEN = (
    ("class_token", "decoder.cls_token"),
    ("region.to_tokens.", "decoder.input_proj."),
    ("context.layers.", "decoder.layers."),
    ("context_norm.", "decoder.cls.0."),
    ("label_head.out.", "decoder.cls.1."),
)
_POOLED = (
    ("label_head.hidden.", "decoder.layers.0."),
    ("label_head.norm.", "decoder.layers.2."),
    ("label_head.out.", "decoder.layers.3."),
)


def released_name(kind: str, ours: str) -> str:
    """What a decoder's tensor of our name is called in the released files."""
    for mine, theirs in _POOLED if kind == "none" else _TOKEN:
        if ours.startswith(mine):
            return theirs + ours[len(mine) :]
    raise AssertionError(ours)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a released model: its name here, its name there and its shape there."""

    ours: str
    theirs: str
    shape: Shape


def tensors(backbone: Backbone, decoder: Decoder) -> list[Tensor]:
    """All tensors of a released model, in the order of its state dict."""
    head = decoder.shapes(backbone.channels).items()
    return [*(Tensor(name, released_name(decoder.kind, name), shape) for name, shape in head), *body(backbone)]


def body(backbone: Backbone) -> list[Tensor]:
    """The tensors of a region encoder; timm puts ``model.`` in front of Hiera's, the released code before any."""
    return [
        Tensor(f"region.backbone.{name}", f"encoder.model.{name.removeprefix('model.')}", shape)
        for name, shape in backbone.shapes().items()
    ]
