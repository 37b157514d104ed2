"""An annotator who knows the truth: looks at regions in the order of the review queue, and corrects what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_xt.annotate.queue import Place, ReviewQueue
from napari_xt.geometry import Box
from napari_xt.io.corrections.corrections import Corrections
from napari_xt.io.prediction import Prediction
from napari_xt.train.evaluate import box_quality

EDGES = ["y0", "x0", "y1", "x1"]


@dataclass(frozen=True)
class Oracle:
    """``mask``: classes ``(y, x)``; ``boxes``: ``y0, x0, y1, x1`` of one class, where the model has such."""

    mask: np.ndarray
    boxes: np.ndarray | None = None
    box_class: str = ""

    def review(self, queue: ReviewQueue, corrected: Corrections, regions: int) -> set[Place]:
        """Correct so many regions in the queue's order; which."""
        done = set()
        for _ in range(regions):
            place = queue.current
            assert place is not None
            self.correct(corrected, place)
            queue.fix()
            done.add(place)
        return done

    def correct(self, corrected: Corrections, place: Place) -> None:
        """Make mask and boxes of a region what they should be; boxes that do not overlap a true one go."""
        inner = corrected.layout.grid.region(*place).inner
        found = corrected.final.boxes
        with corrected.stroke(tool="oracle") as stroke:
            stroke.fill(inner, self.mask[inner.slices])
            if self.boxes is not None:
                for ident in found.loc[inside(found[EDGES].to_numpy(), inner), "id"]:
                    stroke.box_delete(int(ident))
                for edges in self.boxes[inside(self.boxes, inner)]:
                    stroke.box_add(*edges, self.box_class)

    def mask_f1(self, said: np.ndarray, where: np.ndarray) -> float:
        """F1 of the pixels of class 1 among those ``where``."""
        one, other = (np.asarray(mask)[where] == 1 for mask in (said, self.mask))
        return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))

    def box_f1(self, prediction: Prediction, without: set[Place]) -> float:
        """F1 of the boxes whose centre lies in other regions than those."""
        side = prediction.layout.grid.region_px
        assert self.boxes is not None
        found = (outside(boxes, without, side) for boxes in (prediction.boxes[EDGES].to_numpy(), self.boxes))
        return box_quality(*found).f1


def elsewhere(prediction: Prediction, without: set[Place]) -> np.ndarray:
    """The pixels of all other regions."""
    kept = np.ones(prediction.layout.shape, bool)
    for place in without:
        kept[prediction.layout.grid.region(*place).inner.slices] = False
    return kept


def inside(boxes: np.ndarray, place: Box) -> np.ndarray:
    """Which boxes have their centre there."""
    y, x = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    return (y >= place.y0) & (y < place.y1) & (x >= place.x0) & (x < place.x1)


def outside(boxes: np.ndarray, without: set[Place], side: int) -> np.ndarray:
    """The boxes whose centre lies in none of these regions."""
    cells = ((boxes[:, :2] + boxes[:, 2:]) / 2 // side).astype(int)
    return boxes[np.array([tuple(cell) not in without for cell in cells.tolist()], bool)]
