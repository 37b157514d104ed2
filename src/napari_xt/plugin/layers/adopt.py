"""Layers of a prediction that a reader made, taken care of once napari has put them into a viewer.

A reader knows no viewer: it says what it made, and a moment later the layers are looked for in the viewers there are.
Joins layers, their image and how they were looked at; must not know Qt, widgets or formats.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_xt.errors import XTError
from napari_xt.plugin.images.watch import open_viewers
from napari_xt.plugin.layers.overlays import TAG, Overlay, Place
from napari_xt.plugin.layers.views import keep_looks, restore
from napari_xt.plugin.runs.reopen import view_of

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_xt.io.prediction import Prediction
    from napari_xt.plugin.boxes.layer import LayerData

AT_ONCE_BYTES = 2 << 20  # of a journal that is read while the viewer waits: some 40 ms
FILLED_AFTER_S = 0.05  # tables are asked for so often
LOOKED_FOR_S = (0.0, 0.3, 2.0)  # so long after it was read a prediction's layers are looked for


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a reader made of a prediction: the layers' arrays, those of its image, and whether that is the image itself.

    ``token`` stands in the layers' tags for the image until that is a layer.
    """

    overlay: Overlay
    sources: Sequence[LayerData]
    whole: bool
    token: str


def new_overlay(prediction: Prediction) -> Overlay:
    """What a prediction's layers show; a large one is empty until `adopt_soon` has had it filled."""
    return Overlay(prediction, filled=not (open_viewers() and prediction.journal_bytes > AT_ONCE_BYTES))


def adopt_soon(made: Made) -> None:
    """Take care of the layers once they are in a viewer; nothing where there is none."""
    if not made.overlay.filled:
        threading.Thread(target=_fill, args=(made.overlay,), name="napari-xt-tables", daemon=True).start()
    if open_viewers():
        _later(made, LOOKED_FOR_S)


def _fill(overlay: Overlay) -> None:
    try:
        overlay.fill()
    except XTError as error:
        from napari.utils.notifications import show_error

        show_error(str(error))


def _later(made: Made, times: Sequence[float]) -> None:
    from napari_xt.plugin._loop import on_viewer_thread

    on_viewer_thread(lambda: _look(made, times[1:]), times[0])


def _look(made: Made, times: Sequence[float]) -> None:
    for viewer in open_viewers():
        if layers := _own(viewer, made):
            _adopt(viewer, made, layers)
            return
    if times:
        _later(made, times)


def _own(viewer: Viewer, made: Made) -> dict[Any, Layer]:
    """The layers by role."""
    tags = [(layer, layer.metadata.get(TAG, {})) for layer in viewer.layers]
    return {tag["role"]: layer for layer, tag in tags if tag.get("image") == made.token}


def _adopt(viewer: Viewer, made: Made, layers: dict[Any, Layer]) -> None:
    from napari_xt.plugin.canvas import free_in_own_context
    from napari_xt.plugin.layers.hover import tell_regions
    from napari_xt.plugin.layers.toggle import bind_toggle

    prediction = made.overlay.prediction
    firsts = [_finest(data) for data, *_ in made.sources]
    sources = [layer for layer in viewer.layers if any(_finest(layer.data) is first for first in firsts)]
    image = sources[0] if sources and made.whole else None
    if image is not None:
        for layer in layers.values():
            layer.metadata = {**layer.metadata, TAG: {**layer.metadata[TAG], "image": str(image.unique_id)}}
    alone = len(viewer.layers) == len(sources) + len(layers)
    free_in_own_context(viewer)
    tell_regions(viewer)
    bind_toggle(viewer)
    view = view_of(prediction.header)
    restore(viewer, {**view, "thresholds": {}}, layers, alone=alone)
    _filled(viewer, made.overlay, image, layers, view)


def _filled(
    viewer: Viewer,
    overlay: Overlay,
    image: Layer | None,
    layers: dict[Any, Layer],
    view: Mapping[str, Any],
    *,
    late: bool = False,
) -> None:
    """Show what is in the tables, once they are there."""
    from napari_xt.plugin._loop import on_viewer_thread
    from napari_xt.plugin.boxes.in_view import follow_camera

    layers = {role: layer for role, layer in layers.items() if layer in viewer.layers}
    if not layers or viewer not in open_viewers():
        return
    if not overlay.filled:
        on_viewer_thread(lambda: _filled(viewer, overlay, image, layers, view, late=True), FILLED_AFTER_S)
        return
    for role, layer in layers.items():
        if late and role != "boxes":
            layer.refresh(extent=False)
    if "boxes" in layers:
        follow_camera(viewer, layers["boxes"], overlay.table)
    restore(viewer, {"thresholds": view.get("thresholds", {})}, layers, alone=False)
    keep_looks(viewer, overlay.prediction.header, layers)
    _follow(viewer, overlay, image or next(iter(layers.values())), layers)


def _follow(viewer: Viewer, overlay: Overlay, image: Layer, layers: dict[Any, Layer]) -> None:
    """Let the layers grow where another process is writing what they show."""
    from napari_xt.plugin.live import LiveLayers
    from napari_xt.plugin.runs.follow import Follow, is_written

    if is_written(overlay.prediction):
        place = Place.of_frame(overlay.prediction.layout.frame)
        Follow(viewer, LiveLayers.of_opened(viewer, image, overlay, layers, place), overlay.prediction)


def _finest(data: Any) -> Any:
    """The finest level of a layer's data, the data themselves where there is one."""
    several = isinstance(data, (list, tuple)) or type(data).__name__ == "MultiScaleData"
    return data[0] if several and len(data) else data
