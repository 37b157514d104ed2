"""Painting where this napari can't paint on a pyramid: an ordinary layer over what is in view, written back when asked.

Knows corrections and layers; must not know viewers, Qt or how corrections are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Labels

from napari_xt.geometry import Box
from napari_xt.plugin.correct.levels import NO_CORRECTION, Bytes, Corrected
from napari_xt.plugin.correct.rules import Rules
from napari_xt.plugin.layers.overlays import Place

SIDE_PX = 4096  # at most


class EditWindow:
    """A part of the corrected mask to paint on.

    Parameters
    ----------
    corrections
        Where what is painted goes with `commit`.
    view
        What is in view, in pixels of level 0; of more than `SIDE_PX` the middle.
    place
        Where these pixels lie.
    **style
        Of the layer.

    Attributes
    ----------
    layer
        An ordinary one, its undo is napari's.
    box
        What it covers.
    rules
        What may be painted over, as `commit` sees it.
    """

    def __init__(self, corrections: Corrected, view: Box, place: Place, **style: Any) -> None:
        self.corrections, self.rules = corrections, Rules()
        middle = Box(*[(view.y0 + view.y1) // 2, (view.x0 + view.x1) // 2] * 2).grow(SIDE_PX // 2)
        self.box = view.clip(middle).clip(Box(0, 0, *corrections.mask[0].shape))
        self._before = self._read()
        moved = np.array(place.translate) + place.linear @ (self.box.y0, self.box.x0)
        there = replace(place, translate=(float(moved[0]), float(moved[1])))
        self.layer = Labels(self._before.copy(), **{**style, **there.cells(1, 1)})

    def commit(self) -> int:
        """Write back what was painted, as one stroke; how many pixels that are."""
        painted = np.asarray(self.layer.data, np.uint8)
        chosen = (painted != self._before) & self.rules.allowed(self._before)
        chosen &= ~np.isin(painted, list(self.rules.locked))
        if chosen.any():
            with self.corrections.stroke(tool="edit window") as stroke:
                stroke.fill(self.box, np.where(chosen, painted, np.uint8(NO_CORRECTION)))
        self._before = self._read()
        self.layer.data = self._before.copy()
        return int(np.count_nonzero(chosen))

    def _read(self) -> Bytes:
        return np.array(self.corrections.mask[0][self.box.slices])
