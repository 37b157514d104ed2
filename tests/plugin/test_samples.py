"""The samples under File > Open Sample: each is what its name says, and opens at once."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels, Layer
from napari.utils.progress import progress
from npe2 import PluginManifest
from qtpy.QtCore import QTimer

from napari_xt.errors import ImageReadError
from napari_xt.io.computed.nuclei import NUCLEI, nuclei
from napari_xt.io.download import Remote
from napari_xt.plugin import sample_data
from napari_xt.plugin.images import download
from napari_xt.plugin.sample_data import fluorescence, mosaic


def test_mosaic_is_large_and_comes_at_once() -> None:
    began = time.monotonic()
    (layer,) = [Layer.create(*data) for data in mosaic()]
    assert time.monotonic() - began < 20
    assert isinstance(layer, Image)
    assert layer.data[0].shape == (25_000, 29_000, 3)
    assert max(layer.data[-1].shape[:2]) <= 2048
    assert [str(unit) for unit in layer.units] == ["meter", "meter"]
    assert np.ptp(np.asarray(layer.data[0][20_000:20_040, 28_000:28_040])) > 0


def test_fluorescence_field_has_its_truth() -> None:
    field, truth = [Layer.create(*data) for data in fluorescence()]
    assert isinstance(truth, Labels)
    assert (field.visible, truth.visible) == (True, False)
    np.testing.assert_allclose(field.scale, truth.scale)
    inside = truth.data > 0
    assert 0.05 < inside.mean() < 0.3
    assert np.median(field.data[inside]) > 4 * np.median(field.data[~inside])
    assert 0.8 * NUCLEI < len(np.unique(truth.data)) - 1 <= NUCLEI
    again = nuclei.__wrapped__()
    np.testing.assert_array_equal(again[0], field.data)


@pytest.mark.parametrize("key", ["canopy", "canopy-mosaic", "context-proof", "fluorescence"])
def test_samples_open_in_napari(make_napari_viewer: Callable[..., Any], key: str) -> None:
    manifest = PluginManifest.from_distribution("napari-xt")
    assert key in [sample.key for sample in manifest.contributions.sample_data or ()]
    viewer = make_napari_viewer()
    viewer.open_sample("napari-xt", key)
    assert len(viewer.layers) >= 1


def test_whole_slide_comes_from_the_web_once(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8)
    tifffile.imwrite(content, pixels, photometric="rgb", tile=(256, 256))
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    monkeypatch.setattr(download, "folder", lambda: tmp_path)
    viewer = make_napari_viewer()
    with served(content.getvalue()) as (place, pauses):
        slide = Remote(f"{place}/slide.tif", len(content.getvalue()), digest, "CC0")
        monkeypatch.setattr(sample_data, "WHOLE_SLIDE", slide)
        pauses.set()
        timer = QTimer()
        timer.timeout.connect(lambda: [bar.cancel() for bar in progress._all_instances if bar.n])
        timer.start(20)
        with pytest.raises(ImageReadError, match="was stopped; open it again"):
            viewer.open_sample("napari-xt", "whole-slide")
        timer.stop()
        assert 0 < (tmp_path / "slide.tif.part").stat().st_size < slide.size
        pauses.clear()
        (layer,) = viewer.open_sample("napari-xt", "whole-slide")
    np.testing.assert_array_equal(np.asarray(layer.data[0] if layer.multiscale else layer.data), pixels)
    assert len(viewer.open_sample("napari-xt", "whole-slide")) == 1, "it is kept: nobody serves it any more"
    assert not progress._all_instances


@contextmanager
def served(content: bytes) -> Iterator[tuple[str, threading.Event]]:
    """Serve ``content`` in pieces; while the event is set it is slow."""
    slow = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):
                for start in range(0, len(content), 1 << 18):
                    self.wfile.write(content[start : start + (1 << 18)])
                    time.sleep(0.3 if slow.is_set() else 0)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", slow
        server.shutdown()
        thread.join()
