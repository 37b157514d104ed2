"""A window too large for memory: all regions are encoded and wait on disk, then rows of blocks are decoded from there.

Knows stages and the parts of a run; knows no images. Windows that fit into memory are worked off by `windows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from napari_xt.engine import stages
from napari_xt.engine.blocks import block_data, encoded_block, members, span
from napari_xt.engine.decode import decode
from napari_xt.engine.encoder import Encoding, check_hope, outer_unit, running, split
from napari_xt.engine.events import Event
from napari_xt.engine.ongoing import Ongoing
from napari_xt.engine.preview import preview
from napari_xt.engine.writer import GROUP_REGIONS
from napari_xt.geometry import Block, Region, Step, Window
from napari_xt.io.stores.store import EncodedBlock, Shelf, Store

GROUPS_AHEAD = 1  # are begun behind the one that is waited for


def carry_out(run: Ongoing, todo: Sequence[Step], store: Store) -> Generator[Event, None, int]:
    """Work off the one step of ``todo``, what is in view encoded first; returns the number of regions that failed."""
    if not todo:
        return 0
    (step,) = todo
    yield from _encode(run, store, step)
    run.encoder.reader.forget()
    errors = {index: error for found in store.encoded().values() for index, error in found.items()}
    yield from _decode(run, store, step, errors)
    return len(errors)


def _encode(run: Ongoing, store: Store, step: Step) -> Generator[Event]:
    """Encode what is not on the shelf yet, a group of blocks after the other."""
    plan, (window,) = run.plan, step.windows
    lacking = [block for block in step.blocks if (block.row, block.col) not in store.encoded()]
    wanted = sum(len(running(plan, members(plan, block, window))) for block in lacking)
    some = GROUP_REGIONS // plan.grid.block_regions**2
    groups = [part for _, row in groupby(lacking, lambda block: block.row) for part in split(list(row), some)]
    begun: deque[tuple[list[Block], list[Region], Encoding]] = deque()
    tried = failed = 0

    def advance() -> Generator[Event]:
        nonlocal tried, failed
        blocks, regions, batches = begun.popleft()
        own: list[stages.Encoded] = []
        for batch in batches:
            own += yield from run.teller.until(batch)
            yield from run.teller.progress("encode", plan.regions - wanted + tried + len(own), plan.regions)
        tried, failed = tried + len(own), failed + sum(bool(e.error) for e in own)
        if not run.sound:
            check_hope(own, failed, tried, wanted)
        yield from run.writer.put_encoded(partial(_shelved, run, blocks, regions, own))
        if plan.preview:
            yield from run.writer.put_previews(lambda: preview(run.model, plan, run.encoder.filled(regions, own)))

    for blocks, early in run.focus.ordered(groups, span, plan.frame):
        regions = [region for block in blocks for region in members(plan, block, window)]
        begun.append((blocks, regions, run.encoder.begin(outer_unit(running(plan, regions)), early)))
        if len(begun) > GROUPS_AHEAD:
            yield from advance()
    while begun:
        yield from advance()
    yield from run.writer.flush()


def _shelved(
    run: Ongoing, blocks: Sequence[Block], regions: Sequence[Region], own: Sequence[stages.Encoded]
) -> list[EncodedBlock]:
    whole = run.encoder.filled(regions, own)
    return [encoded_block(run.model, run.plan, block, whole) for block in blocks]


def _decode(run: Ongoing, store: Store, step: Step, errors: Mapping[int, str]) -> Generator[Event]:
    """Decode and commit what is not in the store yet, a row of blocks after the other."""
    plan, (window,) = run.plan, step.windows
    lacking = [block for block in step.blocks if (block.row, block.col) not in store.committed()]
    rows = {row: list(blocks) for row, blocks in groupby(lacking, lambda block: block.row)}
    k = plan.grid.block_regions
    wanted = [row - window.row0 for row in range(window.row0, window.row1) if row // k in rows]
    run.writer.decoded = plan.regions - sum(len(plan.wanted(stages.row_regions(plan, window, row))) for row in wanted)
    conducting, computing = run.workers.conducting, run.workers.computing
    held = yield from run.teller.until(conducting.submit(_from_shelf, run, store.shelf, window, errors))
    decoded = decode(run.model, plan, held, wanted, computing)
    coming = conducting.submit(next, decoded)
    for row, parts in groupby(wanted, lambda row: (window.row0 + row) // k):
        results = []
        for part in parts:
            results.append((yield from run.teller.until(coming)))
            if part != wanted[-1]:
                coming = conducting.submit(next, decoded)
        yield from run.writer.commit([block_data(plan, block, results, []) for block in rows[row]])


def _from_shelf(run: Ongoing, shelf: Shelf, window: Window, errors: Mapping[int, str]) -> stages.Held:
    """A window whose tokens are in memory, and whose local features are read row by row."""
    plan, model, encoder = run.plan, run.model, run.encoder
    cols = (window.col0, window.col1)
    place = model.background_token.device
    tokens = torch.from_numpy(shelf.tokens(window.row0, window.row1, *cols)).float().to(place)
    regions = plan.grid.window_regions(window)
    skipped = torch.tensor([plan.skips(r.index) for r in regions], device=place).reshape(window.shape)
    blank = encoder.blank if plan.empty or plan.left_out else None
    if blank is not None:
        tokens[skipped] = blank[0]

    def local(row: int) -> Tensor:
        at = row + window.row0
        known = torch.from_numpy(shelf.features(at, at + 1, *cols)[0]).float().to(place)
        return known if blank is None else torch.where(skipped[row][:, None, None, None], blank[1], known)

    view = stages.streamed_overview(model, plan, window, encoder.reader.read)
    return stages.Held(window, tokens, local, errors, view)
