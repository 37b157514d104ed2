"""What is asked of an export, and what every exported file says of itself.

Knows predictions as values; must not know the formats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from napari_xt._version import __version__
from napari_xt.io.corrections.corrections import Source
from napari_xt.io.prediction import Prediction

What = Literal["boxes", "mask", "regions", "probability"]
Flavour = Literal["qupath", "map"]
Progress = Callable[[int, int], None]

SYMBOLS = {"nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m"}
WHATS: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a writer is asked for, all of it resolved and checked by the door.

    Parameters
    ----------
    what
        What of the prediction goes in, in the order of ``WHATS``; never empty.
    source
        The prediction with its corrections applied, or as the model said it.
    flavour
        Of GeoJSON: level-0 px for QuPath, or WGS 84 for maps.
    simplify
        How far a polygon may leave the mask's edge, about, in level-0 px; 0 traces it exactly.
    progress
        Called with what is done of how much, in steps of the writer's own.
    corrections
        How many strokes were applied.
    """

    what: tuple[What, ...]
    source: Source = "final"
    flavour: Flavour = "qupath"
    simplify: float = 0.0
    progress: Progress | None = None
    corrections: int = 0

    def tell(self, done: int, total: int) -> None:
        """Report progress to who asked for it."""
        if self.progress is not None:
            self.progress(done, total)


def provenance(prediction: Prediction, wanted: Wanted) -> dict[str, Any]:
    """What a file says of itself, as JSON values: the source it holds, whose model said it, how much of the image."""
    plane = prediction.header.job.get("plane")
    return ({"plane": plane} if plane else {}) | {
        "software": f"napari-xt {__version__}",
        "source": wanted.source,
        "corrections": wanted.corrections,
        "model": prediction.header.model.get("name"),
        "job": job_digest(prediction),
        "threshold": prediction.threshold,
        "mask_threshold": prediction.mask_threshold,
        "coverage": prediction.coverage,
        "complete": prediction.complete,
        "failed_regions": len(prediction.failed),
        "shape_px": list(prediction.layout.frame.shape_px),
        "pixel_size": list(prediction.layout.frame.scale),
        "unit": prediction.layout.frame.unit,
    }


def job_digest(prediction: Prediction) -> str:
    """A name of the run, the same for two runs of one job: sha256 in hex."""
    text = json.dumps(prediction.header.job, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def available(prediction: Prediction) -> tuple[What, ...]:
    """What the prediction has that can be exported."""
    layout = prediction.layout
    has = {
        "boxes": layout.boxes is not None,
        "mask": layout.mask is not None,
        "regions": True,
        "probability": layout.mask is not None,
    }
    return tuple(what for what in WHATS if has[what])
