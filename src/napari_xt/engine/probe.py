"""What a model takes on this machine, from a short try: seconds a region, bytes while one is encoded, the best batch.

Chooses batch and workers at most, on which no result depends. What was measured once is remembered.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from napari_xt.engine import stages
from napari_xt.engine.decode import decode
from napari_xt.engine.device import machine, placed
from napari_xt.engine.estimate import START_SECONDS
from napari_xt.engine.events import Event, RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.machine import Machine, Measured
from napari_xt.engine.measured import recall, remember
from napari_xt.engine.plan import Model, Plan, informed, plan, precision_of
from napari_xt.engine.reading import Patch, read_patch
from napari_xt.engine.settings import RunSettings
from napari_xt.geometry import Region, Window
from napari_xt.io.image import open_image
from napari_xt.model.config import XTConfig
from napari_xt.model.xt import XT

REGIONS, SECONDS = 32, 0.5  # the timed part of a probe takes no more of the one nor of the other
AT_LEAST = 2  # regions of each worker: one alone says too little
WINDOW = 4  # regions along a side of the window that is decoded
BATCHES = (4, 16, 64)  # are tried on a GPU; on a CPU one region at a time is best
LEARNT = 32  # regions of a run that tell its speed
BUSY = 0.95  # of the time the workers of a run on an idle machine have work
PAUSED = 0.1  # of a run: if it stood still for longer, it does not tell
NEAR = 1.05  # a smaller batch is taken where it is this near to the best

Encode = Callable[[Sequence[Region]], list[stages.Encoded]]


def measure(model: XT, device: str = "auto", precision: str = "auto") -> Machine:
    """Look at this machine and at what the model takes on it, from a probe unless it is known.

    Parameters
    ----------
    model
        Loaded; it is used, and is as it was afterwards.
    device, precision
        As in `RunSettings`.

    Raises
    ------
    SettingsError
        The device is unknown or not there.
    """
    found = machine(device)
    chosen = precision_of(precision, found, model.config)
    known = recall(model.config, found, chosen)
    if known is None:
        known = _probed(model, found, chosen)
        remember(model.config, found, chosen, known)
    return replace(found, measured=known)


def ready(model: Model, settings: RunSettings) -> Machine:
    """The machine for a run, with what is known of the model on it; only a GPU is probed, for the sake of the batch."""
    found = informed(machine(settings.device), model, settings)
    if found.measured is None and not found.on_cpu and isinstance(model, XT):
        return measure(model, settings.device, settings.precision)
    return found


def learning(events: Generator[Event], config: XTConfig) -> Generator[Event]:
    """The events of a run; what a whole one has taken is remembered."""
    seen: _Seen | None = None
    with closing(events):
        for event in events:
            if isinstance(event, RunStarted):
                seen = _Seen(event.plan, time.process_time())
            elif isinstance(event, StageProgress) and event.stage == "encode" and seen is not None:
                seen.count(event.done)
            elif isinstance(event, RunFinished) and seen is not None:
                _learn(seen, config, event.summary)
            begun = time.monotonic()
            yield event
            if seen is not None:
                seen.waited += time.monotonic() - begun


@dataclass(slots=True)
class _Seen:
    """A run so far: regions ``encoded`` by it, not before; seconds that it ``waited`` for who asked for it."""

    plan: Plan
    begun: float
    encoded: int = 0
    waited: float = 0.0
    _last: int = 0

    def count(self, done: int) -> None:
        self.encoded += min(max(0, done - self._last), self.plan.batch)  # what was there is counted in one leap
        self._last = max(done, self._last)


def _learn(seen: _Seen, config: XTConfig, summary: Summary) -> None:
    """Remember a run that did all that its model does, of enough regions and without waiting for who asked for it.

    On a CPU that others use, too, the seconds that the process worked tell how long it takes where they don't.
    """
    plan = seen.plan
    usual = plan.context and set(plan.outputs) == set(config.outputs)
    all_here = not plan.reused and not plan.skipped and not summary.failed
    all_here &= seen.encoded >= (0.9 * plan.regions if plan.large else LEARNT)
    if usual and all_here and seen.waited < PAUSED * summary.seconds:
        total = (summary.seconds - min(START_SECONDS, summary.seconds / 2)) * plan.workers
        worked = (time.process_time() - seen.begun) / BUSY
        seconds = (min(total, worked) if plan.machine.on_cpu else total) / seen.encoded
        before = plan.machine.measured
        found = Measured(seconds, before.activations if before else 0, plan.batch, whole=True)
        remember(config, plan.machine, plan.precision, found)


def _probed(model: XT, found: Machine, precision: str) -> Measured:
    config = model.config
    side = WINDOW * config.region_px
    noise = np.random.default_rng(0).integers(0, 256, (config.in_channels, side // 16 + 1, side // 16 + 1), np.uint8)
    scene = noise.repeat(16, 1).repeat(16, 2)[:, :side, :side]
    settings = RunSettings.of(window=WINDOW, skip_background=False, precision=precision, pixel_size=config.scale_um)
    with open_image(scene if config.in_channels > 1 else scene[0]) as image:
        made = plan(image, model, settings, replace(found, free_bytes=0))
        (window,) = (window for step in made.grid.steps() for window in step.windows)
        regions = list(made.grid.window_regions(window))
        patch = read_patch(image, made, made.grid.bounds.grow(config.halo_px))
        with placed(model, found.device, precision) as network:
            return _timed(network, made, window, patch, regions)


def _timed(model: XT, made: Plan, window: Window, patch: Patch, regions: Sequence[Region]) -> Measured:
    def encode(some: Sequence[Region]) -> list[stages.Encoded]:
        done = stages.encode(model, made, patch, some)
        _settle(made.machine)
        return done

    with Tensors(model) as tensors:
        first = encode(regions[:1])
    batch, seconds = _on_cpu(encode, made.workers, regions) if made.machine.on_cpu else _on_gpu(encode, regions)
    whole = [replace(first[0], region=region) for region in regions]
    clock = time.thread_time if made.machine.on_cpu else time.perf_counter
    begun = clock()
    list(decode(model, made, stages.held(model, made, window, whole), range(window.shape[0])))
    _settle(made.machine)
    return Measured(seconds + (clock() - begun) / len(regions), tensors.most, batch)


def _on_cpu(encode: Encode, workers: int, regions: Sequence[Region]) -> tuple[int, float]:
    """One region at a time; seconds that a worker takes for it while all work, not counting those it stood still."""
    end = time.perf_counter() + SECONDS
    each = max(AT_LEAST, REGIONS // workers)

    def work(_: int) -> list[float]:
        taken: list[float] = []
        for region in itertools.islice(itertools.cycle(regions), each):
            if time.perf_counter() > end and len(taken) >= AT_LEAST:
                break
            begun = time.thread_time()
            encode([region])
            taken.append(time.thread_time() - begun)
        return taken

    with ThreadPoolExecutor(workers, thread_name_prefix="napari-xt-probe") as pool:
        return 1, median(itertools.chain.from_iterable(pool.map(work, range(workers))))


def _on_gpu(encode: Encode, regions: Sequence[Region]) -> tuple[int, float]:
    """The smallest batch that is about the fastest, and its seconds a region."""
    end = time.perf_counter() + SECONDS
    taken: dict[int, float] = {}
    for batch in BATCHES:
        some = list(itertools.islice(itertools.cycle(regions), batch))
        try:
            encode(some)
            begun = time.perf_counter()
            encode(some)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        taken[batch] = (time.perf_counter() - begun) / batch
        if time.perf_counter() > end:
            break
    if not taken:
        return 1, 0.0
    best = min(taken.values())
    return next((batch, seconds) for batch, seconds in taken.items() if seconds <= NEAR * best)


def _settle(found: Machine) -> None:
    """Wait until the device has done all that it was given."""
    if found.device.startswith("cuda"):
        torch.cuda.synchronize(found.device)
    elif found.device == "mps":
        torch.mps.synchronize()


class Tensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside, less those that are gone; ``most`` is the highest count.

    Parameters
    ----------
    model
        Its weights do not count.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        known = itertools.chain(model.parameters(), model.buffers())
        self._sizes = {tensor.untyped_storage().data_ptr(): 0 for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``, and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree.tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage.data_ptr()
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
