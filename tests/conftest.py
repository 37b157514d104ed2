"""What every test stands on: no user's settings, no network, one Qt binding, and nothing left behind."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ("plugin_fixtures",)

ROOT = Path(__file__).resolve().parents[1]

# Before napari is imported: it reads NAPARI_CONFIG at import, and settings and caches are the user's.
HOME = tempfile.mkdtemp(prefix="napari-xt-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {
    "NAPARI_CONFIG": str(Path(HOME, "napari.yaml")),
    "XDG_CACHE_HOME": str(Path(HOME, "cache")),
    "XDG_CONFIG_HOME": str(Path(HOME, "config")),
    "XDG_DATA_HOME": str(Path(HOME, "data")),
    "HF_HUB_OFFLINE": "1",
    "QT_API": os.environ.get("QT_API", "pyqt6"),
    "OMP_NUM_THREADS": "1",  # tensors are small here, and threads that wait for each other starve on a busy machine
}

# Time is no criterion: machines that run tests are shared.
settings.register_profile("house", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# Threads that a library keeps for the life of the process ("module of the class:name of the thread"), and why.
LASTING_THREADS = {
    r"threading:zarr_io": "zarr runs its asyncio loop in it",
    r"threading:(zarr_pool|asyncio)_\d+": "the loop's executor decodes chunks in them",
    r"tqdm\._monitor:.*": "one monitor for all progress bars",
    r"threading:Dummy-\d+.*": "a thread of Qt's pool that has once called Python",
}

# Top-level widgets that belong to the application, by class, and why.
LASTING_WIDGETS = {
    "QTipLabel": "Qt keeps the last tool tip",
}

# Files that libraries keep open: fonts, caches of shaders, their own data.
LIBRARY_FILES = tuple(str(Path(folder)) for folder in (sys.prefix, sys.base_prefix, "/usr", "/etc", "/dev", "/proc"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images beside the checkout, ``../shared``."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the images in ../shared, which are not part of the repository")
    return folder


@pytest.fixture(autouse=True)
def _new_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is the first of its user: no models, runs or views are remembered from another."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a top-level widget or an open file behind."""
    before = _inventory()
    yield
    report = getattr(request.node, "rep_call", None)
    if report is not None and report.passed:
        left = _left_since(before)
        assert not left, f"the test left behind: {', '.join(left)}"


def _inventory() -> dict[object, str]:
    """Return what is alive now: a key that is unique while it lives, and words for it."""
    threads = {("thread", t): f"thread {_words(t)}" for t in threading.enumerate() if not _lasts(t)}
    files = {("file", f.path, f.fd): f"open file {f.path}" for f in psutil.Process().open_files() if _counts(f.path)}
    widgets = {("widget", w): f"widget {w!r}" for w in _top_level_widgets()}
    return threads | files | widgets


def _left_since(before: dict[object, str], patience: float = 3.0) -> list[str]:
    """Return words for what is new, giving threads time to end and Qt time to delete."""
    end = time.monotonic() + patience
    while True:
        _let_qt_delete()
        left = [words for key, words in _inventory().items() if key not in before]
        if not left or time.monotonic() > end:
            return left
        gc.collect()
        time.sleep(0.02)


def _words(thread: threading.Thread) -> str:
    return f"{type(thread).__module__}:{thread.name}"


def _lasts(thread: threading.Thread) -> bool:
    return thread in _dask_pool() or any(re.fullmatch(pattern, _words(thread)) for pattern in LASTING_THREADS)


def _dask_pool() -> set[threading.Thread]:
    """Return the threads of dask's default pool, whose names are those of any pool."""
    dask = sys.modules.get("dask.threaded")
    return set(getattr(getattr(dask, "default_pool", None), "_threads", ()))


def _counts(path: str) -> bool:
    return not path.startswith((*LIBRARY_FILES, HOME))


def _application() -> Any:
    widgets = sys.modules.get("PyQt6.QtWidgets")
    return widgets and widgets.QApplication.instance()


def _top_level_widgets() -> list[Any]:
    app = _application()
    return [w for w in app.topLevelWidgets() if type(w).__name__ not in LASTING_WIDGETS] if app else []


def _let_qt_delete() -> None:
    if app := _application():
        deferred_delete = sys.modules["PyQt6.QtCore"].QEvent.Type.DeferredDelete
        app.processEvents()
        app.sendPostedEvents(None, deferred_delete.value)
