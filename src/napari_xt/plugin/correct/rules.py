"""What may be painted over. Knows values of a mask; must not know layers or stores."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

VALUES = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be painted over, by value of the mask.

    Attributes
    ----------
    only
        Paint over these alone; None: over all.
    never
        Paint over none of these.
    locked
        The same, of classes that are locked; these can't be painted with, either.
    """

    only: Collection[int] | None = None
    never: Collection[int] = field(default=frozenset())
    locked: Collection[int] = field(default=frozenset())

    def allowed(self, there: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which pixels of a part, by what is there, may be painted over."""
        table = np.full(VALUES, self.only is None)
        table[list(self.only or ())] = True
        table[[*self.never, *self.locked]] = False
        return table[there]

    def only_over(self, value: int) -> Rules:
        """The same rules, over no other value than ``value``."""
        if self.only is not None and value not in self.only:
            return Rules((), self.never, self.locked)
        return Rules((value,), self.never, self.locked)
