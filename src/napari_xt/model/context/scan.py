"""The selective scan of Mamba: block by block in plain torch, on CUDA by the fused kernel of ``mamba_ssm`` where it is.

Gu & Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", Algorithm 2 with the
discretisation of the released code (zero-order hold for A, Euler for B). Knows tensors only. Dimensions:

    B  batch    L  tokens    E  channels of the scan    N  state size

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]        y[t] = C[t] . h[t] + skip u[t]

Everywhere ``u``, ``dt``, ``y`` are ``(B, L, E)``, dt positive; ``a`` is ``(E, N)``, negative; ``b``, ``c`` are
``(B, L, N)`` and ``skip`` is ``(E,)``. Narrower types than float32 are computed in float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from napari_xt.model.context.scan_blocks import LN2, BlockScan


def selective_scan_ref(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """Return y by the recurrence as it is written, token by token: the reference of the other forms."""
    state = u.new_zeros(u.shape[0], *a.shape)  # (B, E, N)
    inputs = dt * u
    outputs = []
    for t in range(u.shape[1]):
        state = torch.exp(dt[:, t, :, None] * a) * state + inputs[:, t, :, None] * b[:, t, None, :]
        outputs.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1) + u * skip


def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """Return y of whole sequences, by the fused kernel where that can run."""
    if can_fuse(u):
        return _fused(u, dt, a, b, c, skip)
    start = u.new_zeros(len(u), *a.mT.shape)
    return scan_on(u, dt, a, b, c, skip, start)[0]


def scan_on(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Continue a scan.

    Parameters
    ----------
    u, dt, a, b, c, skip
        Of the next L tokens.
    state
        h after the tokens before them, ``(B, N, E)``; zeros at a sequence's start.

    Returns
    -------
    y, state
        y of these tokens, and h after them.
    """
    kind = torch.promote_types(u.dtype, torch.float32)
    u_, dt, a, b, c, skip, state = (x.to(kind) for x in (u, dt, a, b, c, skip, state))
    given = u_[:, :, None], dt[:, :, None], (a.mT / LN2).contiguous(), b[..., None], c[..., None], skip, state
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    with torch.autocast(u.device.type, enabled=False):
        y, state = BlockScan.apply(keep, *given)
    return y[:, :, 0].to(u.dtype), state


def can_fuse(tokens: Tensor) -> bool:
    """Whether `selective_scan` of such ``tokens`` runs on the fused kernel, which takes whole sequences only."""
    return tokens.is_cuda and tokens.dtype != torch.float64 and _kernel() is not None


@cache
def _kernel() -> Callable[..., Tensor] | None:
    """The scan of ``mamba_ssm``, or None where that is not installed or was built without CUDA."""
    try:
        module: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    built = getattr(module, "selective_scan_cuda", None) is not None
    return module.selective_scan_fn if built else None


def _fused(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """`selective_scan` by ``mamba_ssm``, whose sequences are ``(B, channels, L)``."""
    kernel = _kernel()
    assert kernel is not None
    u_, dt_, b_, c_ = (x.float().mT for x in (u, dt, b, c))
    return kernel(u_, dt_, a.float(), b_, c_, skip.float()).mT.to(u.dtype)
