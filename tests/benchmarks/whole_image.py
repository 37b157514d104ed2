"""Whole-image Swin V2 against xT, from 512 px up: peak memory and regions a second, the headline of the paper.

The baseline sees the image at once, through a Swin V2 built for that size. xT sees regions of 256 px through the same
Swin V2, one after the other, then all of their tokens through a context encoder. Pixels of a region are made when it is
its turn, as they would be read. Each measurement has a process of its own; memory is what a forward adds to the network
and its input: VmHWM on a CPU, PyTorch's own count on CUDA. What does not fit is said so.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figures import Figures, options, resident, tell
from torch import Tensor

import napari_xt as xt
from napari_xt.model.backbone import backbone

SWIN, REGION = "swinv2_tiny_window16_256", 256
ARMS = ("whole", "hyper", "mamba")
SIDES = (
    (512, 512),
    (1024, 1024),
    (2048, 2048),
    (4096, 4096),
    (29_184, 25_088),
)  # whole regions, as 29,000 x 25,000 has
CPU_SIDES, QUICK_SIDES = SIDES[:3], ((256, 512),)
CPU_LIMIT = 12 * 2**30  # of address space, so that what does not fit ends alone
TOGETHER = {"cpu": 1, "cuda": 32}
PAPER = {"hyper": 47.3, "mamba": 43.5}  # millions of parameters of the released Swin-T models


def device() -> str:
    """Where the networks run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def whole(height: int, width: int) -> tuple[int, Callable[[], Any]]:
    """Swin V2 built for the image: its parameters, and one forward."""
    net = backbone(SWIN, 3, max(height, width)).eval().to(device())
    pixels = torch.randn(1, 3, max(height, width), max(height, width), device=device())
    return sum(p.numel() for p in net.parameters()), lambda: net(pixels)


def nested(kind: str, height: int, width: int) -> tuple[int, Callable[[], Any]]:
    """xT over the image as one window: its parameters, and one pass over all regions."""
    layers = {"hyper": 2, "mamba": 4}[kind]
    sizes: dict[str, Any] = {"layers": layers, "dim": 768, "tokens_per_side": 2, "window": 0}
    model = xt.new_model([f"class {i}" for i in range(284)], "swin-t", kind, outputs=["label"], **sizes).to(device())
    rows, cols, some = -(-height // REGION), -(-width // REGION), TOGETHER[device()]

    def run() -> Tensor:
        tokens = []
        for first in range(0, rows * cols, some):
            count = min(some, rows * cols - first)
            tokens.append(model.encode(torch.randn(count, 3, REGION, REGION, device=device()))[0])
        window = torch.cat(tokens).reshape(1, rows, cols, *tokens[0].shape[1:])
        local = window.new_empty(1, rows, cols, 0, REGION // 4, REGION // 4)
        label = model.decode(local, model.contextualise(window)).label
        assert label is not None
        return label

    return sum(p.numel() for p in model.parameters()), run


def measure(arm: str, height: int, width: int) -> dict[str, float]:
    """One forward in this process: bytes beyond network and input, seconds, parameters."""
    if device() == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (CPU_LIMIT + 4 * 2**30, resource.RLIM_INFINITY))
        torch.set_num_threads(1)
    with torch.inference_mode():
        parameters, run = whole(height, width) if arm == "whole" else nested(arm, height, width)
        return {"parameters": parameters, **(_on_cuda(run) if device() == "cuda" else _on_cpu(run))}


def _on_cpu(run: Callable[[], Any]) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, begin = resident("VmRSS"), time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - begin, "bytes": resident("VmHWM") - before}


def _on_cuda(run: Callable[[], Any]) -> dict[str, float]:
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, begin = torch.cuda.memory_allocated(), time.perf_counter()
    run()
    torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin, "bytes": torch.cuda.max_memory_allocated() - before}


def measure_apart(arm: str, height: int, width: int) -> dict[str, float] | None:
    """`measure` in a process of its own; None: it did not fit."""
    call = [sys.executable, __file__, "--one", arm, str(height), str(width)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, float] = json.loads(done.stdout)
        return found
    if done.returncode < 0 or any(word in done.stderr for word in ("memory", "Memory", "allocate")):
        return None
    raise RuntimeError(done.stderr)


def compare(figures: Figures, sides: tuple[tuple[int, int], ...]) -> None:
    """Measure both at each size, until one does not fit."""
    for arm in ARMS:
        for height, width in sides:
            found = measure_apart(arm, height, width)
            name = f"whole_image.{arm}.{height}x{width}"
            if found is None:
                tell(f"{name}: does not fit")
                break
            regions = -(-height // REGION) * -(-width // REGION)
            figures.add(
                name,
                found["bytes"] / 2**20,
                "MiB",
                mib_per_region=found["bytes"] / 2**20 / regions,
                regions_per_second=regions / found["seconds"],
                million_parameters=found["parameters"] / 1e6,
                **({"paper_million_parameters": PAPER[arm]} if arm in PAPER else {}),
            )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--one", nargs=3, metavar=("ARM", "H", "W"), help="one measurement, in this process, as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure what the device is for."""
    given = arguments()
    if given.one:
        arm, height, width = given.one
        tell(json.dumps(measure(arm, int(height), int(width))))
        return
    figures = Figures()
    compare(figures, QUICK_SIDES if given.quick else SIDES if device() == "cuda" else CPU_SIDES)
    figures.write(given.json)


if __name__ == "__main__":
    main()
