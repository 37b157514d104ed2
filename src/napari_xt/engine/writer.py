"""What is done goes into the store on one thread, in groups, while the run goes on; what is in it is told.

Knows stores, threads and events; knows no networks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from napari_xt.engine.events import Event
from napari_xt.engine.telling import Teller
from napari_xt.engine.workers import Workers
from napari_xt.geometry import Region
from napari_xt.io.stores.preview import RegionPreview
from napari_xt.io.stores.store import BlockData, EncodedBlock, Store

GROUP_REGIONS = 64  # are written and journalled together
GROUP_S = 0.5  # or as many as came in this long
BEHIND = 2  # groups may wait to be written before the run waits for them


class Writer:
    """Puts blocks into a store, in their order, behind the back of the run.

    Parameters
    ----------
    store
        Used on the writing thread alone from now on.
    workers, teller
        Of the run.
    total
        Regions of the run.

    Attributes
    ----------
    decoded
        How many regions are in the store.
    """

    def __init__(self, store: Store, workers: Workers, teller: Teller, total: int) -> None:
        self.decoded = total
        self._store, self._thread, self._teller, self._total = store, workers.writing, teller, total
        self._group: list[BlockData] = []
        self._since = 0.0
        self._waiting: deque[tuple[Future[Any], Callable[[], Iterator[Event]]]] = deque()

    def commit(self, blocks: Sequence[BlockData]) -> Generator[Event]:
        """Have decoded blocks committed, soon and together with others."""
        self._since = self._since if self._group else time.monotonic()
        self._group += blocks
        full = sum(len(block.regions) for block in self._group) >= GROUP_REGIONS
        if full or time.monotonic() - self._since >= GROUP_S:
            self._send()
        yield from self._written(BEHIND)

    def written(self) -> Generator[Event]:
        """Tell what is in the store by now."""
        yield from self._written(len(self._waiting))

    def put_encoded(self, blocks: Callable[[], Sequence[EncodedBlock]]) -> Generator[Event]:
        """Have encoded blocks, which are made on the writing thread, put on the shelf."""
        self._waiting.append((self._thread.submit(lambda: self._store.put_encoded(blocks())), lambda: iter(())))
        yield from self._written(BEHIND)

    def put_previews(self, previews: Callable[[], Sequence[RegionPreview]]) -> Generator[Event]:
        """Have previews, which are made on the writing thread, put where they are seen."""

        def put() -> list[Region]:
            found = previews()
            self._store.put_previews(found)
            return [region for region, _ in found]

        shown = self._thread.submit(put)
        self._waiting.append((shown, lambda: self._teller.previews(shown.result())))
        yield from self._written(BEHIND)

    def flush(self) -> Generator[Event]:
        """Return when all that was handed in is in the store."""
        self._send()
        yield from self._written(0)

    def finish(self, iou: float) -> Generator[Event]:
        """Have boxes compete, and the store completed."""
        yield from self.flush()
        yield from self._teller.until(self._thread.submit(self._store.finish, iou))

    def _send(self) -> None:
        group, self._group = self._group, []
        if group:
            self._waiting.append((self._thread.submit(self._store.commit, group), lambda: self._told(group)))

    def _written(self, behind: int) -> Generator[Event]:
        """Tell what is written, waiting while more than ``behind`` groups are not."""
        while self._waiting and (len(self._waiting) > behind or self._waiting[0][0].done()):
            future, told = self._waiting.popleft()
            yield from self._teller.until(future)
            yield from told()

    def _told(self, blocks: Sequence[BlockData]) -> Iterator[Event]:
        regions = [data for block in blocks for data in block.regions]
        self.decoded += len(regions)
        yield from self._teller.progress("decode", self.decoded, self._total)
        yield from self._teller.regions(regions)
