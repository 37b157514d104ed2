"""A whole run against what else people run a network over a large image with: MONAI, SAHI, dask.

All read the same OME-Zarr from disk and write the mask as Zarr, in one process, in turns; the best of each counts.
Ours is a run with everything on top that it has: context, boxes, scores, a store that resumes.

The peers' network is the region encoder of the bundled model and its mask head without context, as a plain torch module
``(N, 3, P, P) -> (N, 1, P, P)``: a patch to one logit a pixel at full size, crown against background.

*same*: equal network (the run's own copy of it: laid out, folded, in its precision), precision and halo, so that each
peer encodes exactly the regions that we do, with the image mirrored at its edge beforehand. MONAI and SAHI have all
cores for torch, the layout that their loops can use, and whichever of a few batches is best; dask has a thread for each
core and one thread an operation.

*defaults*: what comes without asking. The network as it is loaded, in float32; torch's own threads; patches of the
region's size. MONAI with an overlap of 0.25 in batches of 1, SAHI with an overlap of 0.2, dask on the image's own
chunks with the model's halo. Ours likewise: `xt.predict(image)`.

SAHI is measured by `slice_image` and the network on each slice; what it does further (a prediction of the whole image,
objects as Python classes) would only add to it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import dask.array as da
import numpy as np
import torch
import torch.nn.functional as F
import zarr
from figures import Figures, options, tell
from numpy.typing import NDArray
from torch import Tensor, nn

import napari_xt as xt
from napari_xt.engine import bench
from napari_xt.engine.device import machine, placed
from napari_xt.engine.plan import plan

NEEDED = ("monai", "sahi")
MISSING = 3  # exit code where peers are not installed
SIDE, REPEATS = 4096, 2
CHUNK = 512
BATCHES = (1, 4)
Work = Callable[[], object]


class Plain(nn.Module):
    """Region encoder and mask head without context, as one ordinary network.

    Parameters
    ----------
    model
        Any copy of the bundled model; it is changed.
    layout
        Where its weights have their channels in memory.
    """

    def __init__(self, model: xt.XT, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        config = model.region.config
        model.region.config = replace(config, halo_px=0)  # the whole patch comes out
        self.model, self.layout, self.stride = model, layout, config.local.stride

    def forward(self, patches: Tensor) -> Tensor:
        """``(N, 3, P, P)`` normalised to ``(N, 1, P, P)``."""
        _, local = self.model.region(patches.to(self.model.region_dtype).contiguous(memory_format=self.layout))
        context = self.model.null_context.expand(len(patches), 1, 1, -1)
        logits = self.model.mask_head(local.float(), context)
        crown = logits[:, 1:] - logits[:, :1]
        return F.interpolate(crown, scale_factor=self.stride, mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class Case:
    """What a peer is asked: ``network`` over ``image``, patches of ``inner`` px and ``halo`` more, to a mask."""

    network: Plain
    image: Path
    out: Path
    inner: int
    halo: int

    @property
    def outer(self) -> int:
        return self.inner + 2 * self.halo

    def pixels(self) -> NDArray[np.uint8]:
        """The whole image, ``(3, Y, X)``, with a halo around it."""
        pixels = np.asarray(zarr.open_array(self.image, path="0", mode="r")[...])
        return np.pad(pixels, [(0, 0), (self.halo,) * 2, (self.halo,) * 2], mode="edge") if self.halo else pixels

    def write(self, mask: NDArray[np.bool_]) -> None:
        """Write a mask ``(Y, X)`` that may have the halo around it."""
        inner = slice(self.halo, -self.halo or None)
        zarr.create_array(self.out, data=mask[inner, inner].astype(np.uint8), chunks=(CHUNK, CHUNK), overwrite=True)


@torch.inference_mode()
def monai(case: Case, batch: int = 1, overlap: float = 0.25) -> None:
    """MONAI's `SlidingWindowInferer` over the image in memory."""
    from monai.inferers import SlidingWindowInferer

    image = case.network.model.prepare(case.pixels())[None]
    infer = SlidingWindowInferer(roi_size=(case.outer,) * 2, sw_batch_size=batch, overlap=overlap)
    case.write((infer(image, case.network)[0, 0] > 0).numpy())


@torch.inference_mode()
def sahi(case: Case, batch: int = 1, overlap: float = 0.2) -> None:
    """SAHI's `slice_image`, the network on its slices, and each slice's inner put into the mask."""
    from sahi.slicing import slice_image

    pixels = case.pixels()
    mask = np.zeros(pixels.shape[1:], np.bool_)
    ratio = {"overlap_height_ratio": overlap, "overlap_width_ratio": overlap}
    found = slice_image(pixels.transpose(1, 2, 0), slice_height=case.outer, slice_width=case.outer, **ratio)
    for first in range(0, len(found), batch):
        some = range(first, min(first + batch, len(found)))
        patches = [case.network.model.prepare(np.asarray(found.images[i]).transpose(2, 0, 1)) for i in some]
        for i, logits in zip(some, case.network(torch.stack(patches)), strict=True):
            x, y = found.starting_pixels[i]
            inner = slice(case.halo, case.outer - case.halo)
            mask[y : y + case.outer, x : x + case.outer][inner, inner] = logits[0, inner, inner] > 0
    case.write(mask)


def dask_blocks(case: Case) -> None:
    """dask's `map_blocks` over blocks with a halo, read from and written to Zarr."""

    @torch.inference_mode()
    def block(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        logits = case.network(case.network.model.prepare(pixels)[None])
        inner = slice(case.halo, -case.halo or None)
        return (logits[0, 0, inner, inner] > 0).numpy().astype(np.uint8)

    image = da.from_zarr(str(case.image / "0")).rechunk((3, case.inner, case.inner))
    wide = da.overlap.overlap(image, {0: 0, 1: case.halo, 2: case.halo}, "nearest")
    mask = da.map_blocks(block, wide, dtype=np.uint8, drop_axis=0, chunks=image.chunks[1:])
    target = zarr.create_array(case.out, shape=mask.shape, dtype=np.uint8, chunks=(CHUNK, CHUNK), overwrite=True)
    da.store(mask.rechunk(CHUNK), target, lock=False)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads an operation of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def contest(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """The least seconds of each, in turns, so that other work on the machine hits all alike."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - begin)
    return {name: min(times) for name, times in spent.items()}


def by_default(figures: Figures, model: xt.XT, image: Path, folder: Path, repeats: int) -> None:
    """Everyone with what comes without asking."""
    config, network, out = model.config, Plain(deepcopy(model)), folder / "peer.zarr"
    region = Case(network, image, out, config.region_px, 0)
    chunk = Case(network, image, out, CHUNK, config.halo_px)
    works: dict[str, Work] = {
        "ours": lambda: xt.predict(image, model, out=folder / "ours.xt.zarr", restart=True),
        "monai": lambda: monai(region),
        "sahi": lambda: sahi(region),
        "dask": lambda: dask_blocks(chunk),
    }
    add(figures, "defaults", image, contest(works, repeats))


def with_the_same(figures: Figures, model: xt.XT, image: Path, folder: Path, repeats: int) -> None:
    """Everyone with the same network, precision and halo."""
    config, resolved = model.config, plan(image, model, machine=machine())
    cores = resolved.machine.cores

    def sliding(peer: Callable[[Case, int, float], None], batch: int) -> Work:
        def work() -> None:
            with threads(cores):
                peer(case, batch, 2 * case.halo / case.outer)

        return work

    with (
        placed(model, resolved.machine.device, resolved.precision) as ready,
        dask.config.set(scheduler="threads", num_workers=cores),
    ):
        case = Case(Plain(ready, torch.channels_last), image, folder / "peer.zarr", config.region_px, config.halo_px)
        larger = replace(case, inner=CHUNK)  # less halo a pixel than the others
        works = {
            "ours": lambda: bench.run(image, model, out=folder / "ours.xt.zarr"),
            **{f"{name}_{n}": sliding(peer, n) for name, peer in (("monai", monai), ("sahi", sahi)) for n in BATCHES},
            "dask": lambda: dask_blocks(case),
            "dask_512": lambda: dask_blocks(larger),
        }
        spent = contest(works, repeats)
    for name in ("monai", "sahi"):
        spent[name] = min(spent.pop(f"{name}_{n}") for n in BATCHES)
    add(figures, f"same.{resolved.precision}", image, spent)


def add(figures: Figures, name: str, image: Path, spent: dict[str, float]) -> None:
    """Add how many times faster we are than each other."""
    ours = spent.pop("ours")
    megapixels = np.prod(zarr.open_array(image, path="0", mode="r").shape[1:]) / 1e6
    for peer, theirs in spent.items():
        speeds = {"megapixels_per_second": megapixels / ours, "theirs": megapixels / theirs}
        figures.add(f"peers.{name}.{peer}", theirs / ours, "times faster", **speeds)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the image, px (default: {SIDE})")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and write what is asked for."""
    given = arguments()
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        tell(f"not installed: {', '.join(lacking)}; pip install --group bench in the repository's folder installs them")
        return MISSING
    torch.set_num_threads(os.cpu_count() or 1)
    figures, model = Figures(), xt.load_model("canopy")
    side, repeats = (512, 1) if given.quick else (given.side, REPEATS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        image = bench.write_scene(folder / "scene.zarr", side, side)
        by_default(figures, model, image, folder, repeats)
        with_the_same(figures, model, image, folder, repeats)
    figures.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
