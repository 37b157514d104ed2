"""Learning from what was corrected, then the refined model over the same image: one after the other, in threads.

Knows corrections, models and runs of a viewer; must not know Qt, networks or how it is shown.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from napari.layers import Layer
from napari.viewer import Viewer
from psygnal import Signal

from napari_xt.annotate.truth import Truths, truths
from napari_xt.errors import SettingsError, XTError
from napari_xt.io.corrections.corrections import Corrections, corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.plugin.correct.correcting import Correcting
from napari_xt.plugin.correct.models_at_hand import model_of, python_of
from napari_xt.plugin.layers.overlays import TAG, Overlay, Place
from napari_xt.plugin.layers.shown import thresholds_in
from napari_xt.plugin.live import LiveLayers
from napari_xt.plugin.run import Job, RunHandle, session_of, start
from napari_xt.plugin.runs.known_models import add_model
from napari_xt.plugin.session import RunState

if TYPE_CHECKING:
    from napari_xt.train.lesson import Learning, RefineSettings

Phase = Literal["idle", "waiting", "learning", "predicting", "carrying"]
Tell = Callable[[int, int], None]
PYTHON: Final = "better = xt.refine({}, {!r})"


class Work(Protocol):
    """What lets one call after the other work in a thread."""

    def do(self, call: Callable[[Tell], Any], done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Work at ``call``; its result, or a sentence about its error, is told on the viewer's thread."""

    def stop(self) -> None:
        """Drop what is being worked at."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of learning, without the network: see `Refined`."""

    path: Path | None
    python: str = ""
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


class Refining:
    """What *Refine* does: learn, write the new model, run it over the image, carry the corrections, switch to it.

    Parameters
    ----------
    correcting
        What is corrected.
    work
        Where it is worked at.

    Attributes
    ----------
    settings
        How it learns; None: as `refine` does by itself.
    phase
        What goes on now.
    costs
        Of the learning that goes on or was the last, a mean of some steps each.
    learned
        What came of the last one.
    changed
        Emitted when one of these is another.
    failed
        Emitted with a sentence.
    """

    changed = Signal()
    failed = Signal(str)

    def __init__(self, correcting: Correcting, work: Work) -> None:
        self._correcting, self._work = correcting, work
        self._session = session_of(correcting.viewer)
        self._stop = threading.Event()
        self._reports: deque[Learning] = deque()
        self._store = ""  # what is learned from
        self._layers: tuple[Layer, ...] = ()  # the image
        self.settings: RefineSettings | None = None
        self.phase: Phase = "idle"
        self.handle: RunHandle | None = None
        self.learned: Learned | None = None
        self.costs: list[float] = []
        self.steps = (0, 0)
        self._session.changed.connect(self._follow)

    def end(self) -> None:
        """Let the session go."""
        self._stop.set()
        self._session.changed.disconnect(self._follow, missing_ok=True)

    @property
    def busy(self) -> bool:
        """Whether something goes on."""
        return self.phase != "idle"

    def start(self) -> None:
        """Learn from what is open; where its run goes on, as soon as that is over.

        Raises
        ------
        SettingsError
            Nothing is open, or the image is not in the viewer.
        """
        store = self._correcting.store
        if self.busy or not store:
            return
        self._layers = image_layers_of(self._correcting.viewer, store)
        self._store, self._reports, self.costs, self.steps = store, deque(), [], (0, 0)
        self._stop.clear()
        if self._runs(store) is None:
            self._learn()
        else:
            self._turn("waiting")

    def stop(self) -> None:
        """Stop what goes on: what was written stays, the old model and prediction are as they were."""
        self._stop.set()
        if self.phase == "waiting":
            self._turn("idle")
        elif self.phase == "predicting" and self.handle is not None:
            self.handle.cancel()

    def take(self) -> None:
        """Take what was reported since the last call."""
        while self._reports:
            report = self._reports.popleft()
            if report.stage == "learn":
                self.costs.append(sum(report.costs.values()))
                self.steps = report.done, report.total
        self.changed.emit()

    def _learn(self) -> None:
        known, store, stop, reports = self._correcting.corrections, self._store, self._stop, self._reports
        if known is None or self._correcting.store != store:
            self._turn("idle")
            return
        settings, seen = self.settings, thresholds_in(self._correcting.viewer, store)

        def call(tell: Tell) -> Learned:
            def report(what: Learning) -> None:
                reports.append(what)
                tell(what.done, what.total)

            return learn(seen.of(open_prediction(store)), known, settings, report, stop.is_set)

        self._turn("learning")
        self._work.do(call, self._has_learned, self._fail)

    def _has_learned(self, learned: Learned) -> None:
        self.learned = learned if learned.path is not None else None
        self.take()
        if learned.path is None:
            self._turn("idle")
            return
        self._correcting.did.emit(learned.python)
        self._turn("predicting")
        self._correcting.held = True
        try:
            self._correcting.choose(None)
            self.handle = predict_again(
                self._correcting.viewer, self._layers, open_prediction(self._store), learned.path
            )
        except XTError as error:
            self._fail(str(error))

    def _follow(self, state: RunState) -> None:
        if not state.over:
            return
        if self.phase == "waiting" and self._runs(self._store) is None:
            self._learn()
        elif self.phase == "predicting" and self.handle is not None and state is self.handle.state:
            if state.phase == "done":
                self._carry(state.out)
            else:
                self._fail("" if state.phase == "stopped" else str(state.error))

    def _carry(self, new: str) -> None:
        old = self._store

        def call(_tell: Tell) -> None:
            from napari_xt.train.refine import hand_on

            hand_on(open_prediction(old), open_prediction(new))

        self._turn("carrying")
        self._work.do(call, lambda _: self._switch(new), self._fail)

    def _switch(self, store: str) -> None:
        self._correcting.held = False
        self._turn("idle")
        try:
            self._correcting.choose(store)
        except XTError as error:
            self.failed.emit(str(error))

    def _fail(self, why: str) -> None:
        """Nothing came of it: what was open is open again."""
        layers, held = self._layers, self._correcting.held
        if why:
            self.failed.emit(why)
        if not held:
            self._turn("idle")
        elif layers and layers[0] in self._correcting.viewer.layers:
            self._show_old(layers[0])
        else:
            self._correcting.held = False
            self._turn("idle")

    def _show_old(self, image: Layer) -> None:
        """Put the old prediction's layers back, where those of the new one took their places."""
        store, viewer = self._store, self._correcting.viewer
        if any(layer.metadata.get(TAG, {}).get("store") == store for layer in viewer.layers):
            self._switch(store)
            return

        def show(overlay: Overlay) -> None:
            LiveLayers.of_opened(viewer, image, overlay, {}, Place.of_layer(image)).show_again()
            self._switch(store)

        self._turn("carrying")
        self._work.do(lambda _tell: Overlay(open_prediction(store)), show, self._give_up)

    def _give_up(self, why: str) -> None:
        self._correcting.held = False
        self.failed.emit(why)
        self._turn("idle")

    def _runs(self, store: str) -> RunState | None:
        active = self._session.active
        return active if active is not None and active.out == store else None

    def _turn(self, phase: Phase) -> None:
        self.phase = phase
        if phase == "idle":
            self.handle, self._layers = None, ()
        self.changed.emit()


def learn(
    prediction: Prediction,
    known: Corrections,
    settings: RefineSettings | None,
    report: Callable[[Learning], None],
    stop: Callable[[], bool],
) -> Learned:
    """Refine the model of a prediction and write it; takes long and imports torch, so in a thread.

    Raises
    ------
    XTError
        As `refine` does, or its model is not at hand.
    """
    from napari_xt.train.refine import refine

    known.flush()
    model = model_of(prediction)
    found = refine(model, prediction, settings, progress=report, stop=stop)
    if found.path is None:
        return Learned(None)
    add_model(found.path)
    python = PYTHON.format(python_of(model), str(prediction.path))
    return Learned(found.path, python, dict(found.before), dict(found.after), found.seconds, tuple(found.warnings))


def labelled(prediction: Prediction, known: Corrections) -> Truths:
    """What is known of a prediction, as the disk has it; best in a thread."""
    known.flush()
    with corrections(prediction, read_only=True) as found:
        return truths(found)


def predict_again(viewer: Viewer, layers: tuple[Layer, ...], prediction: Prediction, model: Path) -> RunHandle:
    """Run a refined model over the same image into the next store, with what was encoded for the old one.

    Raises
    ------
    XTError
        As `run` would.
    """
    from napari_xt.train.refine import again, next_store

    return start(viewer, layers, Job(str(model), again(prediction), next_store(prediction)))


def image_layers_of(viewer: Viewer, store: str) -> tuple[Layer, ...]:
    """The layers of the image that a prediction of the viewer is of.

    Raises
    ------
    SettingsError
        They are not in the viewer.
    """
    by_id = {str(layer.unique_id): layer for layer in viewer.layers}
    for layer in viewer.layers:
        tag = layer.metadata.get(TAG, {})
        ids = tag.get("images") or [tag.get("image")]
        if tag.get("store") == store and all(one in by_id for one in ids):
            return tuple(by_id[one] for one in ids)
    raise SettingsError(store, "its image is not in the viewer", "open the image, then the prediction")
