"""What stands in a prediction for what its store says: levels and tables that were given, as by corrections.

Knows arrays and tables; must not know stores or predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_xt.errors import SettingsError
from napari_xt.io.thresholds import MaskLevel

Levels = Sequence[Any]  # arrays (y, x) of uint8, finest first: shape, dtype, chunks, and a tuple of slices as index
LevelsOver = Callable[[Levels], Levels]
Table = pd.DataFrame | Callable[[], pd.DataFrame]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was given: ``mask`` makes levels of those beneath; None where the store tells."""

    mask: LevelsOver | None = None
    boxes: Callable[[], pd.DataFrame] | None = None
    scores: Callable[[], pd.DataFrame] | None = None

    def but(self, mask: Levels | LevelsOver | None, boxes: Table | None, scores: Table | None) -> Seen:
        """The same with other parts where these are given."""
        return Seen(
            self.mask if mask is None else _over(mask),
            self.boxes if boxes is None else _made(boxes),
            self.scores if scores is None else _made(scores),
        )

    def levels(self, beneath: Levels) -> list[Any]:
        """The mask as it is seen."""
        return list(beneath if self.mask is None else self.mask(beneath))


def known_classes(pixels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """``pixels`` of a mask with 0 where a value is no class: somebody has said that it is not known."""
    return pixels * (pixels < classes)


def _over(mask: Levels | LevelsOver) -> LevelsOver:
    if callable(mask):
        return mask
    levels = list(mask)

    def given(beneath: Levels) -> Levels:
        if any(isinstance(level, MaskLevel) for level in beneath):
            raise SettingsError("mask_threshold", "the mask was given and has no other", "leave it out")
        return levels

    return given


def _made(table: Table) -> Callable[[], pd.DataFrame]:
    return table if callable(table) else lambda: table
