"""One prediction with the tables that are made of it, each made once, in whatever thread asks first.

Knows predictions; must not know Qt, layers or viewers.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable

import pandas as pd

from napari_xt.io.corrections.corrections import with_corrections
from napari_xt.io.measure import measure
from napari_xt.io.objects import objects
from napari_xt.io.prediction import Prediction, open_prediction
from napari_xt.plugin.tables.drawn import Drawn
from napari_xt.plugin.tables.seen import Thresholds
from napari_xt.plugin.tables.table_source import Rows, boxes_of, objects_of, regions_of, summary_of

Tell = Callable[[int, int], None]


class Opened:
    """A prediction as it was when this was made.

    Parameters
    ----------
    store
        Its path.
    thresholds
        What is seen of its mask and boxes; default: as the run wanted.

    Attributes
    ----------
    prediction
        The prediction itself, as it is seen and was corrected until now.
    regions, boxes
        Its tables; None where it has none.
    image
        The path of the image, where it is known and still there.
    has_tokens
        Whether a context map can be made.

    Raises
    ------
    StoreError
        There is no store, or it is damaged.
    """

    def __init__(self, store: str, thresholds: Thresholds | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self.prediction: Prediction = with_corrections(self.thresholds.of(open_prediction(store)))[0]
        layout = self.prediction.layout
        self.regions: Rows = regions_of(self.prediction)
        self.boxes: Rows | None = boxes_of(self.prediction) if layout.boxes else None
        self.classes = layout.scores or layout.label or ()
        self.has_tokens = bool(self.classes) and self.prediction.tokens is not None
        path = self.prediction.header.notes.get("image")
        self.image = path if isinstance(path, str) and ("://" in path or os.path.exists(path)) else None
        self._lock = threading.Lock()
        self._found: dict[bool, pd.DataFrame] = {}

    def at(self, thresholds: Thresholds) -> Opened:
        """The same, as it is seen with other thresholds: only what hangs on these is made anew."""
        other = copy.copy(self)
        other.thresholds, other.prediction = thresholds, thresholds.of(self.prediction)
        if self.boxes is not None and thresholds.boxes != self.thresholds.boxes:
            other.boxes = boxes_of(other.prediction)
        if thresholds.mask != self.thresholds.mask:
            other._lock, other._found = threading.Lock(), {}  # noqa: SLF001 - it is one of these
        return other

    def objects(self, tell: Tell, *, intensities: bool = False) -> Rows:
        """Every object of the mask, measured; slow the first time."""
        return objects_of(self.prediction, self._objects(tell, intensities=intensities))

    def summary(self, tell: Tell, within: Drawn | None = None) -> Rows:
        """Count, area and density by class, in the whole image and in each shape; slow the first time.

        Raises
        ------
        SettingsError
            A shape has no inside.
        """
        found = self._found.get(True)
        found = self._objects(tell) if found is None else found
        return summary_of(measure(self.prediction, within, found=found))

    def _objects(self, tell: Tell, *, intensities: bool = False) -> pd.DataFrame:
        with self._lock:  # who comes second waits for what the first has begun
            if intensities not in self._found:
                image = self.image if intensities else None
                self._found[intensities] = objects(self.prediction, image, progress=tell)
            return self._found[intensities]
