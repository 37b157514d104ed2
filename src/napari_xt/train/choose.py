"""Which way of learning serves regions best that were not learned from: heads are tried in turns, each by itself.

Knows counts and what they are worth; must not know networks, or how heads are trained and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MANY = 40  # regions: of so many some can be spared for good, of fewer each takes its turn
TURNS = 3
NEARLY = 0.8  # of the best figure: a lower threshold with that much is taken
FEWEST = 5  # regions: of fewer none is spared for good
Values = NDArray[np.float64]
Turn = tuple[list[int], list[int]]  # which regions are learned from, and which are not


@dataclass(frozen=True, slots=True)
class Way:
    """What becomes of a head: the share of the old weights that is ``kept``, 1 for all, and its ``threshold``."""

    kept: float
    threshold: float | None = None


def turns(count: int, held_out: float, seed: int, spare: bool = False) -> list[Turn]:
    """Divide regions into those that are learned from and those that tell what it brought.

    Returns
    -------
    list
        Of `MANY` regions on, or where some are to be spared, one turn with a share ``held_out`` of them; of fewer as
        many that each is held out once; none where there are too few.
    """
    once = spare or count >= MANY
    if not held_out or count < (FEWEST if once else 2):
        return []
    order = np.random.default_rng(seed).permutation(count).tolist()
    sides = min(TURNS, count)
    parts = [order[: max(1, round(count * held_out))]] if once else [order[i::sides] for i in range(sides)]
    return [(sorted(set(order) - set(part)), sorted(part)) for part in parts]


def best(tallies: Mapping[Way, Values], old: Way | None, figure: Callable[[Values], float]) -> Way | None:
    """The way whose figure is highest, of those that are better than the old head whichever region is left out.

    Of its thresholds the lowest that is nearly as good: on other regions one too high costs far more than one too low.

    Parameters
    ----------
    tallies
        Counts of each way, region by region ``(N, ...)``.
    old
        What changes nothing, one of the ways; None where a head has new classes, so that it can't stay.
    figure
        Of summed counts; higher is better.

    Returns
    -------
    Way
        ``old`` where none is better; None where nothing can be told.
    """
    figures = {way: figure(counts.sum(0)) for way, counts in tallies.items()}
    if not figures or np.isnan(list(figures.values())).all():
        return None
    told = [way for way in tallies if old is None or way == old or _better(tallies[way], tallies[old], figure)]
    chosen = max(told, key=lambda way: (np.nan_to_num(figures[way]), way == old))
    alike = [way for way in told if way.kept == chosen.kept and figures[way] >= NEARLY * figures[chosen]]
    return chosen if chosen == old else min(alike, key=lambda way: way.threshold or 0)


def _better(new: Values, old: Values, figure: Callable[[Values], float]) -> bool:
    least = [figure(new.sum(0) - n) - figure(old.sum(0) - o) for n, o in zip(new, old, strict=True)]
    return bool(np.nanmin(np.append(least, figure(new.sum(0)) - figure(old.sum(0)))) > 0)
