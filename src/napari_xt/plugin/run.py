"""A run in a viewer, for the button, scripts and the console alike: from a layer's name to live layers.

Joins engine, layers and thread; must not know widgets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakKeyDictionary

from napari_xt.engine.events import Event, Notice
from napari_xt.engine.focus import Focus
from napari_xt.engine.plan import Model, Plan, plan
from napari_xt.engine.seen import seen_region
from napari_xt.engine.settings import RunSettings
from napari_xt.engine.unfinished import Unfinished, unfinished
from napari_xt.errors import XTError
from napari_xt.io.image import Image, open_image
from napari_xt.io.prediction import Prediction
from napari_xt.model.zoo import ModelInfo, describe, find_model
from napari_xt.plugin.runs.named import image_layers
from napari_xt.plugin.session import Planning, RunState, Session

if TYPE_CHECKING:
    import numpy as np
    from napari.layers import Layer
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_xt.plugin._thread import Pull
    from napari_xt.plugin.live import LiveLayers
    from napari_xt.plugin.runs.activity import Activity
    from napari_xt.plugin.view import Follower

UNLIMITED: Final = 2**62  # bytes
KEEP: Final = "features"  # who looks at a result switches the context on and off
_sessions: WeakKeyDictionary[Viewer, Session] = WeakKeyDictionary()
_activities: WeakKeyDictionary[Viewer, Activity] = WeakKeyDictionary()  # as long as the viewer


def run(
    viewer: Viewer,
    image: Layer | str | os.PathLike[str] | Sequence[Layer | str] | None = None,
    model: Any = "canopy",
    *,
    out: str | os.PathLike[str] | None = None,
    **options: object,
) -> RunHandle:
    """Run a model over an image of a viewer; its layers appear and grow while it goes on.

    Returns at once; where another run is going on in this viewer it waits for its turn. Layers of an earlier run over
    the same image are reused.

    Parameters
    ----------
    viewer
        Where the layers appear.
    image
        An Image layer, its name, or a path, which is opened in the viewer; default: the active layer. Several layers
        or names are the channels of one image, see `open_image`.
    model
        A bundled model's name, the path of one, one of `list_models`, or a loaded model.
    out
        The store, ``NAME.xt.zarr``; default: beside the image.
    **options
        The fields of `RunSettings`.

    Raises
    ------
    XTError
        The image, the model or an option can't be used.
    """
    from napari_xt.plugin.view import plain

    viewer = plain(viewer)
    layers = image_layers(viewer, image)
    return start(viewer, layers, Job(model, wanted(viewer, layers, options), out))


def start(viewer: Viewer, layers: Sequence[Layer], job: Job) -> RunHandle:
    """Run ``job`` over the layers of one image of a viewer; what `run` does once it is clear what is wanted.

    Raises
    ------
    XTError
        As `run` does.
    """
    check(layers, job.model, job.settings)
    return RunHandle(viewer, layers, session_of(viewer), job)


def session_of(viewer: Viewer) -> Session:
    """The runs of ``viewer``."""
    from napari_xt.plugin.canvas import free_in_own_context
    from napari_xt.plugin.layers.compiled import compile_ahead
    from napari_xt.plugin.runs.activity import Activity

    if viewer not in _sessions:
        compile_ahead()
        free_in_own_context(viewer)
        _sessions[viewer] = Session()
        _activities[viewer] = Activity(_sessions[viewer])
    return _sessions[viewer]


def check(layers: Sequence[Layer], model: Model | str | os.PathLike[str], settings: RunSettings) -> None:
    """Refuse what is known to be impossible without a look at a pixel: quick enough for the viewer's thread.

    What only pixels tell (limits of intensity, what is background, and with it the memory) the run itself says.

    Raises
    ------
    XTError
        As `run` would.
    """
    known = _known(model, layers)
    skips = known.config.skip_background if settings.skip_background is None else settings.skip_background
    by_range = settings.intensity in (None, "percentile")
    planned(
        layers,
        known,
        replace(
            settings,
            intensity="range" if by_range else settings.intensity,
            memory_limit_bytes=UNLIMITED if skips else settings.memory_limit_bytes,
            skip_background=False,
            reuse="no",
        ),
    )


def planned(layers: Sequence[Layer], model: Model | str | os.PathLike[str], settings: RunSettings) -> Plan:
    """What a run over the layers of one image would do: the pre-flight card; reads pixels, imports no torch.

    Raises
    ------
    XTError
        As `run` would.
    """
    from napari_xt.plugin.images.channels import image_of

    return plan(image_of(layers), _known(model, layers), replace(settings, keep=settings.keep or KEEP))


def _known(model: Model | str | os.PathLike[str], layers: Sequence[Layer]) -> Model:
    """What is known of a model without its weights; refused where it is a synthetic one and the image is not."""
    from napari_xt.plugin.images.synthetic import refuse_real

    known = describe(find_model(model)) if isinstance(model, (str, os.PathLike)) else model
    refuse_real(known, layers[0])
    return known


def preflight(
    layers: Sequence[Layer], model: ModelInfo, settings: RunSettings, out: str | os.PathLike[str] | None = None
) -> tuple[Plan, Unfinished | None]:
    """What a run would do, and the stopped run that it would go on with; reads pixels, so best in a thread.

    Raises
    ------
    XTError
        As `run` would.
    """
    from napari_xt.plugin.images.channels import image_of

    settings = replace(settings, keep=settings.keep or KEEP)
    made, image = planned(layers, model, settings), image_of(layers)
    opened = open_image(image, pixel_size=settings.pixel_size, plane=settings.plane)
    try:
        return made, unfinished(opened, model, settings, made, out)
    finally:
        if not isinstance(image, Image):
            opened.close()


def seen(layers: Sequence[Layer], made: Plan, settings: RunSettings, at: tuple[float, float]) -> NDArray[np.uint8]:
    """The region at a place, ``(y, x)`` in level-0 px, as the model would see it; reads pixels, so best in a thread.

    Raises
    ------
    XTError
        As `seen_region` does.
    """
    from napari_xt.plugin.images.channels import image_of

    image = image_of(layers)
    opened = open_image(image, pixel_size=settings.pixel_size, plane=settings.plane)
    try:
        return seen_region(opened, made, at)
    finally:
        if not isinstance(image, Image):
            opened.close()


@dataclass(frozen=True, slots=True)
class Job:
    """What is run, apart from the image: see `run` for ``model`` and ``out``."""

    model: Any
    settings: RunSettings
    out: str | os.PathLike[str] | None = None

    def with_context(self, context: bool) -> Self:
        """The same with or without context; it never throws away what is at its output path."""
        return replace(self, settings=replace(self.settings, context=context, restart=False))


class RunHandle:
    """One run in a viewer, as `run` returns it.

    Attributes
    ----------
    image
        The layer that is run, the first where several are one image.
    layers_run
        All of these.
    job
        What is run over it.
    state
        How far it is.
    """

    def __init__(self, viewer: Viewer, layers: Sequence[Layer], session: Session, job: Job) -> None:
        from napari_xt.plugin._thread import check_thread, when_closed
        from napari_xt.plugin.live import LiveLayers

        check_thread()
        self.layers_run, self.job = tuple(layers), job
        self.image = self.layers_run[0]
        self._viewer, self._session = viewer, session
        self._pull: Pull | None = None
        self._follower: Follower | None = None
        name = ", ".join(one.name for one in layers)
        self.state: RunState = session.start(name if job.settings.context else f"{name} without context")
        self._live: LiveLayers = LiveLayers(viewer, self.image)
        self._live.images = self.layers_run
        if self.state.phase == "queued":
            self.state.starter, self.state.stopper = self._take_turn, self._leave
            when_closed(viewer, self.cancel)
        else:
            self._begin()
        session.started.emit(self)

    def __repr__(self) -> str:
        return f"<RunHandle {self.state}>"

    @property
    def prediction(self) -> Prediction | None:
        """What the run has written by now; None before it has started."""
        return self._live.prediction

    @property
    def layers(self) -> list[Layer]:
        """The image layer and those of the run, as far as they are in the viewer."""
        return self._live.layers

    @property
    def shown(self) -> bool:
        """Whether the layers over the image are this run's, and not those of another run."""
        return self._live.shown

    @property
    def whole(self) -> bool:
        """Whether it is done and its store is still there."""
        return self.state.phase == "done" and os.path.isdir(self.state.out)

    def show(self) -> None:
        """Show the run's layers again, in the place of another run's over the same image."""
        self._live.show_again()
        self._session.changed.emit(self.state)

    def cancel(self) -> None:
        """Stop; what is done stays, and the same run later goes on from there."""
        self._session.stop(self.state)

    def wait(self, timeout: float | None = None) -> Prediction | None:
        """Wait until the run is over and return its prediction, None where it was stopped before it started.

        On the viewer's thread, napari's console included, the window stays alive meanwhile.

        Raises
        ------
        TimeoutError
            It is not over after ``timeout`` seconds; it goes on.
        XTError
            The run failed.
        """
        from napari_xt.plugin._loop import wait_until

        end = None if timeout is None else time.monotonic() + timeout
        wait_until(lambda: self.state.phase != "queued", timeout)
        left = None if end is None else max(0.0, end - time.monotonic())
        if self.state.phase == "queued" or (self._pull is not None and not self._pull.wait(left)):
            raise TimeoutError(f"{self.state.name}: the run is not over after {timeout:g} s")
        if self.state.error is not None:
            raise self.state.error
        return self.prediction

    def _begin(self) -> None:
        """Start the thread."""
        from napari_xt.plugin._thread import Pull
        from napari_xt.plugin.view import Follower

        live, run_over, job, focus = self._live, self.layers_run, self.job, Focus()
        self._follower = Follower(self._viewer, self.image, focus)
        name = f"the run over {self.state.name} goes on (what is done is kept)"
        self._pull = Pull(lambda: _events(live, run_over, job, focus), self._take, self._end, self._viewer, name)
        self.state.stopper = self._pull.stop

    def _take_turn(self) -> None:
        """Begin at last, unless the image has gone meanwhile."""
        there = all(layer in self._viewer.layers for layer in self.layers_run)
        self._begin() if there else self._leave()

    def _leave(self) -> None:
        """Wait no more."""
        self._session.end(self.state, None)

    def _take(self, event: Event | Planning) -> None:
        if isinstance(event, Planning):
            self._session.take(self.state, event)
            return
        self._live.show()
        if self._follower is not None:
            self._follower.look()
        self._session.take(self.state, event)
        if isinstance(event, Notice):
            _tell(event.text)

    def _end(self, error: Exception | None) -> None:
        if self._follower is not None:
            self._follower.end()
        self._live.end()
        self._session.end(self.state, error)
        if error is not None:
            _notify(error)


def _events(live: LiveLayers, layers: Sequence[Layer], job: Job, focus: Focus) -> Iterator[Event | Planning]:
    """The run itself, in its own thread: loading the model imports torch, and the layers' pixels are read here."""
    from napari_xt.engine.run import stream
    from napari_xt.model.checkpoint import load_model
    from napari_xt.model.xt import XT
    from napari_xt.plugin.images.channels import image_of

    model = job.model if isinstance(job.model, XT) else load_model(job.model)
    yield Planning()
    try:
        for event in stream(image_of(layers), model, job.settings, out=job.out, focus=focus):
            live.read(event)
            yield event
    finally:
        live.read_all()


def _tell(text: str) -> None:
    """Tell the user something that is no error."""
    from napari.utils.notifications import show_info

    show_info(text)


def _notify(error: Exception) -> None:
    """Tell the user of an error: one of ours in its sentence, another one with its traceback."""
    from napari.utils.notifications import ErrorNotification, notification_manager, show_error

    if isinstance(error, XTError):
        show_error(str(error))
    else:
        notification_manager.dispatch(ErrorNotification(error))


def wanted(viewer: Viewer, layers: Sequence[Layer], options: dict[str, object]) -> RunSettings:
    """The options, with what a viewer wants and the plane that the sliders show where nothing is said of these.

    Raises
    ------
    XTError
        An option or the layer can't be used.
    """
    from napari_xt.plugin.images.channels import axes_of
    from napari_xt.plugin.preferences import preferred_settings
    from napari_xt.plugin.view import plain, plane_in_view

    settings = RunSettings.of(**{"preview": True, "keep": KEEP} | preferred_settings() | options)
    if settings.plane is None and (plane := plane_in_view(plain(viewer), layers[0], axes_of(layers[0]))):
        return RunSettings.merged(settings, {"plane": plane})
    return settings
