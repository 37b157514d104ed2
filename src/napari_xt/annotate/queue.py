"""Which regions to look at next, how far that is, and what those that were looked at say of all.

Knows predictions and corrections; must not know models or screens.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_xt.annotate.estimate import Estimate, faulty, mean_share
from napari_xt.annotate.ranking import disagreement, share, uncertainty
from napari_xt.errors import SettingsError

if TYPE_CHECKING:
    from napari_xt.io.corrections.corrections import Corrections
    from napari_xt.io.prediction import Prediction

By = Literal["uncertainty", "disagreement", "class", "random"]
State = Literal["accepted", "fixed", "skipped"]
Place = tuple[int, int]
UNKNOWN: Final = 255  # of corrections: nobody said anything


def review_queue(
    prediction: Prediction,
    by: By = "uncertainty",
    *,
    corrections: Corrections | None = None,
    other: Prediction | None = None,
    class_name: str | None = None,
    most: int | None = None,
    every: int | None = None,
    seed: int = 0,
) -> ReviewQueue:
    """Put the regions of a prediction in the order in which they are worth looking at.

    Parameters
    ----------
    prediction
        Only its regions that are done are looked at.
    by
        ``"uncertainty"``: where the likeliest classes are close; ``"disagreement"``: where ``other`` differs most;
        ``"class"``: where there is most of ``class_name``; ``"random"``: drawn by ``seed``, for honest estimates.
    corrections
        Where answers go and what was answered before; default: those beside the prediction, opened when first needed.
    other
        A prediction of the same grid: the same model without context, or another model.
    class_name
        Of the mask, else of the region scores.
    most
        So many regions; default: all.
    every
        Each so-many-th region is one drawn at random, so that estimates come along; default: none is.
    seed
        Of the random order, which is the same whenever it is asked for.

    Raises
    ------
    SettingsError
        ``by`` is unknown, or what it needs is lacking; or ``every`` is below 1.
    """
    if by not in get_args(By):
        raise SettingsError(f"by = {by!r}", "is no order", f"choose of {', '.join(get_args(By))}")
    order = _order(prediction, by, other, class_name, seed)
    if corrections is None:
        from napari_xt.io.corrections.corrections import corrections as open_corrections

        corrections = open_corrections(prediction)
    at_random = _order(prediction, "random", None, None, seed)
    if every is not None:
        order = _mixed(order, at_random, every)
    return ReviewQueue(corrections, order[:most], at_random)


class ReviewQueue:
    """Regions to be looked at, in order; what is answered is a correction and stays.

    Parameters
    ----------
    corrections
        Of the prediction.
    order
        ``(row, col)`` of regions, the most urgent first.
    at_random
        All regions that are done, in an order that knows nothing of them.

    Attributes
    ----------
    order
        As given.
    current
        The region that is looked at; None at the end.
    """

    def __init__(self, corrections: Corrections, order: list[Place], at_random: list[Place]) -> None:
        self.order = order
        self._corrections, self._random, self._places = corrections, at_random, set(order)
        self.current: Place | None = None
        self.next()

    def __len__(self) -> int:
        return len(self.order)

    def __str__(self) -> str:
        return f"reviewed {self.reviewed} of {len(self)}"

    @property
    def reviewed(self) -> int:
        """How many of the queue's regions were answered: accepted, fixed or skipped."""
        return len(self._places & self._states().keys())

    def next(self) -> Place | None:
        """Go on to the first region after this one that nobody answered; from the end to the first of all."""
        states = self._states()
        start = self.order.index(self.current) + 1 if self.current in self.order else 0
        rest = (place for place in (*self.order[start:], *self.order[:start]) if place not in states)
        self.current = next(rest, None)
        return self.current

    def accept(self) -> Place | None:
        """Say that the region is right as it is; go on."""
        return self._answer("accepted")

    def fix(self) -> Place | None:
        """Say that the region is right since it was corrected; go on."""
        return self._answer("fixed")

    def skip(self) -> Place | None:
        """Leave the region unanswered for good; go on."""
        return self._answer("skipped")

    def faulty_regions(self) -> Estimate:
        """The share of regions with any fault, of those at random that were looked at."""
        shares, _, faults = self._looked_at()
        return faulty(int(faults.sum()), len(shares))

    def wrong_pixels(self) -> Estimate:
        """The share of the mask's pixels that are wrong, of those at random that were looked at."""
        shares, sizes, _ = self._looked_at()
        return mean_share(shares, sizes)

    def _answer(self, state: State) -> Place | None:
        if self.current is None:
            return None
        known = self._corrections.marks.regions.get(self.current)
        with self._corrections.stroke(tool="review") as stroke:
            stroke.region(*self.current, state=state, class_name=known["class"] if known else None)
        return self.next()

    def _states(self) -> dict[Place, str]:
        """What was answered of regions, by place."""
        told = list(self._corrections.marks.regions.items())
        return {place: region["state"] for place, region in told if region["state"] is not None}

    def _looked_at(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Wrong share, pixels and whether there is a fault, of the answered regions that open the random order.

        Only as far as the order was answered without a gap: whoever chooses what to answer, chooses what comes out.
        Skipped regions make no gap, and say nothing.
        """
        states, elsewhere, rows = self._states(), self._with_other_faults(), []
        for place in self._random:
            if place not in states:
                break
            if states[place] != "skipped":
                rows.append(self._faults(place, elsewhere))
        table = np.array(rows, np.float64).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2] > 0

    def _faults(self, place: Place, elsewhere: set[Place]) -> tuple[float, int, bool]:
        inner = self._corrections.layout.grid.region(*place).inner
        size, wrong = inner.height * inner.width, 0
        if self._corrections.prediction.mask:
            wrong = int((np.asarray(self._corrections.diff[0][inner.slices]) != UNKNOWN).sum())
        return wrong / size, size, wrong > 0 or place in elsewhere

    def _with_other_faults(self) -> set[Place]:
        """Regions with a box that was added, changed or deleted, or of another class than predicted."""
        layout, boxes = self._corrections.layout, self._corrections.boxes
        boxes = boxes[boxes["state"] != "accepted"]
        side = np.array([px * layout.grid.region_px for px in layout.frame.px_per_run])
        centres = np.stack([boxes["y0"] + boxes["y1"], boxes["x0"] + boxes["x1"]], axis=1).astype(np.float64) / 2
        found = {(int(row), int(col)) for row, col in centres // side}
        told = self._corrections.regions.dropna(subset=["class"])
        both = told.merge(self._corrections.prediction.scores, on=["region_row", "region_col"], suffixes=("", "_was"))
        other = both[both["class"] != both["class_was"]]
        return found | set(zip(other["region_row"].tolist(), other["region_col"].tolist(), strict=True))


def _order(prediction: Prediction, by: By, other: Prediction | None, class_name: str | None, seed: int) -> list[Place]:
    if by == "random":
        table = prediction.scores
        table = table[table["status"] == "done"]
        places = list(zip(table["region_row"].tolist(), table["region_col"].tolist(), strict=True))
        drawn = np.random.default_rng(seed).permutation(len(places))
        return [places[index] for index in drawn]
    values = _values(prediction, by, other, class_name)
    known = int(np.isfinite(values).sum())
    best = np.argsort(-np.nan_to_num(values, nan=-1.0), axis=None, kind="stable")[:known]
    rows, cols = np.unravel_index(best, values.shape)
    return list(zip(rows.tolist(), cols.tolist(), strict=True))


def _mixed(order: list[Place], at_random: list[Place], every: int) -> list[Place]:
    """``order`` with the next one drawn at random in each ``every``-th place, each region once."""
    if every < 1:
        raise SettingsError(f"every = {every}", "is no number of regions", "give 1 or more, or None")
    plain, drawn, found = iter(order), iter(at_random), dict[Place, None]()
    for count in range(1, len(order) + 1):
        source = plain if count % every else drawn
        found.update(dict.fromkeys(itertools.islice((place for place in source if place not in found), 1)))
    return list(found | dict.fromkeys(order))


def _values(prediction: Prediction, by: By, other: Prediction | None, class_name: str | None) -> NDArray[np.float32]:
    if by == "uncertainty":
        return uncertainty(prediction)
    if by == "disagreement":
        if other is None:
            raise SettingsError("other", "there is nothing to disagree with", "give a prediction without context")
        return disagreement(prediction, other)
    if class_name is None:
        raise SettingsError("class_name", "is not given", "name the class that is to be looked at")
    return share(prediction, class_name)
