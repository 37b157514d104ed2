"""A slide that is computed where it is looked at: synthetic tissue whose class is told only from afar.

The slide is laid out in neighbourhoods of 8 x 8 regions of 64 px. One region of each holds a marker, a ring in the
colour of a class, and all cells of the neighbourhood are of that class. No cells stand nearer than two regions to any
marker (Chebyshev distance), and nothing in their own look tells the class: all but the ring is drawn from chance that
the class has no part in. Knows arrays; knows no model and no viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, log2
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.io.computed.array import ComputedArray
from napari_xt.io.computed.chance import Chance
from napari_xt.io.computed.swatches import CELLS, SIDE, VARIANTS, Swatches, swatches
from napari_xt.io.images.pyramid import COARSEST_PX

REGION_PX = 64
NEIGHBOURHOOD = 8
KINDS = ("amber", "teal", "rose")
MASK = ("background", *(f"{kind} cell" for kind in KINDS))
SCORES = ("other", *KINDS, *(f"{kind} marker" for kind in KINDS))

_DRAWN = 4  # the coarsest level that squares are drawn for; beyond it levels are means
_GLASS = np.array([246, 244, 248], np.float32)
_WAVES = ((2600, 0.5), (700, 0.38), (90, 0.12))  # of the tissue's outline: length in px, weight
_DEEP = 0.08  # regions whose ground is above it at all corners may have cells
_SPOTS = 0.06  # share of squares with a spot that means nothing

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Layout(NamedTuple):
    """What stands in a rectangle of regions, arrays ``(rows, cols)``.

    ``kind`` 0..K - 1, the class of the neighbourhood, -1 where it has no marker; ``marker`` whether the region holds
    the marker; ``cells`` whether it has cells.
    """

    kind: Integers
    marker: Flags
    cells: Flags

    @property
    def classes(self) -> Integers:
        """Index into `SCORES`."""
        return (self.kind + 1) * (self.cells | self.marker) + len(KINDS) * self.marker

    def part(self, index: Any) -> Layout:
        """What stands in the regions that ``index`` chooses of rows and columns."""
        return Layout(self.kind[index], self.marker[index], self.cells[index])


class SyntheticArray(ComputedArray):
    """A level of the slide or of its truth: what is made up can be told from what is not."""


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """A slide of any size; equal values give equal pixels.

    It has what `open_image` looks for in a layer: ``data``, ``multiscale``, ``scale``, ``rgb`` and ``name``.

    Parameters
    ----------
    shape
        Height and width in px. Neighbourhoods that are cut by the edge have neither marker nor cells.
    seed
        Of everything that is drawn.
    turn
        Added to the class of every marker: the same slide but for the rings.
    """

    shape: tuple[int, int] = (25_000, 29_000)
    seed: int = 0
    turn: int = 0

    name: ClassVar[str] = "synthetic slide (context proof)"
    multiscale: ClassVar[bool] = True
    rgb: ClassVar[bool] = True
    scale: ClassVar[tuple[float, float]] = (1.0, 1.0)

    @property
    def data(self) -> tuple[SyntheticArray, ...]:
        """The picture's levels, ``(Y, X, 3)`` uint8, finest first, computed where they are read."""
        return tuple(SyntheticArray((*self._size(k), 3), partial(self.pixels, level=k)) for k in range(self._levels))

    @property
    def truth(self) -> tuple[SyntheticArray, ...]:
        """The true mask's levels, ``(Y, X)`` uint8, indices into `MASK`; level k is ``level0[::2**k, ::2**k]``."""
        return tuple(SyntheticArray(self._size(k), partial(self.mask, level=k)) for k in range(self._levels))

    def _size(self, level: int) -> tuple[int, int]:
        return -(-self.shape[0] // 2**level), -(-self.shape[1] // 2**level)

    @property
    def _levels(self) -> int:
        return 1 + max(0, ceil(log2(max(self.shape) / COARSEST_PX)))

    @property
    def _chance(self) -> Chance:
        return Chance(self.seed)

    def pixels(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """The picture in a box of a level's pixels: ``(Y, X, 3)``."""
        if level > _DRAWN:
            return _means(self.pixels(self._finer(box, level), _DRAWN), 2 ** (level - _DRAWN))
        paste, drawn, half = self._paste(box, level), swatches(self.seed, level), (SIDE >> level) // 2
        picture = _joined(drawn.base, paste.base).astype(np.float32)
        picture *= 1 - _joined(drawn.alpha, paste.over)[half:-half, half:-half, None] * np.float32(1 / 255)
        picture += _joined(drawn.over, paste.over)[half:-half, half:-half]
        picture = picture[paste.crop]
        self._shade(picture, box, level)
        shown: NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
        return shown

    def mask(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """The true mask in a box of a level's pixels: ``(Y, X)``, indices into `MASK`."""
        if level > _DRAWN:
            step = 2 ** (level - _DRAWN)
            return self.mask(self._finer(box, level), _DRAWN)[::step, ::step]
        paste, cells, side = self._paste(box, level), swatches(self.seed, level).cells, SIDE >> level
        half = slice(side // 2, -(side // 2))
        there = _joined(cells, paste.base) | _joined(cells, paste.over)[half, half]
        classes = (paste.kind + 1).astype(np.uint8).repeat(side, 0).repeat(side, 1)
        told: NDArray[np.uint8] = (there * classes)[paste.crop]
        return told

    def layout(self, rows: range, cols: range) -> Layout:
        """What stands in the regions of ``rows`` and ``cols``."""
        side = NEIGHBOURHOOD
        # a neighbourhood more on each side: no cells stand near a marker of another one either
        wide = [range(r.start // side - 1, -(-r.stop // side) + 1) for r in (rows, cols)]
        whole = self._neighbourhoods(*wide)
        whole = whole._replace(cells=whole.cells & ~_near(whole.marker))
        first = [w.start * side for w in wide]
        return whole.part(tuple(slice(r.start - f, r.stop - f) for r, f in zip((rows, cols), first, strict=True)))

    def _neighbourhoods(self, rows: range, cols: range) -> Layout:
        """What stands in whole neighbourhoods, with cells even near the markers."""
        side, grid = NEIGHBOURHOOD, (len(rows), NEIGHBOURHOOD, len(cols), NEIGHBOURHOOD)
        regions = [np.arange(r.start * side, r.stop * side) for r in (rows, cols)]
        deep = self._deep(*regions)
        rank = np.where(deep, 1 + self._chance.at("marker place", *regions), 0)
        first = rank.reshape(grid).max(axis=(1, 3))
        drawn = self._chance.choice("kind", np.array(rows), np.array(cols), len(KINDS))
        kind = np.where(first > 0, (drawn + self.turn) % len(KINDS), -1)
        wide_kind, wide_first = (values.repeat(side, 0).repeat(side, 1) for values in (kind, first))
        return Layout(wide_kind, deep & (rank == wide_first), deep)

    def _deep(self, rows: Integers, cols: Integers) -> Flags:
        """Whether regions lie deep in tissue and their neighbourhood wholly in the slide: ``(rows, cols)``."""
        ground = self._ground(*(np.append(r, r[-1] + 1) * REGION_PX for r in (rows, cols)))
        end = NEIGHBOURHOOD * REGION_PX
        down, across = ((r * REGION_PX // end + 1) * end <= n for r, n in zip((rows, cols), self.shape, strict=True))
        deep: Flags = _all_four(ground > _DEEP) & down[:, None] & across
        return deep

    def _ground(self, ys: NDArray[Any], xs: NDArray[Any]) -> NDArray[np.float32]:
        """How deep in the tissue the px of rising rows and columns are: 0 at its outline, negative on glass."""
        down, across = ((abs(2 * p / n - 1) ** 16).astype("f4") for p, n in zip((ys, xs), self.shape, strict=True))
        total: NDArray[np.float32] = -0.33 - down[:, None] - across
        for length, weight in _WAVES:
            total += np.float32(weight) * self._chance.wave(f"outline {length}", ys / length, xs / length)
        return total

    def _paste(self, box: Box, level: int) -> _Paste:
        """Which squares a box of a level's pixels is pasted together from."""
        side = SIDE >> level
        first, last = (box.y0 // side, box.x0 // side), (-(-box.y1 // side), -(-box.x1 // side))
        # a square more on each side, as the squares laid over straddle four
        rows, cols = (np.arange(a - 1, b + 1) for a, b in zip(first, last, strict=True))
        per = REGION_PX // SIDE
        layout = self.layout(*(range(int(s[0]) // per, int(s[-1]) // per + 1) for s in (rows, cols)))
        at = np.ix_(rows // per - rows[0] // per, cols // per - cols[0] // per)
        layout = layout.part(at)
        inner = layout.part((slice(1, -1), slice(1, -1)))
        base = self._base(rows[1:-1], cols[1:-1], inner)
        crop = box.shift(-first[0] * side, -first[1] * side).slices
        return _Paste(base, self._over(rows, cols, layout.cells), inner.kind, crop)

    def _base(self, rows: Integers, cols: Integers, layout: Layout) -> Integers:
        variant = self._chance.choice("variant", rows, cols, VARIANTS)
        cells = Swatches.cell(self._density("cells", rows, cols) * layout.cells, variant)
        spots = (self._chance.at("spots", rows, cols) < _SPOTS) & layout.cells
        per = REGION_PX // SIDE
        look = self._chance.choice("marker look", rows // per, cols // per, VARIANTS)
        marker = Swatches.marker(layout.kind, look, per * (rows[:, None] % per) + cols % per)
        return np.where(layout.marker, marker, np.where(spots, Swatches.spot(variant), cells))

    def _over(self, rows: Integers, cols: Integers, cells: Flags) -> Integers:
        """Squares of cells that lie half a square further down and right, so that cells keep to no lattice.

        None across the border of two neighbourhoods, where a cell would be of two classes.
        """
        down, across = (np.diff(s * SIDE // (NEIGHBOURHOOD * REGION_PX)) == 0 for s in (rows, cols))
        there = _all_four(cells) & down[:, None] & across
        rows, cols = rows[:-1], cols[:-1]
        variant = self._chance.choice("variant over", rows, cols, VARIANTS)
        return Swatches.cell(self._density("cells over", rows, cols) * there, variant)

    def _density(self, salt: str, rows: Integers, cols: Integers) -> Integers:
        """1..3, more alike in squares that are near each other."""
        smooth = self._chance.wave("density", rows / 24, cols / 24) + 0.6 * self._chance.at(salt, rows, cols) - 0.3
        return (1 + 3 * smooth).clip(1, len(CELLS) - 1).astype(np.int64)

    def _shade(self, picture: NDArray[np.float32], box: Box, level: int) -> None:
        """Darken the tissue's depth and fade its outline into glass, in place."""
        ys, xs = ((np.arange(a, b) + 0.5) * 2**level for a, b in ((box.y0, box.y1), (box.x0, box.x1)))
        ground = self._ground(ys, xs)[..., None]
        picture *= 1.03 - 0.3 * ground.clip(0, 0.5)
        share = (ground * 40).clip(0, 1)
        picture *= share
        picture += _GLASS * (1 - share)

    def _finer(self, box: Box, level: int) -> Box:
        """The pixels of the coarsest level that is drawn under a box of a coarser one."""
        factor = 2 ** (level - _DRAWN)
        return box.scale(factor, factor).clip(Box(0, 0, *self._size(_DRAWN)))


class _Paste(NamedTuple):
    """``base (n, m)``, indices of squares side by side; ``over (n + 1, m + 1)``, of those half a square up and left.

    ``kind (n, m)`` of their neighbourhoods, and where the asked box lies in what they make.
    """

    base: Integers
    over: Integers
    kind: Integers
    crop: tuple[slice, slice]


def _joined(squares: NDArray[Any], index: Integers) -> NDArray[Any]:
    """Squares ``(n, s, s, ...)`` side by side as ``index (rows, cols)`` says: ``(rows s, cols s, ...)``."""
    rows, cols = index.shape
    side = squares.shape[1]
    return squares[index].swapaxes(1, 2).reshape(rows * side, cols * side, *squares.shape[3:])


def _all_four(flags: Flags) -> Flags:
    """Whether a flag and its neighbours right, below and in between are set: ``(n, m) -> (n - 1, m - 1)``."""
    rows = flags[:-1] & flags[1:]
    return rows[:, :-1] & rows[:, 1:]


def _near(flags: Flags) -> Flags:
    """Where a flag or one of its eight neighbours is set."""
    rest = ~np.pad(flags, 1)
    return ~_all_four(_all_four(rest))


def _means(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Means over ``step x step`` px of ``(Y, X, 3)``; what is left over at the end is filled by repetition."""
    even = np.pad(pixels, [(0, -pixels.shape[0] % step), (0, -pixels.shape[1] % step), (0, 0)], mode="edge")
    blocks = even.reshape(even.shape[0] // step, step, even.shape[1] // step, step, 3)
    means: NDArray[np.uint8] = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    return means
