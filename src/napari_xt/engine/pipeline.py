"""A job carried out: what its store lacks is encoded and decoded in threads, committed in order, and told as events.

Knows stages and stores; knows nothing of what the user typed, of Qt or of napari. How windows that fit into memory are
worked off is in `windows`, how one that does not in `large`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from torch import nn

from napari_xt.engine import large, windows
from napari_xt.engine.blocks import members
from napari_xt.engine.device import placed
from napari_xt.engine.encoder import Encoder
from napari_xt.engine.events import Event, RunFinished, RunStarted, Summary
from napari_xt.engine.focus import Focus
from napari_xt.engine.ongoing import Ongoing
from napari_xt.engine.plan import Plan
from napari_xt.engine.settings import RunSettings
from napari_xt.engine.telling import Teller
from napari_xt.engine.workers import Workers
from napari_xt.engine.writer import Writer
from napari_xt.geometry import Step
from napari_xt.io.image import Image
from napari_xt.io.store import Header, Store
from napari_xt.model.xt import XT


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs, resolved; ``own_image`` says that the run closes the image."""

    image: Image
    model: XT
    settings: RunSettings
    plan: Plan
    out: Path
    header: Header
    focus: Focus = field(default_factory=Focus)
    own_image: bool = False


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
        plan = _as_begun(job.plan, store.header.plan)
        todo, done = _remaining(plan, store)
        yield teller.tell(RunStarted, plan=plan, out=str(job.out), done=done)
        begun, failed = time.monotonic(), 0
        if not store.complete:
            failed = yield from _run(replace(job, plan=plan), store, todo, teller)
        seconds, encoded = time.monotonic() - begun, plan.regions - done
        summary = Summary(plan.regions, encoded, failed, seconds, encoded / max(seconds, 1e-9))
        yield teller.tell(RunFinished, summary=summary)


def _run(job: Job, store: Store, todo: Sequence[Step], teller: Teller) -> Generator[Event, None, int]:
    """Work off ``todo`` and finish the store; returns the number of regions that failed."""
    plan, raises = job.plan, job.settings.on_error == "raise"
    with placed(job.model, plan.machine.device) as model, Workers(plan.workers, _heads(model)) as workers:
        encoder = Encoder(job.image, plan, model, workers, raises=raises, notice=teller.note)
        writer = Writer(store, workers, teller, plan.regions)
        run = Ongoing(plan, model, encoder, workers, writer, teller, job.focus)
        failed = yield from large.carry_out(run, todo, store) if plan.large else windows.carry_out(run, todo)
        yield from writer.finish(model.config.suppression_iou)
    return failed


def _heads(model: XT) -> list[nn.Module]:
    """What may take long for a whole window."""
    return [part for part in (model.context, model.mask_head, model.box_head) if part is not None]


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
