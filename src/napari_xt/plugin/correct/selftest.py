"""Whether this napari's tools paint on a pyramid: it is tried once, as there is no other way to know.

Must not know stores or viewers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_xt.geometry import Box
from napari_xt.plugin.correct.levels import NO_CORRECTION, Bytes, ShownLevels
from napari_xt.plugin.correct.private import missing
from napari_xt.plugin.correct.pyramid_labels import PyramidLabels

SIDE = 64


class _Paper:
    """The least that can be painted on."""

    def __init__(self) -> None:
        self.mask = [np.zeros((SIDE >> level, SIDE >> level), np.uint8) for level in range(2)]
        self.diff = self.mask
        self.changed: list[Callable[[Box], None]] = []
        self.strokes = 0

    @contextmanager
    def stroke(self, tool: str) -> Iterator[_Paper]:
        self.strokes += tool == "brush"
        yield self

    def put(self, rows: NDArray[Any], cols: NDArray[Any], values: Any) -> None:
        raise NotImplementedError

    def fill(self, box: Box, values: Bytes) -> None:
        part = self.mask[0][box.slices]
        np.copyto(part, values, where=values != NO_CORRECTION)
        self.mask[1][:] = self.mask[0][::2, ::2]
        for call in self.changed:
            call(box)

    def undo(self) -> None:
        self.mask[0][:] = 0

    def redo(self) -> None:
        raise NotImplementedError


@lru_cache(maxsize=1)
def paintable() -> bool:
    """Whether a drag of napari's brush arrives, as one stroke, in all levels, and can be taken back."""
    try:
        return not missing() and _tried()
    except Exception:  # noqa: BLE001 - whatever another napari does then
        return False


def _tried() -> bool:
    paper = _Paper()
    layer = PyramidLabels(paper, ShownLevels(paper.mask))
    layer.mode, layer.brush_size, layer.selected_label = "paint", 8, 3
    event = SimpleNamespace(type="mouse_press", button=1, view_direction=None, dims_displayed=[0, 1], modifiers=())
    event.position = (20.0, 20.0)
    drags = [step for drag in layer.mouse_drag_callbacks if (step := drag(layer, event)) is not None]
    for kind, at in (("mouse_press", 20.0), ("mouse_move", 40.0), ("mouse_release", 40.0)):
        event.type, event.position = kind, (20.0, at)
        for drag in drags:
            next(drag, None)
    painted = bool((paper.mask[0][20, 20:41] == 3).all()) and bool((paper.mask[1][10, 10:21] == 3).all())
    one = paper.strokes == 1 and layer.editable and str(layer.mode) == "paint"
    layer.undo()
    return painted and one and not paper.mask[0].any()
