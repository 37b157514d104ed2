"""Where encoded regions are stored, while others of a large window are encoded or to stay: tokens and local features.

Knows Zarr and blocks; must not know networks, or what the numbers mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from napari_xt.errors import StoreError
from napari_xt.geometry import Block
from napari_xt.io.stores.durable import DurableStore, sync_folder
from napari_xt.io.stores.layout import FEATURES, TOKENS, Keep, Layout

if TYPE_CHECKING:
    from napari_xt.io.stores.kept import Kept

AXES = {TOKENS: ("row", "col", "token", "channel"), FEATURES: ("row", "col", "c", "y", "x")}
Arrays = Mapping[str, zarr.Array[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBlock:
    """A block's regions after the region encoder.

    Parameters
    ----------
    block
        Where it lies, in run pixels.
    pixels
        ``(C, Y, X)``, its source pixels in the run's frame, for the overview; None leaves the overview empty there.
    tokens, features
        ``(r, q, L, D)`` and ``(r, q, c, h, w)`` of its regions; what was not run is zeros. ``features`` is None where
        they are not known or not asked for.
    errors
        Why a region failed, by its index.
    kept
        The store that has all of these already: its files are shared where the disk allows it.
    """

    block: Block
    pixels: NDArray[Any] | None
    tokens: NDArray[np.floating[Any]]
    features: NDArray[np.floating[Any]] | None
    errors: Mapping[int, str]
    kept: Kept | None = None


def create_shelf(store: LocalStore, layout: Layout) -> None:
    """Make the empty arrays of a layout that has a shelf: a chunk of tokens for each block, of features for its rows.

    Chunks are not compressed: float16 hardly shrinks (9 % by zstd, for twice the time). A checksum tells rot.
    """
    for name in layout.shelf.arrays if layout.shelf else ():
        shape, chunks = _shape(layout, name)
        zarr.create_array(
            store,
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=layout.shelf.dtype,  # type: ignore[union-attr]
            fill_value=0,
            compressors=[Crc32cCodec()],
            dimension_names=AXES[name],
        )


def open_shelf(store: LocalStore, layout: Layout, mode: Literal["r", "r+"]) -> dict[str, zarr.Array[Any]]:
    """Those of the arrays that are there, by name.

    Raises
    ------
    StoreError
        Where one is damaged or has another shape than the layout says.
    """
    if layout.shelf is None:
        return {}
    found: dict[str, zarr.Array[Any]] = {}
    for name in AXES:
        if not (Path(store.root) / name / "zarr.json").exists():
            continue
        try:
            array = zarr.open_array(store, path=name, mode=mode)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(store, f"its array {name} can't be opened: {error}") from error
        if (array.shape, array.chunks, str(array.dtype)) != (*_shape(layout, name), layout.shelf.dtype):
            raise _damaged(store, f"its array {name} is {array.dtype} {array.shape}")
        # a block that is all zeros has its chunk, too: where there is none, nothing is known
        found[name] = array.with_config({"write_empty_chunks": True})
    return found


class Shelf:
    """The open arrays: ``tokens (rows, cols, L, D)`` and ``features (rows, cols, c, h, w)``.

    Raises
    ------
    StoreError
        Where one is damaged, or missing while regions wait.
    """

    def __init__(self, store: DurableStore, layout: Layout) -> None:
        self._store, self._k = store, layout.grid.block_regions
        self._arrays = open_shelf(store, layout, "r+")
        if layout.shelf is not None and layout.shelf.waits and len(self._arrays) < len(AXES):
            lacking = ", ".join(AXES.keys() - self._arrays.keys())
            raise _damaged(store, f"it has no {lacking}")

    def put(self, blocks: Sequence[EncodedBlock]) -> None:
        """Write blocks, whole chunks of each array for each."""
        for name in self._arrays:
            found = [(data, data.tokens if name == TOKENS else data.features) for data in blocks]
            self._put(name, [(d.block, part) for d, part in found if part is not None and not self._shared(name, d)])

    def tokens(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Tokens of a rectangle of regions, ``(rows, cols, L, D)``."""
        return np.asarray(self._arrays[TOKENS][row0:row1, col0:col1])

    def features(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Local features of a rectangle of regions, ``(rows, cols, c, h, w)``."""
        return np.asarray(self._arrays[FEATURES][row0:row1, col0:col1])

    def _shared(self, name: str, data: EncodedBlock) -> bool:
        return data.kept is not None and data.kept.link(name, data.block.row, data.block.col, self._store)

    def _put(self, name: str, blocks: Sequence[tuple[Block, NDArray[Any]]]) -> None:
        k = self._k
        for first, values in _side_by_side(blocks):
            rows, cols = (slice(place * k, place * k + n) for place, n in zip(first, values.shape, strict=False))
            self._arrays[name][rows, cols] = values


def remove_shelf(root: Path, kept: Collection[str] = ()) -> None:
    """Give the disk back, but for the arrays that are ``kept``; what is not there is no matter.

    An array ends with its description, so that what a kill leaves of it is never taken for one.
    """
    for name in AXES.keys() - set(kept):
        folder = root / name
        if folder.is_dir():
            (folder / "zarr.json").unlink(missing_ok=True)
            sync_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)


def most_kept(root: Path) -> Keep:
    """What the arrays that are there can keep."""
    features, tokens = ((root / name / "zarr.json").exists() for name in (FEATURES, TOKENS))
    return "features" if features and tokens else "tokens" if tokens else "nothing"


def _shape(layout: Layout, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and chunks of an array."""
    assert layout.shelf is not None
    inner, k = layout.shelf.tokens if name == TOKENS else layout.shelf.local, layout.grid.block_regions
    tall = k if name == TOKENS else 1  # local features are read row by row, and are large
    return (*layout.grid.shape, *inner), (tall, k, *(max(1, n) for n in inner))


def _side_by_side(blocks: Sequence[tuple[Block, NDArray[Any]]]) -> Iterator[tuple[tuple[int, int], NDArray[Any]]]:
    """Blocks ``(r, q, ...)`` that stand side by side as one, with its place: Zarr is faster with many chunks."""
    run: list[tuple[Block, NDArray[Any]]] = []
    for block, values in blocks:
        if run and (block.row, block.col) != (run[-1][0].row, run[-1][0].col + 1):
            yield _joined(run)
            run = []
        run.append((block, values))
    if run:
        yield _joined(run)


def _joined(run: Sequence[tuple[Block, NDArray[Any]]]) -> tuple[tuple[int, int], NDArray[Any]]:
    first = run[0][0].row, run[0][0].col
    return first, run[0][1] if len(run) == 1 else np.concatenate([values for _, values in run], axis=1)


def _damaged(store: LocalStore, why: str) -> StoreError:
    return StoreError(store.root, f"it is damaged: {why}", "run it again with restart")
