"""Regions that failed are tried once more when a run goes on: where one is sound by now, its step is done again.

Knows the parts of a run and its store; knows no images.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from napari_xt.engine.encoder import split
from napari_xt.engine.events import Event
from napari_xt.engine.ongoing import Ongoing
from napari_xt.geometry import Region
from napari_xt.io.stores.store import Store

Key = tuple[int, int]  # (row, col) of a block


def try_again(run: Ongoing, store: Store) -> Generator[Event]:
    """Encode what failed in earlier calls; the store forgets the blocks that are to be done again.

    What failed changes the context of its whole window, so that a single sound region has a whole step done again. The
    other regions of that step are not tried: their turn comes with it. Where all fail again, nothing is forgotten, and
    one more attempt is counted.
    """
    failed = store.failed()
    if not failed:
        return
    blocks, stale, errors = set[Key](), set[Key](), dict[int, str]()
    for step in run.plan.steps():
        regions = [region for region in run.plan.grid.step_regions(step) if region.index in failed]
        found = yield from _errors(run, regions)
        if found is None:
            there = {(block.row, block.col) for block in step.blocks}
            blocks |= there
            stale |= {_block(run, region) for region in regions} if run.plan.large else there
        else:
            errors |= found
    write = run.workers.writing
    if errors:
        yield from run.teller.until(write.submit(store.tried_again, errors))
    if blocks:
        yield from run.teller.until(write.submit(store.reopen, blocks, stale))


def _errors(run: Ongoing, regions: Sequence[Region]) -> Generator[Event, None, dict[int, str] | None]:
    """Why each of ``regions`` fails, by its index; None as soon as one does not."""
    errors: dict[int, str] = {}
    for some in split(list(regions), run.plan.workers):
        tried = [run.encoder.alone(region) for region in some]
        for region, future in zip(some, tried, strict=True):
            errors[region.index] = yield from run.teller.until(future)
        if not all(errors.values()):
            return None
    return errors


def _block(run: Ongoing, region: Region) -> Key:
    k = run.plan.grid.block_regions
    return region.row // k, region.col // k
