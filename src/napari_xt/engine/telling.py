"""The events of one run: each gets the run, its number and the time.

Knows events; knows nothing of how a run goes.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Literal, TypeVar

from napari_xt.engine.events import Detection, Event, Notice, RegionDone, RegionKind, RunStarted, StageProgress
from napari_xt.engine.plan import Plan
from napari_xt.geometry import Region
from napari_xt.io.stores.store import RegionData, Status

BEAT_S = 0.1  # how often a run that waits looks up: it can be stopped then
KINDS: dict[Status, RegionKind] = {Status.FAILED: "failed", Status.SKIPPED: "skipped"}
E = TypeVar("E", bound=Event)
T = TypeVar("T")


class Teller:
    """Gives the events of one run their run, number and time."""

    def __init__(self) -> None:
        self._run_id, self._seq, self._start = uuid.uuid4().hex[:12], -1, time.monotonic()
        self._notes: deque[str] = deque()
        self._last: dict[str, Any] = {"stage": "encode", "done": 0, "total": 0}

    def tell(self, event: type[E], /, **said: Any) -> E:
        """Make the next event."""
        self._seq += 1
        return event(run_id=self._run_id, seq=self._seq, seconds=time.monotonic() - self._start, **said)

    def start(self, plan: Plan, out: Path, done: int) -> RunStarted:
        """Tell that the run begins, with so many regions ``done``."""
        self._last = {"stage": "encode", "done": done, "total": plan.regions}
        return self.tell(RunStarted, plan=plan, out=str(out), done=done)

    def note(self, text: str) -> None:
        """Have a `Notice` told soon; from any thread."""
        self._notes.append(text)

    def progress(self, stage: Literal["encode", "decode"], done: int, total: int) -> Iterator[Event]:
        """Tell how far a stage is, and what is to be noted."""
        while self._notes:
            yield self.tell(Notice, text=self._notes.popleft())
        self._last = {"stage": stage, "done": done, "total": total}
        yield self.tell(StageProgress, **self._last)

    def regions(self, regions: Iterable[RegionData]) -> Iterator[Event]:
        """Tell regions that are in the store."""
        for data in regions:
            boxes = tuple(Detection(*row) for row in data.boxes.tolist())
            yield self.tell(RegionDone, region=data.region, kind=KINDS.get(data.status, "final"), boxes=boxes)

    def previews(self, regions: Iterable[Region]) -> Iterator[Event]:
        """Tell regions that can be seen already, while the rest of their window is encoded."""
        for region in regions:
            yield self.tell(RegionDone, region=region, kind="preview")

    def until(self, future: Future[T]) -> Generator[Event, None, T]:
        """Wait for ``future``, telling the last progress now and then: whoever listens can stop the run there."""
        while not wait([future], BEAT_S).done:
            yield from self.progress(**self._last)
        return future.result()
