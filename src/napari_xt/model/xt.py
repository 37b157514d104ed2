"""xT: regions are encoded independently, their tokens see each other in a window, heads decode the result.

Gupta et al. (2024), "xT: Nested Tokenization for Larger Context in Large Images". Knows tensors only; the engine calls
`encode`, `contextualise` and `decode` one by one, `XT.forward` is their composition. Dimensions:

    B  windows    R, Q  rows and columns of regions    C  input channels    P  side of a region with halo
    L  tokens of a region    D  token width    c  local channels    s  local stride    K  classes of a head
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.config import XTConfig
from napari_xt.model.context import context_encoder
from napari_xt.model.heads import BoxHead, DenseHead, ScoreHead
from napari_xt.model.region import RegionEncoder
from napari_xt.model.tokens import from_regions, positions, region_tokens, to_regions, token_map
from napari_xt.model.zoo import tensor_digest


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

    Attributes
    ----------
    name
        What the model is called; `load_model` sets it.
    """

    def __init__(self, config: XTConfig) -> None:
        super().__init__()
        self.config = config
        self.name = "model"
        dim, local = config.context.dim, config.local.channels
        self.region = RegionEncoder(config)
        self.context = context_encoder(config.context)
        self.context_norm = nn.LayerNorm(dim)
        self.background_token = nn.Parameter(0.02 * torch.randn(dim))
        self.null_context = nn.Parameter(torch.zeros(dim))
        self.mask_head = DenseHead(local, dim, len(config.mask)) if config.mask else None
        self.box_head = BoxHead(local, dim, len(config.boxes)) if config.boxes else None
        self.score_head = ScoreHead(dim, len(config.scores)) if config.scores else None

    @property
    def digest(self) -> str:
        """sha256 of the configuration and of the tensors as they are now: which model this is."""
        return tensor_digest(self.config, {name: value.numpy(force=True) for name, value in self.state_dict().items()})

    def prepare(self, pixels: NDArray[Any], channels: Sequence[int] | None = None) -> Tensor:
        """Turn pixels as they are stored into the network's input.

        Parameters
        ----------
        pixels
            ``(C, Y, X)``, any real dtype. Integers are scaled by their dtype's range to 0..1; floats are taken to be in
            0..1 already. What is not finite becomes the mean.
        channels
            Which of ``pixels``' channels the model's channels are, in its order; default: as they come.

        Returns
        -------
        Tensor
            ``(in_channels, Y, X)`` float32, normalised by mean and standard deviation.

        Raises
        ------
        ModelError
            The number of channels is not the model's.
        """
        chosen = pixels if channels is None else pixels[list(channels)]
        if len(chosen) != self.config.in_channels:
            raise ModelError(f"{len(chosen)} channels", f"the model wants {self.config.in_channels}")
        # numpy, because it divides the same way whatever the number of threads
        values = _unit_range(chosen)
        mean = np.asarray(self.config.mean, np.float32)[:, None, None]
        std = np.asarray(self.config.std, np.float32)[:, None, None]
        values = (values - mean) / std
        return torch.from_numpy(np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0))

    def encode(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode regions independently.

        Parameters
        ----------
        regions
            Normalised pixels with halo, ``(N, C, P, P)``.

        Returns
        -------
        tokens, local
            ``(N, L, D)`` and ``(N, c, S / s, S / s)`` float32; in evaluation rounded to float16, the type that they are
            stored in, so that it makes no difference whether they were.
        """
        if self.training:
            both: tuple[Tensor, Tensor] = self.region(regions)
            return both
        # on the CPU one by one: some convolutions choose another algorithm, and other bits, for a batch of one
        parts = torch.split(regions, 1) if regions.device.type == "cpu" else [regions]
        tokens, local = zip(*(self.region(part) for part in parts), strict=True)
        return torch.cat(tokens).half().float(), torch.cat(local).half().float()

    def contextualise(self, tokens: Tensor, start: tuple[int, int] = (0, 0), context: bool = True) -> Tensor:
        """Let the tokens of a window see each other.

        Parameters
        ----------
        tokens
            ``(B, R, Q, L, D)``.
        start
            Row and column of the first region, counted from the full window's origin.
        context
            False leaves every region alone with a learned sign of that.

        Returns
        -------
        Tensor
            ``(B, R, Q, L, D)``.
        """
        if not context:
            alone: Tensor = self.context_norm(tokens + self.null_context)
            return alone
        n = self.config.context.tokens_per_side
        x = token_map(tokens)
        rows, cols = x.shape[1:3]
        place = positions(rows, cols, x.shape[-1], (start[0] * n, start[1] * n)).to(x)
        mixed = self.context((x + place).flatten(1, 2)).unflatten(1, (rows, cols))
        seen: Tensor = self.context_norm(region_tokens(mixed, n))
        return seen

    def decode(self, local: Tensor, context: Tensor) -> XTOutput:
        """Decode a window.

        Parameters
        ----------
        local
            ``(B, R, Q, c, S / s, S / s)``.
        context
            ``(B, R, Q, L, D)``.
        """
        whole, wide = from_regions(local), token_map(context)
        return XTOutput(
            mask=self.mask_head(whole, wide) if self.mask_head else None,
            boxes=self.box_head(whole, wide) if self.box_head else None,
            scores=self.score_head(context) if self.score_head else None,
        )

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
        return self.decode(local, self.contextualise(tokens))


def _unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if pixels.dtype.kind in "iu":
        values /= np.iinfo(pixels.dtype).max
    return values
