"""The layers of a run in a viewer: added when it starts, refreshed as it goes on, reused by the next one.

Owns the one policy of when layers are refreshed. Knows layers and stores; must not know threads, Qt or widgets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Self

from napari.layers import Image, Layer
from napari.viewer import Viewer

from napari_xt.engine.events import Event, RegionDone, RunFailed, RunFinished, RunStarted
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.io.stores.layout import Status
from napari_xt.io.stores.preview import UNREADABLE, open_previews
from napari_xt.plugin.boxes.in_view import follow_camera, insert_quietly
from napari_xt.plugin.boxes.layer import LayerData, exchange
from napari_xt.plugin.images.synthetic import synthetic_name
from napari_xt.plugin.layers.compiled import compiled
from napari_xt.plugin.layers.hover import tell_regions
from napari_xt.plugin.layers.overlays import TAG, Overlay, Place, Role, layer_data
from napari_xt.plugin.layers.previews import PreviewPicture, follow_colors, preview_layer
from napari_xt.plugin.layers.toggle import bind_toggle
from napari_xt.plugin.layers.views import keep_looks

STATUS = {"final": Status.DONE, "failed": Status.FAILED, "skipped": Status.SKIPPED}
READ_S = 0.1  # what is new is read at most so often
REFRESH_S = 0.2  # layers are refreshed at most so often
REFRESH_SHARE = 5  # and take at most one part in so many of the time
SHOW_SHARE = 10  # drawing boxes takes at most one part in so many of the time


def is_run_layer(layer: Layer) -> bool:
    """Whether a run made the layer."""
    return TAG in layer.metadata


def is_image(layer: Layer) -> bool:
    """Whether the layer is an image that can be run."""
    return isinstance(layer, Image) and not is_run_layer(layer)


class LiveLayers:
    """The layers of one run over one image layer.

    `read` belongs to the thread of the run, all else to the viewer's.

    Attributes
    ----------
    image
        The layer that is run.
    images
        All layers that are run, where several are the channels of one image.
    prediction
        What the run writes, None before it has started.
    """

    def __init__(self, viewer: Viewer, image: Layer) -> None:
        self.image = image
        self.images: tuple[Layer, ...] = (image,)
        self.prediction: Prediction | None = None
        self._viewer = viewer
        self._overlay: Overlay | None = None
        self._previews: PreviewPicture | None = None
        self._settled = False  # regions were, since the overlay was read
        self._run_id = ""
        self._place: Place | None = None
        self._layers: dict[Role, Layer] | None = None
        self._lacking = deque[Role]()  # those that are still to be added
        self._old: dict[str, Layer] = {}  # whose places they take
        self._shown = (0, 0)  # versions of mask and tables
        self._shown_previews = 0
        self._next = self._next_boxes = self._next_read = 0.0

    @classmethod
    def of_opened(
        cls, viewer: Viewer, image: Layer, overlay: Overlay, layers: Mapping[Role, Layer], place: Place
    ) -> Self:
        """Those of a prediction that was opened: ``layers`` show ``overlay`` already, at ``place``."""
        live = cls(viewer, image)
        live.prediction, live._overlay, live._layers = overlay.prediction, overlay, dict(layers)
        live._shown, live._place = (overlay.mask_version, overlay.tables_version), place
        return live

    @property
    def there(self) -> bool:
        """Whether any of the run's layers is still in the viewer."""
        return any(layer in self._viewer.layers for layer in (self._layers or {}).values())

    @property
    def shown(self) -> bool:
        """Whether the run's layers over the image are this run's, and not another one's."""
        return any(layer.metadata[TAG]["run_id"] == self._run_id for layer in self._earlier().values())

    @property
    def layers(self) -> list[Layer]:
        """The image and the run's layers, as far as they are in the viewer."""
        own = [self.image, *(self._layers or {}).values()]
        return [layer for layer in own if layer in self._viewer.layers]

    def read(self, event: Event) -> None:
        """Read from the store what ``event`` tells of; slow things happen here, away from the screen."""
        if isinstance(event, RunStarted):
            self._run_id = event.run_id
            self.prediction = open_prediction(event.out, threshold=event.plan.threshold)
            self._overlay = Overlay(self.prediction)
            if event.plan.preview and not self.prediction.complete:
                self._previews = PreviewPicture(self.prediction)
                self._overlay.show_rest(hatched=False)
        elif isinstance(event, (RunFinished, RunFailed)):
            self.read_all()
        else:
            if isinstance(event, RegionDone):
                self._mark(event)
            self._read_marked()

    def read_all(self) -> None:
        """Read all that the store holds by now."""
        if self._overlay is not None:
            self._overlay.read(all=True)
            self._overlay.show_rest(hatched=True)
        if self._previews is not None:
            self._previews.read()

    def read_settled(self, known: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Read the regions that were settled since those that are ``known`` by row and column; return all of them."""
        if self._overlay is None:
            return known
        prediction = self._overlay.prediction
        table = prediction.scores
        places = zip(table["region_row"].tolist(), table["region_col"].tolist(), strict=True)
        settled = dict(zip(places, table["status"], strict=True))
        for row, col in settled.keys() - known:
            status = Status[settled[row, col].upper()]
            self._overlay.mark(prediction.layout.grid.region(row, col), status)
        self._overlay.read(all=True)
        return set(settled)

    def begin_previews(self) -> None:
        """Show previews as well, if the one who writes has left any; in the thread that reads."""
        if self._overlay is None or self._previews is not None:
            return
        prediction = self._overlay.prediction
        try:
            open_previews(prediction.path, prediction.layout)
        except UNREADABLE:
            return
        self._previews = PreviewPicture(prediction)
        self._overlay.show_rest(hatched=False)
        self._lacking.append("preview")

    def read_previews(self, settled: set[tuple[int, int]]) -> None:
        """Read what all regions but the ``settled`` ones, by row and column, look like on their own."""
        if self._previews is not None and self._overlay is not None:
            for region in self._overlay.prediction.layout.grid.regions():
                self._previews.mark(region, "final" if (region.row, region.col) in settled else "preview")
            self._previews.read()

    def _mark(self, event: RegionDone) -> None:
        if self._overlay is not None and event.kind != "preview":
            self._overlay.mark(event.region, STATUS[event.kind])
            self._settled = True
        if self._previews is not None:
            self._previews.mark(event.region, event.kind)

    def _read_marked(self) -> None:
        """Read what was marked, unless that was done a moment ago."""
        if time.monotonic() < self._next_read:
            return
        if self._overlay is not None and self._settled:
            self._overlay.read()
            self._settled = False
        if self._previews is not None:
            self._previews.read()
        self._next_read = time.monotonic() + READ_S

    def show(self, *, now: bool = False) -> None:
        """Bring the layers up to date, unless they have been a moment ago and ``now`` is not asked for."""
        overlay, at = self._overlay, time.monotonic()
        waits = at < self._next or (self._layers is None and not compiled())
        if overlay is None or (waits and not now):
            return
        if self._layers is None:
            self._begin(overlay)
        while self._lacking:
            self._add_next(overlay)
            if not now:
                return
        self._next = at + REFRESH_S
        mask, tables = self._shown
        if overlay.mask_version != mask:
            self._refresh("mask", thumbnail=now)
            self._refresh_corrected()
            mask = overlay.mask_version
        if self._previews is not None and self._previews.version != self._shown_previews:
            self._shown_previews = self._previews.version
            self._refresh("preview", thumbnail=False)
        if now or (overlay.tables_version != tables and at >= self._next_boxes):
            self._refresh("scores", thumbnail=now)
            self._show_boxes(overlay, all=now)
            tables = overlay.tables_version
            self._next_boxes = at + SHOW_SHARE * (time.monotonic() - at)
        self._shown = mask, tables
        self._next = max(self._next, at + REFRESH_SHARE * (time.monotonic() - at))

    def end(self) -> None:
        """Bring the layers up to date for the last time; the previews go."""
        self.show(now=True)
        self.end_previews()
        if self.prediction is not None and self.there:
            keep_looks(self._viewer, self.prediction.header, self._layers or {})

    def end_previews(self) -> None:
        """Take the previews away."""
        self._previews = None
        if (layer := self._there("preview")) is not None:
            self._viewer.layers.remove(layer)

    def show_again(self) -> None:
        """Put this run's layers back in the place of another run's over the same image."""
        self._layers = None
        self.show(now=True)

    def _begin(self, overlay: Overlay) -> None:
        """Let this run's layers take the place of an earlier run's over the same image, one after the other."""
        self._layers, self._old = {}, self._earlier()
        self._lacking = deque(overlay.roles)
        if self._previews is not None:
            self._lacking.append("preview")
        self._shown, self._shown_previews = (overlay.mask_version, overlay.tables_version), 0

    def _add_next(self, overlay: Overlay) -> None:
        """Add one layer: a window that gets several at a time stands still for long."""
        assert self._layers is not None
        role, name = self._lacking.popleft(), synthetic_name(self.image)
        place = self._place or Place.of_layer(self.image)
        images = [str(layer.unique_id) for layer in self.images]
        tag = {"run_id": self._run_id, "store": str(overlay.prediction.path), "image": images[0], "images": images}
        if role != "preview":
            old = self._old.pop(role, None)
            data = layer_data(overlay, role, place, name, tag)
            self._layers[role] = self._put(data, old if old in self._viewer.layers else None)
        elif self._previews is not None and (mask := self._there("mask")) is not None:
            data = preview_layer(self._previews, overlay.prediction, place, name, tag)
            self._layers[role] = self._put(data, None, below=mask)
            follow_colors(self._layers[role], mask)
        if not self._lacking:
            self._end_adding(overlay)

    def _end_adding(self, overlay: Overlay) -> None:
        for layer in self._old.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._old = {}
        self._show_boxes(overlay, all=True)
        tell_regions(self._viewer)
        bind_toggle(self._viewer)

    def _earlier(self) -> dict[str, Layer]:
        """The layers, by role, of earlier runs over this image."""
        image = str(self.image.unique_id)
        tags = [(layer, layer.metadata[TAG]) for layer in self._viewer.layers if is_run_layer(layer)]
        return {tag["role"]: layer for layer, tag in tags if tag.get("image") == image and tag["role"] != "density"}

    def _put(self, data: LayerData, old: Layer | None, below: Layer | None = None) -> Layer:
        """The layer of ``data``, in the old one's place and as visible, in the same object where that can be.

        A new one is ``below`` another, or above all.
        """
        if old is not None and _takes(old, data):
            _replace(old, data)
            return old
        layer = Layer.create(*data)
        layers = self._viewer.layers
        place = len(layers) if below is None else layers.index(below)
        if old is not None:
            place = layers.index(old)
            for name in ("name", "visible", "opacity", "blending"):
                setattr(layer, name, getattr(old, name))
            layers.remove(old)
        insert_quietly(self._viewer, layer, place)
        return layer

    def _refresh(self, role: Role, *, thumbnail: bool) -> None:
        if (layer := self._there(role)) is not None:
            layer.refresh(extent=False, thumbnail=thumbnail, highlight=False)

    def _refresh_corrected(self) -> None:
        """The layers that show the corrected mask show what arrives below the corrections."""
        for layer in corrected_layers(self._viewer, self._layers or {}):
            layer.refresh(extent=False)

    def _show_boxes(self, overlay: Overlay, *, all: bool) -> None:
        """Show the boxes, or first some of the new ones."""
        if (layer := self._there("boxes")) is not None:
            follow_camera(self._viewer, layer, overlay.table).take(overlay.table, all=all)

    def _there(self, role: Role) -> Layer | None:
        layer = (self._layers or {}).get(role)
        return layer if layer in self._viewer.layers else None


def corrected_layers(viewer: Viewer, layers: Mapping[Role, Layer]) -> list[Layer]:
    """The layers of a viewer that show the corrected mask of a run with these ``layers``."""
    if (mask := layers.get("mask")) is None:
        return []
    store = mask.metadata[TAG]["store"]
    tags = ((layer, layer.metadata.get(TAG, {})) for layer in viewer.layers)
    return [layer for layer, tag in tags if tag.get("role") == "final" and tag.get("store") == store]


def kind(layer: Layer) -> str:
    """``"image"``, ``"labels"``, ``"shapes"``, ``"points"``, ..."""
    return type(layer).__name__.lower()


def _takes(old: Layer, data: LayerData) -> bool:
    """Whether ``old`` can show ``data``: napari can't change a layer's kind, nor whether it has levels."""
    _, meta, kind_of_data = data
    if kind(old) != kind_of_data or getattr(old, "multiscale", False) != meta.get("multiscale", False):
        return False
    return kind_of_data != "labels" or list(old.features["class"]) == list(meta["features"]["class"])


def _replace(old: Layer, data: LayerData) -> None:
    """Show ``data`` in ``old``, in the style that ``old`` has."""
    pixels, meta, kind_of_data = data
    if kind_of_data == "shapes":
        exchange(old, range(old.nshapes), [])  # what follows the camera draws the new ones
        old.features = meta["features"][:0]
    else:
        old.data = pixels
    for name in ("scale", "translate", "units", "rotate", "shear", "affine", "metadata"):
        if name in meta:
            setattr(old, name, meta[name])
