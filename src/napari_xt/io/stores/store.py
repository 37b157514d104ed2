"""The writer of a prediction store: blocks go in whole, are journalled, and survive a kill.

Knows what a block is made of and where its parts go; must not know models, images or how blocks came to be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from napari_xt.io.stores import lock
from napari_xt.io.stores.durable import DurableStore, writing
from napari_xt.io.stores.layout import BlockData, Header, Keep, Layout, RegionData, Status, kept_arrays
from napari_xt.io.stores.ledger import BlockRow, Ledger, NewRegion, RegionRow
from napari_xt.io.stores.merge import BOX_DTYPE, suppress
from napari_xt.io.stores.patches import joined
from napari_xt.io.stores.place import lock_path, prepare
from napari_xt.io.stores.preview import Previews, RegionPreview, remove_previews
from napari_xt.io.stores.recover import checksum, recover, show
from napari_xt.io.stores.shared import Shared
from napari_xt.io.stores.shelf import EncodedBlock, Shelf, create_shelf, most_kept, remove_shelf
from napari_xt.io.stores.tree import open_tree, read_header

__all__ = ["BlockData", "EncodedBlock", "Header", "Layout", "RegionData", "Shelf", "Status", "Store", "candidate_boxes"]


class Store:
    """A prediction store open for writing, by this process alone; ``open_writer`` makes one.

    One thread at a time may use it; that need not be the one that opened it.

    Attributes
    ----------
    path
        The folder.
    header
        What the store is of, as it is written there: on a resume, the plan and notes of the first run.
    keep
        What of the encoded regions stays when the run is complete.
    """

    def __init__(self, path: Path, ledger: Ledger, owner: lock.Owner, keep: Keep | None = None) -> None:
        self.path = path
        self._ledger = ledger
        self._owner: lock.Owner | None = owner
        self.header = read_header(path)
        self._files, self._derived = DurableStore(path), DurableStore(path, late=True)
        self._tree = open_tree(self._files, self.header.layout, "r+", self._derived)
        self.keep = self._agreed(keep)
        self._encoded = self._shelved()
        self._committed = self._take_up()

    @classmethod
    def open_writer(
        cls, path: str | os.PathLike[str], header: Header, *, restart: bool = False, keep: Keep | None = None
    ) -> Store:
        """Create a store at ``path``, or go on with the one of the same job that is there.

        A store is made beside ``path`` and renamed, so that nothing half-made is ever there. On a resume, what was in
        flight when the last writer ended is removed.

        Parameters
        ----------
        path
            ``NAME.xt.zarr``; missing parents are made.
        header
            What the run is.
        restart
            Replace a store that is there, whatever its job.
        keep
            Of a store that is there already: what stays of its encoded regions. Less than it keeps is removed; what it
            did not keep from its beginning it can't have. Default: as it was begun.

        Raises
        ------
        StoreMismatchError
            Where the store there is of another job; it names the first field that differs.
        StoreLockedError
            Where another process writes it.
        StoreError
            Where something else is there, the store is damaged or too new, or the disk can't be written.
        """
        place = Path(os.path.abspath(path))
        with writing(place):
            ledger, owner = prepare(place, header, restart)
            try:
                return cls(place, ledger, owner, keep)
            except BaseException:
                _let_go(place, ledger, owner)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self._committed)} blocks)"

    @property
    def complete(self) -> bool:
        """Whether the run is finished and its boxes are merged."""
        return self._ledger.complete

    def committed(self) -> frozenset[tuple[int, int]]:
        """The blocks ``(row, col)`` that are in the store for good."""
        return self._committed

    def encoded(self) -> Mapping[tuple[int, int], Mapping[int, str]]:
        """The blocks ``(row, col)`` whose encoded regions are stored, with the errors of these by index."""
        return self._encoded

    @cached_property
    def shelf(self) -> Shelf:
        """The encoded regions that are stored; a store has them whose layout says so."""
        return Shelf(self._files, self.header.layout)

    def put_encoded(self, blocks: Sequence[EncodedBlock]) -> None:
        """Put encoded blocks on the shelf: when this returns they survive a kill and a loss of power, all of them.

        Raises
        ------
        StoreError
            Where the disk can't be written; none of ``blocks`` is there then.
        """
        with writing(self.path):
            self.shelf.put(blocks)
            self._shared.put_overview(blocks)
            self._files.flush()
            self._ledger.record_encoded(map(_encoded_row, blocks))
        self._note_encoded(blocks)

    @cached_property
    def _shared(self) -> Shared:
        return Shared(self.header.layout, self._tree)

    @cached_property
    def _previews(self) -> Previews:
        previews = Previews(self.path, self.header.layout)
        self._shared.put_previewed(previews.left)
        return previews

    def put_previews(self, found: Sequence[RegionPreview]) -> None:
        """Show what some regions look like on their own; a kill may lose it, and `finish` removes it.

        Raises
        ------
        StoreError
            Where the disk can't be written.
        """
        with writing(self.path):
            self._previews.put(found)
            self._shared.put_previewed([region for region, _ in found])

    def commit(self, blocks: Sequence[BlockData]) -> None:
        """Put ``blocks`` into the store: when this returns they survive a kill and a loss of power, all of them.

        Raises
        ------
        ValueError
            Where an array has another shape or type than the layout says.
        StoreError
            Where the disk can't be written; the store stays good, and holds none of ``blocks`` or all.
        """
        whole = [_complete(self.header.layout, data) for data in blocks]
        if not whole:
            return
        encoded = [data.encoded for data in whole if data.encoded and self.keep != "nothing"]
        with writing(self.path):
            self._write_blocks(whole)
            self._shared.put_overview(whole)
            if encoded:
                self.shelf.put(encoded)
            self._files.flush()
            rows = [_block_row(data) for data in whole], _region_rows(whole), map(_encoded_row, encoded)
            self._ledger.record(*rows)
            self._note_encoded(encoded)
            self._committed |= {(data.block.row, data.block.col) for data in whole}
            self._shared.put(whole)

    def failed(self) -> frozenset[int]:
        """The indices of the regions that failed, in the store and among those that are encoded."""
        waiting = {index for errors in self._encoded.values() for index in errors}
        return frozenset(waiting.union(self._ledger.having(Status.FAILED)))

    @property
    def sound(self) -> bool:
        """Whether any region is known not to have failed."""
        return Status.DONE in self._ledger.counts() or not all(self._encoded.values())

    def tried_again(self, errors: Mapping[int, str]) -> None:
        """Count one more attempt of regions, by their index, that failed again, and why."""
        grid = self.header.layout.grid
        k, cols = grid.block_regions, grid.shape[1]
        places = [(index, *divmod(index, cols), error) for index, error in errors.items()]
        self._ledger.tried_again((index, row, col, row // k, col // k, why) for index, row, col, why in places)

    def reopen(self, blocks: Collection[tuple[int, int]], stale: Collection[tuple[int, int]]) -> None:
        """Forget committed ``blocks``, which are to be done again, and that ``stale`` ones are encoded.

        The store is not complete then. Where its encoded regions waited on a shelf that is gone, all is forgotten. A
        kill at any moment leaves the store as it was, or with these blocks forgotten.

        Raises
        ------
        StoreError
            Where the disk can't be written.
        """
        if self._waits and most_kept(self.path) != "features":
            blocks, stale = self._committed, self._ledger.encoded().keys()
        with writing(self.path):
            self._ledger.reopen(blocks, stale)
            self._encoded = self._shelved()
            self._committed = self._committed.difference(blocks)
            self._make_shelf()
            show(self.path, self.header.layout, self._tree, self._ledger, self._committed, self._encoded)
            self._files.flush()
            self.__dict__.pop("_shared", None)

    def finish(self, iou: float) -> None:
        """Merge the boxes of all committed regions, overlaps above ``iou``, and mark the run complete."""
        rows = self._ledger.regions()
        boxes = candidate_boxes(rows)
        keep = suppress(boxes, iou, across_regions=True)
        ends = np.cumsum([len(row.boxes) // BOX_DTYPE.itemsize for row in rows])
        parts = np.split(keep, ends[:-1])
        with writing(self.path):
            self._derived.flush()
            self._ledger.finish({row.idx: part.tobytes() for row, part in zip(rows, parts, strict=False)})
            remove_shelf(self.path, kept_arrays(self.keep))
            remove_previews(self.path)

    def close(self) -> None:
        """Give the store free; a second time does nothing."""
        if self._owner is not None:
            owner, self._owner = self._owner, None
            self._files.end()
            self._derived.end()
            _let_go(self.path, self._ledger, owner)

    def _take_up(self) -> frozenset[tuple[int, int]]:
        """The committed blocks; a store that is not complete may first have to be put in order."""
        if self._ledger.complete or not self._waits:
            remove_shelf(self.path, kept_arrays(self.keep))
        if self._ledger.complete:
            remove_previews(self.path)
            return frozenset(self._ledger.blocks())
        self._make_shelf()
        committed = recover(self.path, self.header.layout, self._tree, self._ledger, self._encoded)
        self._files.flush()
        return committed

    @property
    def _waits(self) -> bool:
        shelf = self.header.layout.shelf
        return shelf is not None and shelf.waits

    def _make_shelf(self) -> None:
        """Make the shelf anew for a store that was complete and has nothing on it any more."""
        if self._waits and not self._encoded and most_kept(self.path) != "features":
            remove_shelf(self.path)
            create_shelf(self._files, self.header.layout)
            self.__dict__.pop("shelf", None)

    def _shelved(self) -> dict[tuple[int, int], dict[int, str]]:
        if self.header.layout.shelf is None or self._ledger.complete:
            return {}
        return {key: _errors_of(text) for key, text in self._ledger.encoded().items()}

    def _agreed(self, asked: Keep | None) -> Keep:
        """What stays of the encoded regions, of what is there of them: settled, so that it holds from now on."""
        shelf = self.header.layout.shelf
        if shelf is None:
            return "nothing"
        begun = cast("Keep", self._ledger.keep or shelf.keep)
        keep = min(asked or begun, most_kept(self.path), key=get_args(Keep).index)
        if keep != begun:
            self._ledger.settle_keep(keep)
        return keep

    def _note_encoded(self, blocks: Sequence[EncodedBlock]) -> None:
        self._encoded |= {(data.block.row, data.block.col): dict(data.errors) for data in blocks}

    def _write_blocks(self, blocks: list[BlockData]) -> None:
        """Write what is a block's alone: one chunk each."""
        layout, tree = self.header.layout, self._tree
        masks = [(data.block.box, data.mask) for data in blocks if data.mask is not None]
        cells = [(layout.cells(data.block.box), data.probability) for data in blocks if data.probability is not None]
        if tree.probability is None or not masks:
            return
        for box, mask in joined(masks):
            tree.mask[0][box.slices] = mask
        for box, probability in joined(cells):
            tree.probability[(slice(None), *box.slices)] = probability


def candidate_boxes(rows: Sequence[RegionRow]) -> NDArray[np.void]:
    """All boxes in ``rows`` of the journal, ``BOX_DTYPE``, in their order."""
    return np.frombuffer(b"".join(row.boxes for row in rows), BOX_DTYPE)


def _encoded_row(data: EncodedBlock) -> tuple[int, int, str]:
    return data.block.row, data.block.col, json.dumps(dict(data.errors))


def _errors_of(text: str) -> dict[int, str]:
    return {int(index): str(error) for index, error in json.loads(text).items()}


def _let_go(path: Path, ledger: Ledger, owner: lock.Owner) -> None:
    try:
        ledger.settle()
        with ledger.exclusive():
            lock.release(lock_path(path), owner)
    finally:
        ledger.close()


def _block_row(data: BlockData) -> BlockRow:
    return BlockRow(data.block.row, data.block.col, checksum(data.mask, data.probability))


def _region_rows(blocks: list[BlockData]) -> list[NewRegion]:
    return [_region_row(data, found) for data in blocks for found in data.regions]


def _region_row(data: BlockData, found: RegionData) -> NewRegion:
    region, scores = found.region, None if found.scores is None else found.scores.tobytes()
    place = (region.index, region.row, region.col, data.block.row, data.block.col)
    return NewRegion(*place, int(found.status), found.error, scores, found.boxes.tobytes())


def _complete(layout: Layout, data: BlockData) -> BlockData:
    """``data`` with all the arrays that the layout has, checked: what is left out is background."""
    shape = data.block.box.shape
    mask = probability = None
    if layout.mask is not None:
        cells = (len(layout.mask), *layout.cells(data.block.box).shape)
        mask = _checked("mask", data.mask, shape, "uint8")
        probability = _checked("probability", data.probability, cells, "uint8")
    if data.pixels is not None:
        _checked("pixels", data.pixels, (layout.overview_channels, *shape), layout.overview_dtype)
    for found in data.regions:
        _check_region(layout, found)
    return replace(data, mask=mask, probability=probability)


def _check_region(layout: Layout, found: RegionData) -> None:
    if found.scores is not None:
        _checked("scores", found.scores, (layout.values,), "float32")
    if found.boxes.dtype != BOX_DTYPE:
        raise ValueError(f"boxes of region {found.region.index} are {found.boxes.dtype}")


def _checked(name: str, array: NDArray[Any] | None, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    if array is None:
        return np.zeros(shape, dtype)
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}")
    return array
