"""timm's backbones, imported so that they live beside OpenGL. Knows timm; knows nothing of regions or heads.

On Linux timm brings triton in (through torchvision), and triton's library carries LLVM symbols that clash with those of
Mesa's OpenGL driver, which napari has loaded by then: the process would die. Bound to its own symbols it does not.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from torch import nn

from napari_xt.errors import ModelError


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


def backbone(name: str, in_channels: int) -> nn.Module:
    """Build a timm backbone that gives feature maps, with random weights.

    Parameters
    ----------
    name
        timm's name, of a backbone that offers ``features_only``.
    in_channels
        C of its input ``(B, C, H, W)``.

    Raises
    ------
    ModelError
        timm has no such backbone, or it offers no feature maps.
    """
    try:
        built: nn.Module = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ModelError(f"region_encoder = {name!r}", f"timm can't build it: {error}") from error
    return built


def parameter_names(name: str) -> list[str]:
    """Names of all tensors of the whole timm model, classifier included, in order, without batch counters."""
    return [key for key in timm.create_model(name).state_dict() if not key.endswith("num_batches_tracked")]
