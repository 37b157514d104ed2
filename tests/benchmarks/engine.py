"""The engine against the bare network, in one run: share of its speed, and what the parts of a run take.

*Bare network*: `encode`, `contextualise` and `decode` down to the uint8 mask, on normalised tensors in memory, with one
thread an operation and as many regions side by side as there are cores: the layout that is fastest on a CPU. *End to
end*: `xt.predict` on an OME-Zarr image on disk, from call to complete store. The bundled model, its halo, its windows;
both are repeated, and the best of each counts.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
import torch
import zarr
from figures import Figures, options
from numpy.typing import NDArray

import napari_xt as xt
from napari_xt.geometry import Box
from napari_xt.io.mask import mask_from_probability
from napari_xt.model.tokens import to_regions

SAMPLE = Path(xt.__file__).parent / "samples" / "yellowstone.ome.tif"
REPEATS = 2


def scene(side: int) -> NDArray[np.uint8]:
    """The bundled aerial image, mirrored until it is large enough: ``(side, side, 3)``."""
    pixels = np.asarray(tifffile.imread(SAMPLE))
    return np.pad(pixels, [(0, max(0, side - n)) for n in pixels.shape[:2]] + [(0, 0)], mode="symmetric")[:side, :side]


def bare(pixels: NDArray[np.uint8], windows: int) -> float:
    """Regions a second of the bare network over the first window's tensors, ``windows`` times."""
    model = xt.load_model("canopy")
    config, span = model.config, model.config.window * model.config.region_px
    image = model.prepare(pixels[:span, :span].transpose(2, 0, 1))[None]
    regions = to_regions(image, config.region_px, config.halo_px)
    rows, cols = regions.shape[1:3]
    inputs = [r[None].contiguous(memory_format=torch.channels_last) for r in regions[0].flatten(0, 1)]
    model = model.to(memory_format=torch.channels_last)
    box = Box(0, 0, rows * config.region_px, cols * config.region_px)

    @torch.inference_mode()
    def encode(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.encode(part)

    @torch.inference_mode()
    def decode(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> NDArray[np.uint8]:
        tokens, local = (torch.cat(x).reshape(1, rows, cols, *x[0].shape[1:]) for x in zip(*parts, strict=True))
        output = model.decode(local, model.contextualise(tokens))
        probability = (output.mask[0].softmax(0) * 255).round().to(torch.uint8).numpy()
        return mask_from_probability(probability, config.local.stride, box, box)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        begin = time.perf_counter()
        waiting = [pool.submit(decode, list(pool.map(encode, inputs))) for _ in range(windows)]
        for done in waiting:
            done.result()
        return windows * rows * cols / (time.perf_counter() - begin)


def end_to_end(image: Path, out: Path, window: int | str) -> float:
    """Regions a second of a whole run."""
    begin = time.perf_counter()
    prediction = xt.predict(image, "canopy", out=out, window=window, restart=True)
    return len(prediction.scores) / (time.perf_counter() - begin)


def measure(figures: Figures, side: int) -> None:
    """Both, and the same with the whole image as one window, whose regions wait on disk."""
    pixels = scene(side)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        image = Path(folder, "scene.zarr")
        zarr.create_array(image, data=pixels, chunks=(512, 512, 3))
        windows = max(1, side // 2048) ** 2
        bare(pixels, 1)
        network = max(bare(pixels, windows) for _ in range(REPEATS))
        for window in (8, "global"):
            whole = max(end_to_end(image, Path(folder, "out.xt.zarr"), window) for _ in range(REPEATS))
            figures.add(
                f"engine.over_bare.window_{window}.side{side}",
                whole / network,
                "of bare network",
                regions_per_second=whole,
                bare_regions_per_second=network,
            )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=8192, help="of the image, px")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    given = arguments()
    figures = Figures()
    measure(figures, 512 if given.quick else given.side)
    figures.write(given.json)


if __name__ == "__main__":
    main()
