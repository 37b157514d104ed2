"""What a model was trained on beside a region of this image as the model would see it, to see whether they are alike.

Shows pictures and has one read in a thread; must not know how.
"""

from __future__ import annotations

import numpy as np
from napari.layers import Layer
from napari.viewer import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_xt.engine.plan import Plan
from napari_xt.engine.settings import RunSettings
from napari_xt.model.config import ModelCard
from napari_xt.model.thumbnails import thumbnails
from napari_xt.plugin.run import seen
from napari_xt.plugin.view import visible_box
from napari_xt.plugin.widgets.task import Task

KEPT = 20  # regions of images, the last ones
SIDE = 52  # of a picture on the screen
TRAINED, THIS = "trained\non", "this\nimage"
TRAINED_TIP = "Squares of what the model was trained on."
THIS_TIP = (
    "<p>A region in the middle of the view as the model would see it: its channels, resampled to its scale, its "
    "values from black to full colour. Where it looks unlike the others, don't expect much of the model.</p>"
)

Picture = NDArray[np.uint8]


class Pictures(QWidget):
    """A row of small pictures; hidden while there are none to compare."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._task = viewer, Task(viewer, self)
        self._known: dict[object, Picture] = {}
        self.trained: list[QLabel] = []
        self.this = QLabel()
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(4)
        self._captions = QLabel(TRAINED), QLabel(THIS)
        for view in (*self._captions, self.this):
            self._row.addWidget(view)
        self._row.addStretch()
        self.this.setToolTip(THIS_TIP)
        self.hide()

    def show_trained(self, card: ModelCard | None) -> None:
        """Show what the model of ``card`` was trained on; nothing at all where there are no pictures."""
        pictures = thumbnails(card) if card else []
        for label in self.trained:
            self._row.removeWidget(label)
            label.deleteLater()
        self.trained = [_framed(picture, TRAINED_TIP) for picture in pictures]
        for place, label in enumerate(self.trained, 1):
            self._row.insertWidget(place, label)
        self.setVisible(bool(pictures))
        self._task.stop()
        self._show_this(None)

    def look(self, layers: tuple[Layer, ...], made: Plan, settings: RunSettings) -> None:
        """Show the region in the middle of the view, or of the image, as the model of a plan would see it."""
        if not self.trained or not layers:
            return
        channels = made.channels, made.limits, tuple(made.plane.items())
        key = tuple(layer.unique_id for layer in layers), made.model, made.level, made.frame, made.grid, channels
        if key in self._known:
            self._show_this(self._known[key])
            return
        view, (height, width) = visible_box(self._viewer, layers[0]), made.frame.shape_px
        at = ((view.y0 + view.y1) / 2, (view.x0 + view.x1) / 2) if view else (height / 2, width / 2)

        def show(picture: Picture) -> None:
            self._known = {**dict(list(self._known.items())[-KEPT + 1 :]), key: picture}
            self._show_this(picture)

        self._task.do(lambda _tell: seen(layers, made, settings, at), show, lambda _why: self._show_this(None))

    def _show_this(self, picture: Picture | None) -> None:
        if picture is None:
            self.this.clear()
        else:
            _paint(self.this, picture)
        self._captions[1].setVisible(picture is not None)


def _framed(picture: Picture, tip: str) -> QLabel:
    label = QLabel()
    label.setToolTip(tip)
    _paint(label, picture)
    return label


def _paint(label: QLabel, picture: Picture) -> None:
    height, width, _ = picture.shape
    pixels = np.ascontiguousarray(picture)
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    smooth, whole = Qt.TransformationMode.SmoothTransformation, Qt.AspectRatioMode.KeepAspectRatio
    label.setPixmap(QPixmap.fromImage(image).scaled(SIDE, SIDE, whole, smooth))
