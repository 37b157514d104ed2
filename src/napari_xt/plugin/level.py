"""A level of an image as an array that napari shows: a channel of it, or all with the channels last.

Knows images and what napari asks of arrays; must not know layers, Qt, models or runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.image import Image

COLOR_NAMES = ({"red", "green", "blue"}, {"r", "g", "b"}, {"channel 0", "channel 1", "channel 2"})


def is_colour(image: Image) -> bool:
    """Whether the channels are one colour picture, wherever their axis lies."""
    names = {name.lower() for name in image.channel_names}
    return image.rgb or (image.channels == 3 and image.dtype == np.uint8 and names in COLOR_NAMES)


class Level:
    """A level of an open image as napari shows it: one channel of it, or all with the channels last. Read lazily.

    Parameters
    ----------
    image
        Stays open as long as a level of it lives.
    level
        Its index, 0 = finest.
    channel
        The one to show; None for all.
    """

    def __init__(self, image: Image, level: int, channel: int | None) -> None:
        self.image, self._channel = image, channel
        self._array = image.levels[level]
        self.axes = image.axes.replace("c", "")
        if "c" in image.axes and channel is None:
            self.axes = self.axes + "c" if is_colour(image) else image.axes
        self.dtype = image.dtype
        self.shape = tuple(self._of_axis(self._array.shape, axis) for axis in self.axes)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Sizes of the chunks, None where they have no common size; napari reads whole ones."""
        chunks = getattr(self._array, "chunks", None)
        if not chunks or not all(isinstance(length, int) for length in chunks):
            return None
        return tuple(self._of_axis(chunks, axis) for axis in self.axes)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        chosen = self._chosen(key)
        index = tuple(chosen.get(axis, self._channel) for axis in self.image.axes)
        pixels = np.asarray(self._array[index]).astype(self.dtype, copy=False)
        left = [axis for axis in self.image.axes if isinstance(chosen.get(axis), slice)]
        wanted = [axis for axis in self.axes if axis in left]
        return pixels.transpose([left.index(axis) for axis in wanted])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[()]
        return pixels if dtype is None else pixels.astype(dtype, copy=bool(copy))

    def _chosen(self, key: Any) -> dict[str, slice | int]:
        """The index along each axis, whole where ``key`` does not say."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [k for k in keys if k is Ellipsis]:
            place = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[place : place + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        return {a: k if isinstance(k, slice) else int(k) for a, k in zip(self.axes, keys, strict=True)}

    def _of_axis(self, values: Sequence[int], axis: str) -> int:
        return int(values[self.image.axes.index(axis)])
