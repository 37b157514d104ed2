"""Layers of a run saved as files that other tools read: what is written is the prediction that they show.

Knows what tells such a layer; must not know Qt, viewers or formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_xt.errors import SettingsError
from napari_xt.io.export import export
from napari_xt.io.exports.wanted import What
from napari_xt.plugin.boxes.layer import LayerData
from napari_xt.plugin.images.watch import open_viewers
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.tables.seen import Thresholds

_SHOWN: dict[str, What] = {"mask": "mask", "boxes": "boxes", "scores": "regions"}


def write_layers(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write what the layers show to ``path``, whose name's end says the format; return the paths written.

    Images that are no layers of a run are left out.

    Parameters
    ----------
    path
        The file to write.
    layers
        ``(data, meta, kind)`` of each, as napari gives them.

    Raises
    ------
    XTError
        Where a layer is not of a run, layers are of several runs, or the file can't be written.
    """
    tags = [tag for _, meta, kind in layers if (tag := _tag(meta, kind)) is not None]
    stores = {str(tag["store"]) for tag in tags}
    if len(stores) != 1:
        why = "the layers are of several runs" if stores else "none of the layers is of a run"
        raise SettingsError(path, why, "select the xT layers of one run")
    store, what = stores.pop(), [_SHOWN[str(tag["role"])] for tag in tags]
    seen = _thresholds(store)
    return [str(export(store, path, what=what, mask_threshold=seen.mask, box_threshold=seen.boxes))]


def shown_store(viewer: Any, image: Any = None) -> str | None:
    """The prediction that layers of a viewer show: the active layer's, else that over ``image``, else the only one."""
    tagged = [layer for layer in viewer.layers if layer.metadata.get(TAG, {}).get("store")]
    active = viewer.layers.selection.active
    over = [layer for layer in tagged if image is not None and layer.metadata[TAG].get("image") == str(image.unique_id)]
    stores = {str(layer.metadata[TAG]["store"]) for layer in tagged}
    if active in tagged:
        return str(active.metadata[TAG]["store"])
    if over:
        return str(over[0].metadata[TAG]["store"])
    return stores.pop() if len(stores) == 1 else None


def _thresholds(store: str) -> Thresholds:
    """Those with which the first viewer that shows a prediction does so."""
    from napari_xt.plugin.layers.shown import thresholds_in

    every = (thresholds_in(viewer, store) for viewer in open_viewers())
    return next((found for found in every if found != Thresholds()), Thresholds())


def _tag(meta: Mapping[str, Any], kind: str) -> Mapping[str, object] | None:
    """What a layer says of its run, None of an image that is of none."""
    tag = meta.get("metadata", {}).get(TAG)
    if isinstance(tag, Mapping) and tag.get("role") in _SHOWN and tag.get("store"):
        return tag
    if kind == "image":
        return None
    raise SettingsError(f"layer {meta.get('name', '')!r}", "is not of a run", "save it apart, with another writer")
