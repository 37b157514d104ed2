"""xT: regions are encoded independently, their tokens see each other in a window, heads decode the result.

Gupta et al. (2024), "xT: Nested Tokenization for Larger Context in Large Images". Knows tensors only; the engine calls
`encode`, `contextualise` and `decode` one by one, `XT.forward` is their composition. Dimensions:

    B  windows    R, Q  rows and columns of regions    C  input channels    P  side of a region with halo
    L  tokens of a region    D  token width    c  local channels    s  local stride    K  classes of a head
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.config import CUSTOM, ModelCard, XTConfig
from napari_xt.model.context import Layout, context_encoder
from napari_xt.model.heads import BoxHead, DenseHead, LabelHead, PooledLabelHead, ScoreHead
from napari_xt.model.intensity import Limits, normalised
from napari_xt.model.region import TOGETHER, RegionEncoder
from napari_xt.model.tokens import from_regions, positions, region_tokens, scan_order, to_full, to_regions, token_map
from napari_xt.model.zoo import encoder_digest, tensor_digest

STORED = {"float16": torch.float16, "float32": torch.float32}


class Context(NamedTuple):
    """What the context encoder says: of a window's ``regions (B, R, Q, L, D)``, and a ``summary (B, D)`` of it all."""

    regions: Tensor
    summary: Tensor


class XTOutput(NamedTuple):
    """Raw logits; None for a head that the model does not have.

    ``mask (B, K, R S / s, Q S / s)``; ``boxes (B, K + 4, R S / s, Q S / s)`` as `heads.BoxHead` describes them;
    ``scores (B, R, Q, K)``; ``label (B, K)``.
    """

    mask: Tensor | None = None
    boxes: Tensor | None = None
    scores: Tensor | None = None
    label: Tensor | None = None


class XT(nn.Module):
    """The network that a `XTConfig` describes.

    Parameters
    ----------
    config
        Sizes, encoders, heads and classes.
    region_encoder
        A module of your own in place of the one that ``config`` names: it takes normalised regions with halo
        ``(N, C, P, P)`` and returns tokens ``(N, L, D)`` and local features ``(N, c, S / s, S / s)`` of their inner.
        A run computes with a copy of it (`copy.deepcopy`), in float32 unless bfloat16 is asked for by name.
    context
        A module of your own in place of the one that ``config`` names: ``(B, N, D) -> (B, N, D)``.

    Attributes
    ----------
    name
        What the model is called; `load_model` sets it.
    blank
        Whether its heads have learned nothing: it only encodes what is to be scribbled on, and states nothing.
    given
        What a user gives to get it, a name or a path; empty where it comes from no file.
    card
        What is told about it, of a model that was loaded.
    report
        What was found, ignored and assumed where a released checkpoint was loaded, a line each.
    region_dtype
        What the region encoder computes in: float32, but in the copy that a run of lower precision works with.

    Raises
    ------
    ModelError
        The parts do not fit each other.
    """

    def __init__(
        self, config: XTConfig, *, region_encoder: nn.Module | None = None, context: nn.Module | None = None
    ) -> None:
        super().__init__()
        if region_encoder is not None:
            config = replace(config, region_encoder=CUSTOM)
        elif config.region_encoder == CUSTOM:
            do = "pass it: XT(config, region_encoder=...)"
            raise ModelError("region_encoder = 'custom'", "is a module of your own", do)
        if context is not None:
            config = replace(config, context=replace(config.context, kind="custom"))
        self.config = config
        self.name, self.given, self.blank = "model", "", False
        self.card: ModelCard | None = None
        self.report: tuple[str, ...] = ()
        self.region_dtype = torch.float32
        dim, local = config.context.dim, config.local.channels
        self.region = RegionEncoder(config) if region_encoder is None else region_encoder
        self.context = context_encoder(config.context) if context is None else context
        self.context_norm = nn.LayerNorm(dim) if config.context.project else nn.Identity()
        self.background_token = nn.Parameter(0.02 * torch.randn(dim))
        self.null_context = nn.Parameter(torch.zeros(dim))
        by_token = config.label is not None and config.label_head == "token"
        self.class_token = nn.Parameter(0.02 * torch.randn(dim)) if by_token else None
        self.overview_token = nn.Parameter(0.02 * torch.randn(dim)) if config.context.overview_tokens else None
        self.mask_head = DenseHead(local, dim, len(config.mask)) if config.mask else None
        self.box_head = BoxHead(local, dim, len(config.boxes)) if config.boxes else None
        self.score_head = ScoreHead(dim, len(config.scores)) if config.scores else None
        self.label_head = _label_head(config) if config.label else None

    @property
    def digest(self) -> str:
        """sha256 of the configuration and of the tensors as they are now: which model this is."""
        return tensor_digest(self.config, {name: value.numpy(force=True) for name, value in self.state_dict().items()})

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(value.numel() * value.element_size() for value in self.state_dict().values())

    @property
    def encoder_digest(self) -> str:
        """sha256 of the part of the configuration and tensors that tokens and local features depend on."""
        return encoder_digest(self.config, {name: v.numpy(force=True) for name, v in self.state_dict().items()})

    def prepare(
        self,
        pixels: NDArray[Any],
        channels: Sequence[int] | None = None,
        out: Tensor | None = None,
        hidden: NDArray[np.bool_] | None = None,
        limits: Sequence[Limits] = (),
    ) -> Tensor:
        """Turn pixels as they are stored into the network's input.

        Parameters
        ----------
        pixels
            ``(C, Y, X)``, any real dtype. Integers are scaled by their dtype's range to 0..1; floats are taken to be in
            0..1 already, unless ``limits`` say otherwise. What is not finite becomes the mean.
        channels
            Which of ``pixels``' channels the model's channels are, in its order; default: as they come.
        out
            Where to put it: ``(in_channels, Y, X)`` on the CPU, any layout and floating dtype; default: new.
        hidden
            ``(Y, X)``, where there is no picture, whatever the pixels are: the mean stands there.
        limits
            For each of the model's channels the values that become 0 and 1, see `intensity.between`; none: the range.

        Returns
        -------
        Tensor
            ``(in_channels, Y, X)``, float32 unless ``out`` says otherwise, normalised by mean and standard deviation.

        Raises
        ------
        ModelError
            The number of channels is not the model's.
        """
        chosen = range(len(pixels)) if channels is None else channels
        if len(chosen) != self.config.in_channels:
            raise ModelError(f"{len(chosen)} channels", f"the model wants {self.config.in_channels}")
        each = limits or (None,) * len(chosen)
        filled = torch.empty(len(chosen), *pixels.shape[1:]) if out is None else out
        # channel by channel: what is worked on stays in the cache
        for plane, channel, mean, std, ends in zip(
            filled, chosen, self.config.mean, self.config.std, each, strict=True
        ):
            plane.copy_(torch.from_numpy(normalised(pixels[channel], mean, std, ends)))
        if hidden is not None and hidden.any():
            filled[:, torch.from_numpy(hidden)] = 0
        return filled

    def encode(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode regions independently.

        Parameters
        ----------
        regions
            Normalised pixels with halo, ``(N, C, P, P)``; in evaluation the encoder sees them as ``region_dtype``.

        Returns
        -------
        tokens, local
            ``(N, L, D)`` and ``(N, c, S / s, S / s)`` float32 (no channels where no head asks for them); in evaluation
            rounded to the type that they are stored in, so that it makes no difference whether they were.
        """
        if self.training:
            both: tuple[Tensor, Tensor] = self.region(regions)
            return both
        # on the CPU one by one: some convolutions choose another algorithm, and other bits, for a batch of one
        parts = torch.split(regions.to(self.region_dtype), 1 if regions.device.type == "cpu" else TOGETHER)
        tokens, local = zip(*(self.region(part) for part in parts), strict=True)
        stored = STORED[self.config.stored]
        return torch.cat(tokens).to(stored).float(), torch.cat(local).to(stored).float()

    def overview(self, images: Tensor) -> Tensor | None:
        """Encode a low-resolution view of whole windows; None for a model that asks for none.

        Parameters
        ----------
        images
            Normalised pixels of a window's regions, ``(B, C, R S, Q S)``; whatever its shape, the view is square.

        Returns
        -------
        Tensor
            ``(B, n, D)``, n = ``config.context.overview_tokens``.
        """
        config, side = self.config, self.config.context.overview_side
        if not side:
            return None
        view = F.adaptive_avg_pool2d(images.contiguous(), side * config.region_px)
        regions = to_regions(view, config.region_px, config.halo_px)
        tokens, _ = self.encode(regions.flatten(0, 2))
        return token_map(tokens.reshape(*regions.shape[:3], *tokens.shape[1:])).flatten(1, 2)

    def contextualise(
        self, tokens: Tensor, start: tuple[int, int] = (0, 0), context: bool = True, overview: Tensor | None = None
    ) -> Context:
        """Let the tokens of a window see each other.

        Parameters
        ----------
        tokens
            ``(B, R, Q, L, D)``.
        start
            Row and column of the first region, counted from the full window's origin.
        context
            False leaves every region alone with a learned sign of that.
        overview
            What `overview` returned for these windows, ``(B, n, D)``.
        """
        if not context or self.config.context.kind == "none":
            alone = self.context_norm(tokens if context else tokens + self.null_context)
            return Context(alone, alone.mean(dim=(1, 2, 3)))
        n = self.config.context.tokens_per_side
        x = token_map(tokens)
        rows, cols = x.shape[1:3]
        x = (x + positions(rows, cols, x.shape[-1], (start[0] * n, start[1] * n)).to(x)).flatten(1, 2)
        patches = self.config.context.in_context_patches
        if self.class_token is not None and 0 < patches <= rows * cols:
            summary = self._in_context(x, self.class_token, patches)
            return Context(region_tokens(self.context_norm(x.reshape(len(x), rows, cols, -1)), n), summary)
        mixed, ends = self._mix(x, rows, cols, overview)
        regions = region_tokens(mixed.reshape(len(x), rows, cols, -1), n)
        return Context(regions, ends[:, -1] if self.class_token is not None else mixed.mean(dim=1))

    def _mix(self, x: Tensor, rows: int, cols: int, overview: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the context encoder over ``x (B, rows * cols, D)``: ``x`` in its order, and what stood behind it."""
        config = self.config.context
        order = scan_order(config.scan, rows, cols, config.tokens_per_side).to(x.device)
        ahead = self._overview_tokens(x, overview)
        behind = x[:, :0] if self.class_token is None else self.class_token.expand(len(x), 1, -1)
        sequence = torch.cat([ahead, x[:, order], behind], dim=1)
        layout = (Layout(ahead.shape[1], len(order) // cols, cols, behind.shape[1]),)
        mixed = self.context_norm(
            self.context(sequence, *(layout if getattr(self.context, "uses_layout", False) else ()))
        )
        end = mixed.shape[1] - behind.shape[1]
        kept = order[-rows * cols :]
        return mixed[:, end - rows * cols : end][:, kept.argsort()], mixed[:, end:]

    def _overview_tokens(self, x: Tensor, overview: Tensor | None) -> Tensor:
        if self.overview_token is None:
            return x[:, :0]
        if overview is None:
            raise ModelError("overview", "is missing: the model has overview_tokens", "pass what XT.overview returns")
        side = math.isqrt(overview.shape[1])
        return overview + positions(side, side, x.shape[-1]).flatten(0, 1).to(x) + self.overview_token

    def _in_context(self, x: Tensor, class_token: Tensor, patches: int) -> Tensor:
        """The class token after each of overlapping windows of ``patches`` tokens alone, on average: ``(B, D)``."""
        behind = class_token.expand(len(x), 1, -1)
        whole = torch.cat([x, behind], dim=1)
        starts = range(0, x.shape[1], patches // 2)
        seen = [self.context(torch.cat([whole[:, i : i + patches], behind], dim=1))[:, -1] for i in starts]
        summary: Tensor = self.context_norm(torch.stack(seen).mean(dim=0))
        return summary

    def decode(self, local: Tensor, context: Context) -> XTOutput:
        """Decode a window.

        Parameters
        ----------
        local
            ``(B, R, Q, c, S / s, S / s)``.
        context
            Of the same window.
        """
        mask, boxes = self.decode_rows(from_regions(local), context)
        scores, label = self.classify(context)
        return XTOutput(mask, boxes, scores, label)

    def decode_rows(
        self,
        local: Tensor,
        context: Context,
        first: int = 0,
        height: int | None = None,
        outputs: Collection[str] = ("mask", "boxes"),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Decode mask and boxes of some rows of a window.

        Parameters
        ----------
        local
            ``(B, c, h, w)``, the assembled local features of rows ``first`` and on of ``height`` (default: all).
        context
            Of the whole window.
        outputs
            Which of ``"mask"`` and ``"boxes"`` are wanted.

        Returns
        -------
        mask, boxes
            As in `XTOutput`, of these rows.
        """
        wide = token_map(context.regions)
        heads = {"mask": self.mask_head, "boxes": self.box_head}
        mask, boxes = (
            head(local, wide, first, height) if head and name in outputs else None for name, head in heads.items()
        )
        return mask, boxes

    def classify(self, context: Context) -> tuple[Tensor | None, Tensor | None]:
        """Class logits of a window's regions and of the window, ``scores`` and ``label`` of `XTOutput`."""
        scores = self.score_head(context.regions) if self.score_head else None
        return scores, self.label_head(context.summary) if self.label_head else None

    def forward(self, images: Tensor) -> XTOutput:
        """Run whole images, each as one window.

        Parameters
        ----------
        images
            Normalised, ``(B, C, H, W)``, any size; edge regions are filled by replication.

        Returns
        -------
        XTOutput
            Logits over the full regions (so up to a region's side more than ``H, W``).
        """
        regions = to_regions(images, self.config.region_px, self.config.halo_px)
        tokens, local = self.encode(regions.flatten(0, 2))
        tokens, local = (x.reshape(*regions.shape[:3], *x.shape[1:]) for x in (tokens, local))
        overview = self.overview(to_full(images, self.config.region_px))
        return self.decode(local, self.contextualise(tokens, overview=overview))


def _label_head(config: XTConfig) -> nn.Module:
    assert config.label is not None
    if config.label_head == "token":
        return LabelHead(config.context.dim, len(config.label))
    return PooledLabelHead(config.context.dim, len(config.label), config.context.mlp_ratio)
