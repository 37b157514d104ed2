"""Heads: from local features and context to masks, boxes and region scores.

Knows tensors only. Dimensions:

    B  windows    R, Q  rows and columns of regions    n  tokens along a region's side    D  token width
    c  local channels    h, w  the window at the local stride s    K  classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_xt.model.convolution import PointwiseConv2d

CANDIDATE = 0.05  # boxes below this score are not kept at all
BAND, ACROSS = 64, 512  # rows and columns of local features that a head works on at a time
PAD_ROWS = 16  # a matrix product on a few rows gives other bits than the same rows among sixteen


class DenseHead(nn.Module):
    """Local features joined with the context of the assembled token map, then point by point to the outputs.

    The context is interpolated bilinearly across the borders of regions and clamped at the window's edge; nothing else
    looks sideways, so regions meet without a seam.

    Parameters
    ----------
    local, context, outputs
        Channels in and out.
    hidden
        Width in between.
    """

    def __init__(self, local: int, context: int, outputs: int, hidden: int = 48) -> None:
        super().__init__()
        self.from_local = PointwiseConv2d(local, hidden)
        self.from_context = nn.Linear(context, hidden)
        self.mix = PointwiseConv2d(hidden, hidden)
        self.out = PointwiseConv2d(hidden, outputs)

    def forward(self, local: Tensor, context: Tensor, first: int = 0, height: int | None = None) -> Tensor:
        """Decode a window, or some of its rows.

        Parameters
        ----------
        local
            ``(B, c, h, w)``: rows ``first`` and on, as wide as the window.
        context
            Of the whole window, ``(B, R n, Q n, D)``.
        first, height
            Where the rows lie, and how many the window has; default: these are all of them.

        Returns
        -------
        Tensor
            Logits ``(B, outputs, h, w)``.
        """
        height = local.shape[2] if height is None else height
        parts = torch.split(local, BAND, dim=2)
        return torch.cat([self._band(part, context, first + i * BAND, height) for i, part in enumerate(parts)], dim=2)

    def _band(self, local: Tensor, context: Tensor, first: int, height: int) -> Tensor:
        """A few rows: what a whole window takes while it is worked on is not all in memory at once."""
        last = context.shape[1] - 1
        rows = torch.arange(first, first + local.shape[2])
        at = ((rows + 0.5) * ((last + 1) / height) - 0.5).clamp(0, last)
        above = at.floor().long()
        seen = slice(int(above[0]), min(int(above[-1]) + 2, last + 1))
        tokens = self.from_context(context[:, seen]).permute(0, 3, 1, 2)  # (B, hidden, few, Q n)
        wide = F.interpolate(tokens, size=(tokens.shape[2], local.shape[3]), mode="bilinear", align_corners=False)
        share, parts = (at - above)[:, None].to(local), []
        for some in _runs(above):
            up = int(above[some.start]) - seen.start
            down = min(up + 1, wide.shape[2] - 1)
            parts.append(self._between(local[:, :, some], wide[:, :, up, None], wide[:, :, down, None], share[some]))
        return torch.cat(parts, dim=2)

    def _between(self, local: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
        """Rows between the same two rows of tokens ``(B, hidden, 1, w)``, each at ``share (rows, 1)`` of the way."""
        columns = zip(*(torch.split(x, ACROSS, dim=3) for x in (local, above, below)), strict=True)
        return torch.cat([self._part(part, up, down, share) for part, up, down in columns], dim=3)

    def _part(self, local: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
        x = self.from_local(local)
        x += torch.lerp(above, below, share)
        logits: Tensor = self.out(self.mix(x.relu_()).relu_())
        return logits


def _runs(values: Tensor) -> list[slice]:
    """Where the same value stands in a row."""
    changes = (values.diff().nonzero()[:, 0] + 1).tolist()
    return [slice(*ends) for ends in pairwise([0, *changes, len(values)])]


class BoxHead(DenseHead):
    """Anchor-free centres (Zhou et al., 2019, "Objects as Points"): a heat map per class, offset and size.

    Output channels: K heat logits; offset logits ``(y, x)`` within the cell; log size ``(height, width)`` in cells.
    """

    def __init__(self, local: int, context: int, classes: int) -> None:
        super().__init__(local, context, classes + 4, hidden=64)
        nn.init.constant_(self.out.bias[:classes], math.log(0.02 / 0.98))  # type: ignore[index]
        nn.init.constant_(self.out.bias[classes + 2 :], 2.0)  # type: ignore[index]


class ScoreHead(nn.Module):
    """Class scores of each region from the mean of its context tokens."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, classes)

    def forward(self, context: Tensor) -> Tensor:
        """``(B, R, Q, n * n, D)`` -> logits ``(B, R, Q, K)``."""
        rows = context.mean(dim=-2).flatten(0, 2)
        count = len(rows)
        rows = F.pad(rows, (0, 0, 0, -count % PAD_ROWS))
        logits: Tensor = self.out(F.gelu(self.hidden(self.norm(rows))))
        return logits[:count].reshape(*context.shape[:3], -1)


class LabelHead(nn.Module):
    """Class logits of a whole window from its class token."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, classes)

    def forward(self, summary: Tensor) -> Tensor:
        """``(B, D)`` -> logits ``(B, K)``."""
        logits: Tensor = self.out(summary)
        return logits


class PooledLabelHead(nn.Module):
    """The naive head of the released code: the mean of all tokens through one hidden layer."""

    def __init__(self, dim: int, classes: int, expand: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, expand * dim)
        self.norm = nn.LayerNorm(expand * dim)
        self.out = nn.Linear(expand * dim, classes)

    def forward(self, summary: Tensor) -> Tensor:
        """``(B, D)`` -> logits ``(B, K)``."""
        logits: Tensor = self.out(self.norm(F.gelu(self.hidden(summary))))
        return logits


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes as tensors of one window, ordered by falling score.

    ``boxes (n, 4)`` float32 half-open y0, x0, y1, x1 and ``centres (n, 2)`` y, x in pixels from the window's corner;
    ``scores (n,)`` 0..1; ``labels (n,)`` class index.
    """

    boxes: Tensor
    centres: Tensor
    scores: Tensor
    labels: Tensor


def box_geometry(raw: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Centres and sizes at every cell.

    Parameters
    ----------
    raw
        The last four channels of a `BoxHead`, ``(B, 4, h, w)``.
    stride
        Pixels per cell.

    Returns
    -------
    centres, sizes
        ``(B, 2, h, w)`` each, pixels, ``(y, x)`` and ``(height, width)``. A centre never leaves its cell.
    """
    height, width = raw.shape[-2:]
    rows = torch.arange(height, device=raw.device, dtype=raw.dtype)[:, None].expand(height, width)
    cols = torch.arange(width, device=raw.device, dtype=raw.dtype).expand(height, width)
    return _geometry(raw, torch.stack([rows, cols]), stride, dim=1)


def _geometry(raw: Tensor, cells: Tensor, stride: int, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Centres and sizes of ``raw``, whose four channels are ``dim``, at ``cells`` (y, x)."""
    offsets, sizes = torch.split(raw, 2, dim)
    return (cells + offsets.sigmoid().clamp(0.001, 0.999)) * stride, sizes.clamp(-2, 7).exp() * stride


def decode_boxes(raw: Tensor, stride: int) -> Detections:
    """The local maxima of one window's heat maps as boxes, before boxes compete.

    Parameters
    ----------
    raw
        Output of a `BoxHead` for one window, ``(K + 4, h, w)``.
    stride
        Pixels per cell.
    """
    heat = raw[:-4].contiguous()
    high = heat >= math.log(CANDIDATE / (1 - CANDIDATE))
    labels, rows, cols = (high & (heat == _highest_around(heat))).nonzero(as_tuple=True)
    order = heat[labels, rows, cols].argsort(descending=True, stable=True)
    labels, rows, cols = labels[order], rows[order], cols[order]
    # few numbers, in double and on the CPU: the bits of a single exp depend on how many are worked out beside it
    seen, cells = raw[-4:, rows, cols].cpu().double(), torch.stack([rows, cols]).cpu()
    centres, sizes = (x.T.float() for x in _geometry(seen, cells, stride))  # (n, 2)
    scores = heat[labels, rows, cols].cpu().double().sigmoid().float()
    return Detections(torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1), centres, scores, labels.cpu())


def _highest_around(heat: Tensor) -> Tensor:
    """The highest of each cell's 3 x 3 neighbourhood, ``(K, h, w)``; what max_pool2d gives, which is slow at it."""
    wide = F.pad(heat, (1, 1, 1, 1), value=-math.inf)
    tall = torch.maximum(torch.maximum(wide[:, :-2], wide[:, 2:]), wide[:, 1:-1])
    return torch.maximum(torch.maximum(tall[..., :-2], tall[..., 2:]), tall[..., 1:-1])
