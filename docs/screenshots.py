"""Pictures of every state of the widgets, in docs/images: ``.ci/screen .venv/bin/python docs/screenshots.py``.

One run takes some two minutes. Nothing is downloaded, and nothing of the user's settings is read or changed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HOME = tempfile.mkdtemp(prefix="napari-xt-pictures-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {"NAPARI_CONFIG": f"{HOME}/napari.yaml", "XDG_CONFIG_HOME": HOME, "XDG_CACHE_HOME": HOME}

import napari  # noqa: E402 - it reads NAPARI_CONFIG
import numpy as np  # noqa: E402
from napari.settings import get_settings  # noqa: E402
from PIL import Image  # noqa: E402

import napari_xt as xt  # noqa: E402
from napari_xt.geometry import Box  # noqa: E402
from napari_xt.model.xt import XT  # noqa: E402
from napari_xt.plugin.demo import SCENE  # noqa: E402
from napari_xt.plugin.layers.compared import hide_difference, show_difference  # noqa: E402
from napari_xt.plugin.tour import Tour  # noqa: E402
from napari_xt.plugin.widgets.correct import CorrectWidget  # noqa: E402

ENCODE = XT.encode
IMAGES = Path(__file__).parent / "images"
SIZE = (1280, 720)


class Album(Tour):
    """The tour's ways to open, click and wait, and pictures of what comes."""

    slow = 0.0  # seconds that the encoder waits, so that a run can be looked at

    def states(self) -> Iterator[str]:
        """Each state of the widgets, by the name of its picture."""
        self._pause(0.5)
        self._front(self.run)
        self._pause(0.5)
        yield "run-empty"
        self._open("canopy", "scene.xt.zarr")
        self._wait(lambda: "regions" in self.run.card.text())
        self.viewer.scene.camera.zoom *= 6
        yield "run-chosen"
        yield from self._areas()
        yield from self._running()
        yield from self._tables()
        yield from self._shown()
        yield from self._correcting()
        yield from self._synthetic()
        yield from self._error()

    def _areas(self) -> Iterator[str]:
        drawn = np.array([[1120, 1020], [1120, 1250], [1330, 1280], [1360, 1050]]) * self.viewer.layers[0].scale[:2]
        image = self.viewer.layers[0]
        self.viewer.add_shapes(
            [drawn],
            units=image.units,
            shape_type="polygon",
            name="area",
            face_color="#00000000",
            edge_color="cyan",
            edge_width=0.5,
        )
        self.run.area.drawn.setChecked(True)
        self._pause(1.0)
        yield "run-areas"
        self.run.area.whole.setChecked(True)
        self.viewer.layers.remove("area")

    def _running(self) -> Iterator[str]:
        self.run.form.more.window_.setValue(2)  # small windows: more of them are shown early
        self.slow = 0.3
        self._click_run()
        self._wait(lambda: self._state.done >= 40 or self._state.over)
        yield "run-running"
        self.run.stop_button.click()
        self._wait(lambda: self._state.over)
        self.slow = 0.0
        self._pause(2.0)
        yield "run-resume"
        self._click_run()
        self._finish()
        self._pause(1.0)
        yield "run-done"

    def _tables(self) -> Iterator[str]:
        self._front(self.regions)
        self._wait(lambda: self.regions.opened is not None and not self.regions.loading.busy)
        tabs = self.regions.tabs
        for name in ("regions", "boxes", "objects", "summary"):
            page = getattr(self.regions, name)
            tabs.setCurrentWidget(page)
            if name in ("objects", "summary"):
                page.measure()
                self._wait(lambda page=page: not page.task.busy)
            else:
                page.select(44)
                page.chosen.emit(44)
            self._pause(0.7)
            yield f"scores-{name}"
        self.regions.pointer.clear()
        self.viewer.reset_view()
        self.viewer.scene.camera.zoom *= 6

    def _shown(self) -> Iterator[str]:
        self._front(self.run)
        self._scroll(self.run.shown)
        self._pause(0.7)
        yield "run-shown"
        other = xt.predict(SCENE, "canopy", out=self.folder / "alone.xt.zarr", context=False)
        show_difference(self.viewer, str(self.folder / "scene.xt.zarr"), str(other.path))
        self._wait(lambda: any("against" in layer.name for layer in self.viewer.layers))
        self._pause(1.0)
        yield "compare"
        hide_difference(self.viewer)

    def _correcting(self) -> Iterator[str]:
        widget = CorrectWidget(self.viewer)
        dock = self.viewer.window.add_dock_widget(widget, name="Correct and refine", area="right", tabify=True)
        self._front(widget)
        self._wait(lambda: widget.correcting.corrections is not None)
        self._paint(widget.correcting)
        folds = ("Classes and tools", "Boxes and regions", "Review", "Refine", "Log")
        for name in folds:
            for other, fold in widget.folds.items():
                fold.setChecked(other == name)
            self._pause(2.0)
            yield f"correct-{name.lower().replace(' ', '-')}"
        self.viewer.window.remove_dock_widget(dock)
        self._front(self.run)

    def _paint(self, correcting: Any) -> None:
        """Background and crowns in the middle of the view, and a few regions that were looked at."""
        y, x = (int(n) // 2 for n in correcting.corrections.shape)
        for index, value in enumerate((1, 0, 1, 0, 1)):
            with correcting.corrections.stroke() as stroke:
                stroke.fill(Box(y - 60 + 25 * index, x - 80, y - 45 + 25 * index, x + 80), [[value] * 160] * 15)
        with correcting.corrections.stroke("review") as stroke:
            stroke.region(y // 256, x // 256, state="fixed")
            stroke.region(0, 0, state="accepted")

    def _scroll(self, widget: Any) -> None:
        """Bring a part of *Run xT* into view."""
        widget.parentWidget().parentWidget().parentWidget().ensureWidgetVisible(widget, 0, 0)

    def _error(self) -> Iterator[str]:
        self._front(self.run)
        self._scroll(self.run.form)
        file = self.folder / "notes.txt"
        file.touch()
        self.run.form.more.out.setText(str(file / "slide.xt.zarr"))
        self._pause(0.5)
        self.run.run_button.click()
        self._wait(lambda: self.run.handle is not None and self.run.handle.state.over)
        self._pause(1.0)
        yield "run-error"

    def _synthetic(self) -> Iterator[str]:
        self.slide()
        scores = self.prediction.scores
        cells = scores[~scores["class"].str.contains("marker|other")]
        cell = cells.iloc[len(cells) // 2]
        self._map((int(cell["region_row"]), int(cell["region_col"])), str(self.prediction.path))
        self._pause(0.7)
        yield "context-map"


def save(viewer: Any, name: str) -> None:
    """A small picture of the whole window."""
    IMAGES.mkdir(exist_ok=True)
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    picture.save(IMAGES / f"{name}.webp", quality=80, method=6)


def pictures(theme: str, wanted: Callable[[str], bool]) -> None:
    """Go through all states in one theme; those that are ``wanted`` are kept."""
    get_settings().appearance.theme = theme
    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer(title="napari", show=True)
        viewer.window.resize(*SIZE)
        album = Album(viewer, Path(folder))

        def slowed(model: XT, regions: Any, album: Album = album) -> Any:
            time.sleep(album.slow)
            return ENCODE(model, regions)

        XT.encode = slowed
        for state in album.states():
            name = state if theme == "dark" else f"{state}-{theme}"
            if wanted(name):
                save(viewer, name)
                print(f"{time.monotonic() - BEGAN:5.1f} s  {name}", flush=True)
        viewer.close()


BEGAN = time.monotonic()
if __name__ == "__main__":
    parts = sys.argv[1:]
    pictures("dark", lambda name: not parts or any(part in name for part in parts))
    if not parts or "light" in parts:
        pictures("light", lambda name: name.startswith(("run-chosen", "run-done", "scores-summary")))
