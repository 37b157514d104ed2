"""Encoded regions of an earlier run in place of encoding again: which store can be used, and what is in it.

Knows plans and stores; imports no torch. A region's tokens and local features depend on the image, the grid and the
region encoder alone: runs may differ in context, windows, heads, outputs and region of interest.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_xt.errors import StoreError, StoreMismatchError
from napari_xt.geometry import Region
from napari_xt.io.stores.kept import Kept
from napari_xt.io.stores.layout import FEATURES, TOKENS, Header
from napari_xt.io.stores.place import differing
from napari_xt.io.stores.tree import SUFFIX, describe, read_header

if TYPE_CHECKING:
    from napari_xt.engine.plan import Plan

SAME = ("image", "level", "plane", "channels", "limits", "frame", "grid", "precision", "numerics", "encoder")
DENSE = ("mask", "boxes")  # are decoded from local features
NEWEST = 16  # so many stores beside the image are looked at

Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """A region as it was encoded before.

    ``tokens (L, D)``; ``local (c, h, w)`` or None where only tokens are known; ``pixels (C, Y, X)`` of its inner, as
    far as the overview of the store, ``kept``, shows them and in the image's order of channels, or None.
    """

    region: Region
    tokens: NDArray[np.floating[Any]]
    local: NDArray[np.floating[Any]] | None
    pixels: NDArray[Any] | None
    kept: Kept


class Reuse:
    """What a run takes from an earlier one; safe to use from many threads.

    Parameters
    ----------
    kept
        The store, whose `facts` are those of the run.
    plan
        Of the run.
    """

    def __init__(self, kept: Kept, plan: Plan) -> None:
        self._kept, self._plan = kept, plan
        self._dense = bool(set(DENSE) & set(plan.outputs))
        self._there = kept.tokens & kept.features if self._dense else kept.tokens

    def has(self, region: Region) -> bool:
        """Whether the region need not be encoded."""
        return bool(self._there[region.row, region.col])

    def units(self, regions: Iterable[Region]) -> Iterator[list[Region]]:
        """Those of ``regions`` that are there, by block: what `read` takes."""
        known = sorted((r for r in regions if self.has(r)), key=self._block)
        for _, unit in groupby(known, key=self._block):
            yield list(unit)

    def read(self, regions: Sequence[Region]) -> list[Taken]:
        """Read regions of one block: none of them where it is damaged or has been removed meanwhile."""
        place, k = self._block(regions[0]), self._plan.grid.block_regions
        wanted = self._dense or self._plan.keep == "features"
        tokens = self._kept.block(*place, TOKENS)
        local = self._kept.block(*place, FEATURES) if wanted else None
        if tokens is None or (wanted and local is None):
            return []
        inside = [(r.row % k, r.col % k) for r in regions]
        return [
            Taken(region, tokens[at], None if local is None else local[at], self._pixels(region), self._kept)
            for region, at in zip(regions, inside, strict=True)
        ]

    def _block(self, region: Region) -> tuple[int, int]:
        k = self._plan.grid.block_regions
        return region.row // k, region.col // k

    def _pixels(self, region: Region) -> NDArray[Any] | None:
        seen, channels = self._kept.pixels(region.inner), self._plan.channels
        if seen is None or channels == tuple(range(len(channels))):
            return seen
        pixels = np.zeros((max(channels) + 1, *seen.shape[1:]), seen.dtype)
        pixels[list(channels)] = seen
        return pixels


def facts(job: Facts, encoder: object) -> Facts:
    """What tokens and local features depend on, of a run's job and the digest of its region encoder."""
    grid = cast("Mapping[str, object]", job.get("grid", {}))
    known = {**job, "grid": {name: value for name, value in grid.items() if name != "window"}, "encoder": encoder}
    return {name: known.get(name) for name in SAME} | {"limits": known.get("limits") or None}


def reusing(plan: Plan, path: str, wanted: Facts) -> Plan:
    """The plan that takes what it can from the store at ``path``.

    Raises
    ------
    StoreError
        There is no store, a damaged one, or one that keeps nothing.
    StoreMismatchError
        It is of another image, grid or region encoder; the first difference is named.
    """
    kept = Kept(Path(path).expanduser())
    if why := differing(facts_of(kept.header), wanted):
        raise StoreMismatchError(path, f"it can't be reused: {why}", "name another store, or leave out reuse")
    if not kept.tokens.any():
        raise StoreError(path, "it keeps no encoded regions", "leave out reuse; a run with keep=features keeps them")
    found = _taking(plan, kept)
    if found.reused:
        return found
    alone = kept.tokens.any() and not kept.features.any()
    why = f"keeps tokens alone, and {' and '.join(DENSE)} need more" if alone else "has none of these regions"
    return replace(plan, warnings=(*plan.warnings, f"{kept.path.name} {why}: every region is encoded"))


def best_sibling(plan: Plan, out: Path, wanted: Facts) -> Path | None:
    """The store of the image beside ``out`` from which the plan can take most; of equals the newest."""
    found = [_taking(plan, kept) for kept in _siblings(out, plan.image, wanted)]
    best = max(found, key=lambda taking: taking.reused, default=plan)
    return Path(best.reuse) if best.reused else None


def open_reuse(plan: Plan, header: Header) -> Reuse | None:
    """What the plan takes from an earlier run; None where it takes nothing, or nothing fits any more."""
    if not plan.reuse:
        return None
    try:
        kept = Kept(plan.reuse)
    except StoreError:
        return None
    return None if differing(facts_of(kept.header), facts_of(header)) else Reuse(kept, plan)


def _taking(plan: Plan, kept: Kept) -> Plan:
    """The plan with what ``kept`` has; what can be taken without local features is not encoded to keep these."""
    there = Reuse(kept, plan)
    taken = [r for r in plan.grid.regions(plan.roi_run) if there.has(r) and not plan.skips(r.index)]
    if not taken:
        return plan
    whole = all(kept.features[r.row, r.col] for r in taken)
    keep = plan.keep if whole or plan.keep == "nothing" else "tokens"
    return replace(plan, reuse=str(kept.path), reused=len(taken), keep=keep)


def _siblings(out: Path, image: str, wanted: Facts) -> Iterator[Kept]:
    """Stores of the image beside ``out`` that fit, newest first."""
    paths = [path for path in out.parent.glob(f"{glob.escape(image)}.*{SUFFIX}") if path != out]
    for path in sorted(paths, key=_age, reverse=True)[:NEWEST]:
        with suppress(StoreError):
            if differing(facts_of(read_header(path)), wanted) is None:
                yield Kept(path)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def facts_of(header: Header) -> Facts:
    """`facts` of a store or of a run, as values of JSON."""
    told = describe(header)
    return facts(told["job"], told["model"].get("encoder"))
