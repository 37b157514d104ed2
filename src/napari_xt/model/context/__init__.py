"""Context encoders: they let the tokens of all regions of a window see each other. One file per encoder.

Each is a module that takes a whole window of tokens ``(B, N, D)`` and returns as many; knows nothing of images, regions
or heads. One that has to know where tokens lie says ``uses_layout = True`` and takes a `Layout` as its second argument.
"""

from __future__ import annotations

from torch import Tensor, nn

from napari_xt.errors import ModelError
from napari_xt.model.config import ContextConfig
from napari_xt.model.context.hyper import Hyper
from napari_xt.model.context.longformer import Layout, Longformer
from napari_xt.model.context.mamba import Mamba
from napari_xt.model.context.transformer_xl import TransformerXL

__all__ = ["Hyper", "Layout", "Longformer", "Mamba", "NoContext", "TransformerXL", "context_encoder"]


class NoContext(nn.Module):
    """The local baseline: every token stays what it is."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``tokens`` ``(B, N, D)`` unchanged."""
        return tokens


def context_encoder(config: ContextConfig) -> nn.Module:
    """Build the context encoder that ``config`` names.

    Raises
    ------
    ModelError
        It is one of the user's own.
    """
    dim, layers, heads, ratio = config.dim, config.layers, config.head_count, config.mlp_ratio
    match config.kind:
        case "none":
            return NoContext()
        case "mamba":
            return Mamba(dim, layers, config.recurrent)
        case "hyper":
            return Hyper(dim, layers, heads, ratio, config.causal, config.attention, config.recurrent)
        case "transformer_xl":
            spans = config.segment_tokens, config.memory_tokens
            return TransformerXL(dim, layers, heads, ratio, *spans, config.recurrent)
        case "longformer":
            seen = config.attention_window, config.window_2d
            return Longformer(dim, layers, heads, ratio, *seen, config.recurrent)
    raise ModelError(f"context.kind = {config.kind!r}", "is a module of your own", "pass it: XT(config, context=...)")
