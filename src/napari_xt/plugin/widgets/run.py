"""The dock widget *Run xT*: choose, read the pre-flight card, run, watch, stop, see it with and without context.

Shows what the session says and calls `run`; must not know engine, stores or threads.
"""

from __future__ import annotations

from html import escape
from weakref import WeakKeyDictionary

import napari.viewer
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_xt.engine.card import card
from napari_xt.engine.plan import Plan
from napari_xt.errors import SettingsError, XTError
from napari_xt.plugin.channels import contrast_limits, first_choice, open_layers, remember
from napari_xt.plugin.contexts import Contexts
from napari_xt.plugin.level import is_colour
from napari_xt.plugin.run import RunHandle, planned, run, session_of, wanted
from napari_xt.plugin.session import RunState
from napari_xt.plugin.synthetic import is_synthetic
from napari_xt.plugin.view import plain, visible_box
from napari_xt.plugin.widgets.export import ExportButton
from napari_xt.plugin.widgets.form import Form
from napari_xt.plugin.widgets.image_combo import ImageCombo, alive

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
        self.image = ImageCombo(viewer)
        self.form = Form(self.image)
        self.card, self.status = QLabel(), QLabel()
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Stop")
        self.export_button = ExportButton(viewer)
        self._sizes: WeakKeyDictionary[Layer, str] = WeakKeyDictionary()  # of pixels, as the user gave them
        self.progress = QProgressBar()
        self._arrange()
        self._connect()
        self._follow_image()
        self._show(self._session.active)

    def _arrange(self) -> None:
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.addWidget(self.form)
        column.addWidget(self.card)
        column.addStretch()
        scroll = _Column()
        scroll.setWidget(inside)
        column.setContentsMargins(0, 0, 0, 0)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.stop_button)
        buttons.addWidget(self.export_button)
        whole = QVBoxLayout(self)
        whole.addWidget(scroll, 1)
        whole.addLayout(buttons)
        whole.addWidget(self.progress)
        whole.addWidget(self.status)
        for label in (self.card, self.status):
            label.setWordWrap(True)
        self.card.setTextFormat(Qt.TextFormat.RichText)
        self.status.setTextFormat(Qt.TextFormat.PlainText)
        self.card.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def _connect(self) -> None:
        self.run_button.clicked.connect(self._run)
        self.stop_button.clicked.connect(self._stop)
        self._card_timer = QTimer(self)
        self._card_timer.setSingleShot(True)
        self._card_timer.setInterval(CARD_AFTER_MS)
        self._card_timer.timeout.connect(self._show_card)
        self.form.changed.connect(self._card_timer.start)
        self.form.context.toggled.connect(self._switch)
        self.form.model.currentIndexChanged.connect(self._follow_model)
        self.form.channels.picked.connect(self._remember)
        self.form.pixel_size.textEdited.connect(self._size_given)
        self.image.currentIndexChanged.connect(self._follow_image)
        self._viewer.dims.events.current_step.connect(self._slid)
        self._viewer.scene.camera.events.connect(self._moved)
        self._session.changed.connect(self._show)
        self._session.started.connect(self._started)

    def _run(self) -> None:
        layers, context = list(self.image.layers) or None, self.form.context.isChecked()
        try:
            out = self._contexts.place(self.image.layer, self.form.out, context)
            self.handle = run(self._viewer, layers, self.form.model.info or "", out=out, **self._options())
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
        self._follow_model()
        self._follow_context()
        self._card_timer.start()

    def _follow_model(self) -> None:
        """Offer the image's channels to the model, several layers where one is not enough, and ask for its scale."""
        info = self.form.model.info
        self.image.want(info.config.in_channels if info else None)
        image = open_layers(self.image.layers) if self.image.layers else None
        names, chosen = image.channel_names if image else (), None
        if image is not None and info is not None:
            chosen = first_choice(info.name, info.config.channel_names, image)
            simple = is_colour(image) or image.channels == 1
            names = () if simple and chosen == tuple(range(info.config.in_channels)) else names
        self.form.offer_channels(names, chosen)
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
        SettingsError
            The current view is to be run and shows nothing of the image.
        """
        options = self.form.options()
        layer = self.image.layer
        if self.form.in_view.isChecked() and layer is not None:
            options["roi"] = visible_box(self._viewer, layer)
            if options["roi"] is None:
                raise SettingsError("current view", f"shows nothing of {layer.name}", "move it over the image")
        if self.form.more.by_layers and layer is not None and self.form.model.info is not None:
            channels = options.get("channels") or range(self.form.model.info.config.in_channels)
            options["intensity"] = contrast_limits(self.image.layers, channels)
        return options

    def _moved(self) -> None:
        if alive(self) and self.form.in_view.isChecked():
            self._card_timer.start()

    def _slid(self) -> None:
        if alive(self):
            self._card_timer.start()

    def _contrast_changed(self) -> None:
        if alive(self) and self.form.more.by_layers:
            self._card_timer.start()

    def _show_card(self) -> None:
        layer = self.image.layer
        if layer is None:
            self.card.setText("Open an image to see what a run over it would do.")
            return
        try:
            settings = wanted(self._viewer, self.image.layers, self._options())
            text = _table(planned(self.image.layers, self.form.model.info or "", settings))
            text += SYNTHETIC if is_synthetic(layer) else ""
        except XTError as error:
            text = escape(str(error))
        self.card.setText(text)

    def _show(self, state: RunState | None) -> None:
        """Show how far a run is."""
        if not alive(self):
            return
        if state is not None and state.over:
            QTimer.singleShot(0, self._settle)  # others are being told of the end just now
        state = self._session.active or state
        going_on = state is not None and not state.over
        self.run_button.setEnabled(not going_on)
        self.stop_button.setEnabled(going_on and state is not None and state.phase != "stopping")
        if state is None:
            self.progress.setRange(0, 1)
            self.progress.setFormat("")
            return
        # a range of 0 to 0 shows that something goes on
        self.progress.setRange(0, state.total if state.total or not going_on else 0)
        self.progress.setFormat("%v of %m regions")
        self.progress.setValue(state.done)
        self.status.setText("\n".join([str(state), *state.notices[-NOTICES:]]))


class _Column(QScrollArea):
    """Scrolls up and down, and is never narrower than what it holds (the dock's style changes that)."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Tell the dock when what it holds has got wider."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:
        """As wide as what it holds and the scroll bar."""
        inside, bar = self.widget(), self.verticalScrollBar()
        width = (inside.minimumSizeHint().width() if inside else 0) + (bar.sizeHint().width() if bar else 0)
        return QSize(width, super().minimumSizeHint().height())


def _table(plan: Plan) -> str:
    rows = (f"<tr><td>{escape(name)}&nbsp;&nbsp;</td><td>{escape(text)}</td></tr>" for name, text in card(plan))
    return f"<table>{''.join(rows)}</table>"
