"""Images that are stored on their side or mirrored (EXIF orientation), shown upright, read lazily.

Knows arrays and axes; knows no file format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.images.geo import Georeference
from napari_xt.io.images.keys import full_key
from napari_xt.io.images.source import Source, Wrapped

_FLIPS = {2: (False, True), 3: (True, True), 4: (True, False), 5: (False, False), 6: (True, False), 7: (True, True)}
_FLIPS |= {8: (False, True)}  # stored rows, stored columns
_SWAPS_FROM = 5


def turned(source: Source, orientation: object) -> Source:
    """Return ``source`` upright.

    Parameters
    ----------
    source
        As it is stored.
    orientation
        Value of the EXIF and TIFF tag Orientation: 1 is upright, 2 to 8 are not, anything else is taken as 1.
    """
    if not isinstance(orientation, int) or orientation not in _FLIPS:
        return source
    rows, cols = _FLIPS[orientation]
    swapped = orientation >= _SWAPS_FROM
    y, x = source.axes.index("y"), source.axes.index("x")
    height, width = source.levels[0].shape[y], source.levels[0].shape[x]
    flips = {axis for axis, flip in ((y, rows), (x, cols)) if flip}
    (size_y, size_x), unit = source.pixel
    map_ = source.georeference
    return replace(
        source,
        levels=tuple(TurnedArray(level, frozenset(flips), (y, x) if swapped else None) for level in source.levels),
        pixel=((size_x, size_y), unit) if swapped else source.pixel,
        georeference=None if map_ is None else _turned_map(map_, (rows * height, cols * width), (rows, cols), swapped),
    )


def _turned_map(
    stored: Georeference, lengths: tuple[int, int], flips: tuple[bool, bool], swapped: bool
) -> Georeference:
    """The georeference of the upright image: its pixel is found in the stored one first."""
    a, b, c, d, e, f = stored.transform
    sign_y, sign_x = (-1 if flip else 1 for flip in flips)
    c, f = c + a * lengths[1] + b * lengths[0], f + d * lengths[1] + e * lengths[0]
    a, b, d, e = a * sign_x, b * sign_y, d * sign_x, e * sign_y
    return Georeference((b, a, c, e, d, f) if swapped else (a, b, c, d, e, f), stored.epsg)


@dataclass(frozen=True, slots=True)
class TurnedArray(Wrapped):
    """An array with some axes reversed, then perhaps two of them swapped.

    Parameters
    ----------
    stored
        The array as it is.
    flips
        Axes of ``stored`` that are read from their end.
    swaps
        The two axes that take each other's place, or None.
    """

    flips: frozenset[int]
    swaps: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self._swapped(tuple(self.stored.shape))

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Sizes of the chunks, which here may begin before the first pixel."""
        chunks = getattr(self.stored, "chunks", None)
        return self._swapped(tuple(chunks)) if chunks else None

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Read a part: whole numbers and forward slices."""
        keys = self._swapped(full_key(key, self.shape))
        index = tuple(self._of_stored(axis, part) for axis, part in enumerate(keys))
        pixels = np.asarray(self.stored[index])
        left = [axis for axis, part in enumerate(keys) if isinstance(part, slice)]
        upright = pixels[tuple(slice(None, None, -1 if axis in self.flips else 1) for axis in left)]
        wanted = [axis for axis in self._swapped(tuple(range(self.ndim))) if axis in left]
        return upright.transpose([left.index(axis) for axis in wanted])

    def _of_stored(self, axis: int, part: Any) -> Any:
        """The index along an axis of the stored array; what is flipped still comes in the stored order."""
        size = self.stored.shape[axis]
        if axis not in self.flips:
            return part
        if not isinstance(part, slice):
            return size - 1 - part
        places = range(*part.indices(size))
        return slice(size - 1 - places[-1], size - places[0], places.step) if places else slice(0, 0)

    def _swapped(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.swaps is None:
            return values
        order = list(range(len(values)))
        y, x = self.swaps
        order[y], order[x] = x, y
        return tuple(values[place] for place in order)
