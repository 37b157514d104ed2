"""What a thread did while it paused: its stack, sampled from another one, and garbage collections, by time."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from figures import tell

SAMPLE_S = 0.01
DEPTH = 60
LINES = 40  # most frequent, told


class Pauses:
    """Samples of the thread that makes it, taken while it does not `beat` for more than ``longer_than`` seconds.

    Where that is None, nothing is sampled.
    """

    def __init__(self, longer_than: float | None = None) -> None:
        self._longer, self._ident, self._last = longer_than, threading.get_ident(), time.perf_counter()
        self._found: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._collected: list[tuple[int, float]] = []
        self._began = 0.0

    def beat(self) -> None:
        """Say that the thread is not paused."""
        self._last = time.perf_counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sample meanwhile."""
        if self._longer is None:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._sample, args=(over,), daemon=True)
        gc.callbacks.append(self._collect)
        self.beat()
        thread.start()
        yield
        over.set()
        thread.join()
        gc.callbacks.remove(self._collect)

    def tell(self) -> None:
        """Print what was found."""
        if self._longer is None:
            return
        for name, found in (("paused in", self._found), ("meanwhile", self._others)):
            for line, count in found.most_common(LINES):
                tell(f"{count:5} {name}: {line}")
        slow = sorted(self._collected, key=lambda item: -item[1])[:10]
        tell(f"collections: {len(self._collected)}, longest {slow}")

    def _sample(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_S):
            if self._longer is not None and time.perf_counter() - self._last > self._longer:
                frames = sys._current_frames()
                self._found[_lines(frames.pop(self._ident))] += 1
                frames.pop(threading.get_ident(), None)
                self._others.update(_lines(frame) for frame in frames.values())

    def _collect(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._collected.append((info["generation"], round(time.perf_counter() - self._began, 4)))


def _lines(frame: Any) -> str:
    """The innermost calls of a stack, innermost first."""
    calls = traceback.extract_stack(frame)[::-1][:DEPTH]
    return " < ".join(f"{call.filename.rsplit('/', 1)[-1]}:{call.lineno}:{call.name}" for call in calls[:14])
