"""The selective scan of Mamba in plain torch: a chunk-parallel form and the token loop that it must equal.

Gu & Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", Algorithm 2 with the
discretisation of the released code (zero-order hold for A, Euler for B). Knows tensors only. Dimensions:

    B  batch    L  tokens    E  channels of the scan    N  state size    T  tokens of a chunk    K  chunks

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]        y[t] = C[t] . h[t] + skip u[t]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
SEGMENT = 2048  # tokens whose states are in memory at once


def selective_scan_ref(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """The recurrence, token by token: the reference of `selective_scan`.

    Parameters
    ----------
    u, dt
        Input and positive step, ``(B, L, E)``.
    a
        ``(E, N)``, negative.
    b, c
        ``(B, L, N)``.
    skip
        ``(E,)``.

    Returns
    -------
    Tensor
        ``(B, L, E)``.
    """
    state = u.new_zeros(u.shape[0], *a.shape)  # (B, E, N)
    outputs = []
    for t in range(u.shape[1]):
        state = torch.exp(dt[:, t, :, None] * a) * state + (dt * u)[:, t, :, None] * b[:, t, None, :]
        outputs.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1) + u * skip


def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """The same as `selective_scan_ref`: all chunks walk their tokens side by side, then pass their states on.

    Memory is bounded by walking segments of ``SEGMENT`` tokens one after the other. Parameters and result as there.
    """
    state = u.new_zeros(u.shape[0], *a.shape)
    outputs = []
    for first in range(0, u.shape[1], SEGMENT):
        part = slice(first, first + SEGMENT)
        output, state = _scan_segment(u[:, part], dt[:, part], a, b[:, part], c[:, part], state)
        outputs.append(output)
    return torch.cat(outputs, dim=1) + u * skip


def _scan_segment(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    length = u.shape[1]
    decay = torch.exp(_chunks(dt)[..., None] * a)  # (B, K, T, E, N); padding has dt = 0, so its decay is 1
    drive = _chunks(dt * u)[..., None] * _chunks(b)[:, :, :, None, :]  # (B, K, T, E, N)
    local, kept = [drive[:, :, 0]], [decay[:, :, 0]]
    for t in range(1, decay.shape[2]):
        local.append(decay[:, :, t] * local[-1] + drive[:, :, t])
        kept.append(decay[:, :, t] * kept[-1])
    carried = []
    for k in range(decay.shape[1]):
        carried.append(state)
        state = kept[-1][:, k] * state + local[-1][:, k]
    before = torch.stack(carried, dim=1)  # (B, K, E, N): the state that each chunk starts from
    read = _chunks(c)[:, :, :, None, :]  # (B, K, T, 1, N)
    outputs = [((h + w * before) * read[:, :, t]).sum(-1) for t, (h, w) in enumerate(zip(local, kept, strict=True))]
    return torch.stack(outputs, dim=2).flatten(1, 2)[:, :length], state


def _chunks(x: Tensor) -> Tensor:
    """``(B, L, ...) -> (B, K, T, ...)``, filled with zeros."""
    padded = F.pad(x, (0, 0, 0, -x.shape[1] % CHUNK))
    return padded.reshape(x.shape[0], -1, CHUNK, x.shape[-1])
