"""A list of the viewer's images that follows the viewer. Knows layers; must not know what is done with them."""

from __future__ import annotations

from typing import Any

from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.compat import isalive
from qtpy.QtWidgets import QComboBox, QWidget

from napari_xt.plugin.images.channels import Offer, offers, preferred
from napari_xt.plugin.live import is_image


def alive(widget: QWidget) -> bool:
    """Whether Qt has not deleted ``widget``: layers and sessions outlive it and go on telling it of changes."""
    return bool(isalive(widget))  # type: ignore[no-untyped-call]


class ImageCombo(QComboBox):
    """Chooses one of the images of a viewer, a layer or several that are its channels; the active one at first."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._wanted: int | None = None
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(self._follow)
        viewer.layers.selection.events.active.connect(self._prefer)
        self._follow()
        self._prefer()

    @property
    def offer(self) -> Offer | None:
        """The image that is chosen."""
        found: Offer | None = self.currentData()
        return found

    @property
    def layer(self) -> Layer | None:
        """Its layer, the first where it is several."""
        return None if self.offer is None else self.offer.first

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them."""
        return () if self.offer is None else self.offer.layers

    def want(self, channels: int | None) -> None:
        """Offer what has so many channels: several layers as one image where one alone has too few."""
        if channels != self._wanted:
            self._wanted = channels
            self._follow()
            if self.layer is not None:
                self._choose(self.layer)

    def _offers(self) -> list[Offer]:
        return [self.itemData(i) for i in range(self.count())]

    def _follow(self, _event: Any = None) -> None:
        """Show the images as they are now and keep the choice."""
        if not alive(self):
            return
        images = [layer for layer in self._viewer.layers if is_image(layer)]
        chosen, now = self.offer, offers(images, self._wanted)
        if now != self._offers():
            self.blockSignals(True)
            self.clear()
            for offer in now:
                self.addItem(offer.label, offer)
            self.setCurrentIndex(self._place(chosen, now, images))
            self.blockSignals(False)
            for layer in images:
                layer.events.name.connect(self._rename)
        if self.offer != chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    def _place(self, chosen: Offer | None, now: list[Offer], images: list[Layer]) -> int:
        """Where the choice is in a new list, or what comes nearest to it."""
        if chosen in now:
            return now.index(chosen)
        left = [layer for layer in (chosen.layers if chosen else ()) if layer in images] or images[-1:]
        near = preferred(now, left[0], self._wanted) if left else None
        return -1 if near is None else now.index(near)

    def _rename(self, _event: Any = None) -> None:
        if alive(self):
            for i, offer in enumerate(self._offers()):
                self.setItemText(i, offer.label)

    def _prefer(self, _event: Any = None) -> None:
        """Choose the image of the layer that the user has just selected."""
        active = self._viewer.layers.selection.active
        if alive(self) and active is not None and is_image(active):
            self._choose(active)

    def _choose(self, layer: Layer) -> None:
        known = self._offers()
        if (found := preferred(known, layer, self._wanted)) is not None:
            self.setCurrentIndex(known.index(found))
