"""Which processor a run uses and why, and how the network is laid out on it.

Knows torch and the machine; knows no image and no store.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from threading import Lock
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from napari_xt.engine.machine import Machine, cpu_bfloat16, this_machine
from napari_xt.errors import ModelError, SettingsError
from napari_xt.model.config import CUSTOM
from napari_xt.model.region import RegionEncoder
from napari_xt.model.xt import XT

MALLOC = {-3: 12 << 20, -1: 256 << 20, -2: 8 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h


def machine(device: str = "auto") -> Machine:
    """Look at this machine; the first of cuda, mps, cpu that is there where ``device`` is ``"auto"``.

    Raises
    ------
    SettingsError
        The device is unknown or not there.
    """
    chosen, reason = _automatic() if device == "auto" else (_checked(device), "as asked")
    return replace(this_machine(), device=chosen, reason=reason, bfloat16=_bfloat16(chosen))


def _bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware: NVIDIA's from compute capability 8, CPUs that say so."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device == "cpu" and cpu_bfloat16()


def _automatic() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name()} found"
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU found, no CUDA"
    return "cpu", "no CUDA and no Apple GPU found"


def _checked(device: str) -> str:
    kind, _, index = device.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there or (index and not index.isdigit()):
        raise SettingsError(f"device = {device!r}", "is not known", "choose auto, cpu, cuda, cuda:N or mps")
    if not there[kind] or (index and kind == "cuda" and int(index) >= torch.cuda.device_count()):
        raise SettingsError(f"device = {device!r}", "is not there", "device='auto' takes what there is")
    return device


@contextmanager
def placed(model: XT, device: str, precision: str = "float32") -> Iterator[XT]:
    """A copy of the model in evaluation mode on ``device``, and torch set so that the same input gives the same bits.

    The caller's model is only read: any number of runs may share it. The copy shares its tensors but for those that are
    laid out anew (convolutions channels-last) or converted; batch norms are part of the convolutions before them. In
    ``"bfloat16"`` the region encoder computes in it; context and heads, which it would make no faster, in float32. A
    module of the user's own that can't be copied is taken as it is: put in evaluation mode, and in place.

    One thread an operation: each worker is a thread of its own. That number is the process's; the last of the runs that
    go on at a time restores it.

    Raises
    ------
    ModelError
        The region encoder can't be copied, and is to compute in bfloat16.
    """
    _keep_freed_memory()
    with _ONE_THREAD:
        ready = _copied(model).eval()
        own = ready.region is not model.region
        for part in ready.region.modules() if own else ():
            if isinstance(part, RegionEncoder):
                part.fold_norms()
        if precision == "bfloat16":
            if not own:
                why = "can't be copied, so it can't be converted to bfloat16 either"
                raise ModelError(f"{model.name}'s region encoder", why, "set precision to float32")
            _to_bfloat16(ready)
        yield ready.to(device=device).to(memory_format=torch.channels_last)


def uploaded(batch: Tensor, place: torch.device) -> Tensor:
    """``batch`` on a device. Pinned memory goes to a GPU on a stream of its own, while that works on the last."""
    if place.type != "cuda":
        return batch.to(place)
    uploads, computes = _uploads(place), torch.cuda.current_stream(place)
    with torch.cuda.stream(uploads):
        there = batch.to(place, non_blocking=True)
    computes.wait_stream(uploads)
    there.record_stream(computes)  # its memory is not given to a later upload before it was used
    return there


@cache
def _uploads(place: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(place)  # type: ignore[no-untyped-call]


class _OneThread:
    """torch's operations on one thread each, for as long as anyone is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_num_threads(self._before)


_ONE_THREAD = _OneThread()  # the number of threads belongs to the process, and so does this


def _copied(model: XT) -> XT:
    try:
        return copy.deepcopy(model, _shared(model))
    except (copy.Error, TypeError, ValueError, RuntimeError, AttributeError):  # a module that holds a lock, a file
        config, known = model.config, _shared(model)
        known |= {id(model.region): model.region} if config.region_encoder == CUSTOM else {}
        known |= {id(model.context): model.context} if config.context.kind == CUSTOM else {}
        return copy.deepcopy(model, known)


def _shared(model: XT) -> dict[int, nn.Module | Tensor]:
    """What stands in a copy for the tensors of the model: others that share their memory."""
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return {**parameters, **{id(b): b.detach() for b in model.buffers()}}


def _to_bfloat16(model: XT) -> None:
    """Have the region encoder compute in bfloat16; what batch norms have counted is kept as it is."""
    for part in model.region.modules():
        own = () if isinstance(part, _BatchNorm) else (*part.parameters(recurse=False), *part.buffers(recurse=False))
        for value in own:
            if value.is_floating_point():
                value.data = value.to(torch.bfloat16)
    model.region_dtype = torch.bfloat16


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of one region's tensors for the next one's; other C libraries are left alone.

    It would give large pieces back and take them again, page by page: up to a third of the time of a small encoder.
    What is larger than any of them, as the rows of pixels that are read, is given back: kept, it would be left between
    smaller pieces, a quarter of a GiB of it in the run of a gigapixel.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for what, size in MALLOC.items():
            mallopt(what, size)
