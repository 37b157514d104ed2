"""What is published of timm's backbones, in its own tables and on the Hugging Face hub, and why it can't be had.

Knows names and errors; knows no networks.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.error import URLError

from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from napari_xt.errors import ModelError
from napari_xt.model._timm import timm

HUB = ("hf-hub:", "hf_hub:")
SIDE = 224  # where nothing is said


class Published(NamedTuple):
    """A backbone's name, the side (px) that its weights were trained at, and mean and deviation of each channel.

    The name is the one that needs no hub, where there is one that builds the same network.
    """

    name: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published(name: str) -> Published:
    """What is known of a backbone without building it; of one on the hub, from its configuration there.

    Raises
    ------
    OSError
        The hub can't be reached or shows nothing under that name (`unreachable` says why).
    """
    if name.startswith(HUB):
        told, architecture, options = timm.models.load_model_config_from_hf(name.split(":", 1)[1])
        name = name if options else architecture
    else:
        told = getattr(timm.get_pretrained_cfg(name), "__dict__", {})
    side = told.get("input_size", (3, SIDE, SIDE))[-1]
    mean, std = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    return Published(name, side, tuple(told.get("mean", mean)), tuple(told.get("std", std)))


def unreachable(name: str, error: OSError) -> ModelError:
    """Say why the hub gave nothing."""
    what = f"region_encoder = {name!r}"
    if isinstance(error, GatedRepoError):
        return ModelError(what, "needs access and HF_TOKEN", "ask for access on its page, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        why = "the Hugging Face hub shows no such repository"
        return ModelError(what, why, "check the name; a private one needs access and HF_TOKEN")
    if isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError | URLError):
        why = "this machine is offline (the Hugging Face hub can't be reached, or HF_HUB_OFFLINE is set)"
        return ModelError(what, f"{why}, and it is not in the cache", "go online once, or set pretrained to False")
    return ModelError(what, f"can't be fetched: {error}")
