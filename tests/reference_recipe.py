"""The recipe of ``../shared/reference``: weights and images that anybody can make again, and the recorded numbers."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def recorded(shared: Path, name: str) -> dict[str, Any]:
    """A file of recorded numbers."""
    return json.loads((shared / "reference" / name).read_text())


def weights(entries: list[list[Any]]) -> dict[str, Tensor]:
    """The made-up tensors of a recorded state dict ``[name, shape, dtype]``."""
    return {name: torch.from_numpy(weight(name, shape)) for name, shape, _ in entries}


def weight(key: str, shape: list[int]) -> np.ndarray:
    """The tensor that belongs to a name (section 1 of the README there)."""
    if key.endswith("dt_proj.bias"):
        return _steps(shape[0])
    n = _normal(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"), shape)
    last = key.rpartition(".")[2]
    if last == "A_log":
        return (np.log(np.arange(1, shape[1] + 1)) + 0.1 * n).astype(np.float32)
    if last == "logit_scale":
        return (math.log(10) + n).astype(np.float32)
    if last == "D" or (last == "weight" and len(shape) == 1):
        return (1 + 0.1 * n).astype(np.float32)
    if last in ("cls_token", "pos_embed"):
        return (0.5 * n).astype(np.float32)
    if last.endswith("bias"):
        return (0.1 * n).astype(np.float32)
    gain = 2 if "qkv" in key else 1
    return (gain * n / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def images(side: int) -> Tensor:
    """The two recorded inputs, noise and ramp: ``(2, 3, side, side)`` (section 2)."""
    noise = _normal(123, (1, 3, side, side))
    m = _normal(124, (1, 3, side, side)).astype(np.float64)
    row, col = np.arange(side)[:, None] / (side - 1), np.arange(side) / (side - 1)
    ramp = m * (0.25 + 1.5 * row) + 2 * col - 1
    return torch.from_numpy(np.concatenate([noise, ramp.astype(np.float32)]))


def features(seed: int, shape: list[int]) -> Tensor:
    """A recorded feature map."""
    return torch.from_numpy(_normal(seed, shape))


def distance(found: Tensor, wanted: list[float]) -> float:
    """Relative L2 distance."""
    known = torch.tensor(wanted, dtype=torch.float64)
    return float((found.double() - known).norm() / known.norm())


def stage_error(found: Tensor, stage: dict[str, Any]) -> float:
    """Largest deviation of a tensor from its recorded summary, in standard deviations."""
    assert list(found.shape) == stage["shape"]
    flat = found.double().flatten()
    at = torch.arange(16) * flat.numel() // 16
    pairs = ((flat[:16], stage["first16"]), (flat[at], stage["strided16"]))
    return max(float((a - torch.tensor(b, dtype=torch.float64)).abs().max()) for a, b in pairs) / stage["std"]


def _normal(seed: int, shape: Any) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def _steps(count: int) -> np.ndarray:
    share = (np.arange(count) + 0.5) / count
    dt = np.exp(math.log(0.001) + share * (math.log(0.1) - math.log(0.001)))
    return (dt + np.log(-np.expm1(-dt))).astype(np.float32)
