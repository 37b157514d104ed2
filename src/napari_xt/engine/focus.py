"""What a run should do first: the part of the image that somebody looks at. It orders work, and never changes results.

Knows boxes; knows no viewer and no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from napari_xt.geometry import Box, Frame

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Focus:
    """What is in view; ``box``, in level-0 pixels or None for nowhere, may be set at any time from any thread."""

    box: Box | None = None

    def ordered(self, items: Sequence[T], box_of: Callable[[T], Box], frame: Frame) -> Iterator[tuple[T, bool]]:
        """``items`` one by one: those in view first, nearest to its middle, then the rest in their order.

        Parameters
        ----------
        items
            What is to be done, in the order that is best where nobody looks.
        box_of
            Where an item lies, in run pixels.
        frame
            Of the run.

        Yields
        ------
        tuple
            An item, chosen when it is asked for, and whether it comes before its turn.
        """
        boxes = [box_of(item) for item in items]
        edges = np.array([(box.y0, box.x0, box.y1, box.x1) for box in boxes]).reshape(-1, 4)
        open_ = np.ones(len(items), bool)
        first = 0
        for _ in items:
            chosen = self._nearest(edges, open_, frame)
            place = first if chosen is None else chosen
            open_[place] = False
            yield items[place], place != first
            while first < len(items) and not open_[first]:
                first += 1

    def _nearest(self, edges: np.ndarray, open_: np.ndarray, frame: Frame) -> int | None:
        """The open box in view whose middle is nearest to the view's."""
        if self.box is None:
            return None
        view = frame.to_run(self.box)
        seen = open_ & (edges[:, 0] < view.y1) & (edges[:, 2] > view.y0)
        seen &= (edges[:, 1] < view.x1) & (edges[:, 3] > view.x0)
        places = np.flatnonzero(seen)
        if not places.size:
            return None
        middles = (edges[places, :2] + edges[places, 2:]) / 2
        distance = ((middles - [(view.y0 + view.y1) / 2, (view.x0 + view.x1) / 2]) ** 2).sum(axis=1)
        return int(places[distance.argmin()])
