"""timm, imported so that it lives beside OpenGL: every module takes it from here. Knows nothing else.

On Linux timm brings triton in (through torchvision), and triton's library carries LLVM symbols that clash with those of
Mesa's OpenGL driver, which napari has loaded by then: the process would die. Bound to its own symbols it does not.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def _import_triton_alone() -> None:
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        import triton  # noqa: F401
    finally:
        sys.setdlopenflags(flags)


if sys.platform == "linux" and find_spec("triton"):
    _import_triton_alone()

import timm  # noqa: E402
import timm.models.swin_transformer_v2  # noqa: E402

__all__ = ["timm"]
