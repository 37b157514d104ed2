"""All planes of an image, in the order of axes of OME-Zarr, as what strips come from.

Knows images; must not know what is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import ImageReadError
from napari_xt.geometry import Box
from napari_xt.io.conversion.sweep import Lead
from napari_xt.io.conversion.target import ORDER, target_axes
from napari_xt.io.image import Image


@dataclass(frozen=True, slots=True)
class ImageRows:
    """All planes of an image, with axes in the order of the standard, as the source of strips."""

    image: Image
    axes: str
    order: tuple[int, ...]  # where each of ``axes`` stands in the source
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    @classmethod
    def of(cls, image: Image) -> ImageRows:
        """The rows of level 0 of ``image``."""
        letters = target_axes(image.name, image.axes)
        ordered = sorted(image.axes, key=lambda axis: ORDER.index(letters[axis]))
        order = tuple(map(image.axes.index, ordered))
        array, axes = image.levels[0], "".join(letters[axis] for axis in ordered)
        stored = getattr(array, "chunks", None) or (1,) * array.ndim
        chunks = [size if isinstance(size, int) else size[0] for size in stored]
        return cls(
            image, axes, order, tuple(int(array.shape[i]) for i in order), image.dtype, tuple(chunks[i] for i in order)
        )

    def read(self, lead: Lead, box: Box) -> NDArray[Any]:
        """The pixels of a box of some planes."""
        place = dict(zip(self.order, (*lead, *box.slices), strict=True))
        try:
            pixels = np.asarray(self.image.levels[0][tuple(place[i] for i in range(len(place)))])
        except Exception as error:  # codecs and file systems raise almost anything
            self._tell(lead, box)
            raise ImageReadError(self.image.source or self.image.name, f"it can't be read: {error}") from error
        return np.ascontiguousarray(pixels.transpose(self.order), dtype=self.dtype)

    def _tell(self, lead: Lead, box: Box) -> None:
        """Read again, plane by plane, through the image, which names the first chunk that is damaged."""
        others = [range(*part.indices(size)) for part, size in zip(lead, self.shape, strict=False)]
        for plane in np.ndindex(*map(len, others)):
            letters = (self.image.axes[i] for i in self.order)
            at = {axis: indices[i] for axis, indices, i in zip(letters, others, plane, strict=False) if axis != "c"}
            self.image.with_plane(at).read(box)
