"""What of an image a model is fed: which channels are its own, and which of their values become 0 and 1.

Knows images, configurations and settings; must not know plans, networks or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from napari_xt.engine.settings import Channel, RunSettings
from napari_xt.errors import ModelError, SettingsError, printable
from napari_xt.io.image import Image
from napari_xt.io.images.channels import guess, index_of, named
from napari_xt.io.images.intensity import Limits, measured_limits
from napari_xt.model.config import XTConfig

SHOWN = 8  # so many channels are listed
SHOWN_LENGTH = 24  # of a channel's name


@dataclass(frozen=True, slots=True)
class Fed:
    """What a run feeds its model.

    ``channels`` are the image's, in the model's order; ``names`` pairs of a model's and an image's channel, where it is
    not plain which is which; ``limits`` as `XT.prepare` takes them, and the ``percentiles`` that they were measured at.
    """

    channels: tuple[int, ...]
    names: tuple[tuple[str, str], ...] = ()
    limits: Limits = ()
    percentiles: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()


def fed(image: Image, name: str, config: XTConfig, settings: RunSettings) -> Fed:
    """Resolve what is wanted against what there is; reads pixels only where limits are to be measured.

    Parameters
    ----------
    name
        What the model is called.

    Raises
    ------
    ModelError
        The image's channels do not fit the model, and nothing says which are meant.
    SettingsError
        Channels or limits that were given do not fit.
    ImageReadError
        Limits are to be measured, and the image can't be read.
    """
    channels = _channels(image, name, config, settings)
    shown = tuple(map(_short, image.channel_names))
    names = tuple((model, shown[i]) for model, i in zip(config.channel_names, channels, strict=True))
    told = names if _worth_telling(names, channels) else ()
    rule = config.normalisation if settings.intensity is None else settings.intensity
    if rule == "range":
        return Fed(channels, told)
    if rule == "percentile":
        percentiles = config.percentiles
        limits = measured_limits(image, channels, percentiles)
        return Fed(channels, told, limits, percentiles, tuple(_warnings(names, limits)))
    if len(rule) != len(channels):
        why = f"the model wants {len(channels)} pairs, one for each of {_list(config.channel_names)}"
        raise SettingsError(f"intensity = {rule}", why)
    return Fed(channels, told, tuple(rule), None, tuple(_warnings(names, rule)))


def _channels(image: Image, name: str, config: XTConfig, settings: RunSettings) -> tuple[int, ...]:
    wanted, chosen = config.channel_names, settings.channels
    if chosen is not None:
        given = _in_order(chosen, config) if isinstance(chosen, Mapping) else chosen
        if len(given) != len(wanted):
            raise SettingsError(f"channels = {chosen}", f"the model wants {len(wanted)} ({_list(wanted)})")
        return tuple(_index(channel, image, settings) for channel in given)
    if found := guess(wanted, image.channel_names):
        return found
    there = tuple(i for i in range(image.channels) if i != image.alpha)
    if len(there) != len(wanted):
        why = f"wants {len(wanted)} channels ({_list(wanted)}), {image.name} has {_told(image)}"
        raise ModelError(f"model {name}", why, f"say which: channels={_example(wanted, image)}")
    return there


def _in_order(chosen: Mapping[str, Channel], config: XTConfig) -> tuple[Channel, ...]:
    """The values of a mapping from model channels, in the model's order."""
    wanted = config.channel_names
    places = [index_of(name, wanted) for name in chosen]
    if sorted(-1 if place is None else place for place in places) != list(range(len(wanted))):
        why = f"does not name each of the model's channels once: {_list(wanted)}"
        raise SettingsError(f"channels = {dict(chosen)}", why, f"give {wanted[0]}=..., and so on")
    by_place = dict(zip(places, chosen.values(), strict=True))
    return tuple(by_place[place] for place in range(len(wanted)))


def _index(channel: Channel, image: Image, settings: RunSettings) -> int:
    found = index_of(channel, image.channel_names) if isinstance(channel, str) else channel
    if found is not None and 0 <= found < image.channels:
        return found
    span = f"{image.name} has the channels 0 to {image.channels - 1}: {_list(image.channel_names)}"
    raise SettingsError(
        f"channels = {settings.channels}", f"there is no single channel {channel!r}, {span}", "give an index or name"
    )


def _worth_telling(names: Sequence[tuple[str, str]], channels: Sequence[int]) -> bool:
    """Whether a user should see which channel is which: another order than the image's, or other names."""
    if tuple(channels) != tuple(range(len(channels))):
        return True
    return any(named(image) and image.lower() != model.lower() for model, image in names)


def _warnings(names: Sequence[tuple[str, str]], limits: Limits) -> list[str]:
    return [
        f"{image}: from {low:g} to {high:g} there is no contrast, the model sees next to nothing of it"
        for (_, image), (low, high) in zip(names, limits, strict=True)
        if low == high
    ]


def _told(image: Image) -> str:
    names = image.channel_names
    return f"{len(names)} ({_list(names)})" if any(map(named, names)) else str(len(names))


def _example(wanted: Sequence[str], image: Image) -> str:
    """What could be typed: the first channels of the image for the model's."""
    names = image.channel_names
    picked = [i % len(names) for i in range(min(len(wanted), SHOWN))]
    if not all(map(named, wanted)):
        return ",".join(map(str, picked))
    return ",".join(f"{model}={_typed(names[i], i)}" for model, i in zip(wanted, picked, strict=False))


def _typed(name: str, index: int) -> str | int:
    """A channel as it can be typed: its name, unless that says nothing, is long or holds a separator."""
    return name if named(name) and _short(name) == name and not set(name) & set(",=") else index


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(map(_short, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= SHOWN_LENGTH else f"{name[: SHOWN_LENGTH - 3]}..."
