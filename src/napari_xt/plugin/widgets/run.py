"""The dock widget *Run xT*: choose, read the pre-flight card, run, watch, stop.

Shows what the session says and calls `run`; must not know engine, stores or threads.
"""

from __future__ import annotations

from html import escape

import napari.viewer
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

from napari_xt.engine.plan import Plan, card
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError, XTError
from napari_xt.plugin.run import RunHandle, planned, run, session_of
from napari_xt.plugin.session import RunState
from napari_xt.plugin.view import plain, visible_box
from napari_xt.plugin.widgets.form import Form
from napari_xt.plugin.widgets.image_combo import ImageCombo, alive

CARD_AFTER_MS = 200


class RunWidget(QWidget):
    """Runs a model over an image of the viewer that it is docked in.

    Parameters
    ----------
    viewer
        Given by napari, which looks for this very annotation.

    Attributes
    ----------
    handle
        The last run that was started here.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.handle: RunHandle | None = None
        viewer = plain(viewer)
        self._viewer, self._session = viewer, session_of(viewer)
        self.image = ImageCombo(viewer)
        self.form = Form(self.image)
        self.card, self.status = QLabel(), QLabel()
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Stop")
        self.progress = QProgressBar()
        self._arrange()
        self._connect()
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
        self.image.currentIndexChanged.connect(lambda _: self._card_timer.start())
        self._viewer.scene.camera.events.connect(self._moved)
        self._session.changed.connect(self._show)
        self._card_timer.start()

    def _run(self) -> None:
        try:
            self.handle = run(
                self._viewer, self.image.layer, self.form.model_name, out=self.form.out, **self._options()
            )
        except XTError as error:
            show_error(str(error))
            self.status.setText(str(error))

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
        return options

    def _moved(self) -> None:
        if alive(self) and self.form.in_view.isChecked():
            self._card_timer.start()

    def _show_card(self) -> None:
        layer = self.image.layer
        if layer is None:
            self.card.setText("Open an image to see what a run over it would do.")
            return
        try:
            text = _table(planned(layer, self.form.model_name, RunSettings.of(**self._options())))
        except XTError as error:
            text = escape(str(error))
        self.card.setText(text)

    def _show(self, state: RunState | None) -> None:
        """Show how far a run is."""
        if not alive(self):
            return
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
        self.status.setText(str(state))


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
