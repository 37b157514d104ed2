"""The order in which the threads of a run begin what was handed in."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from napari_xt.engine.workers import Workers


def test_what_is_to_be_first_overtakes_what_waits() -> None:
    begun, go = list[str](), threading.Event()
    with Workers(1) as workers:
        crew = workers.computing
        last = [crew.submit(go.wait), *(crew.submit(begun.append, name) for name in "abc")][-1]
        first = crew.submit_first(begun.append, "first")
        go.set()
        last.result(10)
        assert first.done()
    assert begun == ["first", "a", "b", "c"]


def test_it_is_begun_where_nothing_waits_and_tells_its_result_and_its_error() -> None:
    with Workers(2) as workers:
        assert workers.computing.submit_first(divmod, 7, 2).result(10) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            workers.computing.submit_first(divmod, 7, 0).result(10)


def test_it_is_not_begun_once_the_run_has_ended() -> None:
    begun, go = list[int](), threading.Event()
    with Workers(1) as workers:
        running = workers.computing.submit(go.wait)
        waiting = workers.computing.submit_first(begun.append, 1)
        workers._ended.set()
        go.set()
        running.result(10)
        with pytest.raises(CancelledError):
            waiting.result(10)
    assert not begun
