"""A level of an image as an array that napari shows: a channel of it, or all with the channels last.

A viewer that looks is answered soon and always, with what can't be read as empty; anyone else gets the pixels or an
error. Knows images and what napari asks of arrays; must not know Qt, models or runs.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.io.image import Image
from napari_xt.plugin.images.looks import Looks
from napari_xt.plugin.images.watch import Watch

PATIENCE_S = 1.0
"""Seconds that a thread which fetches pixels for the viewer waits for them: it fetches those of all layers."""

SHORT_PATIENCE_S = 0.1
"""The same for the thread that draws, while it handles events: longer is felt."""

MOST_WORK = 2**27
"""Stored values that are read for one look: a level that needs more is not computed, coarser pixels stand in for it."""

COLOR_NAMES = ({"red", "green", "blue"}, {"r", "g", "b"}, {"channel 0", "channel 1", "channel 2"})


def is_colour(image: Image) -> bool:
    """Whether the channels are one colour picture, wherever their axis lies."""
    names = {name.lower() for name in image.channel_names}
    return image.rgb or (image.channels == 3 and image.dtype == np.uint8 and names in COLOR_NAMES)


_watches: weakref.WeakKeyDictionary[Image, dict[int | None, Watch]] = weakref.WeakKeyDictionary()


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

    Attributes
    ----------
    watch
        Keeps what could not be shown; one for all levels of a layer.
    behind
        A coarser level with the same axes, which stands in for pixels that have not come yet, or None.
    work
        How many stored pixels must be read for one of this level.
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
        self.behind: NDArray[Any] | None = None
        self.work = 1
        self.watch = _watches.setdefault(image, {}).setdefault(channel, Watch(image.source or image.name))
        self._looks = Looks(self._array, image.axes, level, empty(image), self.watch)

    @property
    def channel(self) -> int | None:
        """The one that is shown; None for all."""
        return self._channel

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Sizes of the chunks, None where they have no common size; napari reads whole ones."""
        chunks = getattr(self._array, "chunks", None)
        if not chunks or not all(isinstance(length, int) for length in chunks):
            return None
        return tuple(self._of_axis(chunks, axis) for axis in self.axes)

    def __getitem__(self, key: Any) -> NDArray[Any] | Look:
        chosen = self._chosen(key)
        if not _is_viewer():
            return self._read(chosen)
        # napari cuts the view out of all planes first, and then asks for one plane of that
        planes = [k for axis, k in chosen.items() if axis not in "yxc" and isinstance(k, slice)]
        return Look(self, chosen) if planes else self.shown(chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        chosen = self._chosen(())
        pixels = self.shown(chosen) if _is_viewer() else self._read(chosen)
        return pixels if dtype is None else pixels.astype(dtype, copy=bool(copy))

    def _read(self, chosen: dict[str, slice | int]) -> NDArray[Any]:
        try:
            pixels = np.asarray(self._array[self._index(chosen)])
        except Exception as error:  # codecs and file systems raise almost anything
            why = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
            what = self.image.source or self.image.name
            raise ImageReadError(what, f"its pixels can't be read: {why}", "the file may be damaged") from error
        return self._ordered(pixels, chosen)

    def shown(self, chosen: dict[str, slice | int]) -> NDArray[Any]:
        """Return what a viewer gets: the pixels that come in time, else those of the coarsest level, or nothing.

        Parameters
        ----------
        chosen
            An index for each of `axes`.
        """
        plain = {axis: _plain(k, n) for (axis, k), n in zip(chosen.items(), self.shape, strict=True)}
        shape = [k.stop - k.start for k in plain.values() if isinstance(k, slice)]
        heavy = self.behind is not None and self.work * math.prod(shape) > MOST_WORK
        late = None if heavy else self._looks.get(self._index(plain), _patience())
        if late is None:
            pixels = self._stand_in(plain, heavy=heavy)
            pixels = np.full(shape, empty(self.image), self.dtype) if pixels is None else pixels
        else:
            pixels = self._ordered(late, plain)
        return pixels[tuple(slice(None, None, k.step) for k in chosen.values() if isinstance(k, slice))]

    def _stand_in(self, chosen: dict[str, slice | int], *, heavy: bool) -> NDArray[Any] | None:
        if self.behind is None or (not heavy and self._looks.hopeless(self._index(chosen))):
            return None
        places = []
        for (axis, k), fine, coarse in zip(chosen.items(), self.shape, self.behind.shape, strict=True):
            at = np.arange(k.start, k.stop) if isinstance(k, slice) else np.array([k])
            places.append(at * coarse // fine if axis in "yx" else at)
        pixels: NDArray[Any] = self.behind[np.ix_(*places)]
        return pixels[tuple(slice(None) if isinstance(k, slice) else 0 for k in chosen.values())]

    def _index(self, chosen: dict[str, slice | int]) -> tuple[slice | int, ...]:
        whole = {axis: slice(0, n) for axis, n in zip(self.image.axes, self._array.shape, strict=True)}
        own = {} if self._channel is None else {"c": self._channel}
        return tuple({**whole, **own, **chosen}[axis] for axis in self.image.axes)

    def _ordered(self, pixels: NDArray[Any], chosen: dict[str, slice | int]) -> NDArray[Any]:
        left = [axis for axis in self.image.axes if isinstance(chosen.get(axis), slice)]
        wanted = [axis for axis in self.axes if axis in left]
        return pixels.astype(self.dtype, copy=False).transpose([left.index(axis) for axis in wanted])

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


class Look:
    """A part of a level that a viewer will ask for a part of: nothing is read before that.

    Parameters
    ----------
    level
        The level.
    chosen
        An index for each of its axes.
    """

    def __init__(self, level: Level, chosen: dict[str, slice | int]) -> None:
        self._level, self.dtype = level, level.dtype
        self._ranges = {axis: range(n)[chosen[axis]] for axis, n in zip(level.axes, level.shape, strict=True)}
        self.shape = tuple(len(r) for r in self._ranges.values() if isinstance(r, range))
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = iter([*(key if isinstance(key, tuple) else (key,)), *[slice(None)] * self.ndim])
        parts = {axis: r[next(keys)] if isinstance(r, range) else r for axis, r in self._ranges.items()}
        return self._level.shown(
            {a: slice(r.start, r.stop, r.step) if isinstance(r, range) else r for a, r in parts.items()}
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[()]
        return pixels if dtype is None else pixels.astype(dtype, copy=bool(copy))


def empty(image: Image) -> float | int:
    """What stands for no pixels: what the image itself says for it, not-a-number, or 0."""
    if image.nodata is not None:
        return image.nodata
    return np.nan if image.dtype.kind == "f" else 0


def _is_viewer() -> bool:
    """Whether napari itself asks, and not a user or a plugin, who must never take a stand-in for the pixels."""
    return str(sys._getframe(2).f_globals.get("__name__")).startswith("napari.")  # noqa: SLF001 - inspect.stack() takes ms


def _patience() -> float:
    if threading.current_thread() is not threading.main_thread():
        return PATIENCE_S
    from napari_xt.plugin._loop import is_handling_events

    return SHORT_PATIENCE_S if is_handling_events() else 2 * PATIENCE_S  # a script may look before the window lives


def _plain(key: slice | int, size: int) -> slice | int:
    """The same part without a step."""
    if not isinstance(key, slice):
        return key + size if key < 0 else key
    places = range(size)[key]
    return slice(places.start, places[-1] + 1) if places else slice(0, 0)
