"""Whether a run fits: into memory, and onto the disk that its store goes to; if not, which setting would make it fit.

Knows plans; imports no torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_xt.engine.machine import Machine
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError

if TYPE_CHECKING:
    from napari_xt.engine.plan import Plan

FREE_SHARE = 0.9  # of the memory that is free may be taken
SURE = 0.85  # a prediction may be this much too high: by itself it refuses only what can't fit even so
WINDOWS = (16, 8, 4)
GIB = 2**30

Other = Callable[..., "Plan"]  # the plan with other settings, by name


def memory_limit(settings: RunSettings, machine: Machine) -> int | None:
    """Bytes that a plan may come to; None where nothing is known. A limit that is set is kept to strictly."""
    if settings.memory_limit_bytes is not None:
        return settings.memory_limit_bytes
    return int(FREE_SHARE / SURE * machine.free_bytes) if machine.free_bytes else None


def check_memory(plan: Plan, settings: RunSettings, other: Other) -> None:
    """Refuse a run that takes more memory than there is or than was allowed.

    Raises
    ------
    SettingsError
        It does; the error names what would fit.
    """
    limit = memory_limit(settings, plan.machine)
    if limit is None or plan.memory_bytes <= limit:
        return
    why = f"a run over {plan.image} needs about {gib(plan.memory_bytes)}"
    if settings.memory_limit_bytes is None:
        raise SettingsError("memory", f"{why}, {gib(plan.machine.free_bytes)} is free", _fitting(plan, limit, other))
    raise SettingsError(f"memory_limit_bytes = {limit}", f"is {gib(limit)}, {why}", _fitting(plan, limit, other))


def check_disk(plan: Plan, out: str | os.PathLike[str], other: Other) -> None:
    """Refuse a run whose store can't fit on the disk of ``out``; one that is there already has its place.

    Raises
    ------
    SettingsError
        It can't; the error names what would fit.
    """
    place = Path(os.path.abspath(out))
    if place.exists():
        return
    try:
        total, _, free = shutil.disk_usage(next(folder for folder in place.parents if folder.exists()))
    except (OSError, StopIteration):
        return  # the store says what is wrong with its place
    if SURE * plan.disk_peak_bytes <= free or not total:  # a file system without a size holds no files
        return
    why = f"a run needs about {size(plan.disk_peak_bytes)} of disk, {size(free)} is free"
    for changed, made in _less_disk(plan, other):
        if made.disk_peak_bytes <= free:
            raise SettingsError(place, why, f"{_told(changed)} would need {size(made.disk_peak_bytes)}")
    raise SettingsError(place, why, "give an output path on another disk")


def gib(count: int) -> str:
    """Bytes of memory, in words."""
    return f"{count / GIB:.1f} GiB"


def size(count: int) -> str:
    """Bytes of disk, in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 10e6 else 1}f} MB"


def _fitting(plan: Plan, limit: int, other: Other) -> str:
    least = plan.memory_bytes
    for changed in _less_memory(plan):
        made = other(**changed)
        if made.memory_bytes <= limit:
            return f"{_told(changed)} would need {gib(made.memory_bytes)}"
        least = min(least, made.memory_bytes)
    return f"no setting makes it fit, the least is {gib(least)}"


def _less_memory(plan: Plan) -> Iterator[Mapping[str, int]]:
    """Settings that take less, what changes no result first."""
    one = {name: 1 for name in ("workers", "batch") if getattr(plan, name) > 1}
    yield from ({name: 1} for name in one)
    smaller = [side for side in WINDOWS if side < (plan.grid.window or max(plan.grid.shape))]
    yield from ({"window": side} for side in smaller)
    if one:
        yield one
        yield from ({"window": side, **one} for side in smaller)


def _less_disk(plan: Plan, other: Other) -> Iterator[tuple[Mapping[str, object], Plan]]:
    changes: list[dict[str, object]] = [{"keep": "nothing"}] if plan.keep != "nothing" else []
    changes += [{"window": side} for side in WINDOWS[:2] if plan.large]
    changes += [{"window": side, "keep": "nothing"} for side in WINDOWS[:2] if plan.large and plan.keep != "nothing"]
    yield from ((changed, other(**changed)) for changed in changes)


def _told(changed: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changed.items())
