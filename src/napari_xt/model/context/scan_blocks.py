"""The linear recurrence of the selective scan over blocks of tokens, with its gradient, in plain torch.

Knows tensors only; where the recurrence comes from and which other forms it has is told in `scan`. Dimensions:

    B  batch    L  tokens    E  channels    N  state size    K  chunks of a block    T  tokens of a chunk    S = K T

    h[t] = 2^(dt[t] A) h[t-1] + x[t] B[t]        y[t] = C[t] . h[t] + skip u[t]        x[t] = dt[t] u[t]

The decays and inputs of a block take a few operations on all of its tokens; its chunks then walk their tokens side by
side, one multiply-add each, in memory that stays in the cache. Decays are powers of two because torch's ``exp2`` took a
quarter of the time of its ``exp``. Rows of channels are ``(B, L, 1, E)`` here, columns of states ``(B, L, N, 1)``, A is
``(N, E)`` and a state ``(B, N, E)``, so that each product has the shape of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LN2 = math.log(2)
STEP = 2**13  # numbers of a sequence that a step on a CPU should work on
GPU_STEP = 2**19  # and of a batch, elsewhere
BLOCK = 2**19  # numbers of a block on a CPU: what its cache holds
FEWEST = 4  # chunks that are worth walking twice
CHUNK = 32  # tokens of each of several chunks
ALONE = 8, 64  # least and most tokens of a block that is one chunk


class Run(NamedTuple):
    """Blocks of one shape that follow each other, from token ``first`` to ``stop``; K = chunks, T = tokens."""

    first: int
    stop: int
    chunks: int
    tokens: int

    def blocks(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Cut ``tensors`` ``(B, L, ...)`` block by block."""
        size = self.chunks * self.tokens
        return list(zip(*(torch.split(x[:, self.first : self.stop], size, 1) for x in tensors), strict=True))


def runs(length: int, chunks: int, tokens: int) -> Iterator[Run]:
    """Cut ``length`` tokens into blocks, then the whole chunks that remain, then the tokens that remain."""
    first = 0
    while first < length:
        left = length - first
        k, t = min(chunks, left // tokens) or 1, min(tokens, left)
        stop = first + left // (k * t) * k * t
        yield Run(first, stop, k, t)
        first = stop


def block_shape(state: Tensor) -> tuple[int, int]:
    """Return the K and T that suit the device and the size of a state; on a CPU a batch's size changes no result."""
    if state.device.type != "cpu":
        return max(1, GPU_STEP // state.numel()), CHUNK
    chunks = STEP // state[0].numel()
    if chunks >= FEWEST:
        return chunks, CHUNK
    least, most = ALONE
    return 1, min(max(BLOCK // state.numel(), least), most)


class Block:
    """Working memory: a number for every token, state and channel of a block.

    Parameters
    ----------
    run
        Of such blocks.
    like
        A state of the wanted type, device and size.
    """

    def __init__(self, run: Run, like: Tensor) -> None:
        self.chunks = like.new_empty(len(like), run.chunks, run.tokens, *like.shape[1:])
        self.tokens = self.chunks.flatten(1, 2)  # (B, S, N, E)
        self.steps = self.chunks.unbind(2)  # T of (B, K, N, E)


def solve(decay: Block, x: Block, dt: Tensor, a: Tensor, state: Tensor, backwards: bool = False) -> None:
    """Solve ``x[t] = 2^(dt[t] a) x[t-1] + x[t]`` in place.

    Parameters
    ----------
    decay
        Is filled with the decays.
    x
        The inputs; they become the solution.
    dt, a
        ``(B, S, 1, E)`` and ``(N, E)``.
    state
        The ``x`` before the first, ``(B, N, E)``.
    backwards
        From the last token to the first.
    """
    torch.mul(dt, a, out=decay.tokens).exp2_()
    turn = -1 if backwards else 1
    decays, xs, before = decay.steps[::turn], x.steps[::turn], state[:, None]
    if x.chunks.shape[1] > 1:
        whole = torch.exp2(torch.unflatten(dt, 1, x.chunks.shape[1:3]).sum(2) * a)
        before = _starts(decays, xs, whole, state, turn)
    for w, now in zip(decays, xs, strict=True):
        before = now.addcmul_(w, before)


def _starts(decays: Sequence[Tensor], xs: Sequence[Tensor], whole: Tensor, state: Tensor, turn: int) -> Tensor:
    """Return what each chunk starts from: walk all from zero to get their ends, then pass these on.

    All are ``(B, K, N, E)`` but ``state``; ``whole`` is the decay over each chunk.
    """
    end = xs[0].clone()
    for w, x in zip(decays[1:], xs[1:], strict=True):
        torch.addcmul(x, w, end, out=end)
    starts = torch.empty_like(end)
    for k in range(end.shape[1])[::turn]:
        starts[:, k] = state
        state = torch.addcmul(end[:, k], whole[:, k], state)
    return starts


class BlockScan(torch.autograd.Function):
    """``(keep, u, dt, a, b, c, skip, state) -> (y, last state)``.

    ``u``, ``dt`` and ``y`` are rows, ``b`` and ``c`` columns, ``a`` is in units of ln 2; all of one floating type. For
    the gradient it must ``keep`` the states that blocks start from; those between are computed again. The gradient has
    none itself.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, *given: Tensor) -> tuple[Tensor, Tensor]:
        """Scan block by block."""
        u, dt, a, b, c, skip, state = given
        y, starts = torch.empty_like(u), []
        for run in runs(u.shape[1], *block_shape(state)):
            decay, h = Block(run, state), Block(run, state)
            for u_, dt_, b_, c_, y_ in run.blocks(u, dt, b, c.mT, y):
                if keep:
                    starts.append(state)
                torch.mul(dt_ * u_, b_, out=h.tokens)
                solve(decay, h, dt_, a, state)
                state = h.tokens[:, -1].clone()
                torch.matmul(c_, h.tokens, out=y_).addcmul_(u_, skip)
        if keep:
            ctx.save_for_backward(u, dt, a, b, c, skip, *starts)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, block by block from the last."""
        u, dt, a, b, c, skip, *starts = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (u, dt, b, c)]
        grad_a, grad_skip = torch.zeros_like(a), (grad_y * u).sum((0, 1, 2))
        for run in reversed(list(runs(u.shape[1], *block_shape(grad_state)))):
            memory = [Block(run, grad_state) for _ in range(4)]
            blocks = zip(run.blocks(u, dt, b, c, grad_y), run.blocks(*grads), strict=True)
            for given, wanted in reversed(list(blocks)):
                found, found_a, grad_state = _gradients(memory, given, a, starts.pop(), grad_state)
                grad_a += found_a
                for grad, part in zip(wanted, found, strict=True):
                    grad.copy_(part)
        grad_u, grad_dt, grad_b, grad_c = grads
        return None, grad_u.addcmul_(grad_y, skip), grad_dt, grad_a, grad_b, grad_c, grad_skip, grad_state


def _gradients(
    memory: list[Block], given: Sequence[Tensor], a: Tensor, start: Tensor, grad_state: Tensor
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Return the gradients of a block's u (without skip), dt, b and c, of ``a``, and of the state ``start`` before it.

    The gradient g of h is the same recurrence from the last token to the first:
    ``g[t] = 2^(dt[t+1] A) g[t+1] + C[t] grad y[t]``.
    """
    u, dt, b, c, grad_y = given
    decay, h, decay_after, g = memory
    x = dt * u
    torch.mul(x, b, out=h.tokens)
    solve(decay, h, dt, a, start)
    torch.mul(grad_y, c, out=g.tokens)
    solve(decay_after, g, F.pad(dt[:, 1:], (0, 0, 0, 0, 0, 1)), a, grad_state, backwards=True)
    grad_b, grad_c, grad_x = g.tokens @ x.mT, h.tokens @ grad_y.mT, b.mT @ g.tokens
    exponent = g.tokens.mul_(decay.tokens)  # that of 2, once it is multiplied by h[t-1] and ln 2
    grad_start = exponent[:, 0].clone()
    exponent[:, 0] *= start
    exponent[:, 1:] *= h.tokens[:, :-1]
    exponent *= LN2
    grad_dt = torch.mul(exponent, a, out=decay.tokens).sum(2, keepdim=True) + grad_x * u
    grad_a = exponent.mul_(dt).sum((0, 1))
    return (grad_x * dt, grad_dt, grad_b, grad_c), grad_a, grad_start
