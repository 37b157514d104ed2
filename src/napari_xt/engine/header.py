"""What a run is, as its store says it: the job that makes two runs the same, and notes. Imports no torch."""

from __future__ import annotations

from napari_xt.engine.area import digest_of
from napari_xt.engine.plan import NUMERICS, Model, Plan, shelf_layout
from napari_xt.engine.script import Script
from napari_xt.engine.settings import RunSettings
from napari_xt.io.image import Image
from napari_xt.io.stores.layout import Header, Layout


def header_of(image: Image, model: Model, settings: RunSettings, resolved: Plan) -> Header:
    """What stands at the head of the store of a run; ``resolved`` is its plan."""
    config = model.config
    scores = config.scores if "scores" in resolved.outputs else None
    label = config.label if "label" in resolved.outputs else None
    layout = Layout(
        frame=resolved.frame,
        grid=resolved.grid,
        stride=resolved.stride,
        mask=config.mask if "mask" in resolved.outputs else None,
        boxes=config.boxes if "boxes" in resolved.outputs else None,
        scores=scores or label,
        label=label if scores else None,
        shelf=shelf_layout(config, resolved),
        overview_channels=len(resolved.channels),
        overview_dtype=str(image.dtype),
    )
    stored = resolved.to_json()
    names = ("level", "plane", "channels", "roi_run", "context", "outputs", "precision", "grid", "frame")
    job = {name: stored[name] for name in names}
    job |= {"skip_background": True} if resolved.skip_background else {}
    job |= {"limits": stored["limits"]} if resolved.limits else {}
    job |= {"left_out": digest_of(resolved.left_out)} if resolved.left_out else {}
    digest = model.digest
    identity = {"model": digest, "image": image.identity(), "numerics": NUMERICS, "iou": config.suppression_iou}
    told = settings.to_json() | {"threshold": resolved.threshold}
    about: dict[str, object] = {
        "name": model.name,
        "digest": digest,
        "encoder": model.encoder_digest,
        "config": config.to_json(),
    }
    about |= {"blank": True} if getattr(model, "blank", False) else {}
    return Header(layout, job | identity, told, stored, about, _notes(image, _given(model), settings, resolved))


def _given(model: Model) -> str:
    """What a user gives to get the model: the path of one from a file, the name of one that was made in memory."""
    return getattr(model, "given", "") or model.name


def _notes(image: Image, model: str, settings: RunSettings, resolved: Plan) -> dict[str, object]:
    """What is to be known beside the job: where the image was, its pixels' size and values, how to run it again."""
    size = {"size": list(image.scale), "unit": image.unit, "source": image.scale_source}
    place = image.source or image.name
    notes: dict[str, object] = {"image": place, "pixel_size": size, "python": Script(place, model, settings).python()}
    if resolved.limits:
        rule = {"percentiles": list(resolved.percentiles)} if resolved.percentiles else {}
        notes["intensity"] = rule | {"limits": [list(pair) for pair in resolved.limits]}
    if image.georeference is not None:
        notes["georeference"] = image.georeference.to_json()
    if image.bounds_offset is not None:
        notes["bounds_offset"] = list(image.bounds_offset)
    return notes
