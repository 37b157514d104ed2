"""The thresholds that a prediction is seen with, as a value that tables, files and lines of Python are made with.

Knows predictions; must not know layers, viewers or Qt.
"""

from __future__ import annotations

from typing import NamedTuple

from napari_xt.io.prediction import Prediction


class Thresholds(NamedTuple):
    """Those of mask and boxes, see `Prediction.at`; None is the run's."""

    mask: float | None = None
    boxes: float | None = None

    def of(self, prediction: Prediction) -> Prediction:
        """The prediction as it is seen with them."""
        return prediction.at(mask_threshold=self.mask, box_threshold=self.boxes)


def export_line(store: str, path: str, thresholds: Thresholds, **more: object) -> str:
    """What does in Python what an export by a click does."""
    named = {**more, "mask_threshold": thresholds.mask, "box_threshold": thresholds.boxes}
    given = [f"{name}={value!r}" for name, value in named.items() if value is not None]
    return f"xt.export({', '.join([repr(store), repr(path), *given])})"
