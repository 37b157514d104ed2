"""Mamba as context encoder: selective state spaces over the window's tokens, in alternating directions.

Gu & Dao (2023); in xT (Gupta et al., 2024, section 3.2) a stack of such layers is the linear-memory context encoder.
Knows tensors only. Dimensions:

    B  batch    L  tokens    D  token width    E  inner width, 2 D    N  state size, 16    R  rank of dt, ceil(D / 16)

Parameter names and shapes are those of ``mamba_ssm.Mamba``; the layer's arithmetic is that of the paper's released
code: ``u = LayerNorm(x)``, result ``u + Mamba(u)``, layers 0, 2, ... over the reversed sequence. Unless it
learns, a layer walks over segments of the window and carries its state from one to the next, so that its memory beyond
tokens in and tokens out does not grow with the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from napari_xt.model.context.scan import can_fuse, scan_on, selective_scan

STATE = 16
CONV = 4
EXPAND = 2
SEGMENT = 1024  # tokens whose inner activations are in memory at once, without gradients


class MambaState(NamedTuple):
    """What a layer carries on: its convolution's last inputs, ``(B, CONV - 1, E)``, and h, ``(B, N, E)``."""

    inputs: Tensor
    h: Tensor


class MambaMixer(nn.Module):
    """One selective state-space mixer: causal depthwise convolution, scan, gate.

    Parameters
    ----------
    dim
        D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner, rank = EXPAND * dim, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, CONV, groups=inner, padding=CONV - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, STATE + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._initialise_dt(rank)

    def _initialise_dt(self, rank: int) -> None:
        """Steps between 0.001 and 0.1 at the start, evenly in the logarithm, as in the released initialisation."""
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        dt = torch.exp(torch.rand(self.dt_proj.out_features) * math.log(100) + math.log(0.001))
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix whole sequences ``(B, L, D)``; token t sees tokens up to t."""
        u, gate, _ = self._convolve(tokens, self.start(tokens).inputs)
        return self._gated(selective_scan(u, *self._select(u), self.D), gate)

    def start(self, tokens: Tensor) -> MambaState:
        """Return the state before the first token, for sequences like ``tokens``."""
        batch, inner = len(tokens), self.D.numel()
        h = tokens.new_zeros(batch, STATE, inner, dtype=torch.promote_types(tokens.dtype, torch.float32))
        return MambaState(tokens.new_zeros(batch, CONV - 1, inner), h)

    def advance(self, tokens: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Mix the next ``tokens`` ``(B, L, D)`` of sequences; return the result and the state after them."""
        u, gate, inputs = self._convolve(tokens, state.inputs)
        y, h = scan_on(u, *self._select(u), self.D, state.h)
        return self._gated(y, gate), MambaState(inputs, h)

    def _convolve(self, tokens: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scan's input and the gate, ``(B, L, E)``, and the last inputs of the convolution.

        Four shifted products take a third of the time of ``conv1d`` on the channels-first copy that it wants.
        """
        length = tokens.shape[1]
        u, gate = self.in_proj(tokens).chunk(2, dim=-1)
        u = torch.cat([before, u], dim=1)
        mixed = self.conv1d.bias
        assert mixed is not None
        for k, weight in enumerate(self.conv1d.weight[:, 0].unbind(1)):
            mixed = torch.addcmul(mixed, u[:, k : k + length], weight)
        return F.silu(mixed), gate, u[:, length:].clone()

    def _select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the scan's dt, a, b and c for its input ``u``."""
        low, b, c = self.x_proj(u).split([self.dt_proj.in_features, STATE, STATE], dim=-1)
        return F.softplus(self.dt_proj(low)), -self.A_log.exp(), b, c

    def _gated(self, y: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.out_proj(y * F.silu(gate))
        return out


class MambaLayer(nn.Module):
    """LayerNorm, mixer, skip from the normalised input.

    Parameters
    ----------
    dim
        D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mixer = MambaMixer(dim)

    def forward(self, tokens: Tensor, reverse: bool = False) -> Tensor:
        """``(B, L, D) -> (B, L, D)``.

        Parameters
        ----------
        tokens
            Whole sequences.
        reverse
            Walk them from their last token to their first.
        """
        if can_fuse(tokens) or self._learns():
            u: Tensor = self.norm(tokens.flip(1) if reverse else tokens)
            u = u + self.mixer(u)
            return u.flip(1) if reverse else u
        return self._stream(tokens, reverse)

    def start(self, tokens: Tensor) -> MambaState:
        """Return the state before the first token, for sequences like ``tokens``."""
        return self.mixer.start(tokens)

    def advance(self, tokens: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Return the result for the next ``tokens`` ``(B, L, D)`` in walking order, and the state after them."""
        u: Tensor = self.norm(tokens)
        mixed, state = self.mixer.advance(u, state)
        return u + mixed, state

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(x.requires_grad for x in self.parameters())

    def _stream(self, tokens: Tensor, reverse: bool) -> Tensor:
        out: Tensor = _Segments.apply(self, tokens, reverse)
        return out


class _Segments(torch.autograd.Function):
    """``(layer, tokens, reverse)``: the layer by segments; for the gradient of the tokens it keeps their states.

    What is inside a segment is made again. The weights get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, layer: MambaLayer, tokens: Tensor, reverse: bool) -> Tensor:
        """Walk from segment to segment."""
        out, state, states = torch.empty_like(tokens), layer.start(tokens), []
        for part, target in _walk(reverse, tokens, out):
            states.append(state)
            result, state = layer.advance(part.flip(1) if reverse else part, state)
            target.copy_(result.flip(1) if reverse else result)
        if tokens.requires_grad:
            ctx.layer, ctx.reverse = layer, reverse
            ctx.save_for_backward(tokens, *(value for pair in states for value in pair))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[None, Tensor, None]:
        """Walk back, with the gradient of the state that the segment before has handed on."""
        tokens, *kept = ctx.saved_tensors
        states = [MambaState(*pair) for pair in zip(kept[::2], kept[1::2], strict=True)]
        grad, grad_state = torch.empty_like(tokens), [torch.zeros_like(value) for value in states[0]]
        walk = zip(states, _walk(ctx.reverse, tokens, grad_out, grad), strict=True)
        for state, (part, grad_part, target) in reversed(list(walk)):
            given = [x.detach().requires_grad_() for x in (part, *state)]
            with torch.enable_grad():
                ordered = given[0].flip(1) if ctx.reverse else given[0]
                result, after = ctx.layer.advance(ordered, MambaState(*given[1:]))
            wanted = grad_part.flip(1) if ctx.reverse else grad_part
            found, *grad_state = torch.autograd.grad((result, *after), given, (wanted, *grad_state))
            target.copy_(found)
        return None, grad, None


def _walk(reverse: bool, *sequences: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The segments of sequences ``(B, L, D)`` that belong together, in walking order."""
    segments = list(zip(*(torch.split(x, SEGMENT, 1) for x in sequences), strict=True))
    return reversed(segments) if reverse else segments


class Mamba(nn.Module):
    """A stack of Mamba layers of alternating direction, so that after two of them every token sees every other.

    Parameters
    ----------
    dim, layers
        D, and the number of layers.
    recurrent
        One layer's weights serve all of them, after Sliced Recursive Transformers (Shen et al., 2022).
    """

    def __init__(self, dim: int, layers: int, recurrent: bool = False) -> None:
        super().__init__()
        self.depth = layers
        self.layers = nn.ModuleList(MambaLayer(dim) for _ in range(1 if recurrent else layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, L, D) -> (B, L, D)``."""
        for depth in range(self.depth):
            tokens = self.layers[depth % len(self.layers)](tokens, reverse=depth % 2 == 0)
        return tokens
