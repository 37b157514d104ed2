"""What a run has to work with: the processor, its cores, memory, and what a model was measured to take there.

Knows the operating system; imports no torch, so that a plan can be made without it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import psutil

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # as the Linux kernel calls them
ARROW_BYTES = 50 << 20 if find_spec("pyarrow") else 0  # pandas imports it wherever it is installed
LOADED_BYTES = (800 << 20) + ARROW_BYTES  # of a process that has loaded torch, timm and zarr, and has done nothing yet
NO_LIMIT = 1 << 60  # bytes: what control groups of version 1 say where nothing is limited


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model takes on one machine, from a probe or a run.

    Parameters
    ----------
    seconds
        That one worker spends on a region, from its pixels to its outputs, while all others work, too.
    activations
        Bytes of tensors that encoding one region holds at most.
    batch
        Regions at a time that were best.
    whole
        Whether a whole run took these seconds; else a probe of some regions did, which saw no reading and no writing.
    """

    seconds: float
    activations: int
    batch: int = 1
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor that a run uses.

    Parameters
    ----------
    device, reason
        Which, and why.
    cores
        CPU cores that this process may use.
    memory_bytes, free_bytes
        Memory of the machine; what of it a run may take, with what this process holds for it already. 0: not known.
    bfloat16
        Whether the device multiplies bfloat16 faster than float32.
    measured
        What the model takes on it; None where that is not known yet.
    """

    device: str = "auto"
    reason: str = "chosen when PyTorch is loaded: cuda, mps, cpu"
    cores: int = 1
    memory_bytes: int = 0
    free_bytes: int = 0
    bfloat16: bool = False
    measured: Measured | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes, as far as that is known."""
        return self.device in ("cpu", "auto")


def this_machine() -> Machine:
    """The machine as far as it is known without torch."""
    return Machine(cores=cores(), memory_bytes=memory_bytes(), free_bytes=free_bytes(), bfloat16=cpu_bfloat16())


@lru_cache(maxsize=1)
def cpu_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 that torch uses; only Linux tells."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = re.search(r"^flags\s*:(.*)$", told, re.MULTILINE)
    return flags is not None and not BFLOAT16_FLAGS.isdisjoint(flags.group(1).split())


def cores(root: Path = Path("/")) -> int:
    """Physical CPU cores that this process may use: those it is bound to, and the share that its control group grants.

    Parameters
    ----------
    root
        Where ``sys`` and ``proc`` are.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    shares = [quota for group in _groups(root, "cpu") if (quota := _quota(group)) is not None]
    return max(1, min([_physical(usable, root), *(round(share) for share in shares)]))


def memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


def free_bytes(root: Path = Path("/")) -> int:
    """Memory that is free now, of the machine and of the control groups that this process lies in.

    What this process has taken to load torch counts as free: a run needs not take it again.
    """
    left = [limit - used for group in _groups(root, "memory") for limit, used in _memory(group)]
    held = min(LOADED_BYTES, psutil.Process().memory_info().rss) if "torch" in sys.modules else 0
    return max(0, min([int(psutil.virtual_memory().available), *left])) + held


def peak_bytes() -> int:
    """This process's high-water mark of resident memory; what it is now, where the system keeps no such mark."""
    try:
        marks = dict(re.findall(r"^(VmHWM):\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE))
        return int(marks["VmHWM"]) * 1024
    except (OSError, KeyError):
        return _peak_elsewhere()


def _peak_elsewhere() -> int:
    try:
        import resource
    except ImportError:  # Windows
        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", info.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _physical(usable: set[int], root: Path) -> int:
    """How many cores these processors are: those that share one compute no faster than one of them."""
    siblings = {_text(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") for n in usable}
    if None not in siblings:
        return len(siblings)
    logical, physical = psutil.cpu_count() or len(usable), psutil.cpu_count(logical=False) or len(usable)
    return max(1, round(len(usable) * physical / logical))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups for ``controller``, version 2 or 1, and of those around them."""
    base = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, names, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or controller in names.split(","):
            top = base if number == "0" else base / controller
            inside = top / path.lstrip("/")
            yield from [folder for folder in (inside, *inside.parents) if folder.is_relative_to(top)]


def _quota(group: Path) -> float | None:
    """Cores that a control group grants; None where it does not say."""
    limit, period = ((_text(group / "cpu.max") or "") + " ").split(" ")[:2]  # version 2
    if not limit:  # version 1
        limit, period = _text(group / "cpu.cfs_quota_us") or "", _text(group / "cpu.cfs_period_us") or ""
    return int(limit) / int(period) if limit.isdigit() and period.isdigit() and int(period) else None


def _memory(group: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of a control group, where it has a limit; pages of files that can be given back are not counted."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _text(group / limit) or "", _text(group / used) or ""
        if most.isdigit() and now.isdigit() and int(most) < NO_LIMIT:
            spare = re.search(rf"^{cache} (\d+)$", _text(group / "memory.stat") or "", re.MULTILINE)
            yield int(most), int(now) - (int(spare.group(1)) if spare else 0)


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return None
