"""What a viewer's user is told of a run, from its events alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from napari_xt.engine.events import RunFinished, RunStarted, StageProgress, Summary
from napari_xt.engine.plan import plan
from napari_xt.plugin.session import Session


@pytest.fixture
def told(canopy: object) -> list[object]:
    resolved = plan(np.zeros((300, 300, 3), np.uint8), "canopy")
    return [
        RunStarted("run", 0, 0.0, plan=resolved, out="a.xt.zarr", done=5),
        StageProgress("run", 1, 2.0, stage="encode", done=15, total=25),
        StageProgress("run", 2, 2.0, stage="decode", done=10, total=25),
        RunFinished("run", 3, 4.0, summary=Summary(25, 20, 1, 4.0, 5.0)),
    ]


def test_a_run_in_words(told: list[object]) -> None:
    session, seen = Session(), []
    session.changed.connect(lambda state: seen.append(str(state)))
    state = session.start("scene")
    for event in told:
        session.take(state, event)
    session.end(state, None)
    assert seen == [
        f"scene: loading {'the model' if 'torch' in sys.modules else 'PyTorch'}",
        "scene: running, 5 of 25 regions",
        "scene: running, 15 of 25 regions, 5.0 regions/s, 2 s left",
        "scene: running, 15 of 25 regions, 5.0 regions/s, 2 s left",
        "scene: running, 25 of 25 regions, 5.0 regions/s",
        "scene: done, 20 regions in 4.0 s, 5.0 regions/s, 1 failed",
    ]


def test_a_run_ends_done_stopped_or_failed(told: list[object]) -> None:
    session = Session()
    session.end(session.start("a"), None)
    session.end(session.start("b"), RuntimeError("no"))
    done = session.start("c")
    session.take(done, told[-1])
    session.end(done, None)
    assert [state.phase for state in session.runs] == ["stopped", "failed", "done"]


def test_stopping_asks_once_and_waits_for_the_end(told: list[object]) -> None:
    session, asked = Session(), []
    state = session.start("a")
    state.stopper = lambda: asked.append(True)
    session.stop(state)
    session.take(state, told[0])
    assert state.phase == "stopping"
    session.end(state, None)
    session.stop(state)
    assert (state.phase, asked) == ("stopped", [True])


def test_runs_wait_for_their_turn() -> None:
    session, begun = Session(), list[str]()
    first, second, third, fourth = (session.start(name) for name in "abcd")
    for state in (second, third, fourth):
        state.starter = lambda name=state.name: begun.append(name)
        state.stopper = lambda state=state: session.end(state, None)
    assert session.active is first
    assert session.queued == [second, third, fourth]
    assert str(second) == "b: waits for its turn"
    session.stop(third)
    assert (third.phase, begun) == ("stopped", [])
    session.end(first, ValueError("no"))
    assert (session.active, begun) == (second, ["b"])
    session.end(second, None)
    assert begun == ["b", "d"]
    session.end(fourth, None)
    assert session.active is None
    assert not session.queued
