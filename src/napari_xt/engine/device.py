"""Which processor a run uses and why, and how the network is laid out on it.

Knows torch and the machine; knows no image and no store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from napari_xt.engine.plan import Machine, cores, memory_bytes
from napari_xt.errors import SettingsError
from napari_xt.model.xt import XT


def machine(device: str = "auto") -> Machine:
    """Look at this machine; the first of cuda, mps, cpu that is there where ``device`` is ``"auto"``.

    Raises
    ------
    SettingsError
        The device is unknown or not there.
    """
    chosen, reason = _automatic() if device == "auto" else (_checked(device), "as asked")
    return Machine(device=chosen, reason=reason, cores=cores(), memory_bytes=memory_bytes())


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
def placed(model: XT, device: str) -> Iterator[XT]:
    """The model in evaluation mode on ``device``, and torch set so that the same input gives the same bits.

    One thread an operation (each worker is a thread of its own), convolutions channels-last. The number of threads is
    the process's: it is restored at the end, as is the model's device.
    """
    threads, home = torch.get_num_threads(), next(model.parameters()).device
    torch.set_num_threads(1)
    try:
        yield model.eval().to(device=device).to(memory_format=torch.channels_last)
    finally:
        model.to(device=home)
        torch.set_num_threads(threads)
