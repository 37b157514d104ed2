"""The runs of one viewer as values that change: which there are, how far each is, what went wrong.

Knows events; must not know Qt, napari, layers or threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from psygnal import Signal

from napari_xt.engine.card import duration
from napari_xt.engine.events import Event, Notice, RunFailed, RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.plan import Plan

Phase = Literal["queued", "starting", "planning", "running", "stopping", "done", "stopped", "failed"]
OVER: tuple[Phase, ...] = ("done", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Planning:
    """The model is loaded, and the image is being looked at."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a stage of a run is: ``done`` of ``total`` regions, of which ``first`` were done when it ``began``."""

    done: int
    total: int
    first: int
    began: float
    now: float

    @property
    def rate(self) -> float:
        """Regions a second."""
        return (self.done - self.first) / max(self.now - self.began, 1e-3)

    @property
    def left_s(self) -> float | None:
        """Seconds until it is through, None while nothing tells."""
        return (self.total - self.done) / self.rate if self.done > self.first else None


@dataclass(slots=True)
class RunState:
    """One run as its user sees it: ``done`` of ``total`` regions, ``rate`` in regions a second.

    ``stages`` says the same of each stage by its name. ``notices`` are the sentences that it told its user. ``stopper``
    asks the run to end; it is there while it goes on. ``starter`` begins it, where it waits for its turn.
    """

    name: str
    phase: Phase = "starting"
    run_id: str = ""
    out: str = ""
    plan: Plan | None = None
    done: int = 0
    total: int = 0
    rate: float = 0.0
    loads_torch: bool = field(default_factory=lambda: "torch" not in sys.modules)
    error: Exception | None = None
    summary: Summary | None = None
    stages: dict[str, Stage] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    stopper: Callable[[], None] | None = field(default=None, repr=False)
    starter: Callable[[], None] | None = field(default=None, repr=False)
    _begin: tuple[int, float] = field(default=(0, 0.0), repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in OVER

    def take(self, event: Event | Planning) -> None:
        """Go on by one event."""
        if isinstance(event, Planning):
            self.phase = "planning" if self.phase == "starting" else self.phase
        elif isinstance(event, RunStarted):
            self.run_id, self.out, self.plan = event.run_id, event.out, event.plan
            self.done, self.total = event.done, event.plan.regions
            self._begin = event.done, event.seconds
            self.phase = self.phase if self.phase == "stopping" else "running"
        elif isinstance(event, StageProgress):
            self._go_on(event)
        elif isinstance(event, RunFinished):
            self.done, self.summary, self.rate = self.total, event.summary, event.summary.regions_per_second
        elif isinstance(event, RunFailed):
            self.error = event.error
        elif isinstance(event, Notice):
            self.notices.append(event.text)

    @property
    def left_s(self) -> float | None:
        """Seconds until all stages that have begun are through, None while nothing tells."""
        return max((stage.left_s for stage in self.stages.values() if stage.left_s is not None), default=None)

    def _go_on(self, event: StageProgress) -> None:
        before = self.stages.get(event.stage)
        begin = (event.done, event.seconds) if event.stage != "encode" else self._begin
        first, began = (before.first, before.began) if before else begin
        stage = Stage(event.done, event.total, first, began, event.seconds)
        self.stages[event.stage] = stage
        if event.stage == "encode":
            self.done, self.rate = event.done, stage.rate

    def __str__(self) -> str:
        return " ".join(_words(self).split())


class Session:
    """The runs of one viewer, one at a time: the others wait for their turn.

    Attributes
    ----------
    changed
        Emitted with a run's state whenever it changes.
    started
        Emitted with the handle of a run when it has begun.
    runs
        All that there were, the last one last.
    """

    changed = Signal(RunState)
    started = Signal(object)

    def __init__(self) -> None:
        self.runs: list[RunState] = []

    @property
    def active(self) -> RunState | None:
        """The run that is going on."""
        return next((run for run in self.runs if not run.over and run.phase != "queued"), None)

    @property
    def queued(self) -> list[RunState]:
        """Those that wait, the next one first."""
        return [run for run in self.runs if run.phase == "queued"]

    def start(self, name: str) -> RunState:
        """Begin a run over the image ``name``, or let it wait until the others are over."""
        state = RunState(name, "starting" if self.active is None else "queued")
        self.runs.append(state)
        self.changed.emit(state)
        return state

    def take(self, state: RunState, event: Event | Planning) -> None:
        """Go on with a run by one event."""
        state.take(event)
        self.changed.emit(state)

    def stop(self, state: RunState) -> None:
        """Ask a run to end soon; one that is over stays as it is."""
        if state.stopper is not None and not state.over:
            state.phase = "stopping"
            state.stopper()
            self.changed.emit(state)

    def end(self, state: RunState, error: Exception | None) -> None:
        """Say that a run is over; with an error, or without one because it is done or was stopped."""
        state.error, state.stopper = error, None
        state.phase = "failed" if error else "done" if state.summary else "stopped"
        self.changed.emit(state)
        if self.active is None and self.queued:
            self._begin(self.queued[0])

    def _begin(self, state: RunState) -> None:
        """Begin a run that waited: who sees that it waits no more finds it begun."""
        starter, state.starter = state.starter, None
        if starter is not None:
            starter()
        if state.phase == "queued":
            state.phase = "starting"
            self.changed.emit(state)


def _words(state: RunState) -> str:
    far = f"{state.done} of {state.total} regions"
    if state.phase == "queued":
        return f"{state.name}: waits for its turn"
    if state.phase == "starting":
        return f"{state.name}: loading {'PyTorch' if state.loads_torch else 'the model'}"
    if state.phase == "planning":
        return f"{state.name}: planning, looking at the image"
    if state.phase == "failed":
        return f"{state.name}: failed: {state.error}"
    if state.phase == "done":
        return _summary(state)
    pace = f", {state.rate:.1f} regions/s" if state.rate else ""
    left = (
        f", {duration(state.left_s)} left"
        if state.left_s and state.done < state.total and state.phase == "running"
        else ""
    )
    return f"{state.name}: {state.phase}, {far}{pace}{left}"


def _summary(state: RunState) -> str:
    summary = state.summary
    assert summary is not None
    damage = f", {summary.failed} failed" if summary.failed else ""
    now = summary.encoded + summary.reused
    if not now:
        return f"{state.name}: was done already, {summary.regions} regions{damage}"
    taken = f" ({summary.reused} of them encoded before)" if summary.reused else ""
    pace = f"{now} regions{taken} in {summary.seconds:.1f} s, {summary.regions_per_second:.1f} regions/s"
    return f"{state.name}: done, {pace}{damage}"
