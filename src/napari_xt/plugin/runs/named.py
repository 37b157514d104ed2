"""Which layers a user means by what they give: a layer, its name, a path, several of these, or nothing.

Knows layers and paths; must not know models, runs or Qt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_xt.errors import ImageNotFoundError, SettingsError

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer


def image_layers(
    viewer: Viewer, image: Layer | str | os.PathLike[str] | Sequence[Layer | str] | None
) -> tuple[Layer, ...]:
    """The layers that ``image`` stands for; paths are opened.

    Raises
    ------
    XTError
        There is no such layer and no such file, or it is no image.
    """
    if isinstance(image, (list, tuple)) and image:
        return tuple(_image_layer(viewer, one) for one in image)
    return (_image_layer(viewer, image),)


def _image_layer(viewer: Viewer, image: Layer | str | os.PathLike[str] | None) -> Layer:
    """The layer that ``image`` stands for; a path is opened."""
    from napari_xt.plugin.live import is_image

    if image is None:
        return _active_image(viewer)
    if isinstance(image, (str, os.PathLike)):
        text = os.fspath(image)
        if text in viewer.layers:
            image = viewer.layers[text]
        elif "://" in text or Path(text).expanduser().exists() or len(Path(text).parts) > 1:
            return _opened(viewer, text)
        else:
            names = ", ".join(layer.name for layer in viewer.layers if is_image(layer)) or "none"
            raise ImageNotFoundError(text, "there is no such layer and no such file", f"image layers: {names}")
    if not is_image(image):
        raise SettingsError(f"layer {image}", "is no image that can be run", "choose an image layer")
    return image


def _active_image(viewer: Viewer) -> Layer:
    from napari_xt.plugin.live import is_image

    images = [layer for layer in viewer.layers if is_image(layer)]
    active = viewer.layers.selection.active
    if active in images:
        return active
    if len(images) == 1:
        return images[0]
    why = "there is no image layer" if not images else "several image layers, none of them active"
    raise SettingsError("image", why, "open an image first" if not images else "select one or name it")


def _opened(viewer: Viewer, path: str) -> Layer:
    """The first layer of the image at ``path``, opened unless it is there already."""
    from napari.layers import Layer as AnyLayer

    from napari_xt.plugin.reader import NO_LAYERS, read_layers

    absolute = path if "://" in path else str(Path(path).expanduser().absolute())
    for layer in viewer.layers:
        if layer.metadata.get("path") == absolute:
            return layer
    found = read_layers(path)
    if found is NO_LAYERS:
        raise SettingsError(path, "its decoding was stopped", "run again to go on with it")
    layers = [viewer.add_layer(AnyLayer.create(*data)) for data in found]
    return layers[0]
