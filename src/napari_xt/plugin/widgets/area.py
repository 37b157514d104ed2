"""Which part of an image is run: all of it, what is in view, or what is drawn.

Knows a viewer's layers; must not know models, settings or runs.
"""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from napari_xt.errors import SettingsError
from napari_xt.plugin.tables.areas import areas_file, drawn_layers
from napari_xt.plugin.view import visible_box
from napari_xt.plugin.widgets.image_combo import alive

TIP = "The regions that the shapes of this layer touch are run, and see each other alone."


class AreaChoice(QWidget):
    """Chooses the region of interest; ``changed`` tells that it is another one now."""

    changed = Signal()

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.whole, self.in_view, self.drawn = (
            QRadioButton(text) for text in ("whole image", "current view", "shapes of")
        )
        self.shapes = QComboBox()
        self.shapes.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.shapes.setMinimumContentsLength(8)
        self.whole.setChecked(True)
        self._arrange()
        for layer_event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            layer_event.connect(self._follow)
        for button in (self.whole, self.in_view, self.drawn):
            button.toggled.connect(self._toggled)
        self.shapes.currentIndexChanged.connect(self.changed)
        self.shapes.activated.connect(lambda: self.drawn.setChecked(True))
        viewer.scene.camera.events.connect(self._moved)
        self._follow()

    def roi(self, image: Layer) -> Any:
        """What `RunSettings` takes for ``roi`` over an image layer.

        Raises
        ------
        SettingsError
            The current view shows nothing of the image, or nothing is drawn.
        """
        if self.whole.isChecked():
            return None
        if self.drawn.isChecked():
            return areas_file(self.shapes.currentData(), image)
        found = visible_box(self._viewer, image)
        if found is None:
            raise SettingsError("current view", f"shows nothing of {image.name}", "move it over the image")
        return found

    def _arrange(self) -> None:
        top, drawn, column = QHBoxLayout(), QHBoxLayout(), QVBoxLayout(self)
        for row in (top, drawn, column):
            row.setContentsMargins(0, 0, 0, 0)
        top.addWidget(self.whole)
        top.addWidget(self.in_view)
        top.addStretch()
        drawn.addWidget(self.drawn)
        drawn.addWidget(self.shapes, 1)
        column.addLayout(top)
        column.addLayout(drawn)
        for view in (self.drawn, self.shapes):
            view.setToolTip(TIP)

    def _follow(self, _event: Any = None) -> None:
        """Offer the Shapes layers as they are now; the newest one, unless another is in use."""
        if not alive(self):
            return
        layers, chosen = drawn_layers(self._viewer), self.shapes.currentData()
        self.shapes.blockSignals(True)
        self.shapes.clear()
        for layer in layers:
            self.shapes.addItem(layer.name, layer)
            layer.events.set_data.connect(self._drew)
            layer.events.name.connect(self._rename)
        kept = self.drawn.isChecked() and chosen in layers
        self.shapes.setCurrentIndex(layers.index(chosen) if kept else len(layers) - 1)
        self.shapes.blockSignals(False)
        for view in (self.drawn, self.shapes):
            view.setVisible(bool(layers))
        if self.drawn.isChecked() and chosen not in layers:
            self.whole.setChecked(True)

    def _rename(self, _event: Any = None) -> None:
        if alive(self):
            for index in range(self.shapes.count()):
                self.shapes.setItemText(index, self.shapes.itemData(index).name)

    def _toggled(self, chosen: bool) -> None:
        if chosen:
            self.changed.emit()

    def _moved(self) -> None:
        if alive(self) and self.in_view.isChecked():
            self.changed.emit()

    def _drew(self) -> None:
        if alive(self) and self.drawn.isChecked():
            self.changed.emit()
