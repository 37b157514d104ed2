"""Several images of one scene as one image whose channels are theirs: nothing is copied, each is read where it lies.

Knows opened sources; must not know layers, files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageFormatError
from napari_xt.io.images.formats import names_of_channels
from napari_xt.io.images.source import ArrayLike, Source, Window

Part = tuple[int, int]
"""Which image, and which of its channels."""


def stack(images: Sequence[Source]) -> Source:
    """Join images of equal shape, type, axes and scale into one that has all their channels.

    A channel is called as its image, or as image and channel where the image has several. Of alpha channels the first
    one stays, as the last channel. Closing the joined image leaves the others open.

    Parameters
    ----------
    images
        At least one; the place on the Earth is that of the first.

    Raises
    ------
    ImageFormatError
        Where they don't fit together.
    """
    if len(images) == 1:
        return images[0]
    for image in images[1:]:
        _check(images[0], image)
    first = images[0]
    names = [names_of_channels(image) for image in images]
    alphas = [len(one) - 1 if len(one) > 1 and one[-1].lower() == "alpha" else None for one in names]
    parts = stacked_parts([image.channels for image in images], alphas)
    return Source(
        name=", ".join(image.name for image in images),
        path=first.path if len({image.path for image in images}) == 1 else None,
        axes=f"c{_spatial(first)}",
        levels=_levels(images, parts),
        pixel=first.pixel,
        channel_names=tuple(_name(images[i], names[i], c, alphas[i]) for i, c in parts),
        channel_colors=tuple(_color(images[i], c) for i, c in parts),
        channel_windows=tuple(_window(images[i], c) for i, c in parts),
        stated_by=first.stated_by,
        georeference=first.georeference,
        nodata=first.nodata if len({image.nodata for image in images}) == 1 else None,
        bounds_offset=first.bounds_offset,
    )


def stacked_parts(channels: Sequence[int], alphas: Sequence[int | None]) -> tuple[Part, ...]:
    """Which channel of which image each channel of a stack is.

    Parameters
    ----------
    channels
        How many each image has.
    alphas
        Which of them is alpha, None for none.
    """
    seen = [(i, c) for i, count in enumerate(channels) for c in range(count) if c != alphas[i]]
    hiding = [(i, alpha) for i, alpha in enumerate(alphas) if alpha is not None]
    return (*seen, *hiding[:1])


def _spatial(image: Source) -> str:
    return image.axes.replace("c", "")


def _check(first: Source, image: Source) -> None:
    both = f"{image.name} and {first.name}"
    sizes = [_without_c(one.levels[0].shape, one.axes) for one in (image, first)]
    if _spatial(image) != _spatial(first) or sizes[0] != sizes[1]:
        found, wanted = (
            " x ".join(f"{axis} {size}" for axis, size in zip(_spatial(one), lengths, strict=True))
            for one, lengths in zip((image, first), sizes, strict=True)
        )
        raise ImageFormatError(both, f"are no channels of one image: {found} and {wanted}", "give images of one shape")
    types = [np.dtype(one.levels[0].dtype).newbyteorder("=") for one in (image, first)]
    if types[0] != types[1]:
        raise ImageFormatError(both, f"are of types {types[0]} and {types[1]}", "convert them to one type")
    (size, unit), (first_size, first_unit) = image.pixel, first.pixel
    if unit != first_unit or not all(map(isclose, size, first_size)):
        said = [f"{y:g} x {x:g} {name}" for (y, x), name in (image.pixel, first.pixel)]
        raise ImageFormatError(both, f"have pixels of {said[0]} and {said[1]}", "give images of one scale")


def _name(image: Source, names: Sequence[str], channel: int, alpha: int | None) -> str:
    if channel == alpha:
        return "alpha"
    return image.name if image.channels == 1 else f"{image.name}: {names[channel]}"


def _color(image: Source, channel: int) -> str:
    return image.channel_colors[channel] if len(image.channel_colors) == image.channels else ""


def _window(image: Source, channel: int) -> Window | None:
    return image.channel_windows[channel] if len(image.channel_windows) == image.channels else None


def _levels(images: Sequence[Source], parts: Sequence[Part]) -> tuple[ArrayLike, ...]:
    """The levels that all of them have; coarser ones are computed as for any image without."""
    axes, levels = tuple(image.axes for image in images), []
    for arrays in zip(*(image.levels for image in images), strict=False):
        if len({_without_c(array.shape, order) for array, order in zip(arrays, axes, strict=True)}) > 1:
            break
        levels.append(Stacked(arrays, axes, tuple(parts)))
    return tuple(levels)


@dataclass(frozen=True, slots=True)
class Stacked:
    """Arrays side by side: ``(c, ...)``, the other axes in the order of the first array.

    Parameters
    ----------
    arrays
        Of equal shape but for channels, and of equal type.
    axes
        One letter for each axis of each array.
    parts
        Which array, and which of its channels, each channel is.
    """

    arrays: tuple[ArrayLike, ...]
    axes: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return (len(self.parts), *_without_c(self.arrays[0].shape, self.axes[0]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return np.dtype(self.arrays[0].dtype).newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Sizes of the first array's chunks, one channel each; None where they have no common size."""
        chunks = getattr(self.arrays[0], "chunks", None)
        if not chunks or not all(isinstance(length, int) for length in chunks):
            return None
        return (1, *_without_c(chunks, self.axes[0]))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(k is Ellipsis for k in keys):
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        chosen = np.arange(len(self.parts))[keys[0]]
        planes = self._planes([self.parts[i] for i in np.atleast_1d(chosen)], keys[1:])
        return planes[0] if chosen.ndim == 0 else np.stack(planes) if planes else self._nothing(keys[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or self.dtype, copy=bool(copy))

    def _planes(self, parts: Sequence[Part], keys: Sequence[Any]) -> list[NDArray[Any]]:
        """One channel each; every array is read once, whatever is wanted of it."""
        wanted = {array: [c for i, c in parts if i == array] for array, _ in parts}
        read = {array: self._read(array, min(cs), max(cs) + 1, keys) for array, cs in wanted.items()}
        return [read[array][channel - min(wanted[array])] for array, channel in parts]

    def _read(self, array: int, first: int, stop: int, keys: Sequence[Any]) -> NDArray[Any]:
        """Channels of an array, ``(c, ...)``."""
        axes, order = self.axes[array], self.axes[0].replace("c", "")
        place = dict(zip(order, keys, strict=True)) | {"c": slice(first, stop)}
        pixels = np.asarray(self.arrays[array][tuple(place[axis] for axis in axes)]).astype(self.dtype, copy=False)
        left = [axis for axis in axes if isinstance(place[axis], slice)]
        return np.moveaxis(pixels, left.index("c"), 0) if "c" in axes else pixels[None]

    def _nothing(self, keys: Sequence[Any]) -> NDArray[Any]:
        there = np.broadcast_to(np.zeros((), self.dtype), self.shape[1:])[tuple(keys)]
        return np.empty((0, *there.shape), self.dtype)


def _without_c(values: Sequence[int], axes: str) -> tuple[int, ...]:
    return tuple(int(value) for value, axis in zip(values, axes, strict=True) if axis != "c")
