"""What napari would compile while the window waits is compiled before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_xt.plugin.layers.compiled import compile_ahead, compiled
from napari_xt.plugin.run import run
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_it_is_done_once_in_a_thread_of_its_own() -> None:
    compile_ahead()
    assert compiled(60)
    compile_ahead()
    assert "napari-xt-compile" not in {thread.name for thread in threading.enumerate() if thread.is_alive()}


@pytest.mark.usefixtures("canopy")
def test_layers_wait_for_it_and_come_at_the_end_at_the_latest(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    monkeypatch.setattr("napari_xt.plugin.live.compiled", lambda: seen.append(len(viewer.layers)) or False)
    viewer = make_napari_viewer()
    handle = run(viewer, viewer.add_image(picture(200, 300)), out=tmp_path / "a.xt.zarr")
    prediction = handle.wait(120)
    assert set(seen) == {1}
    assert [layer.name.split(" ")[-1] for layer in handle.layers[1:]] == ["scores", "mask", "boxes"]
    np.testing.assert_array_equal(np.asarray(handle.layers[2].data), prediction.mask[0][:])
