"""The prediction that is being corrected in a viewer: its corrections, what is painted on, keys, where to look.

Joins layers and corrections for whoever shows them; must not know Qt, widgets or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from napari.layers import Labels, Layer
from napari.viewer import Viewer
from psygnal import Signal

from napari_xt.errors import SettingsError, XTError
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Corrections, corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.plugin._loop import is_viewer_thread, on_viewer_thread
from napari_xt.plugin.correct.painting import Painting
from napari_xt.plugin.layers.overlays import TAG, Place
from napari_xt.plugin.layers.pointer import place_in, shown_predictions
from napari_xt.plugin.layers.shown import thresholds_in
from napari_xt.plugin.view import plain

SHARE = 0.5  # of the canvas that a region takes when one goes to it


class Key(NamedTuple):
    """A key and what it does, in words."""

    key: str
    text: str
    callback: Callable[[], object]


class Correcting:
    """What is corrected in a viewer: nothing at first, one prediction at a time.

    Parameters
    ----------
    viewer
        Where.
    author
        Who corrects; empty: the user of this process.

    Attributes
    ----------
    prediction, corrections
        What is open, None where nothing is.
    painting
        The mask that is painted on, None where the prediction has none or its layer is not in the viewer.
    image_layer
        The layer of the image, None where it is not in the viewer.
    place
        Where level-0 pixels lie in the world.
    changed
        Emitted with a `Box` (run pixels) where something was corrected; on the viewer's thread, for every dab.
    chosen
        Emitted when another prediction is open, or none.
    did
        Emitted with what was done as a line of Python, where ``corrections`` is `xt.corrections` of the prediction.
    """

    changed = Signal(Box)
    chosen = Signal()
    did = Signal(str)

    def __init__(self, viewer: Viewer, author: str = "") -> None:
        self.viewer, self._author = plain(viewer), author
        self.prediction: Prediction | None = None
        self.corrections: Corrections | None = None
        self.painting: Painting | None = None
        self.image_layer: Layer | None = None
        self.place = Place()
        self._keys: dict[str, Key] = {}
        self._bound: dict[str, Any] = {}  # what each key did before

    @classmethod
    def open(cls, viewer: Viewer, store: str, author: str = "") -> Self:
        """Correct the prediction in ``store``, whose layers are in the viewer."""
        opened = cls(viewer, author)
        opened.choose(store)
        return opened

    @property
    def layer(self) -> Labels | None:
        """What is painted on."""
        return None if self.painting is None else self.painting.layer

    @property
    def author(self) -> str:
        """Who corrects."""
        return self._author

    @author.setter
    def author(self, name: str) -> None:
        self._author = name
        if self.corrections is not None and name:
            self.corrections.author = name

    @property
    def store(self) -> str:
        """The path of what is open, empty where nothing is."""
        return "" if self.prediction is None else str(self.prediction.path)

    @property
    def holder(self) -> str | None:
        """Who else corrects it now, so that it is read-only here; None: nobody."""
        return None if self.corrections is None else self.corrections.holder

    def choose(self, store: str | None) -> None:
        """Correct the prediction in ``store``, or nothing.

        Raises
        ------
        XTError
            It can't be opened, or its corrections can't.
        """
        self._end()
        try:
            if store is not None:
                self._begin(store)
        finally:
            self.chosen.emit()

    def close(self) -> None:
        """Bring all to the disk, take the layers away and let others correct."""
        self.choose(None)

    @property
    def class_value(self) -> int:
        """The class that is painted; 1 where nothing can be."""
        return 1 if self.layer is None else int(self.layer.selected_label)

    def choose_class(self, value: int) -> None:
        """Paint with another class, or with "don't know" (254)."""
        if self.layer is not None:
            self.layer.selected_label = value

    def bind(self, key: str, text: str, callback: Callable[[], object]) -> None:
        """Let a key of the viewer do something while a prediction is open; ``text`` says what."""
        self._keys[key] = Key(key, text, callback)
        if self.corrections is not None:
            self._bind(self._keys[key])

    def keys(self) -> list[tuple[str, str]]:
        """The keys that `bind` was told of, and what they do."""
        return [(key.key, key.text) for key in self._keys.values()]

    def go_to(self, row: int, col: int) -> None:
        """Centre the camera on a region, its neighbours visible."""
        if self.prediction is not None:
            layout = self.prediction.layout
            fy, fx = layout.frame.px_per_run
            self.look_at(layout.grid.region(row, col).inner.scale(fy, fx))

    def look_at(self, box: Box, share: float = SHARE) -> None:
        """Centre the camera on a box (level-0 px), which takes ``share`` of the canvas."""
        cells = self.place.cells(1, 1)
        frame = Labels(np.zeros((1, 1), np.uint8), **cells)
        ends = [(y - 0.5, x - 0.5) for y in (box.y0, box.y1) for x in (box.x0, box.x1)]
        corners = np.array([frame.data_to_world(end) for end in ends])
        camera = self.viewer.scene.camera
        camera.center = (*camera.center[:-2], *corners.mean(axis=0))
        canvas = np.array(self.viewer.window._qt_viewer.canvas.size)  # noqa: SLF001 - see `view.plain`
        camera.zoom = share * float((canvas / np.maximum(np.ptp(corners, axis=0), np.finfo(float).tiny)).min())

    def _begin(self, store: str) -> None:
        tags = list(_tags(self.viewer, store))
        if not tags:
            raise SettingsError(store, "its layers are not in the viewer", "open it first")
        prediction = thresholds_in(self.viewer, store).of(open_prediction(store))
        self.corrections = corrections(prediction, self._author or None)
        self.prediction = prediction
        images = {tag.get("image") for _, tag in tags}
        self.image_layer = next((layer for layer in self.viewer.layers if str(layer.unique_id) in images), None)
        self.place = place_in(self.viewer, store, prediction.layout.frame)
        self.corrections.changed.append(self._changed)
        mask = next((layer for layer, tag in tags if tag["role"] == "mask"), None)
        if mask is not None and prediction.mask:
            self.painting = Painting(self.viewer, mask, self.corrections)
        for key in self._keys.values():
            self._bind(key)

    def _end(self) -> None:
        painting, known = self.painting, self.corrections
        self.prediction = self.corrections = self.painting = self.image_layer = None
        for key in list(self._bound):
            self._unbind(key)
        if painting is not None:
            painting.end()
        if known is not None:
            known.changed.remove(self._changed)
            known.close()

    def _bind(self, key: Key) -> None:
        before = self.viewer.bind_key(key.key, lambda _viewer: _told(key.callback), overwrite=True)
        self._bound.setdefault(key.key, before)

    def _unbind(self, key: str) -> None:
        self.viewer.bind_key(key, self._bound.pop(key), overwrite=True)

    def _changed(self, box: Box) -> None:
        if is_viewer_thread():
            self.changed.emit(box)
        else:
            on_viewer_thread(lambda: self.changed.emit(box))


def predictions_in(viewer: Viewer) -> list[tuple[str, str]]:
    """The store and the name of each prediction that can be corrected in a viewer, the newest first."""
    return [(one.store, one.name) for one in reversed(shown_predictions(viewer))]


def _tags(viewer: Viewer, store: str) -> Iterator[tuple[Layer, dict[str, Any]]]:
    for layer in viewer.layers:
        tag = layer.metadata.get(TAG, {})
        if tag.get("store") == store:
            yield layer, tag


def _told(callback: Callable[[], object]) -> None:
    """Do what a key does; an error is shown as a sentence."""
    from napari.utils.notifications import show_error

    try:
        callback()
    except XTError as error:
        show_error(str(error))
