"""Where things are: boxes, regions, blocks, windows and the grid that they hang on, in whole pixels.

Pure values from the standard library; knows nothing of arrays, tensors, files or screens.

Frames: `_px` = level-0 pixels, `_run` = the pixels that a run works on, `_world` = physical units. Region, Block,
Window and Grid are in run pixels. The grid is anchored at the image's (0, 0), whatever part of it is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import ceil, floor, lcm, log2

BLOCK_PX = 1024  # blocks are about this large
BLOCK_REGIONS = 8  # along a side of a block, at most
IDS_PER_REGION = 4096  # a box's id is region index * IDS_PER_REGION + rank


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle ``[y0, y1) x [x0, x1)`` in whole pixels of one frame; may reach outside the image."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        """Rows, 0 where the box is empty."""
        return max(0, self.y1 - self.y0)

    @property
    def width(self) -> int:
        """Columns, 0 where the box is empty."""
        return max(0, self.x1 - self.x0)

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width

    @property
    def empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.height == 0 or self.width == 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The ``(y, x)`` slices of an array that starts at the frame's origin."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def clip(self, other: Box) -> Box:
        """The part of this box inside ``other`` (perhaps empty)."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Box(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))

    def shift(self, dy: int, dx: int) -> Box:
        """The box moved by ``(dy, dx)``."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def grow(self, margin: int) -> Box:
        """The box with ``margin`` more pixels on each side."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def scale(self, fy: float, fx: float) -> Box:
        """The smallest whole-pixel box that covers this one with its coordinates multiplied by ``(fy, fx)``."""
        return Box(
            floor(round(self.y0 * fy, 6)),
            floor(round(self.x0 * fx, 6)),
            ceil(round(self.y1 * fy, 6)),
            ceil(round(self.x1 * fx, 6)),
        )

    def touches(self, other: Box) -> bool:
        """Whether the two boxes share a pixel."""
        return not self.clip(other).empty


@dataclass(frozen=True, slots=True)
class Frame:
    """How a run's pixels lie in the image.

    Parameters
    ----------
    shape_px
        ``(height, width)`` of level 0.
    shape_run
        ``(height, width)`` of the grid that the run works on.
    scale
        Size of a level-0 pixel ``(y, x)`` in ``unit``.
    unit
        A name of a length, or ``"pixel"`` where the image has no scale.
    """

    shape_px: tuple[int, int]
    shape_run: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    unit: str = "pixel"

    @property
    def px_per_run(self) -> tuple[float, float]:
        """Level-0 pixels per run pixel, ``(y, x)``."""
        return self.shape_px[0] / self.shape_run[0], self.shape_px[1] / self.shape_run[1]

    @property
    def scale_run(self) -> tuple[float, float]:
        """Size of a run pixel ``(y, x)`` in ``unit``."""
        fy, fx = self.px_per_run
        return self.scale[0] * fy, self.scale[1] * fx

    def to_run(self, box_px: Box) -> Box:
        """The run pixels that a level-0 box touches, inside the image."""
        fy, fx = self.px_per_run
        return box_px.scale(1 / fy, 1 / fx).clip(Box(0, 0, *self.shape_run))


@dataclass(frozen=True, slots=True)
class Region:
    """The square that is encoded independently.

    ``inner`` is what it owns (cut at the image's edge), ``outer`` the full square with its halo, which may reach
    outside the image (filled by replication), ``local`` where ``inner`` lies within ``outer``.
    """

    row: int
    col: int
    index: int
    inner: Box
    outer: Box

    @property
    def local(self) -> Box:
        """``inner`` in the coordinates of ``outer``."""
        return self.inner.shift(-self.outer.y0, -self.outer.x0)


@dataclass(frozen=True, slots=True)
class Block:
    """k x k regions, exactly one chunk of the mask: the unit of writing and committing. ``box`` is cut at the edge."""

    row: int
    col: int
    box: Box


@dataclass(frozen=True, slots=True)
class Window:
    """The regions whose tokens see each other: rows ``row0..row1`` and columns ``col0..col1`` of the grid, half-open.

    ``origin`` is the region ``(row, col)`` at which the full window starts: positions are counted from there, so that
    they do not depend on the part of the image that is run.
    """

    row0: int
    col0: int
    row1: int
    col1: int
    origin: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)`` of regions."""
        return self.row1 - self.row0, self.col1 - self.col0

    @property
    def start(self) -> tuple[int, int]:
        """``(row, col)`` of the first region, counted from the full window's origin."""
        return self.row0 - self.origin[0], self.col0 - self.origin[1]


@dataclass(frozen=True, slots=True)
class Step:
    """The smallest square of whole windows and whole blocks, cut to what is run: the unit of a windowed run."""

    windows: tuple[Window, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Regions, blocks and windows over an image of ``height x width`` run pixels, anchored at (0, 0).

    Parameters
    ----------
    height, width
        The image in run pixels.
    region_px
        Side of a region's inner.
    halo_px
        Pixels read beyond it on each side.
    window
        Regions along a side of a window; 0 stands for the whole image.
    """

    height: int
    width: int
    region_px: int
    halo_px: int = 0
    window: int = 8

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)`` of regions."""
        return -(-self.height // self.region_px), -(-self.width // self.region_px)

    @property
    def bounds(self) -> Box:
        """The whole image."""
        return Box(0, 0, self.height, self.width)

    @property
    def block_regions(self) -> int:
        """k: regions along a side of a block."""
        return 1 << round(log2(min(max(1, BLOCK_PX / self.region_px), BLOCK_REGIONS)))

    @property
    def block_px(self) -> int:
        """Side of a block, which is also the side of the mask's chunks."""
        return self.block_regions * self.region_px

    @property
    def block_shape(self) -> tuple[int, int]:
        """``(rows, cols)`` of blocks."""
        return -(-self.height // self.block_px), -(-self.width // self.block_px)

    def region(self, row: int, col: int) -> Region:
        """The region at ``(row, col)``."""
        side = self.region_px
        square = Box(row * side, col * side, (row + 1) * side, (col + 1) * side)
        index = row * self.shape[1] + col
        return Region(row, col, index, square.clip(self.bounds), square.grow(self.halo_px))

    def block(self, row: int, col: int) -> Block:
        """The block at ``(row, col)`` of the grid of blocks."""
        side = self.block_px
        return Block(row, col, Box(row * side, col * side, (row + 1) * side, (col + 1) * side).clip(self.bounds))

    def regions(self, roi: Box | None = None) -> Iterator[Region]:
        """The regions whose inner touches ``roi`` (default: all), row by row."""
        cells = self._cells(roi, self.region_px)
        for row in range(cells.y0, cells.y1):
            for col in range(cells.x0, cells.x1):
                yield self.region(row, col)

    def window_regions(self, window: Window) -> Iterator[Region]:
        """The regions of ``window``, row by row."""
        for row in range(window.row0, window.row1):
            for col in range(window.col0, window.col1):
                yield self.region(row, col)

    def step_regions(self, step: Step) -> Iterator[Region]:
        """The regions of the windows of ``step``, window by window."""
        return chain.from_iterable(map(self.window_regions, step.windows))

    def steps(self, roi: Box | None = None) -> Iterator[Step]:
        """The steps of a run over ``roi`` (default: the whole image), row by row."""
        run = self._cells(roi, self.region_px)
        side = lcm(self._window_side, self.block_regions)
        coarse = self._cells(roi, side * self.region_px)
        for row in range(coarse.y0, coarse.y1):
            for col in range(coarse.x0, coarse.x1):
                cells = Box(row, col, row + 1, col + 1).scale(side, side).clip(run)
                yield Step(tuple(self._windows(cells)), tuple(self._blocks(cells)))

    @property
    def _window_side(self) -> int:
        return self.window or max(self.shape)

    def _cells(self, roi: Box | None, side: int) -> Box:
        """The squares of ``side`` pixels that ``roi`` touches, as a box of their rows and columns."""
        part = (roi or self.bounds).clip(self.bounds)
        return Box(0, 0, 0, 0) if part.empty else part.scale(1 / side, 1 / side)

    def _windows(self, cells: Box) -> Iterator[Window]:
        side = self._window_side
        coarse = cells.scale(1 / side, 1 / side)
        for row in range(coarse.y0, coarse.y1):
            for col in range(coarse.x0, coarse.x1):
                part = Box(row, col, row + 1, col + 1).scale(side, side).clip(cells)
                yield Window(part.y0, part.x0, part.y1, part.x1, origin=(row * side, col * side))

    def _blocks(self, cells: Box) -> Iterator[Block]:
        k = self.block_regions
        coarse = cells.scale(1 / k, 1 / k)
        for row in range(coarse.y0, coarse.y1):
            for col in range(coarse.x0, coarse.x1):
                yield self.block(row, col)
