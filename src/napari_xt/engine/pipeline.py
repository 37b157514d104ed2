"""A job carried out: windows are encoded ahead in threads, decoded and committed here, and told as events.

Knows stages and stores; knows nothing of what the user typed, of Qt or of napari.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from napari_xt.engine import stages
from napari_xt.engine.blocks import block_data, encoded_block, members
from napari_xt.engine.decode import Decoded, bands, decode
from napari_xt.engine.device import placed
from napari_xt.engine.encoder import Encoder, check_hope, outer_unit, running, split, window_unit
from napari_xt.engine.events import Detection, Event, RegionDone, RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.plan import Plan
from napari_xt.engine.settings import RunSettings
from napari_xt.geometry import Step, Window
from napari_xt.io.image import Image
from napari_xt.io.store import Header, RegionData, Shelf, Status, Store
from napari_xt.model.xt import XT

GROUP_REGIONS = 64  # are put on the shelf together
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
        job = replace(job, plan=_as_begun(job.plan, store.header.plan))
        todo, done = _remaining(job.plan, store)
        yield teller.tell(RunStarted, plan=job.plan, out=str(job.out), done=done)
        begun, failed = time.monotonic(), 0
        if not store.complete:
            with (
                placed(job.model, job.plan.machine.device) as model,
                Encoder(job.image, job.plan, model, raises=job.settings.on_error == "raise") as encoder,
            ):
                carry = _large_step if job.plan.large else _steps
                failed = yield from carry(job, encoder, store, todo, teller)
            store.finish(job.model.config.suppression_iou)
        seconds, encoded = time.monotonic() - begun, job.plan.regions - done
        summary = Summary(job.plan.regions, encoded, failed, seconds, encoded / max(seconds, 1e-9))
        yield teller.tell(RunFinished, summary=summary)


def _as_begun(plan: Plan, stored: Mapping[str, object]) -> Plan:
    """The plan, leaving out what was left out when the run began: a level that was damaged may be whole by now."""
    empty = cast("Sequence[Sequence[int]]", stored.get("empty", ()))
    return replace(plan, empty=tuple((first, stop) for first, stop in empty))


def _remaining(plan: Plan, store: Store) -> tuple[list[Step], int]:
    """The steps that are not wholly in the store, and how many regions are in it or need not be run."""
    committed = store.committed()
    todo, done = [], 0
    for step in plan.grid.steps(plan.roi_run):
        if all((block.row, block.col) in committed for block in step.blocks):
            done += sum(w.shape[0] * w.shape[1] for w in step.windows)
        else:
            todo.append(step)
            there = [block for block in step.blocks if plan.large and (block.row, block.col) in committed]
            settled = {r.index for block in there for r in members(plan, block, step.windows[0])}
            settled |= {r.index for w in step.windows for r in plan.grid.window_regions(w) if plan.skips(r.index)}
            done += len(settled)
    return todo, done


def _steps(
    job: Job, encoder: Encoder, store: Store, todo: Sequence[Step], teller: Teller
) -> Generator[Event, None, int]:
    """Decode and commit step by step what is encoded ahead; returns the number of regions that failed."""
    plan, model = job.plan, encoder.model
    units = encoder.encoded(window_unit(plan, window) for step in todo for window in step.windows)
    waiting = [list(plan.grid.window_regions(w)) for step in todo for w in step.windows]
    decoded = plan.regions - sum(map(len, waiting))
    encoded = first = plan.regions - sum(len(running(plan, regions)) for regions in waiting)
    failed = 0
    for step in todo:
        results: list[Decoded] = []
        regions: list[stages.Encoded] = []
        for window in step.windows:
            own: list[stages.Encoded] = []
            for part in next(units):
                own += part.result()
                yield teller.tell(StageProgress, stage="encode", done=encoded + len(own), total=plan.regions)
            encoded += len(own)
            failed += sum(bool(e.error) for e in own)
            check_hope(own, failed, encoded - first, plan.regions - first)
            own = encoder.filled(plan.grid.window_regions(window), own)
            held = stages.held(model, plan, window, own)
            results += decode(model, plan, held, bands(plan, window))
            regions += own
        store.commit([block_data(plan, block, results, regions) for block in step.blocks])
        decoded += len(regions)
        yield from _told(teller, results, decoded, plan.regions)
    return failed


def _large_step(
    job: Job, encoder: Encoder, store: Store, todo: Sequence[Step], teller: Teller
) -> Generator[Event, None, int]:
    """A window too large for memory: all regions to the shelf, then row of blocks by row of blocks decoded from it."""
    if not todo:
        return 0
    (step,) = todo
    plan, (window,) = job.plan, step.windows
    yield from _fill_shelf(job, encoder, store, step, teller)
    encoder.reader.forget()
    errors = {index: error for found in store.encoded().values() for index, error in found.items()}
    held = _from_shelf(job, encoder, store.shelf, window, errors)
    lacking = [block for block in step.blocks if (block.row, block.col) not in store.committed()]
    rows = {block.row for block in lacking}
    k = plan.grid.block_regions
    wanted = [band for band in bands(plan, window) if (window.row0 + band.start) // k in rows]
    decoded = plan.regions - window.shape[1] * sum(map(len, wanted))
    for band, result in zip(wanted, decode(encoder.model, plan, held, wanted, encoder.pool), strict=True):
        row = (window.row0 + band.start) // k
        store.commit([block_data(plan, block, [result], []) for block in lacking if block.row == row])
        decoded += len(result.regions)
        yield from _told(teller, [result], decoded, plan.regions)
    return len(errors)


def _fill_shelf(job: Job, encoder: Encoder, store: Store, step: Step, teller: Teller) -> Generator[Event]:
    """Encode what is not on the shelf yet, a group of blocks after the other."""
    plan, (window,) = job.plan, step.windows
    lacking = [block for block in step.blocks if (block.row, block.col) not in store.encoded()]
    groups = [
        group
        for _, row in groupby(lacking, key=lambda block: block.row)
        for group in split(list(row), GROUP_REGIONS // plan.grid.block_regions**2)
    ]
    regions = [[r for block in group for r in members(plan, block, window)] for group in groups]
    wanted = [running(plan, group) for group in regions]
    encoded = plan.regions - sum(map(len, wanted))
    tried = failed = 0
    units = encoder.encoded(map(outer_unit, wanted))
    for group, of_group, unit in zip(groups, regions, units, strict=True):
        own: list[stages.Encoded] = []
        for part in unit:
            own += part.result()
            yield teller.tell(StageProgress, stage="encode", done=encoded + tried + len(own), total=plan.regions)
        tried, failed = tried + len(own), failed + sum(bool(e.error) for e in own)
        check_hope(own, failed, tried, plan.regions - encoded)
        own = encoder.filled(of_group, own)
        store.put_encoded([encoded_block(encoder.model, plan, block, own) for block in group])


def _from_shelf(job: Job, encoder: Encoder, shelf: Shelf, window: Window, errors: Mapping[int, str]) -> stages.Held:
    """A window whose tokens are in memory, and whose local features are read row by row."""
    cols, k = (window.col0, window.col1), job.plan.grid.block_regions
    place = encoder.model.background_token.device
    tokens = torch.from_numpy(shelf.tokens(window.row0, window.row1, *cols)).float().to(place)
    regions = job.plan.grid.window_regions(window)
    skipped = torch.tensor([job.plan.skips(r.index) for r in regions], device=place).reshape(window.shape)
    blank = encoder.blank if job.plan.empty else None
    if blank is not None:
        tokens[skipped] = blank[0]

    @lru_cache(maxsize=2)
    def of_blocks(row: int) -> Tensor:
        return torch.from_numpy(shelf.features(row * k, (row + 1) * k, *cols))

    def local(row: int) -> Tensor:
        at = row + window.row0
        known = of_blocks(at // k)[at % k].float().to(place)
        return known if blank is None else torch.where(skipped[row][:, None, None, None], blank[1], known)

    view = stages.streamed_overview(encoder.model, job.plan, window, encoder.reader.read)
    return stages.Held(window, tokens, local, errors, view)


def _told(teller: Teller, results: Sequence[Decoded], decoded: int, total: int) -> Generator[Event]:
    yield teller.tell(StageProgress, stage="decode", done=decoded, total=total)
    for data in chain.from_iterable(result.regions for result in results):
        yield teller.tell(RegionDone, region=data.region, kind=_kind(data), boxes=_detections(data))


def _kind(data: RegionData) -> str:
    return {Status.FAILED: "failed", Status.SKIPPED: "skipped"}.get(data.status, "final")


def _detections(data: RegionData) -> tuple[Detection, ...]:
    return tuple(Detection(*row) for row in data.boxes.tolist())
