"""A large picture is decoded while the window lives: events are handled, a bar is there, a stop leaves nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.utils.progress import progress
from PIL import Image as Picture
from qtpy.QtCore import QTimer

from napari_xt.errors import ImageFormatError
from napari_xt.io.conversion.sweep import Column
from napari_xt.io.images import pictures
from napari_xt.plugin.reader import NO_LAYERS, read_layers, read_paths
from plugin_fixtures import picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIXELS = picture(2600, 300)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture of six strips that takes half a second."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pictures, "LARGE_PX", 10)
    write = Column.write

    def slowly(column: Column, done: int = 0) -> Iterator[int]:
        for strip in write(column, done):
            time.sleep(0.1)
            yield strip

    monkeypatch.setattr(Column, "write", slowly)
    Picture.fromarray(PIXELS).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_the_window_lives_meanwhile(large: Path, make_napari_viewer: Callable[..., Any]) -> None:
    make_napari_viewer()
    seen: list[list[str]] = []
    timer = QTimer()
    timer.timeout.connect(lambda: seen.append([bar.desc for bar in progress._all_instances]))
    timer.start(20)
    ((levels, style, _),) = read_layers(large)
    timer.stop()
    assert len(seen) > 5
    assert any("large.png: decoding once into a pyramid" in text for bars in seen for text in bars)
    assert not progress._all_instances
    assert style["name"] == "large"
    np.testing.assert_array_equal(np.asarray(levels[0]), PIXELS)


def test_a_stop_leaves_nothing_and_keeps_what_is_done(large: Path, make_napari_viewer: Callable[..., Any]) -> None:
    make_napari_viewer()
    QTimer.singleShot(250, lambda: [bar.cancel() for bar in list(progress._all_instances)])
    assert read_paths([str(large)]) == NO_LAYERS
    assert not progress._all_instances
    ((levels, *_),) = read_paths([str(large)])
    np.testing.assert_array_equal(np.asarray(levels[0]), PIXELS)


def test_what_is_damaged_is_told(large: Path, make_napari_viewer: Callable[..., Any]) -> None:
    make_napari_viewer()
    large.write_bytes(large.read_bytes()[:-50_000])
    with pytest.raises(ImageFormatError, match=r"large\.png"):
        read_layers(large)
