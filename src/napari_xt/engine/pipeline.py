"""A job carried out: what its store lacks is encoded and decoded in threads, committed in order, and told as events.

Knows stages and stores; knows nothing of what the user typed, of Qt or of napari. How windows that fit into memory are
worked off is in `windows`, how one that does not in `large`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from torch import nn

from napari_xt.engine import large, windows
from napari_xt.engine.again import try_again
from napari_xt.engine.area import wanted_count
from napari_xt.engine.blocks import members
from napari_xt.engine.device import placed
from napari_xt.engine.encoder import Encoder
from napari_xt.engine.events import Event, RunFinished, Summary
from napari_xt.engine.faults import lost_device_ends
from napari_xt.engine.focus import Focus
from napari_xt.engine.ongoing import Ongoing
from napari_xt.engine.plan import Plan
from napari_xt.engine.reuse import open_reuse
from napari_xt.engine.settings import RunSettings
from napari_xt.engine.telling import Teller
from napari_xt.engine.workers import Workers
from napari_xt.engine.writer import Writer
from napari_xt.geometry import Step
from napari_xt.io.image import Image
from napari_xt.io.stores.store import Header, Store
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
    keep = None if job.settings.keep is None else job.plan.keep
    with Store.open_writer(job.out, job.header, restart=job.settings.restart, keep=keep) as store:
        plan = _as_begun(job.plan, store)
        done = _remaining(plan, store)[1]
        yield teller.start(plan, job.out, done)
        begun, now, reused, failed = time.monotonic(), 0, 0, store.failed()
        if failed or not store.complete:
            with lost_device_ends(plan.machine.device):
                now, reused = yield from _run(replace(job, plan=plan), store, teller)
            failed = store.failed()
        seconds = time.monotonic() - begun
        summary = Summary(plan.regions, now - reused, len(failed), seconds, now / max(seconds, 1e-9), reused)
        yield teller.tell(RunFinished, summary=summary)


def _run(job: Job, store: Store, teller: Teller) -> Generator[Event, None, tuple[int, int]]:
    """Try again what failed, work off what the store lacks and finish it.

    Returns how many regions it lacked, and how many of these were encoded before.
    """
    plan, raises = job.plan, job.settings.on_error == "raise"
    with (
        placed(job.model, plan.machine.device, plan.precision) as model,
        Workers(plan.workers, _slow(model)) as workers,
    ):
        reuse = open_reuse(plan, job.header)
        encoder = Encoder(job.image, plan, model, workers, raises=raises, notice=teller.note, reuse=reuse)
        writer = Writer(store, workers, teller, plan.regions)
        run = Ongoing(plan, model, encoder, workers, writer, teller, job.focus, store.sound)
        yield from try_again(run, store)
        todo, done = _remaining(plan, store)
        if not store.complete:
            yield from large.carry_out(run, todo, store) if plan.large else windows.carry_out(run, todo)
            yield from writer.finish(model.config.suppression_iou)
    return plan.regions - done, encoder.reused


def _slow(model: XT) -> list[nn.Module]:
    """What may take long when it is called once: the encoder of a region, any part of what sees a window."""
    heads = [part for part in (model.context, model.mask_head, model.box_head) if part is not None]
    return [model.region, *(part for head in heads for part in head.modules())]


def _as_begun(plan: Plan, store: Store) -> Plan:
    """The plan as the store has begun it: what was left out stays so (a level that was damaged may be whole by now)."""
    empty = cast("Sequence[Sequence[int]]", store.header.plan.get("empty", ()))
    plan = replace(plan, empty=tuple((first, stop) for first, stop in empty), keep=store.keep)
    return replace(plan, reuse="", reused=0) if store.complete else plan


def _remaining(plan: Plan, store: Store) -> tuple[list[Step], int]:
    """The steps that are not wholly in the store, and how many regions are in it or need not be run."""
    committed = store.committed()
    todo, done = [], 0
    for step in plan.steps():
        if all((block.row, block.col) in committed for block in step.blocks):
            done += wanted_count(plan.grid, [step], plan.left_out)
        else:
            todo.append(step)
            there = [block for block in step.blocks if plan.large and (block.row, block.col) in committed]
            settled = {r.index for block in there for r in plan.wanted(members(plan, block, step.windows[0]))}
            settled |= {r.index for r in plan.wanted(plan.grid.step_regions(step)) if plan.skips(r.index)}
            done += len(settled)
    return todo, done
