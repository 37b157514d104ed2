"""Work in threads: the newest wins, what is late is dropped, errors are told in a sentence."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QWidget

from napari_xt.errors import SettingsError
from napari_xt.plugin.widgets.task import Task, Tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytestqt.qtbot import QtBot


@pytest.fixture
def task(make_napari_viewer: Callable[..., Any], qtbot: QtBot) -> Task:
    owner = QWidget()
    qtbot.addWidget(owner)
    return Task(make_napari_viewer(), owner)


def test_newest_wins_and_the_others_are_dropped(task: Task, qtbot: QtBot) -> None:
    gate, begun, results, seen = threading.Event(), [], [], []
    task.progress.connect(lambda done, total: seen.append((done, total)))

    def work(name: str, tell: Tell) -> str:
        begun.append(name)
        gate.wait(5)
        tell(1, 2)
        return name

    for name in "abc":
        task.do(lambda tell, name=name: work(name, tell), results.append, pytest.fail)
    assert task.busy
    gate.set()
    qtbot.waitUntil(lambda: not task.busy)
    assert results == ["c"]
    assert begun in (["a", "c"], ["c"])
    assert seen == [(1, 2)]


def test_stopped_work_tells_nothing(task: Task, qtbot: QtBot) -> None:
    gate, over = threading.Event(), []
    task.changed.connect(lambda: over.append(task.busy))
    task.do(lambda tell: gate.wait(5), pytest.fail, pytest.fail)
    task.stop()
    assert not task.busy
    gate.set()
    qtbot.waitUntil(lambda: over == [True, False])


def test_errors_are_sentences(task: Task, qtbot: QtBot) -> None:
    def fail(error: Exception) -> None:
        raise error

    told: list[str] = []
    notification_manager.records.clear()
    task.do(lambda _tell: fail(SettingsError("a = 1", "is wrong", "take 2")), pytest.fail, told.append)
    qtbot.waitUntil(lambda: len(told) == 1)
    assert not notification_manager.records
    task.do(lambda _tell: fail(ValueError("odd")), pytest.fail, told.append)
    qtbot.waitUntil(lambda: len(told) == 2)
    assert told == [str(SettingsError("a = 1", "is wrong", "take 2")), "ValueError: odd"]
    assert "odd" in str(notification_manager.records[-1])
    notification_manager.records.clear()
