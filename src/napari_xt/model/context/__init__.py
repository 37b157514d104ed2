"""Context encoders: they let the tokens of all regions of a window see each other. One file per encoder.

Each takes a whole window of tokens ``(B, N, D)`` and returns as many; knows nothing of images, regions or heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from napari_xt.model.config import ContextConfig
from napari_xt.model.context.mamba import Mamba


class NoContext(nn.Module):
    """The local baseline: every token stays what it is."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``tokens`` ``(B, N, D)`` unchanged."""
        return tokens


def context_encoder(config: ContextConfig) -> nn.Module:
    """Build the context encoder that ``config`` names."""
    if config.kind == "none":
        return NoContext()
    return Mamba(config.dim, config.layers)
