"""Which errors say something of a region, and which say that the device under the run is gone.

Knows torch's words for it; knows no images and no stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from napari_xt.errors import RunError, XTError

LOST = ("CUDA error", "HIP error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "MPS backend", "Metal error")
FAILURES = (XTError, RuntimeError, MemoryError, ValueError, ArithmeticError, LookupError, TypeError)
"""What reading and encoding a region may raise: the region has failed, unless the device is lost."""


def device_lost(error: BaseException) -> bool:
    """Whether ``error`` is that of a device on which nothing works any more, rather than of what was asked of it."""
    if isinstance(error, XTError) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text:
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in text for words in LOST)


@contextmanager
def lost_device_ends(device: str) -> Iterator[None]:
    """Say in a sentence that ``device`` was lost, where that is what ends what is done inside.

    Raises
    ------
    RunError
        It was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not device_lost(error):
            raise
        why = f"was lost: {str(error).splitlines()[0]}"
        raise RunError(f"device {device}", why, "what is done is kept; run again to go on") from error
