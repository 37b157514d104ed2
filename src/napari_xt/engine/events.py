"""What a run tells while it goes on: small frozen values, never pixels. Knows geometry and plans only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from napari_xt.engine.plan import Plan
from napari_xt.geometry import Region

RegionKind = Literal["preview", "final", "failed", "skipped"]


class Detection(NamedTuple):
    """A candidate box of one region, level-0 pixels, half-open; ``label`` is the index of its class."""

    id: int
    y0: float
    x0: float
    y1: float
    x1: float
    label: int
    score: float


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all: which run, the event's number in it, seconds since its start."""

    run_id: str
    seq: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run begins (or goes on: ``done`` regions were there already); ``out`` is the store's path."""

    plan: Plan
    out: str
    done: int


@dataclass(frozen=True, slots=True)
class StageProgress(Event):
    """``done`` of ``total`` regions have passed ``stage``; told again now and then where nothing else happens."""

    stage: Literal["encode", "decode"]
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something that the user should know, and that changes no result: a sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class RegionDone(Event):
    """A region is in the store, was skipped as empty, or has failed.

    ``boxes`` are its candidates, before boxes compete across regions.
    """

    region: Region
    kind: RegionKind
    boxes: tuple[Detection, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a finished run: its regions; those encoded and failed in this call, its seconds, regions a second.

    ``reused`` were taken from an earlier run, as they are encoded there.
    """

    regions: int
    encoded: int
    failed: int
    seconds: float
    regions_per_second: float
    reused: int = 0


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """All regions are done or have failed, boxes have competed, the store is complete."""

    summary: Summary


@dataclass(frozen=True, slots=True)
class RunFailed(Event):
    """The run can't go on; the store holds what was done and can be resumed. The error is raised after this event."""

    error: Exception = field(compare=False)
