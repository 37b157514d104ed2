"""Corrected pixels as bytes of the journal, and back. Knows chunks and parts; must not know SQLite or predictions."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import StoreError
from napari_xt.geometry import Box
from napari_xt.io.corrections.journal import Part
from napari_xt.io.corrections.sparse import NONE, SIDE, Change

PIXELS = "pixels"
DONT_KNOW = 254
FAST = 1  # of zlib: a chunk of one value takes 0.3 ms

Bytes = NDArray[np.uint8]


def part_of(change: Change) -> Part | None:
    """What changed in a chunk; None where nothing did."""
    before = np.full(change.after.shape, NONE, np.uint8) if change.before is None else change.before
    differ = before != change.after
    rows, cols = (np.flatnonzero(differ.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    box = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    told = json.dumps([_counts(before[differ]), _counts(change.after[differ])])
    old, new = (zlib.compress(pixels[box.slices].tobytes(), FAST) for pixels in (before, change.after))
    place = box.shift(change.key[0] * SIDE, change.key[1] * SIDE)
    return Part(PIXELS, "", place, int(differ.sum()), told, old, new)


def pixels_of(part: Part, shape: tuple[int, int], where: object) -> tuple[Bytes, Bytes]:
    """The corrections ``(h, w)`` before and after.

    Raises
    ------
    StoreError
        They are damaged.
    """
    box, side = part.box, Box(0, 0, *shape)
    one_chunk = box.y0 // SIDE == (box.y1 - 1) // SIDE and box.x0 // SIDE == (box.x1 - 1) // SIDE
    if box.empty or box.clip(side) != box or not one_chunk:
        raise StoreError(where, f"the corrections are damaged: pixels at {box}", "restore them from a copy")
    return _unpacked(part.before, box, where), _unpacked(part.after, box, where)


def told(summaries: Sequence[Mapping[str, int]], names: Mapping[int, str]) -> str:
    """Counts of pixels in words."""
    counts: dict[int, int] = {}
    for summary in summaries:
        for value, count in summary.items():
            counts[int(value)] = counts.get(int(value), 0) + count
    called = {NONE: "as predicted", DONT_KNOW: "don't know", **names}
    return ", ".join(f"{called.get(value, value)} {count} px" for value, count in sorted(counts.items()))


def _counts(values: Bytes) -> dict[str, int]:
    counts = np.bincount(values, minlength=256)
    return {str(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _unpacked(data: bytes | None, box: Box, where: object) -> Bytes:
    size = box.height * box.width
    try:
        found = zlib.decompressobj().decompress(data or b"", size + 1)
    except (zlib.error, TypeError) as error:
        raise StoreError(where, f"the corrections are damaged: {error}", "restore them from a copy") from error
    if len(found) != size:
        raise StoreError(where, f"the corrections are damaged: {len(found)} of {size} px", "restore them from a copy")
    return np.frombuffer(found, np.uint8).reshape(box.shape)
