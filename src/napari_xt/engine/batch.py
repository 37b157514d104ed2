"""How many regions are encoded at a time: as many as planned, fewer while memory does not suffice.

Knows torch's ways to say that memory is short; knows no regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

import torch

REGROW = 32  # batches that went well, after which twice as many regions are tried again
T = TypeVar("T")
R = TypeVar("R")


class Batch:
    """The size of the batches of a run, shared by its threads.

    Parameters
    ----------
    most
        Regions at a time where memory suffices.
    notice
        Told when the size falls.
    """

    def __init__(self, most: int, notice: Callable[[str], None]) -> None:
        self._most, self._now, self._went_well = most, most, 0
        self._notice, self._lock = notice, Lock()

    def run(self, work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
        """``work`` on all ``items``, in batches that fit; one item alone that does not fit raises what it raises."""
        done: list[R] = []
        while len(done) < len(items):
            some = items[len(done) : len(done) + self._now]
            try:
                found = work(some)
            except (RuntimeError, MemoryError) as error:
                if len(some) == 1 or not out_of_memory(error):
                    raise
                self._shrink(len(some))
                continue
            done += found
            self._grow(len(some))
        return done

    def _shrink(self, tried: int) -> None:
        with self._lock:
            self._went_well = 0
            fell = self._now > tried // 2
            self._now = min(self._now, tried // 2)
            now = self._now
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if fell:
            self._notice(f"memory is short: {now} regions at a time instead of {tried}")

    def _grow(self, size: int) -> None:
        with self._lock:
            self._went_well += size >= self._now < self._most
            if self._went_well >= REGROW:
                self._now, self._went_well = min(self._most, 2 * self._now), 0


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that there is not enough memory, of whatever device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
