"""Fixtures of the plugin's tests: a small model in the place of the bundled one, pictures, both ways of slicing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_xt.io.stores.store import Store
from napari_xt.model import zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# In a process of its own, so that a test meets torch when a user does: after the viewer has drawn.
MAKE_MODEL = """
import sys
from dataclasses import replace
from small_model import SMALL, small_model
from napari_xt.model.checkpoint import save_model
from napari_xt.model.config import ModelCard
card = ModelCard(name="canopy", title="Random <canopy>", licence="MIT", metrics={"F1": 0.5})
save_model(small_model(replace(SMALL, scale_um=None, window=2, threshold=0.9)), sys.argv[1], card)
"""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make = [sys.executable, "-c", MAKE_MODEL, str(folder / "canopy.safetensors")]
    subprocess.run(make, check=True, cwd=Path(__file__).parent)
    return folder


@pytest.fixture
def canopy(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the small model in the place of the bundled ones."""
    monkeypatch.setattr(zoo, "_bundled", lambda: model_folder)
    return model_folder / "canopy.safetensors"


@pytest.fixture(params=["sync", "async"])
def slicing(request: pytest.FixtureRequest, make_napari_viewer: Callable[..., Any]) -> Iterator[str]:
    """Run the test with both ways in which napari fetches what it shows (the viewer's fixture resets the setting)."""
    from napari.settings import get_settings

    get_settings().experimental.async_ = request.param == "async"
    yield request.param
    get_settings().experimental.async_ = False


class Gate(threading.Semaphore):
    """Lets one group of blocks be committed for each time that it is released; none at all once it is shut."""

    def __init__(self) -> None:
        super().__init__(0)
        self.shut = threading.Event()

    def open_(self) -> bool:
        """Whether the next group may pass, once that is known."""
        while not self.acquire(timeout=0.02):
            if self.shut.is_set():
                return False
        return True


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Hold what is decoded at a gate."""
    gate, commit = Gate(), Store.commit
    monkeypatch.setattr(Store, "commit", lambda store, blocks: commit(store, blocks) if gate.open_() else None)
    yield gate
    gate.shut.set()


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a colour picture ``(y, x, 3)`` with structure of several sizes."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    smooth = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return smooth + random.integers(0, 50, (height, width, 3), np.uint8)
