"""Regions read and encoded in threads, in units: regions whose pixels are read in one go.

Knows images, networks and the stages before the context; must not know stores or events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import cached_property
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from napari_xt.engine import stages
from napari_xt.engine.background import Picture
from napari_xt.engine.batch import Batch, out_of_memory
from napari_xt.engine.faults import FAILURES, device_lost
from napari_xt.engine.plan import Plan
from napari_xt.engine.reading import Patch, Pixels, Reader
from napari_xt.engine.reuse import Reuse, Taken
from napari_xt.engine.workers import Workers
from napari_xt.errors import RunError, XTError
from napari_xt.geometry import Box, Region, Window
from napari_xt.io.image import Image
from napari_xt.model.xt import XT

HOPELESS = 16  # so many regions failed and none succeeded: the run stops
Unit = tuple[Box, Sequence[Region]]  # regions that are read in one go, and the pixels that they see
Encoding = list[Future[list[stages.Encoded]]]  # the batches of a unit, still being worked on
T = TypeVar("T")


class Encoder:
    """Reads and encodes units of regions in the threads of a run.

    Parameters
    ----------
    image, plan, model, workers
        Of the run; the model is where the run computes.
    raises
        Whether a region that fails ends the run.
    notice
        Told what the user should know, from any thread.
    reuse
        What is encoded already.

    Attributes
    ----------
    reused
        How many regions were taken from there.
    """

    def __init__(
        self,
        image: Image,
        plan: Plan,
        model: XT,
        workers: Workers,
        *,
        raises: bool,
        notice: Callable[[str], None],
        reuse: Reuse | None = None,
    ) -> None:
        self.model, self.reader = model, Reader(image, plan)
        self._image, self._plan, self._workers, self._raises = image, plan, workers, raises
        self._picture = Picture(image, plan.grid)
        self._batch = Batch(plan.batch, notice)
        self._lock = Lock()
        self._reuse, self.reused = reuse, 0

    def begin(self, unit: Unit, early: bool = False) -> Encoding:
        """Have a unit encoded, in batches; ``early`` says that it comes before its turn."""
        taken = [] if self._reuse is None else list(self._reuse.units(unit[1]))
        if taken:
            there = {region.index for part in taken for region in part}
            unit = outer_unit([region for region in unit[1] if region.index not in there])
        box, regions = unit
        begun = [self._workers.computing.submit(self._take, part) for part in taken]
        if not regions:
            return begun
        patch = self._workers.reading.submit(self.reader.read, box, early)
        groups = split(list(regions), self._together(len(regions)))
        return begun + [self._workers.computing.submit(self._encode, patch, group) for group in groups]

    def _together(self, regions: int) -> int:
        """How many of a unit's regions are handed over at a time: on a CPU so few that each worker has some."""
        shared = regions // (2 * self._plan.workers) if self._plan.machine.on_cpu else regions
        return max(1, min(self._plan.batch, shared))

    def alone(self, region: Region) -> Future[str]:
        """Encode a region from pixels of its own, whatever is damaged beside it: why that fails, empty if it does not.

        What comes of it is not kept.
        """

        def tried() -> str:
            (encoded,) = self._encode_some(None, [region])
            if encoded.error and self._raises:
                raise RunError(f"region row {region.row}, column {region.col}", f"failed again: {encoded.error}")
            return encoded.error

        return self._workers.computing.submit(tried)

    def filled(self, regions: Iterable[Region], encoded: Sequence[stages.Encoded]) -> list[stages.Encoded]:
        """``regions`` in their order: those that were ``encoded``, and what stands for those that are skipped."""
        found = {e.region.index: e for e in encoded}
        return [self._skipped(r) if self._plan.skips(r.index) else found[r.index] for r in regions]

    def _skipped(self, region: Region) -> stages.Encoded:
        with self._lock:
            return stages.Encoded(region, *self.blank, self._picture.of(region.inner))

    @cached_property
    def blank(self) -> tuple[Tensor, Tensor]:
        """Tokens and local features of a region without data, which stand for those of every one that is skipped."""
        return stages.blank(self.model)

    def _take(self, regions: Sequence[Region]) -> list[stages.Encoded]:
        """Regions of one block as they were encoded before, or encoded now where they can't be read after all."""
        assert self._reuse is not None
        found = [self._as_encoded(taken) for taken in self._reuse.read(regions)]
        if not found:
            return self._encode(self._workers.reading.submit(self.reader.read, outer_unit(regions)[0], True), regions)
        with self._lock:
            self.reused += len(found)
        return found

    def _as_encoded(self, taken: Taken) -> stages.Encoded:
        place = next(self.model.parameters()).device
        tokens = torch.from_numpy(taken.tokens).float().to(place)
        local = None if taken.local is None else torch.from_numpy(taken.local).float().to(place)
        pixels = taken.pixels
        if pixels is None or self.model.config.context.overview_tokens:  # these are made of pixels as they are
            pixels = self._read(taken.region.inner)
        return stages.Encoded(taken.region, tokens, local, pixels, kept=taken.kept)

    def _read(self, box: Box) -> Pixels | None:
        try:
            return self.reader.read(box).pixels
        except XTError:
            return None

    def _encode(self, patch: Future[Patch], regions: Sequence[Region]) -> list[stages.Encoded]:
        pixels = None
        try:
            pixels = patch.result()
        except XTError as error:
            self._raise_if_asked(regions[0], error)
        return self._batch.run(lambda some: self._encode_some(pixels, some), regions)

    def _encode_some(self, pixels: Patch | None, regions: Sequence[Region]) -> list[stages.Encoded]:
        self._workers.check()
        if self._raises and pixels is not None:
            return self._encode_or_raise(pixels, regions)
        return stages.encode_safely(self.model, self._image, self._plan, pixels, regions)

    def _encode_or_raise(self, pixels: Patch, regions: Sequence[Region]) -> list[stages.Encoded]:
        try:
            return stages.encode(self.model, self._plan, pixels, regions)
        except FAILURES as error:
            if not device_lost(error) and (not out_of_memory(error) or len(regions) == 1):
                self._raise_if_asked(regions[0], error)
            raise

    def _raise_if_asked(self, region: Region, error: Exception) -> None:
        if self._raises:
            raise RunError(f"region row {region.row}, column {region.col}", f"failed: {error}") from error


def window_unit(plan: Plan, window: Window) -> Unit:
    """A window's regions that are run."""
    return outer_unit(running(plan, plan.grid.window_regions(window)))


def running(plan: Plan, regions: Iterable[Region]) -> list[Region]:
    """Those of ``regions`` that are not skipped."""
    return [region for region in regions if not plan.skips(region.index)]


def outer_unit(regions: Sequence[Region]) -> Unit:
    """Some regions, with all pixels that they see."""
    boxes = [region.outer for region in regions] or [Box(0, 0, 0, 0)]
    first, last = min(boxes), max(boxes)
    return Box(first.y0, min(b.x0 for b in boxes), last.y1, max(b.x1 for b in boxes)), regions


def check_hope(own: Sequence[stages.Encoded], failed: int, tried: int, total: int) -> None:
    """Stop a run of which nothing has come so far.

    Raises
    ------
    RunError
        All of the first regions failed.
    """
    if own and failed == tried and failed >= min(HOPELESS, total):
        first = next(e for e in own if e.error)
        raise RunError(f"all of the first {failed} regions", f"failed: {first.error}", "check the image and the model")


def split(items: list[T], size: int) -> list[list[T]]:
    """``items`` in order, ``size`` (at least one) at a time."""
    return [items[i : i + max(1, size)] for i in range(0, len(items), max(1, size))]
