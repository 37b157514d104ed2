"""Whether a model fits an image, in a few words for a list of models. Reads no pixels; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_xt.engine.fed import Fed, fed
from napari_xt.engine.plan import Model, run_level
from napari_xt.engine.settings import RunSettings
from napari_xt.errors import XTError
from napari_xt.io.image import Image


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether it does, and ``text``: how, or why not."""

    good: bool
    text: str


def fit(image: Image, model: Model, settings: RunSettings | None = None) -> Fit:
    """Say whether a model can be run over an image: ``fits: resampled 0.25 -> 0.5 um, channel DAPI``.

    Parameters
    ----------
    image
        Of which names, sizes and the pixel size are looked at.
    model
        Loaded, or what is known of it without weights.
    settings
        Level and channels that are chosen already.
    """
    wanted = replace(settings or RunSettings(), intensity="range")
    try:
        given = fed(image, model.name, model.config, wanted)
        level, shape, warnings = run_level(image, model.config, wanted)
    except XTError as error:
        return Fit(False, f"does not fit: {_why(image, model, wanted, error)}")
    scaled = "pixel size not known" if warnings and image.scale_um is None else _resampled(image, level, shape)
    how = [part for part in (scaled, _named(given)) if part]
    return Fit(True, f"fits: {', '.join(how)}" if how else "fits")


def _why(image: Image, model: Model, settings: RunSettings, error: XTError) -> str:
    wants, there = model.config.in_channels, image.channels - (image.alpha is not None)
    if settings.channels is None and wants != there:
        return f"wants {wants} channel{'s' * (wants != 1)}, the image has {there}"
    return error.why


def _resampled(image: Image, level: int, shape: tuple[int, int]) -> str:
    """From which pixel size to which, where the level is not run as it is."""
    if image.scale_um is None or shape == image.level_shapes[level]:
        return ""
    there, run = (image.scale_um[0] * image.shape[0] / rows for rows in (image.level_shapes[level][0], shape[0]))
    return f"resampled {there:.3g} -> {run:.3g} um"


def _named(given: Fed) -> str:
    """Which channels are taken, where that is not plain."""
    names = [image for _, image in given.names]
    return f"channel{'s' * (len(names) > 1)} {', '.join(names)}" if names else ""
