"""The row that begins a new model: names of its classes, then the image is encoded and can be scribbled on.

Knows what begins one and the dock it goes on in; must not know models, stores or runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from napari.utils.notifications import show_error
from napari.viewer import Viewer
from qtpy.QtCore import QTimer, Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_xt.errors import SettingsError, XTError
from napari_xt.plugin.correct.new_from_scribbles import blank_model, class_names, colours_of, encode
from napari_xt.plugin.run import RunHandle
from napari_xt.plugin.widgets.image_combo import ImageCombo, alive
from napari_xt.plugin.widgets.task import Task

if TYPE_CHECKING:
    from napari_xt.model.xt import XT

ENTRY: Final = "New model from my scribbles..."
TIP: Final = "Name classes, scribble some of each on the image, and have a model learn them. Nothing is downloaded."
TOLD: Final = "The image is encoded in the background: scribble meanwhile, then press Learn."
DOCK: Final = "Correct and refine"
LOOK_MS = 200


class NewModelRow(QWidget):
    """Asks for classes and begins; hidden until it is asked for.

    Parameters
    ----------
    viewer
        Where.
    image
        Chooses the image.
    options
        The fields of `RunSettings` as they are chosen.

    Attributes
    ----------
    turned
        Emitted when it begins or ends to ask.
    """

    turned = Signal()

    def __init__(self, viewer: Viewer, image: ImageCombo, options: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._viewer, self._image, self._options = viewer, image, options
        self._making = Task(viewer, self)
        self._opening = QTimer(self)
        self._dock: Any = None
        self.handle: RunHandle | None = None
        self.classes, self.told = QLineEdit(), QLabel()
        self.begin_button, self.cancel_button = QPushButton("Begin"), QPushButton("Cancel")
        self._arrange()
        self.begin_button.clicked.connect(self._begin)
        self.classes.returnPressed.connect(self._begin)
        self.cancel_button.clicked.connect(self._end)
        self._opening.setInterval(LOOK_MS)
        self._opening.timeout.connect(self._choose)
        self.hide()

    def ask(self) -> None:
        """Ask for the classes."""
        self.told.setText(TIP)
        self.show()
        self.classes.setFocus()
        self.turned.emit()

    @property
    def wants(self) -> int | None:
        """Channels that an image is to have at least, so that layers are offered together; None while nobody asks."""
        return None if self.isHidden() else 2

    def _arrange(self) -> None:
        row = QHBoxLayout()
        row.addWidget(QLabel("New classes"))
        row.addWidget(self.classes, 1)
        row.addWidget(self.begin_button)
        row.addWidget(self.cancel_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.told)
        self.told.setWordWrap(True)
        self.classes.setPlaceholderText("tumour, stroma")
        self.classes.setToolTip("The classes to tell apart, between commas; the background is always one.")
        self.begin_button.setToolTip("Encode the image, and scribble meanwhile.")

    def _begin(self) -> None:
        try:
            if not self._image.layers:
                raise SettingsError("image", "there is none", "open one first")
            classes, channels = class_names(self.classes.text()), colours_of(self._image.layers)
        except XTError as error:
            self._fail(str(error))
            return
        self.begin_button.setEnabled(False)
        self.told.setText("Making the model...")
        self._making.do(lambda _tell: blank_model(classes, channels), self._encode, self._fail)

    def _encode(self, model: XT) -> None:
        self.begin_button.setEnabled(True)
        try:
            self.handle = encode(self._viewer, self._image.layers, model, self._options())
        except XTError as error:
            self._fail(str(error))
            return
        self.told.setText(TOLD)
        _, self._dock = self._viewer.window.add_plugin_dock_widget("napari-xt", DOCK, tabify=True)
        self._opening.start()

    def _fail(self, why: str) -> None:
        show_error(why)
        self.begin_button.setEnabled(True)
        self.told.setText(why)

    def _choose(self) -> None:
        """Have what is encoded chosen in the dock, once both are there."""
        handle, dock = self.handle, self._dock
        if handle is None or not alive(dock) or handle.state.phase in ("failed", "stopped"):
            self._opening.stop()
            return
        predictions: QComboBox | None = getattr(getattr(dock, "inside", dock), "predictions", None)
        place = -1 if predictions is None else predictions.findData(handle.state.out)
        if predictions is not None and place >= 0:
            self._opening.stop()
            predictions.setCurrentIndex(place)
            predictions.activated.emit(place)
            self._end()

    def _end(self) -> None:
        self.hide()
        self.turned.emit()
