"""A list of the viewer's image layers that follows the viewer. Knows layers; must not know what is done with them."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.compat import isalive
from qtpy.QtWidgets import QComboBox, QWidget

from napari_xt.plugin.live import is_image


def alive(widget: QWidget) -> bool:
    """Whether Qt has not deleted ``widget``: layers and sessions outlive it and go on telling it of changes."""
    return bool(isalive(widget))  # type: ignore[no-untyped-call]


class ImageCombo(QComboBox):
    """Chooses one of the image layers of a viewer; the active one at first."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(self._follow)
        viewer.layers.selection.events.active.connect(self._prefer)
        self._follow()
        self._prefer()

    @property
    def layer(self) -> Layer | None:
        """The layer that is chosen."""
        found: Layer | None = self.currentData()
        return found

    def _follow(self, _event: Any = None) -> None:
        """Show the image layers as they are now and keep the choice."""
        if not alive(self):
            return
        chosen, images = self.layer, [layer for layer in self._viewer.layers if is_image(layer)]
        before = [self.itemData(i) for i in range(self.count())]
        if images != before:
            self.blockSignals(True)
            self.clear()
            for layer in images:
                self.addItem(layer.name, layer)
            self.setCurrentIndex(images.index(chosen) if chosen in images else len(images) - 1)
            self.blockSignals(False)
            self._watch_names(images)
        if self.layer is not chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    def _watch_names(self, images: list[Layer]) -> None:
        for layer in images:
            layer.events.name.connect(self._rename)

    def _rename(self, _event: Any = None) -> None:
        if alive(self):
            for i in range(self.count()):
                self.setItemText(i, self.itemData(i).name)

    def _prefer(self, _event: Any = None) -> None:
        """Choose the layer that the user has just selected."""
        active = self._viewer.layers.selection.active
        if alive(self) and active is not None and is_image(active):
            images = [self.itemData(i) for i in range(self.count())]
            if active in images:
                self.setCurrentIndex(images.index(active))
