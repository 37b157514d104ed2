"""Windows that fit into memory: encoded ahead, decoded and committed step by step.

Knows stages and the parts of a run; knows no stores and no images. A window that does not fit is worked off by `large`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from napari_xt.engine import stages
from napari_xt.engine.blocks import kept_block, span
from napari_xt.engine.decode import Decoded, decode
from napari_xt.engine.encoder import Encoding, check_hope, running, window_unit
from napari_xt.engine.events import Event
from napari_xt.engine.ongoing import Ongoing
from napari_xt.engine.writer import GROUP_REGIONS
from napari_xt.geometry import Step
from napari_xt.io.stores.store import BlockData

BATCHES_AHEAD = 2  # for each thread that computes, or a group of regions: so much is begun behind what is waited for


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step that is being encoded: ``windows`` holds the batches of each of its windows."""

    step: Step
    windows: Sequence[Encoding]
    regions: int


def carry_out(run: Ongoing, todo: Sequence[Step]) -> Generator[Event, None, int]:
    """Work off ``todo``, what is in view first; returns the number of regions that failed."""
    waiting = [list(run.plan.grid.step_regions(step)) for step in todo]
    run.writer.decoded = run.plan.regions - sum(len(run.plan.wanted(regions)) for regions in waiting)
    return (yield from _Windows(run, sum(len(running(run.plan, regions)) for regions in waiting)).carry_out(todo))


class _Windows:
    """Steps on their way: being encoded, then being decoded, then with the writer."""

    def __init__(self, run: Ongoing, wanted: int) -> None:
        self._run, self._wanted = run, wanted
        self._encoded = self._failed = 0
        self._encoding: deque[_Begun] = deque()
        self._decoding: deque[Future[list[BlockData]]] = deque()
        self._ahead = max(GROUP_REGIONS, BATCHES_AHEAD * run.plan.workers * run.plan.batch)

    def carry_out(self, todo: Sequence[Step]) -> Generator[Event, None, int]:
        """Keep enough of them on their way; returns the number of regions that failed."""
        run = self._run
        for step, early in run.focus.ordered(todo, lambda step: span(step.blocks), run.plan.frame):
            units = [window_unit(run.plan, window) for window in step.windows]
            begun = [run.encoder.begin(unit, early) for unit in units]
            self._encoding.append(_Begun(step, begun, sum(len(regions) for _, regions in units)))
            while sum(later.regions for later in list(self._encoding)[1:]) >= self._ahead:
                yield from self._advance(self._encoding.popleft())
        while self._encoding:
            yield from self._advance(self._encoding.popleft())
        yield from self._decoded(0)
        return self._failed

    def _advance(self, begun: _Begun) -> Generator[Event]:
        """Have a step decoded once it is encoded, and written what was decoded before."""
        encoded = []
        for batches in begun.windows:
            own = yield from self._window(batches)
            encoded.append(own)
        self._decoding.append(self._run.workers.computing.submit_first(_decode, self._run, begun.step, encoded))
        yield from self._decoded(1)

    def _window(self, batches: Encoding) -> Generator[Event, None, list[stages.Encoded]]:
        """Wait for the regions of a window."""
        run, own = self._run, list[stages.Encoded]()
        for batch in batches:
            own += yield from run.teller.until(batch)
            yield from self._decoded(len(self._decoding))
            done = run.plan.regions - self._wanted + self._encoded + len(own)
            yield from run.teller.progress("encode", done, run.plan.regions)
        self._encoded += len(own)
        self._failed += sum(bool(e.error) for e in own)
        if not run.sound:
            check_hope(own, self._failed, self._encoded, self._wanted)
        return own

    def _decoded(self, behind: int) -> Generator[Event]:
        """Hand what is decoded to the writer, waiting while more than ``behind`` steps are not."""
        while self._decoding and (len(self._decoding) > behind or self._decoding[0].done()):
            blocks = yield from self._run.teller.until(self._decoding.popleft())
            yield from self._run.writer.commit(blocks)
        yield from self._run.writer.written()


def _decode(run: Ongoing, step: Step, encoded: Sequence[Sequence[stages.Encoded]]) -> list[BlockData]:
    """The blocks of a step from its windows' encoded regions."""
    plan, results, regions = run.plan, list[Decoded](), list[stages.Encoded]()
    for window, own in zip(step.windows, encoded, strict=True):
        whole = run.encoder.filled(plan.grid.window_regions(window), own)
        held = stages.held(run.model, plan, window, whole)
        results += decode(run.model, plan, held, range(window.shape[0]))
        regions += whole
    return [kept_block(run.model, plan, block, results, regions) for block in step.blocks]
