"""The prediction that is being corrected in a viewer: its corrections, what is painted on, keys, where to look.

Joins layers and corrections for whoever shows them; must not know Qt, widgets or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from napari.layers import Labels, Layer
from napari.viewer import Viewer
from numpy.typing import NDArray
from psygnal import Signal

from napari_xt.errors import SettingsError, XTError
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Corrections, corrections
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.plugin._loop import is_viewer_thread, on_viewer_thread
from napari_xt.plugin.correct.painting import Painting
from napari_xt.plugin.correct.pyramid_labels import PyramidLabels
from napari_xt.plugin.layers.overlays import TAG, Place
from napari_xt.plugin.layers.pointer import place_in, shown_predictions
from napari_xt.plugin.layers.shown import thresholds_in
from napari_xt.plugin.tables.seen import Thresholds
from napari_xt.plugin.view import plain

SHARE = 0.5  # of the canvas that a region takes when one goes to it


class Key(NamedTuple):
    """A key and what it does, in words."""

    key: str
    text: str
    callback: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Tool:
    """What somebody paints with."""

    mode: str
    label: int
    px: float
    more: dict[str, Any]  # of a `PyramidLabels`

    @classmethod
    def of(cls, painting: Painting) -> Self:
        """What is in hand."""
        layer = painting.layer
        more = {name: getattr(layer, name) for name in ("brush", "rules") if isinstance(layer, PyramidLabels)}
        return cls(str(layer.mode), int(layer.selected_label), painting.brush.px, more)

    def give(self, painting: Painting) -> None:
        """Take it in hand."""
        layer = painting.layer
        painting.brush.resize(self.px)
        for name, value in self.more.items():
            setattr(layer, name, value)
        layer.selected_label, layer.mode = self.label, self.mode


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
    held
        Whether nothing else is to be chosen for now: another prediction is being made of this one.
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
        self._keys: dict[str, Key] = {}
        self._bound: dict[str, Any] = {}  # what each key did before
        self.held = False
        self._left = False
        self._thresholds = Thresholds()

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
    def image_layer(self) -> Layer | None:
        """The layer of the image, None where it is not in the viewer."""
        images = {tag.get("image") for _, tag in _tags(self.viewer, self.store)}
        return next((layer for layer in self.viewer.layers if str(layer.unique_id) in images), None)

    @property
    def place(self) -> Place:
        """Where level-0 pixels lie in the world."""
        if self.prediction is None:
            return Place()
        return place_in(self.viewer, self.store, self.prediction.layout.frame)

    @property
    def read_only(self) -> str:
        """Why nothing can be corrected now, in a sentence; empty where it can."""
        if self.corrections is None:
            return "nothing is open"
        if (name := self.corrections.holder) is not None:
            return f"read-only: {name} is correcting it"
        return "read-only: it is packed, unpack it to correct it" if self.corrections.read_only else ""

    @property
    def line(self) -> str:
        """What opens the same corrections in Python, as ``corrections``."""
        who = f", {self._author!r}" if self._author else ""
        return f"corrections = xt.corrections({self.store!r}{who})"

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

    def follow(self) -> bool:
        """Look what others wrote and whether somebody else corrects; whether there was something new to see."""
        if self.corrections is None:
            return False
        if self.painting is None and not self._left:
            self._paint()
        if self.layer is not None and self.layer.editable == bool(self.read_only):
            self.layer.editable = not self.read_only
        return self.corrections.refresh()

    def see(self) -> None:
        """Correct what is seen at the thresholds of now, with the tool that is in hand.

        Raises
        ------
        XTError
            It can't be opened again.
        """
        if self.prediction is None or thresholds_in(self.viewer, self.store) == self._thresholds:
            return
        tool = None if self.painting is None else _Tool.of(self.painting)
        self.choose(self.store)
        if tool is not None and self.painting is not None:
            tool.give(self.painting)

    @property
    def class_value(self) -> int:
        """The class that is painted; 1 where nothing can be."""
        return 1 if self.layer is None else int(self.layer.selected_label)

    def choose_class(self, value: int) -> None:
        """Paint with another class, or with "don't know" (254)."""
        if self.layer is not None:
            self.layer.selected_label = value

    def undo(self) -> None:
        """Take back the last stroke of whatever kind."""
        self._step("undo")

    def redo(self) -> None:
        """Make it again."""
        self._step("redo")

    def change(self, what: Callable[[Corrections], object], line: str) -> None:
        """Change something of what is open and tell it as ``corrections.LINE``; what is refused is shown."""
        known = self.corrections
        if known is not None:

            def done() -> None:
                what(known)
                self.did.emit(f"corrections.{line}")

            told(done)

    def region_in_view(self) -> tuple[int, int] | None:
        """The region, row and column, in the middle of the canvas; None where the image is not."""
        return self.region_at(self.viewer.scene.camera.center)

    def region_at(self, point: Sequence[float]) -> tuple[int, int] | None:
        """The region, row and column, at a point of the world; None outside the image."""
        if self.prediction is None:
            return None
        layout = self.prediction.layout
        (fy, fx), (height, width), side = layout.frame.px_per_run, layout.frame.shape_px, layout.grid.region_px
        y, x = np.linalg.solve(self._matrix(), [*np.asarray(point)[-2:], 1.0])[:2] + 0.5
        return (int(y / fy // side), int(x / fx // side)) if 0 <= y < height and 0 <= x < width else None

    def bind(self, key: str, text: str, callback: Callable[[], object]) -> None:
        """Let a key of the viewer do something while a prediction is open; ``text`` says what."""
        self._keys[key] = Key(key, text, callback)
        if self.corrections is not None:
            self._bind(self._keys[key])

    def keys(self) -> list[tuple[str, str]]:
        """The keys that `bind` was told of, and what they do; without those that do the same as the one before."""
        return [(key.key, key.text) for key in self._keys.values() if key.text]

    def go_to(self, row: int, col: int) -> None:
        """Centre the camera on a region, its neighbours visible."""
        if self.prediction is not None:
            layout = self.prediction.layout
            fy, fx = layout.frame.px_per_run
            self.look_at(layout.grid.region(row, col).inner.scale(fy, fx))

    def look_at(self, box: Box, share: float = SHARE, *, no_nearer: bool = False) -> None:
        """Centre the camera on a box (level-0 px), which takes ``share`` of the canvas; no nearer than now if asked."""
        matrix = self._matrix()
        ends = [(y - 0.5, x - 0.5) for y in (box.y0, box.y1) for x in (box.x0, box.x1)]
        corners = np.array(ends) @ matrix[:2, :2].T + matrix[:2, 2]
        camera = self.viewer.scene.camera
        camera.center = (*camera.center[:-2], *corners.mean(axis=0))
        canvas = np.array(self.viewer.window._qt_viewer.canvas.size)  # noqa: SLF001 - see `view.plain`
        zoom = share * float((canvas / np.maximum(np.ptp(corners, axis=0), np.finfo(float).tiny)).min())
        camera.zoom = min(zoom, camera.zoom) if no_nearer else zoom

    def _matrix(self) -> NDArray[np.float64]:
        """From level-0 pixels, counted from their middles, to the world: 3 x 3."""
        place, matrix = self.place, np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = place.linear, place.translate
        affine = place.more.get("affine")
        return matrix if affine is None else np.asarray(getattr(affine, "affine_matrix", affine)) @ matrix

    def _step(self, name: str) -> None:
        if self.corrections is not None:
            step = getattr(self.layer if isinstance(self.layer, PyramidLabels) else self.corrections, name)
            step()
            self.did.emit(f"corrections.{name}()")

    def _begin(self, store: str) -> None:
        if not any(_tags(self.viewer, store)):
            raise SettingsError(store, "its layers are not in the viewer", "open it first")
        self._left = False
        self._thresholds = thresholds_in(self.viewer, store)
        prediction = self._thresholds.of(open_prediction(store))
        self.corrections = corrections(prediction, self._author or None)
        self.prediction = prediction
        self.corrections.changed.append(self._changed)
        self._paint()
        self.viewer.layers.events.removed.connect(self._removed)
        for key in self._keys.values():
            self._bind(key)
        self.did.emit(self.line)

    def _paint(self) -> None:
        """Put what is painted on in the place of the mask's layer, where that is."""
        masks = [layer for layer, tag in _tags(self.viewer, self.store) if tag["role"] == "mask"]
        if masks and self.corrections is not None and self.corrections.mask:
            self._left = True  # adding layers is told to who looks for what is lacking
            self.painting = Painting(self.viewer, masks[0], self.corrections)
            self.follow()

    def _end(self) -> None:
        painting, known = self.painting, self.corrections
        self.prediction = self.corrections = self.painting = None
        for key in list(self._bound):
            self._unbind(key)
        if painting is not None:
            painting.end()
        if known is not None:
            self.viewer.layers.events.removed.disconnect(self._removed)
            known.changed.remove(self._changed)
            known.close()

    def _removed(self, event: Any) -> None:
        """A layer has gone: who takes away what is painted on does not want it back."""
        if self.painting is not None and event.value is self.painting.layer:
            self.painting, self._left = None, True
            self.chosen.emit()

    def _bind(self, key: Key) -> None:
        before = self.viewer.bind_key(key.key, lambda _viewer: told(key.callback), overwrite=True)
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


def told(callback: Callable[[], object]) -> None:
    """Do what a key does; an error is shown as a sentence."""
    from napari.utils.notifications import show_error

    try:
        callback()
    except XTError as error:
        show_error(str(error))
