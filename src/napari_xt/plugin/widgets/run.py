"""The dock widget *Run xT*: choose, read the pre-flight card, run, watch, stop, see it with and without context.

Shows what the session says and calls `run`; must not know engine, stores or threads.
"""

from __future__ import annotations

from functools import partial
from html import escape
from weakref import WeakKeyDictionary

import napari.viewer
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QMimeData, Qt, QTimer
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_xt.engine.card import card
from napari_xt.engine.fits import fit
from napari_xt.engine.plan import Plan
from napari_xt.engine.script import Script
from napari_xt.engine.unfinished import Unfinished
from napari_xt.errors import SettingsError, XTError
from napari_xt.io.html import html_table
from napari_xt.plugin.images.channels import contrast_limits, first_choice, open_layers, remember
from napari_xt.plugin.images.level import is_colour
from napari_xt.plugin.images.synthetic import is_synthetic
from napari_xt.plugin.run import RunHandle, preflight, run, session_of, wanted
from napari_xt.plugin.runs.contexts import Contexts
from napari_xt.plugin.runs.known_models import ENDS
from napari_xt.plugin.runs.known_runs import KnownRun, known_runs
from napari_xt.plugin.runs.script import script_of
from napari_xt.plugin.session import RunState
from napari_xt.plugin.view import plain
from napari_xt.plugin.widgets.area import AreaChoice
from napari_xt.plugin.widgets.column import Column
from napari_xt.plugin.widgets.compare import ComparePanel
from napari_xt.plugin.widgets.copy_as import CopyAs
from napari_xt.plugin.widgets.export import ExportButton
from napari_xt.plugin.widgets.form import Form
from napari_xt.plugin.widgets.image_combo import ImageCombo, alive
from napari_xt.plugin.widgets.new_model import ENTRY, TIP, NewModelRow
from napari_xt.plugin.widgets.pictures import Pictures
from napari_xt.plugin.widgets.progress import StageBars
from napari_xt.plugin.widgets.runs import RunsButton
from napari_xt.plugin.widgets.shown import ShownPanel
from napari_xt.plugin.widgets.task import Task

CARD_AFTER_MS = 200
NOTICES = 3  # that are shown, the newest
SYNTHETIC = "<p><b>synthetic</b>: the image is made up to show what context does</p>"


class RunWidget(QWidget):
    """Runs a model over an image of the viewer that it is docked in.

    Parameters
    ----------
    viewer
        Given by napari, which looks for this very annotation.

    Attributes
    ----------
    handle
        The last run that was started or shown again here.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.handle: RunHandle | None = None
        viewer = plain(viewer)
        self._viewer, self._session, self._contexts = viewer, session_of(viewer), Contexts(viewer)
        self._waiting: tuple[RunHandle, bool] | None = None  # a switch of the context, until that run has stopped
        self._switched: RunHandle | None = None  # what a switch has begun
        self._asked: list[tuple[RunHandle, object]] = []  # what goes on or waits, and what was chosen for it
        self._resumes: Unfinished | None = None
        self.image = ImageCombo(viewer)
        self.area = AreaChoice(viewer)
        self.form = Form(self.image, self.area)
        self.new_model = NewModelRow(viewer, self.image, self._options)
        self.card, self.status = QLabel(), QLabel()
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Stop")
        self.export_button = ExportButton(viewer)
        self.shown = ShownPanel(viewer)
        self._sizes: WeakKeyDictionary[Layer, str] = WeakKeyDictionary()  # of pixels, as the user gave them
        self.compare = ComparePanel(viewer)
        self.runs_button = RunsButton(self._runs, self._reopen, self.compare.offer, self._session)
        self.line, self.copy_as = QLineEdit(), CopyAs(self._script)
        self.stages = StageBars()
        self.pictures = Pictures(viewer)
        self._looking = Task(viewer, self)
        self._arrange()
        self._connect()
        self._follow_image()
        self._show(self._session.active)

    def _arrange(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.addWidget(self.form)
        column.addWidget(self.new_model)
        column.addWidget(self.card)
        column.addWidget(self.pictures)
        column.addWidget(self.shown)
        column.addWidget(self.compare)
        column.addStretch()
        scroll = Column()
        scroll.setWidget(inside)
        column.setContentsMargins(0, 0, 0, 0)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.stop_button, 1)
        buttons.addWidget(self.export_button, 1)
        buttons.addWidget(self.runs_button, 1)
        texts = QHBoxLayout()
        texts.addWidget(self.line, 1)
        texts.addWidget(self.copy_as)
        self.line.setReadOnly(True)
        self.line.setPlaceholderText("xt.run(viewer)")
        self.line.setToolTip("What Run does, as a line for napari's console (import napari_xt as xt).")
        whole = QVBoxLayout(self)
        whole.addWidget(scroll, 1)
        whole.addLayout(buttons)
        whole.addLayout(texts)
        whole.addWidget(self.stages)
        whole.addWidget(self.status)
        for label in (self.card, self.status):
            label.setWordWrap(True)
        self.card.setTextFormat(Qt.TextFormat.RichText)
        self.status.setTextFormat(Qt.TextFormat.PlainText)
        self.card.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def _connect(self) -> None:
        self.form.model.add_action(ENTRY, TIP, self.new_model.ask)
        self.new_model.turned.connect(self._follow_model)
        self.run_button.clicked.connect(self._run)
        self.stop_button.clicked.connect(self._stop)
        self._card_timer = QTimer(self)
        self._card_timer.setSingleShot(True)
        self._card_timer.setInterval(CARD_AFTER_MS)
        self._card_timer.timeout.connect(self._show_card)
        self.form.changed.connect(self._card_timer.start)
        self.form.more.out.textChanged.connect(self._card_timer.start)
        self.area.changed.connect(self._card_timer.start)
        self.form.context.toggled.connect(self._switch)
        self.form.model.currentIndexChanged.connect(self._follow_model)
        self.form.channels.picked.connect(self._remember)
        self.form.pixel_size.textEdited.connect(self._size_given)
        self.image.currentIndexChanged.connect(self._follow_image)
        self._viewer.dims.events.current_step.connect(self._slid)
        self.setAcceptDrops(True)
        self._session.changed.connect(self._show)
        self._session.started.connect(self._started)

    def _run(self) -> None:
        layers, context = list(self.image.layers) or None, self.form.context.isChecked()
        try:
            out, options = self._contexts.place(self.image.layer, self.form.out, context), self._options()
            asked = layers, self.form.model.info, out, options
            if any(asked == before for handle, before in self._asked if not handle.state.over):
                raise SettingsError("this run", "goes on or waits already", "choose another image, model or setting")
            self.handle = run(self._viewer, layers, self.form.model.info or "", out=out, **options)
            self._asked.append((self.handle, asked))
        except XTError as error:
            self._tell(error)

    def _tell(self, error: XTError) -> None:
        show_error(str(error))
        self.status.setText(str(error))

    def _switch(self, context: bool) -> None:
        """Show the chosen image's run with or without context; one that is going on has to stop first."""
        layer = self.image.layer
        handle = None if layer is None else self._contexts.current(layer)
        if handle is None:
            return
        if not handle.state.over:
            self._waiting = handle, context
            self._session.stop(handle.state)
        elif context != handle.job.settings.context:
            self._show_other(handle, context)

    def _show_other(self, handle: RunHandle, context: bool) -> None:
        try:
            self.handle = self._switched = self._contexts.show(handle, context)
        except XTError as error:
            self._tell(error)
            self._follow_context()

    def _settle(self) -> None:
        """A run is over: do what waited for that; where a switch came to nothing, let it tell what is shown."""
        if not alive(self):
            return
        self._asked = [pair for pair in self._asked if not pair[0].state.over]
        waiting = self._waiting
        if waiting is not None and waiting[0].state.over:
            self._waiting = None
            if waiting[0].image in self._viewer.layers:
                self._show_other(*waiting)
        elif self._switched is not None and self._switched.state.over and not self._switched.shown:
            self._switched = None
            self._follow_context()

    def _started(self, handle: RunHandle) -> None:
        if alive(self):
            self._contexts.take(handle)
            self._follow_context()

    def _follow_image(self) -> None:
        """Offer what suits the chosen image, and set the switch to what is shown over it."""
        layer = self.image.layer
        self.form.model.offer(synthetic=layer is not None and is_synthetic(layer))
        self.export_button.offer(layer)
        self.shown.offer(layer)
        self._follow_model()
        self._follow_context()
        self._card_timer.start()

    def _follow_model(self) -> None:
        """Offer the image's channels to the model, several layers where one is not enough, and ask for its scale."""
        info = self.form.model.info
        self.pictures.show_trained(info.card if info and self.image.layers else None)
        self.image.want(self.new_model.wants or (info.config.in_channels if info else None))
        image = open_layers(self.image.layers) if self.image.layers else None
        names, chosen = image.channel_names if image else (), None
        if image is not None and info is not None:
            chosen = first_choice(info.name, info.config.channel_names, image)
            simple = is_colour(image) or image.channels == 1
            names = () if simple and chosen == tuple(range(info.config.in_channels)) else names
        self.form.offer_channels(names, chosen)
        self.form.say_fits(partial(fit, image) if image is not None else None)
        stated = f"{image.scale[0]:g} x {image.scale[1]:g} {image.unit}" if image and image.scale_um else "not known"
        layer = self.image.layer
        self.form.ask_size(stated, "" if layer is None else self._sizes.get(layer, ""))
        for one in self.image.layers:
            one.events.contrast_limits.connect(self._contrast_changed)

    def _remember(self) -> None:
        if self.form.model.info is not None and self.form.channels.chosen:
            remember(self.form.model.info.name, self.form.channels.names)

    def _size_given(self, text: str) -> None:
        if self.image.layer is not None:
            self._sizes[self.image.layer] = text

    def _follow_context(self) -> None:
        layer = self.image.layer
        handle = None if layer is None else self._contexts.current(layer)
        if self._waiting is not None and self._waiting[0] is handle:
            self.form.show_context(self._waiting[1])
        elif handle is not None:
            self.form.show_context(handle.job.settings.context)

    def _stop(self) -> None:
        if (active := self._session.active) is not None:
            self._session.stop(active)

    def _options(self) -> dict[str, object]:
        """The fields of `RunSettings` as they are chosen now.

        Raises
        ------
        XTError
            The current view is to be run and shows nothing of the image, or nothing is drawn.
        """
        options = self.form.options()
        layer = self.image.layer
        if layer is not None and (roi := self.area.roi(layer)) is not None:
            options["roi"] = roi
        if self.form.more.by_layers and layer is not None and self.form.model.info is not None:
            channels = options.get("channels") or range(self.form.model.info.config.in_channels)
            options["intensity"] = contrast_limits(self.image.layers, channels)
        return options

    def _slid(self) -> None:
        if alive(self):
            self._card_timer.start()

    def _contrast_changed(self) -> None:
        if alive(self) and self.form.more.by_layers:
            self._card_timer.start()

    def _show_card(self) -> None:
        """Look in a thread at what the choices come to, and show it; the newest choices win."""
        layer, info = self.image.layer, self.form.model.info
        if layer is None or info is None:
            self._looking.stop()
            missing = "Open an image" if layer is None else "Choose a model"
            self._say(f"{missing} to see what a run over it would do.")
            return
        try:
            layers, settings = self.image.layers, wanted(self._viewer, self.image.layers, self._options())
            out = self._contexts.place(layer, self.form.out, self.form.context.isChecked())
            self.line.setText(self._script().console(layer.name))
            self.line.setCursorPosition(0)
        except XTError as error:
            self._looking.stop()
            self._say(escape(str(error)))
            return
        note = SYNTHETIC if is_synthetic(layer) else ""

        def show(found: tuple[Plan, Unfinished | None]) -> None:
            self._say(html_table(card(found[0])) + note, found[1])
            self.pictures.look(layers, found[0], settings)

        self._looking.do(lambda _tell: preflight(layers, info, settings, out), show, lambda why: self._say(escape(why)))

    def _say(self, text: str, stopped: Unfinished | None = None) -> None:
        """Show the card, and on the button whether it goes on with a run that was stopped."""
        self.card.setText(text)
        self._resumes = stopped
        self._name_button()

    def _name_button(self) -> None:
        """Say on the button what a click does: run, go on with a run that was stopped, or wait for another to end."""
        stopped = self._resumes
        text, tip = (
            (f"Resume ({round(100 * stopped.done)} %)", f"Go on with {stopped.path}") if stopped else ("Run", "")
        )
        if self._session.active is not None:
            text, tip = "Queue", "Run this as soon as the others are over."
        self.run_button.setText(text)
        self.run_button.setToolTip(tip)

    def _script(self) -> Script:
        """What *Run* would do now, as text."""
        out = self._contexts.place(self.image.layer, self.form.out, self.form.context.isChecked())
        return script_of(self._viewer, self.image.layers, self.form.model.info, self._options(), out)

    def _runs(self) -> list[KnownRun]:
        """The runs over the chosen image that can be shown again."""
        image = open_layers(self.image.layers) if self.image.layers else None
        of_viewer = [state.out for state in self._session.runs if state.out]
        return known_runs(image.name, image.source, of_viewer) if image else known_runs("", None, of_viewer)

    def _reopen(self, known: KnownRun) -> None:
        """Show a run again: in the place of what is over its image, where it was run here."""
        if (handle := self._contexts.of_store(known.path)) is not None:
            handle.show()
        else:
            self._viewer.open(str(known.path), plugin="napari-xt")

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Take files of models."""
        if event is not None and _model_files(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Choose the model that was dropped."""
        for path in _model_files(event.mimeData()) if event is not None else ():
            self.form.model.add(path)

    def _show(self, state: RunState | None) -> None:
        """Show how far a run is."""
        if not alive(self):
            return
        self.shown.follow()
        if state is not None and state.over:
            QTimer.singleShot(0, self._settle)  # others are being told of the end just now
            self._resumes = None  # what was found while it ran
            self._card_timer.start()
        state = self._session.active or state
        going_on = state is not None and not state.over
        self._name_button()
        self.stages.show_run(state)
        self.stop_button.setEnabled(going_on and state is not None and state.phase != "stopping")
        if state is None:
            return
        queued = [str(waiting) for waiting in self._session.queued[:NOTICES] if waiting is not state]
        self.status.setText("\n".join([str(state), *state.notices[-NOTICES:], *queued]))


def _model_files(data: QMimeData | None) -> list[str]:
    """The paths of what may be models among what is dragged."""
    paths = [url.toLocalFile() for url in data.urls()] if data is not None else []
    return [path for path in paths if path.endswith(ENDS)]
