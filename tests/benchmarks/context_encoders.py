"""Peak memory and time of each context encoder's forward, from 1 k to 256 k tokens, and the line that fits the memory.

Every measurement has a process of its own: the kernel's high-water mark of resident memory (VmHWM, reset before the
forward) less what was resident before, when the encoder was built, had run once on a few tokens, and held its input.
The result's tokens are part of the figure. Exact attention stands beside them in the plain form that holds its matrix,
up to the length whose matrix fits; torch's fused attention holds none, and takes quadratic time all the same.
Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from figures import Figures, options, resident, tell
from torch import Tensor, nn

DIM, LAYERS, HEADS = 256, 2, 2
WARM_UP = 64

# name: module, class, and the arguments after width and number of layers
ENCODERS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "mamba": ("mamba", "Mamba", ()),
    "hyper": ("hyper", "Hyper", (HEADS,)),
    "transformer_xl": ("transformer_xl", "TransformerXL", (8,)),
    "longformer": ("longformer", "Longformer", (8,)),
}
EXACT = "exact_attention"
LENGTHS = tuple(2**k for k in range(10, 19))
EXACT_LENGTHS = tuple(2**k for k in range(10, 15))  # the last takes about 4 GiB


class ExactAttention(nn.Module):
    """Layers of softmax attention as it is written, with its matrix ``(heads, N, N)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(DIM, 3 * DIM) for _ in range(LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D) -> (B, N, D)``."""
        for qkv in self.layers:
            q, k, v = qkv(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            seen = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
            tokens = tokens + seen.transpose(1, 2).flatten(2)
        return tokens


def build(name: str) -> nn.Module:
    """Return an encoder with random weights."""
    torch.manual_seed(0)
    if name == EXACT:
        return ExactAttention()
    module, kind, arguments = ENCODERS[name]
    built: nn.Module = getattr(importlib.import_module(f"napari_xt.model.context.{module}"), kind)(
        DIM, LAYERS, *arguments
    )
    return built


def measure(name: str, length: int) -> dict[str, float]:
    """Run one forward in this process; return bytes beyond what there was, and seconds."""
    with torch.inference_mode():
        encoder, tokens = build(name).eval(), torch.randn(1, length, DIM)
        encoder(tokens[:, :WARM_UP])
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before, begin = resident("VmRSS"), time.perf_counter()
        encoder(tokens)
        return {"seconds": time.perf_counter() - begin, "bytes": resident("VmHWM") - before}


def measure_apart(name: str, length: int) -> dict[str, float]:
    """Run `measure` in a process of its own."""
    call = [sys.executable, __file__, "--one", name, str(length)]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told)
    return found


def fit(x: list[float], y: list[float]) -> dict[str, float]:
    """Return slope, intercept and R^2 of the line that fits ``y`` over ``x`` best (least squares)."""
    slope, intercept = np.polyfit(x, y, 1)
    left = np.asarray(y) - slope * np.asarray(x) - intercept
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - left.var() / np.var(y))}


def curve(figures: Figures, name: str, lengths: tuple[int, ...]) -> None:
    """Measure an encoder at ``lengths``; add each figure and the fit."""
    found = {}
    for length in lengths:
        found[length] = measure_apart(name, length)
        mib, spent = found[length]["bytes"] / 2**20, found[length]["seconds"]
        figures.add(f"context_encoders.{name}.N{length}", mib, "MiB", seconds=spent)
    power = 2 if name == EXACT else 1
    line = fit([float(n) ** power for n in found], [one["bytes"] for one in found.values()])
    unit = "bytes/token" if power == 1 else "bytes/token^2"
    mib = line["intercept"] / 2**20
    figures.add(f"context_encoders.{name}.memory", line["slope"], unit, intercept_mib=mib, r2=line["r2"])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*ENCODERS, EXACT], help="measure these alone")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "N"), help="one measurement, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure all encoders that there are."""
    given = arguments()
    if given.one:
        tell(json.dumps(measure(given.one[0], int(given.one[1]))))
        return
    figures = Figures()
    for name in given.only or (*ENCODERS, EXACT):
        lengths = EXACT_LENGTHS if name == EXACT else LENGTHS
        curve(figures, name, (1024, 4096) if given.quick else lengths)
    figures.write(given.json)


if __name__ == "__main__":
    main()
