"""The guided tour: what convinces a sceptic in three minutes, done with the widgets' own buttons, step by step.

Knows a viewer, the widgets and the samples; must not know how anything is computed, nor who watches.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.engine.machine import peak_bytes
from napari_xt.errors import RunError, StoreError
from napari_xt.io.export import export
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.plugin._loop import handle_events_until
from napari_xt.plugin.demo import held_out_quality
from napari_xt.plugin.layers.toggle import toggle_runs
from napari_xt.plugin.widgets.regions import RegionsWidget
from napari_xt.plugin.widgets.run import RunWidget

if TYPE_CHECKING:
    from napari.viewer import Viewer

PATIENCE_S = 300.0  # for any one thing
OVERLAY, CHROMA = 0.005, 40  # share of the canvas whose colour must change so much (of 255) to be an overlay
KILLED = """
import sys, napari, napari_xt as xt
viewer = napari.Viewer(show=False)
viewer.open_sample("napari-xt", "canopy")
xt.run(viewer, viewer.layers[0], out=sys.argv[1], workers=1, window=1)
napari.run()
"""


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, in a sentence with its figures."""

    name: str
    text: str


class Tour:
    """Shows what there is in one viewer, and says after each step what came of it.

    Parameters
    ----------
    viewer
        An empty one.
    folder
        Where predictions and exports go.
    mosaic_s
        Seconds that the view is moved over the mosaic while it is run.
    watch
        Called while something is waited for and at the end of each step: who records takes a picture then.
    """

    def __init__(
        self, viewer: Viewer, folder: Path, mosaic_s: float = 10.0, watch: Callable[[], object] = lambda: None
    ) -> None:
        self.viewer, self.folder = viewer, folder
        self._mosaic_s, self._watch = mosaic_s, watch
        self.run, self.regions = RunWidget(viewer), RegionsWidget(viewer)
        viewer.window.add_dock_widget(self.run, name="Run xT", area="right")
        viewer.window.add_dock_widget(self.regions, name="Region scores", area="right", tabify=True)
        self._front(self.run)

    def steps(self) -> Iterator[Step]:
        """Take all steps; each is yielded when it is done."""
        for step in (
            self.sample,
            self.first_overlay,
            self.summary,
            self.toggle,
            self.row,
            self.killed,
            self.context,
            self.exported,
            self.line,
            self.mosaic,
        ):
            text = step()
            self.viewer.status = text
            self._pause(1.0)
            yield Step(step.__name__, text)

    def sample(self) -> str:
        """Open the bundled scene and choose where the result goes."""
        self._open("canopy", "scene.xt.zarr")
        height, width = self.viewer.layers[0].data[0].shape[:2]
        return f"File > Open Sample > Tree canopy: {width} x {height} px, nothing downloaded"

    def first_overlay(self) -> str:
        """Click *Run* with the model loaded and wait for colour over the image, then for the end."""
        from napari_xt.model.checkpoint import load_model

        load_model("canopy")
        before, began = self._picture(), time.monotonic()
        self._click_run()
        self._wait(lambda: self._coloured(before))
        first = time.monotonic() - began
        state = self._finish()
        return (
            f"Run: first overlay after {first:.1f} s, all {state.total} regions after {time.monotonic() - began:.1f} s"
        )

    def summary(self) -> str:
        """Count by class, and compare with hand-drawn crowns on the strip that was never trained on."""
        self._front(self.regions)
        self.regions.tabs.setCurrentWidget(self.regions.summary)
        self._wait(lambda: self.regions.opened is not None and not self.regions.loading.busy)
        self.regions.summary.measure()
        self._wait(lambda: not self.regions.summary.task.busy)
        found = held_out_quality(self.prediction)
        return f"Summary: {len(self.prediction.boxes)} crowns; F1 {found.f1:.2f} on the strip never trained on"

    def toggle(self) -> str:
        """Show the truth, hide the prediction with the key, and show it again."""
        truth = self.viewer.layers["hand-drawn crowns"]
        truth.visible = True
        self._pause(1.0)
        toggle_runs(self.viewer)
        self._pause(1.0)
        toggle_runs(self.viewer)
        truth.visible = False
        return "Key T: prediction away, the hand-drawn crowns alone, and back"

    def row(self) -> str:
        """Choose the box with the highest score in the table: the camera goes there."""
        self.regions.tabs.setCurrentWidget(self.regions.boxes)
        before = tuple(self.viewer.scene.camera.center)
        best = int(np.argmax(self.prediction.boxes["score"].to_numpy()))
        self.regions.boxes.select(best)
        self.regions.boxes.chosen.emit(best)
        self._pause(1.0)
        far = float(np.linalg.norm(np.subtract(self.viewer.scene.camera.center, before)))
        return f"A row of the table: the view flew {far:.0f} m to the surest crown"

    def mosaic(self) -> str:
        """Run 29,000 x 25,000 pixels and move the view meanwhile; then stop."""
        self._open("canopy-mosaic", "mosaic.xt.zarr")
        self._front(self.run)
        self._click_run()
        self._wait(lambda: self._state.done > 0 or self._state.over)
        began, frames, slowest = time.monotonic(), 0, 0.0
        centre, reach = (
            np.array(self.viewer.scene.camera.center),
            0.3 * float(max(self.viewer.layers[0].extent.world[1])),
        )
        self.viewer.scene.camera.zoom *= 4
        while (now := time.monotonic()) < began + self._mosaic_s and not self._state.over:
            self.viewer.scene.camera.center = tuple(centre + _circle(0.3 * (now - began)) * reach)
            self._turn()
            slowest, frames = max(slowest, time.monotonic() - now), frames + 1
        done, rate = self._state.done, self._state.rate
        self.run.stop_button.click()
        self._wait(lambda: self._state.over)
        pace = f"{frames / self._mosaic_s:.0f} frames/s while panning, slowest {1000 * slowest:.0f} ms"
        memory = f"{peak_bytes() / 2**30:.1f} GiB at most"
        return f"29,000 x 25,000 px: {done} regions, {rate:.0f} a second, {pace}; {memory}; stopped"

    def killed(self) -> str:
        """Kill another napari in the midst of its run, open the scene here and click *Resume*."""
        store = self.folder / "killed.xt.zarr"
        napari = subprocess.Popen([sys.executable, "-c", KILLED, str(store)], stderr=subprocess.DEVNULL)
        try:
            self._wait(lambda: _coverage(store) > 0.2 or napari.poll() is not None)
        finally:
            napari.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            napari.wait()
        self._open("canopy", store.name)
        self.run.form.more.window_.setValue(1)
        self._wait(lambda: self.run.run_button.text().startswith("Resume"))
        button = self.run.run_button.text()
        self._click_run()
        self._finish()
        self.run.form.more.window_.setValue(0)
        return (
            f"napari killed and opened again: the button read {button}, and went on to {self.prediction.coverage:.0%}"
        )

    def context(self) -> str:
        """Run the synthetic slide with context and without, and show what a region hangs on."""
        self.slide()
        seen = self.prediction
        cells = seen.scores[~seen.scores["class"].str.contains("marker|other")]
        self.run.form.context.setChecked(False)
        self._wait(lambda: self._state.out != str(seen.path) and self._state.over)
        same = float((self.prediction.scores.loc[cells.index, "class"] == cells["class"]).mean())
        self.run.form.context.setChecked(True)
        self._pause(0.5)
        self._map((int(cells["region_row"].iloc[0]), int(cells["region_col"].iloc[0])), str(seen.path))
        changed = f"{1 - same:.0%} of the regions with cells change their class without it"
        return f"Context off and on: {changed}; key K shows what one of them hangs on"

    def exported(self) -> str:
        """Write what was found for other tools."""
        path = export(self.folder / "scene.xt.zarr", self.folder / "scene.geojson")
        return f"Export: {path.name}, {path.stat().st_size / 1e6:.1f} MB, opens in QuPath and QGIS"

    def line(self) -> str:
        """Put the run on the clipboard as Python."""
        self.run.copy_as.copy("Python")
        return f"Copy as Python: {self.run.line.text()}"

    @property
    def prediction(self) -> Prediction:
        """Of the last run.

        Raises
        ------
        RunError
            There is none.
        """
        handle = self.run.handle
        if handle is None or handle.prediction is None:
            raise RunError("tour", "a run did not begin", "see napari's notifications")
        return handle.prediction

    @property
    def _state(self) -> Any:
        state = self.run.handle.state if self.run.handle else None
        if state is None:
            raise RunError("tour", "a run did not begin", "see napari's notifications")
        if state.error is not None:
            raise state.error
        return state

    def slide(self) -> None:
        """Run the middle of the synthetic slide."""
        self._open("context-proof", "slide.xt.zarr")
        self.viewer.scene.camera.zoom *= 3
        self.run.area.in_view.setChecked(True)
        self._pause(0.5)
        self._click_run()
        self._finish()
        self.run.area.whole.setChecked(True)

    def _open(self, sample: str, out: str) -> None:
        self.viewer.layers.clear()
        self.viewer.open_sample("napari-xt", sample)
        self.viewer.reset_view()
        self.run.form.more.out.setText(str(self.folder / out))
        self._wait(lambda: out in self.run.line.text())
        self._pause(0.5)

    def _click_run(self) -> None:
        self._wait(self.run.run_button.isEnabled)
        self.run.run_button.click()

    def _finish(self) -> Any:
        self._wait(lambda: self._state.over)
        self._pause(0.3)
        return self._state

    def _map(self, region: tuple[int, int], store: str) -> None:
        self._front(self.regions)
        self.regions.predictions.setCurrentIndex(self.regions.predictions.findData(store))
        self._wait(lambda: self.regions.opened is not None and not self.regions.loading.busy)
        self.regions.context.region = region
        self.regions.context.toggle()
        self._wait(lambda: not self.regions.context.task.busy)

    def _front(self, widget: Any) -> None:
        widget.parentWidget().raise_()

    def _picture(self) -> Any:
        return self.viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(np.int16)

    def _coloured(self, before: Any) -> bool:
        """Whether a colour lies over the image that was not there: more than the grey of what is not computed yet."""
        now = self._picture()
        height, width = np.minimum(now.shape, before.shape)[:2]  # the run's progress takes some room from the canvas
        now, before = now[:height, :width], before[:height, :width]
        chroma = np.abs((now[..., 0] - now[..., 2]) - (before[..., 0] - before[..., 2]))
        return bool((chroma > CHROMA).mean() > OVERLAY)

    def _wait(self, over: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not over():
            if time.monotonic() > end:
                raise TimeoutError("the tour waited in vain")
            self._turn()

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() > end)

    def _turn(self) -> None:
        """Let the window live for a moment."""
        first = iter((False, True))
        handle_events_until(lambda: next(first, True), 0.02)
        self._watch()


def _circle(turn: float) -> NDArray[np.float64]:
    """Where on a circle one is, as ``(z, y, x)`` from its middle."""
    return np.array([0.0, np.sin(turn), np.cos(turn) - 1])


def _coverage(store: Path) -> float:
    """The share of a run that is done, 0 before its store is there."""
    try:
        return open_prediction(store).coverage
    except StoreError:
        return 0.0
