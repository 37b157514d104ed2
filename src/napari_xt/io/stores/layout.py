"""What a prediction store holds, as plain values: its layout, its header and what is committed to it.

Must not know files, Zarr or SQLite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.geometry import Block, Box, Frame, Grid, Region

if TYPE_CHECKING:
    from napari_xt.io.stores.shelf import EncodedBlock

FORMAT = 1  # of the store: a newer one is refused
MAX_CLASSES = 254  # background and 1..253; 254 and 255 belong to corrections
COARSEST_PX = 2048  # pyramids end at the first level whose longer side is not above this
PALETTE = (
    (0, 0, 0, 0),
    (230, 159, 0, 255),
    (86, 180, 233, 255),
    (0, 158, 115, 255),
    (240, 228, 66, 255),
    (0, 114, 178, 255),
    (213, 94, 0, 255),
    (204, 121, 167, 255),
)  # Okabe and Ito, safe for the colour-blind

Rgba = tuple[int, int, int, int]
Keep = Literal["nothing", "tokens", "features"]  # of encoded regions, once a run is complete: from less to more
TOKENS, FEATURES = "tokens", "features"  # the arrays


class Status(IntEnum):
    """What is known of a region."""

    NOT_YET = 0
    PREVIEW = 1
    DONE = 2
    SKIPPED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class ShelfLayout:
    """What is kept of an encoded region: ``tokens (L, D)`` and ``local (c, h, w)``, of ``dtype``.

    ``waits`` says that regions wait here for the rest of a window that is too large for memory, and ``keep`` what stays
    when the run is complete.
    """

    tokens: tuple[int, int]
    local: tuple[int, int, int]
    dtype: str
    waits: bool = True
    keep: Keep = "nothing"

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays that a store has from its beginning."""
        return (TOKENS, FEATURES) if self.waits else self.kept

    @property
    def kept(self) -> tuple[str, ...]:
        """The arrays that it has when it is complete."""
        return kept_arrays(self.keep)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a store: what arrays it has and where they lie.

    Parameters
    ----------
    frame
        How run pixels lie in the image.
    grid
        Regions and blocks, in run pixels.
    stride
        Run pixels per probability cell.
    mask, boxes, scores
        Class names of each output, None where the model has no such head; ``mask[0]`` is the background. The scores
        are those of the label where it is all that the model says.
    overview_channels, overview_dtype
        Of the picture of the source at the store's root.
    colors
        One ``(r, g, b, a)`` in 0..255 per mask class; None chooses.
    label
        Class names of the image's label, None where they are those of the scores.
    shelf
        What is stored of encoded regions, while windows are encoded that are too large for memory or to stay; None
        where nothing is.
    """

    frame: Frame
    grid: Grid
    stride: int
    mask: tuple[str, ...] | None
    boxes: tuple[str, ...] | None
    scores: tuple[str, ...] | None
    overview_channels: int
    overview_dtype: str
    colors: tuple[Rgba, ...] | None = None
    label: tuple[str, ...] | None = None
    shelf: ShelfLayout | None = None

    def __post_init__(self) -> None:
        if self.frame.shape_run != self.shape:
            raise SettingsError(f"grid {self.shape}", f"the frame is {self.frame.shape_run} run pixels")
        if self.grid.block_px % self.stride:
            raise SettingsError(f"stride {self.stride}", f"it does not divide the block of {self.grid.block_px} px")
        if self.mask is not None and not 1 <= len(self.mask) <= MAX_CLASSES:
            raise SettingsError(f"{len(self.mask)} mask classes", f"a mask holds 1 to {MAX_CLASSES}")

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` of the run grid, which is also the mask's."""
        return self.grid.height, self.grid.width

    @property
    def mask_shapes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of each mask level, finest first; level k is ``level0[::2**k, ::2**k]``."""
        return tuple(_coarser(self.shape, 2**k) for k in range(_halvings(self.shape) + 1))

    @property
    def probability_shape(self) -> tuple[int, int]:
        """``(height, width)`` of the probability in cells."""
        return _coarser(self.shape, self.stride)

    @property
    def overview_factor(self) -> int:
        """Run pixels along a side of an overview cell: a power of two."""
        return 1 << _halvings(self.shape)

    @property
    def overview_shape(self) -> tuple[int, ...]:
        """``(c, y, x)`` of the overview, ``(y, x)`` where there is one channel."""
        plane = _coarser(self.shape, self.overview_factor)
        return plane if self.overview_channels == 1 else (self.overview_channels, *plane)

    @property
    def values(self) -> int:
        """How many numbers ``RegionData.scores`` holds: the scores' K and the label's."""
        return len(self.scores or ()) + len(self.label or ())

    def cells(self, box: Box) -> Box:
        """The probability cells of ``box``, a block in run pixels."""
        return box.scale(1 / self.stride, 1 / self.stride)

    def rgba(self, value: int) -> Rgba:
        """The colour of a mask value."""
        if self.colors is not None and value < len(self.colors):
            return self.colors[value]
        return PALETTE[0] if value == 0 else PALETTE[1 + (value - 1) % (len(PALETTE) - 1)]

    def to_json(self) -> dict[str, object]:
        """The layout as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Layout:
        """The layout that ``to_json`` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            Where ``data`` is no layout.
        """
        values = {key: _frozen(value) for key, value in cast("dict[str, Any]", dict(data)).items()}
        frame = {key: _frozen(value) for key, value in values.pop("frame").items()}
        if shelf := values.pop("shelf", None):
            values["shelf"] = ShelfLayout(**{key: _frozen(value) for key, value in shelf.items()})
        return cls(frame=Frame(**frame), grid=Grid(**values.pop("grid")), **values)


@dataclass(frozen=True, slots=True)
class Header:
    """What a store is of: its layout and, as JSON values, how it came to be.

    Parameters
    ----------
    layout
        What arrays it has.
    job
        What decides the result: every resolved result field by name, with ``model`` (digest), ``image`` (identity) and
        ``numerics``. Two runs with the same job are the same run.
    settings, plan, model, notes
        What the user wanted, the resolved facts, the model's description, and remarks that decide nothing.
    """

    layout: Layout
    job: Mapping[str, object]
    settings: Mapping[str, object]
    plan: Mapping[str, object]
    model: Mapping[str, object]
    notes: Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class RegionData:
    """What a run says of one region: ``scores`` is float32 in 0..1 or None, ``boxes`` has ``BOX_DTYPE``.

    ``scores`` are the K of the region, and behind them those of its window where the layout has a label of its own.
    """

    region: Region
    status: Status
    scores: NDArray[np.float32] | None
    boxes: NDArray[np.void]
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BlockData:
    """What a run says of one block.

    Parameters
    ----------
    block
        Where it lies, in run pixels.
    pixels
        ``(C, Y, X)``, its source pixels in the run's frame, for the overview; None leaves the overview empty there.
    mask
        uint8 ``(Y, X)``, class values; None where all is background.
    probability
        uint8 ``(K, h, w)`` at the layout's stride, 0..255; None where all is 0.
    regions
        Those of its regions that were run.
    encoded
        Its encoded regions, where they are to be kept and are not in the store yet.
    """

    block: Block
    pixels: NDArray[Any] | None
    mask: NDArray[np.uint8] | None
    probability: NDArray[np.uint8] | None
    regions: tuple[RegionData, ...]
    encoded: EncodedBlock | None = None


def kept_arrays(keep: Keep) -> tuple[str, ...]:
    """The names of the arrays that stay."""
    return {"nothing": (), "tokens": (TOKENS,), "features": (TOKENS, FEATURES)}[keep]


def _frozen(value: Any) -> Any:
    """JSON's lists, and the lists in them, as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _coarser(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-shape[0] // factor), -(-shape[1] // factor)


def _halvings(shape: tuple[int, int]) -> int:
    """How often a side of ``shape`` must be halved until none is above the coarsest level's."""
    k = 0
    while max(_coarser(shape, 2**k)) > COARSEST_PX:
        k += 1
    return k
