"""How near a run comes to the bare network, and how soon it begins: what ``napari-xt bench engine`` measures.

Knows the doors of the engine and the network; must not know how figures are shown. *Bare network*: `encode`,
`contextualise` and `decode` down to the uint8 mask, on tensors in memory, laid out as the run's network is, in the
run's precision and in windows of the model's own size, with the batch and as many regions side by side as were
fastest. *Run*: from the call, with the model loaded, to the complete store, all outputs, from an OME-Zarr image on
disk. The bundled model and scene.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from napari_xt.engine.device import machine, placed
from napari_xt.engine.encoder import outer_unit
from napari_xt.engine.events import RunFinished, RunStarted, StageProgress
from napari_xt.engine.figures import Figures
from napari_xt.engine.plan import Plan, plan
from napari_xt.engine.reading import Reader, read_patch
from napari_xt.engine.run import stream
from napari_xt.geometry import Box, Region, Window
from napari_xt.io.computed.mirrored import mirrored_scene
from napari_xt.io.image import Image, open_image
from napari_xt.io.stores.mask import mask_from_probability
from napari_xt.model.checkpoint import load_model
from napari_xt.model.xt import XT

MODEL = "canopy"
SIDE = 12_288  # a run begins and ends in half a second, of about 20
REPEATS = 2
AT_ONCE = {"cpu": (1, 2, 4), "cuda": (16, 32, 64, 128), "mps": (4, 8, 16)}  # batches that are tried
FIRST = ((4_000, 4_000), (25_000, 29_000))
Encoded = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a run from the call: to the first and the last encoded region, and to its end; and its plan."""

    plan: Plan
    first: float
    encoded: float
    total: float

    @property
    def speed(self) -> float:
        """Regions a second, of all that it took."""
        return self.plan.regions / self.total


@dataclass(frozen=True, slots=True)
class Bare:
    """The bare network at its best: regions a second, with ``workers`` side by side, ``batch`` regions each."""

    speed: float
    workers: int
    batch: int


def measure(figures: Figures, side: int = SIDE, repeats: int = REPEATS) -> None:
    """Add all figures, with an image of ``side`` px, in each precision that the machine is good at."""
    model = load_model(MODEL)
    with TemporaryDirectory() as folder:
        path = write_scene(Path(folder, "scene.zarr"), side, side)
        for height, width in FIRST:
            figures.add(f"engine.first.{width}x{height}", first_region(model, height, width), "s")
        for precision in precisions(path):
            over_bare(figures, model, path, precision, repeats)


def precisions(image: Path) -> list[str]:
    """Float32, and what the rule chooses for this machine where that is another."""
    return sorted({"float32", plan(image, MODEL, machine=machine()).precision}, reverse=True)


def over_bare(figures: Figures, model: XT, path: Path, precision: str, repeats: int) -> None:
    """Runs in windows of the model's own size and in one window, each over the bare network and the bare reader."""
    windows = model.config.window, "global"
    found: dict[Any, list[Times]] = {window: [] for window in windows}
    tries: list[Bare] = []
    for _ in range(repeats):  # in turns: what else the machine does is shared by all
        with open_image(path) as image:
            resolved = plan(image, model, machine=machine(), precision=precision)
            tries.append(bare(model, image, resolved, 1))
            read = bare_reader(image, resolved)
        for window in windows:
            with TemporaryDirectory() as folder:
                out = Path(folder, "out.xt.zarr")
                found[window].append(run(path, model, out=out, window=window, precision=precision))
    side, network = resolved.grid.width, max(tries, key=lambda one: one.speed)
    for window, times in found.items():
        best = min(times, key=lambda one: one.total)
        name = f"window_{window}.side{side}.{precision}"
        figures.add(
            f"engine.over_bare.{name}",
            best.speed / network.speed,
            "of bare network",
            regions_per_second=best.speed,
            bare_regions_per_second=network.speed,
            bare_workers=network.workers,
            bare_batch=network.batch,
            reader_regions_per_second=read,
            over_slower=best.speed / min(network.speed, read),
        )
        if window == "global":
            after = best.total - best.encoded  # with committing and merging
            figures.add(f"engine.context_decode.{name}", after / best.total, "of the time", seconds=after)


def first_region(model: XT, height: int, width: int) -> float:
    """Seconds from the call to the first encoded region of the mirrored scene, as one window."""
    with mirrored_scene(height, width) as image, TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with closing(stream(image, model, out=Path(folder, "out.xt.zarr"), window="global", reuse="no")) as events:
            next(event for event in events if isinstance(event, StageProgress) and event.done)
            return time.perf_counter() - begin


def run(image: Any, model: XT, **options: object) -> Times:
    """A whole run; it begins anew where ``options`` do not say otherwise, and never takes what others encoded."""
    begin = time.perf_counter()
    first = encoded = total = 0.0
    chosen: dict[str, Any] = {"restart": True, "reuse": "no", **options}
    with closing(stream(image, model, **chosen)) as events:
        for event in events:
            total = time.perf_counter() - begin
            if isinstance(event, RunStarted):
                resolved = event.plan
            elif isinstance(event, StageProgress) and event.stage == "encode" and event.done:
                first, encoded = first or total, total
            elif isinstance(event, RunFinished):
                break
    return Times(resolved, first, encoded, total)


def bare(model: XT, image: Image, resolved: Plan, repeats: int = REPEATS, windows: int | None = None) -> Bare:
    """The best of the bare network over the tensors of the first window, ``windows`` (of the image: all) times."""
    device, cores = resolved.machine.device, resolved.machine.cores
    window = next(iter(resolved.grid.steps())).windows[0]
    kind = torch.device(device).type
    with placed(model, device, resolved.precision) as network:
        inputs = [_input(network, image, resolved, region) for region in resolved.grid.window_regions(window)]
        found = []
        for workers in (cores,) if kind == "cpu" else (1, 2):
            for batch in AT_ONCE[kind]:
                parts = [_together(inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
                found.append(Bare(_speed(network, resolved, window, parts, workers, 1), workers, batch))
        best = max(found, key=lambda one: one.speed)
        parts = [_together(inputs[i : i + best.batch]) for i in range(0, len(inputs), best.batch)]
        count = windows or resolved.windows
        tries = [_speed(network, resolved, window, parts, best.workers, count) for _ in range(repeats)]
    return Bare(max(tries), best.workers, best.batch)


def _input(network: XT, image: Image, resolved: Plan, region: Region) -> Tensor:
    pixels = read_patch(image, resolved, region.outer).pixels
    prepared = network.prepare(pixels, resolved.channels, limits=resolved.limits)
    return prepared.to(network.background_token.device, network.region_dtype)


def _together(inputs: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(inputs)).contiguous(memory_format=torch.channels_last)


def _speed(network: XT, resolved: Plan, window: Window, parts: Sequence[Tensor], workers: int, windows: int) -> float:
    """Regions a second of ``windows`` windows, one decoded while the next is encoded."""

    @torch.inference_mode()
    def encode(part: Tensor) -> Encoded:
        return network.encode(part)

    with ThreadPoolExecutor(workers) as pool:
        begin = time.perf_counter()
        waiting = [
            pool.submit(_decode, network, resolved, window, list(pool.map(encode, parts))) for _ in range(windows)
        ]
        for decoded in waiting:
            decoded.result()
        return windows * sum(map(len, parts)) / (time.perf_counter() - begin)


@torch.inference_mode()
def _decode(network: XT, resolved: Plan, window: Window, encoded: Sequence[Encoded]) -> NDArray[np.uint8]:
    tokens, local = (
        torch.cat(part).reshape(1, *window.shape, *part[0].shape[1:]) for part in zip(*encoded, strict=True)
    )
    mask = network.decode(local, network.contextualise(tokens)).mask
    assert mask is not None
    probability = (mask[0].softmax(0) * 255).round().to(torch.uint8).cpu().numpy()
    side = resolved.grid.region_px
    box = Box(0, 0, window.shape[0] * side, window.shape[1] * side)
    return mask_from_probability(probability, resolved.stride, box, box)


def bare_reader(image: Image, resolved: Plan) -> float:
    """Regions a second that are read alone, row by row, each chunk once."""
    reader, count, begin = Reader(image, resolved), 0, time.perf_counter()
    for row in range(resolved.grid.shape[0]):
        regions = [resolved.grid.region(row, col) for col in range(resolved.grid.shape[1])]
        patch = reader.read(outer_unit(regions)[0])
        count += sum(patch.cut(region.outer).size > 0 for region in regions)
    return count / (time.perf_counter() - begin)


def write_scene(path: Path, height: int, width: int) -> Path:
    """Write the mirrored scene as OME-Zarr 0.5, ``(c, y, x)`` in chunks of 512 px, and return its path."""
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space"} for name in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]
    group = zarr.open_group(path, mode="w")
    multiscales: list[Any] = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    array = group.create_array("0", shape=(3, height, width), chunks=(3, 512, 512), dtype="uint8")
    with mirrored_scene(height, width) as image:
        for y in range(0, height, 512):
            band = Box(y, 0, min(y + 512, height), width)
            array[:, band.y0 : band.y1] = image.read(band)
    return path
