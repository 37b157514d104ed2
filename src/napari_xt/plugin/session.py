"""The runs of one viewer as values that change: which there are, how far each is, what went wrong.

Knows events; must not know Qt, napari, layers or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from psygnal import Signal

from napari_xt.engine.events import Event, Notice, RunFailed, RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.plan import Plan
from napari_xt.errors import RunError

Phase = Literal["starting", "running", "stopping", "done", "stopped", "failed"]
OVER: tuple[Phase, ...] = ("done", "stopped", "failed")


@dataclass(slots=True)
class RunState:
    """One run as its user sees it: ``done`` of ``total`` regions, ``rate`` in regions a second.

    ``notices`` are the sentences that it told its user. ``stopper`` asks the run to end; it is there while it goes on.
    """

    name: str
    phase: Phase = "starting"
    run_id: str = ""
    out: str = ""
    plan: Plan | None = None
    done: int = 0
    total: int = 0
    rate: float = 0.0
    error: Exception | None = None
    summary: Summary | None = None
    notices: list[str] = field(default_factory=list)
    stopper: Callable[[], None] | None = field(default=None, repr=False)
    _begin: tuple[int, float] = field(default=(0, 0.0), repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in OVER

    def take(self, event: Event) -> None:
        """Go on by one event."""
        if isinstance(event, RunStarted):
            self.run_id, self.out, self.plan = event.run_id, event.out, event.plan
            self.done, self.total = event.done, event.plan.regions
            self._begin = event.done, event.seconds
            self.phase = self.phase if self.phase == "stopping" else "running"
        elif isinstance(event, StageProgress) and event.stage == "encode":
            self.done = event.done
            first, began = self._begin
            self.rate = (event.done - first) / max(event.seconds - began, 1e-3)
        elif isinstance(event, RunFinished):
            self.done, self.summary, self.rate = self.total, event.summary, event.summary.regions_per_second
        elif isinstance(event, RunFailed):
            self.error = event.error
        elif isinstance(event, Notice):
            self.notices.append(event.text)

    def __str__(self) -> str:
        return " ".join(_words(self).split())


class Session:
    """The runs of one viewer, one at a time.

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
        return self.runs[-1] if self.runs and not self.runs[-1].over else None

    def start(self, name: str) -> RunState:
        """Begin a run over the image ``name``.

        Raises
        ------
        RunError
            Another one is going on.
        """
        if self.active is not None:
            raise RunError(self.active.name, "a run is going on in this viewer", "wait for it or stop it first")
        state = RunState(name)
        self.runs.append(state)
        self.changed.emit(state)
        return state

    def take(self, state: RunState, event: Event) -> None:
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


def _words(state: RunState) -> str:
    far = f"{state.done} of {state.total} regions"
    if state.phase == "starting":
        return f"{state.name}: loading the model"
    if state.phase == "failed":
        return f"{state.name}: failed: {state.error}"
    if state.phase == "done":
        return _summary(state)
    pace = f", {state.rate:.1f} regions/s" if state.rate else ""
    return f"{state.name}: {state.phase}, {far}{pace}"


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
