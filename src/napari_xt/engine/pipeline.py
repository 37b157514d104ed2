"""A job carried out: windows are encoded ahead in threads, decoded and committed here, and told as events.

Knows stages and stores; knows nothing of what the user typed, of Qt or of napari.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_xt.engine import stages
from napari_xt.engine.device import placed
from napari_xt.engine.events import Detection, Event, RegionDone, RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.plan import Plan
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import RunError, XTError
from napari_xt.geometry import Block, Box, Region, Step, Window
from napari_xt.io.image import Image
from napari_xt.io.store import BlockData, Header, RegionData, Status, Store
from napari_xt.model.xt import XT

HOPELESS = 16  # so many regions failed and none succeeded: the run stops
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs, resolved; ``own_image`` says that the run closes the image."""

    image: Image
    model: XT
    settings: RunSettings
    plan: Plan
    out: Path
    header: Header
    own_image: bool = False


class Teller:
    """Gives the events of one run their run, number and time."""

    def __init__(self) -> None:
        self._run_id, self._seq, self._start = uuid.uuid4().hex[:12], -1, time.monotonic()

    def tell(self, event: type[E], /, **said: Any) -> E:
        """Make the next event."""
        self._seq += 1
        return event(run_id=self._run_id, seq=self._seq, seconds=time.monotonic() - self._start, **said)


def carry_out(job: Job, teller: Teller) -> Generator[Event]:
    """Run ``job``, or what its store still lacks of it.

    Raises
    ------
    StoreError, StoreMismatchError
        The store can't be written, or is another run's.
    RunError
        All regions fail, or one does and ``on_error`` is ``"raise"``.
    """
    with Store.open_writer(job.out, job.header, restart=job.settings.restart) as store:
        todo, done = _remaining(job.plan, store)
        yield teller.tell(RunStarted, plan=job.plan, out=str(job.out), done=done)
        begun, failed = time.monotonic(), 0
        if not store.complete:
            with placed(job.model, job.plan.machine.device) as model, _Encoder(job, model) as encoder:
                failed = yield from _steps(job, encoder, store, todo, teller)
            store.finish(job.model.config.suppression_iou)
        seconds, encoded = time.monotonic() - begun, job.plan.regions - done
        summary = Summary(job.plan.regions, encoded, failed, seconds, encoded / max(seconds, 1e-9))
        yield teller.tell(RunFinished, summary=summary)


def _remaining(plan: Plan, store: Store) -> tuple[list[Step], int]:
    """The steps that are not wholly in the store, and the number of regions of those that are."""
    committed = store.committed()
    todo, done = [], 0
    for step in plan.grid.steps(plan.roi_run):
        if all((block.row, block.col) in committed for block in step.blocks):
            done += sum(w.shape[0] * w.shape[1] for w in step.windows)
        else:
            todo.append(step)
    return todo, done


def _steps(
    job: Job, encoder: _Encoder, store: Store, todo: Sequence[Step], teller: Teller
) -> Generator[Event, None, int]:
    """Decode and commit step by step what is encoded ahead; returns the number of regions that failed."""
    windows = encoder.windows([window for step in todo for window in step.windows])
    first = job.plan.regions - sum(w.shape[0] * w.shape[1] for step in todo for w in step.windows)
    encoded = decoded = first
    failed = 0
    for step in todo:
        results, regions = [], []
        for window in step.windows:
            own: list[stages.Encoded] = []
            for part in next(windows):
                own += part.result()
                yield teller.tell(StageProgress, stage="encode", done=encoded + len(own), total=job.plan.regions)
            encoded += len(own)
            failed += sum(bool(e.error) for e in own)
            _check_hope(own, failed, encoded - first, job.plan.regions - first)
            results.append(stages.decode(encoder.model, job.plan, window, own))
            regions += own
        store.commit([_block_data(job.plan, block, results, regions) for block in step.blocks])
        decoded += len(regions)
        yield teller.tell(StageProgress, stage="decode", done=decoded, total=job.plan.regions)
        for data in chain.from_iterable(result.regions for result in results):
            yield teller.tell(RegionDone, region=data.region, kind=_kind(data), boxes=_detections(data))
    return failed


def _check_hope(own: Sequence[stages.Encoded], failed: int, tried: int, total: int) -> None:
    if failed == tried and failed >= min(HOPELESS, total):
        first = next(e for e in own if e.error)
        raise RunError(f"all of the first {failed} regions", f"failed: {first.error}", "check the image and the model")


class _Encoder:
    """Reads and encodes windows in threads, one window ahead of the one that is asked for."""

    def __init__(self, job: Job, model: XT) -> None:
        self.model, self._job = model, job
        self._pool = ThreadPoolExecutor(job.plan.workers, thread_name_prefix="napari-xt-encode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def windows(self, windows: Sequence[Window]) -> Iterator[list[Future[list[stages.Encoded]]]]:
        """The encoded regions of each window, in batches that are still being worked on."""
        ahead: deque[list[Future[list[stages.Encoded]]]] = deque()
        for window in windows:
            ahead.append(self._submit(window))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead

    def _submit(self, window: Window) -> list[Future[list[stages.Encoded]]]:
        plan = self._job.plan
        patch = self._pool.submit(stages.read_patch, self._job.image, plan, stages.window_outer(plan, window))
        regions = list(plan.grid.window_regions(window))
        groups = [regions[i : i + plan.batch] for i in range(0, len(regions), plan.batch)]
        return [self._pool.submit(self._encode, patch, group) for group in groups]

    def _encode(self, patch: Future[stages.Patch], regions: Sequence[Region]) -> list[stages.Encoded]:
        pixels = None
        try:
            pixels = patch.result()
        except XTError as error:
            self._raise_if_asked(regions[0], error)
        if self._job.settings.on_error == "raise" and pixels is not None:
            return self._encode_or_raise(pixels, regions)
        return stages.encode_safely(self.model, self._job.image, self._job.plan, pixels, regions)

    def _encode_or_raise(self, pixels: stages.Patch, regions: Sequence[Region]) -> list[stages.Encoded]:
        try:
            return stages.encode(self.model, self._job.plan, pixels, regions)
        except RuntimeError as error:
            self._raise_if_asked(regions[0], error)
            raise

    def _raise_if_asked(self, region: Region, error: Exception) -> None:
        if self._job.settings.on_error == "raise":
            raise RunError(f"region row {region.row}, column {region.col}", f"failed: {error}") from error


def _block_data(
    plan: Plan, block: Block, windows: Sequence[stages.Decoded], regions: Sequence[stages.Encoded]
) -> BlockData:
    """What the windows say of one block."""
    mask = probability = None
    found: list[RegionData] = []
    for window in windows:
        part = window.box.clip(block.box)
        if part.empty:
            continue
        found += [data for data in window.regions if data.region.inner.touches(block.box)]
        if window.mask is not None and window.probability is not None:
            mask = _paste(mask, block.box, part, window.mask, window.box, 1)
            probability = _paste(probability, block.box, part, window.probability, window.box, plan.stride)
    pixels = None
    for region in regions:
        if region.pixels is not None and region.region.inner.touches(block.box):
            inner = region.region.inner
            pixels = _paste(pixels, block.box, inner, region.pixels[list(plan.channels)], inner, 1)
    return BlockData(block, pixels, mask, probability, tuple(found))


def _paste(
    canvas: NDArray[Any] | None, canvas_box: Box, part: Box, source: NDArray[Any], source_box: Box, stride: int
) -> NDArray[Any]:
    """Copy ``part`` (run px) from ``source`` to ``canvas``, which is made where it is None; both at ``stride``."""

    def cells(box: Box, origin: Box) -> tuple[slice, slice]:
        return box.shift(-origin.y0, -origin.x0).scale(1 / stride, 1 / stride).slices

    if canvas is None:
        shape = canvas_box.scale(1 / stride, 1 / stride).shape
        canvas = np.zeros((*source.shape[:-2], *shape), source.dtype)
    canvas[(..., *cells(part, canvas_box))] = source[(..., *cells(part, source_box))]
    return canvas


def _kind(data: RegionData) -> str:
    return "failed" if data.status == Status.FAILED else "final"


def _detections(data: RegionData) -> tuple[Detection, ...]:
    return tuple(Detection(*row) for row in data.boxes.tolist())
