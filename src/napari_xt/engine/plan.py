"""Settings, image, model and machine resolved into a frozen plan: the pre-flight card. Pure; imports no torch."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Protocol

import psutil

from napari_xt.engine.background import Look, Runs, look
from napari_xt.engine.settings import OUTPUTS, Output, RunSettings
from napari_xt.errors import ModelError, SettingsError
from napari_xt.geometry import Box, Frame, Grid
from napari_xt.io.image import Image, open_image
from napari_xt.io.layout import ShelfLayout
from napari_xt.model.config import ModelCard, XTConfig
from napari_xt.model.zoo import describe, find_model

GIB = 2**30
IN_MEMORY_REGIONS = 256  # a window of more of them waits on disk where it is the whole image
KEPT_BYTES = 320 << 20  # of pixels that may be asked for again
PROCESS_BYTES = int(0.9 * GIB)  # Python with torch, timm, zarr, before any work
NEAR = 1.1  # a level may be this much coarser than the model's scale
RESAMPLE_BELOW, RESAMPLE_ABOVE = 0.8, 1.25  # pixels this much finer or coarser than the model's are resampled
ABSURD = 32.0  # a ratio beyond which the image's pixel size is taken to be wrong


class Model(Protocol):
    """What a plan needs of a model: a loaded `XT` or a `ModelInfo` without weights."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def config(self) -> XTConfig:
        """Its configuration."""

    @property
    def digest(self) -> str:
        """sha256 of configuration and tensors."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor that a run uses: ``device`` and why, CPU cores, memory of the machine in bytes."""

    device: str = "auto"
    reason: str = "chosen when PyTorch is loaded: cuda, mps, cpu"
    cores: int = 1
    memory_bytes: int = 0


def this_machine() -> Machine:
    """The machine as far as it is known without torch."""
    return Machine(cores=cores(), memory_bytes=memory_bytes())


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run will do, resolved.

    ``roi_run`` is in run pixels, inside the image; ``stride`` run pixels are a cell of the probability; ``regions`` are
    those that the run settles; ``empty`` are runs ``(first, last + 1)`` of indices of those of them that are skipped.
    """

    image: str
    model: str
    frame: Frame
    grid: Grid
    stride: int
    level: int
    resampled: bool
    plane: dict[str, int] = field(hash=False)
    channels: tuple[int, ...]
    roi_run: Box
    context: bool
    outputs: tuple[Output, ...]
    threshold: float
    machine: Machine
    precision: str
    batch: int
    workers: int
    regions: int
    windows: int
    tokens: int
    memory_bytes: int
    disk_bytes: int
    warnings: tuple[str, ...] = ()
    skip_background: bool = False
    empty: Runs = ()

    @property
    def skipped(self) -> int:
        """How many of the regions are not run, because they are empty."""
        return sum(stop - start for start, stop in self.empty)

    def skips(self, index: int) -> bool:
        """Whether the region of this index is not run."""
        place = bisect_right(self.empty, index, key=lambda run: run[0])
        return place > 0 and index < self.empty[place - 1][1]

    @property
    def large(self) -> bool:
        """Whether the window is the whole image and too large for memory: its regions wait on disk."""
        return self.grid.window == 0 and self.regions > IN_MEMORY_REGIONS

    def to_json(self) -> dict[str, object]:
        """The plan as values of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<10}{text}" for name, text in card(self))


def plan(
    image: Any,
    model: Model | str | os.PathLike[str] = "canopy",
    settings: RunSettings | None = None,
    machine: Machine | None = None,
    **options: object,
) -> Plan:
    """Resolve what the user wants against what there is; print it for the pre-flight card.

    Parameters
    ----------
    image
        What `open_image` takes.
    model
        A loaded model, what is known of one without its weights (`list_models`), or a name or path.
    settings, **options
        All settings at once, or fields of `RunSettings` one by one.
    machine
        What it runs on; default: this machine as far as it is known without torch.

    Raises
    ------
    XTError
        The image can't be read.
    SettingsError
        A setting does not fit the image (level, region of interest, plane).
    ModelError
        The model does not fit the image or the outputs asked for.
    """
    wanted = RunSettings.merged(settings, options)
    known = describe(find_model(model)) if isinstance(model, (str, os.PathLike)) else model
    if isinstance(image, Image):
        opened = open_image(image, pixel_size=wanted.pixel_size, plane=wanted.plane)
        return _resolved(opened, known, wanted, machine or this_machine())
    with open_image(image, pixel_size=wanted.pixel_size, plane=wanted.plane) as opened:
        return _resolved(opened, known, wanted, machine or this_machine())


def _resolved(image: Image, model: Model, settings: RunSettings, machine: Machine) -> Plan:
    config = model.config
    level, shape_run, warnings = _scale(image, config, settings)
    model_card: ModelCard | None = getattr(model, "card", None)
    if model_card is not None and model_card.synthetic:
        warnings.append(f"{model.name} is synthetic: only for the synthetic slide, never for real images")
    frame = Frame(image.shape, shape_run, image.scale, image.unit)
    skip = config.skip_background if settings.skip_background is None else settings.skip_background
    window = _window(config, settings)
    grid = Grid(*shape_run, config.region_px, config.halo_px, window)
    roi = _roi(image, frame, settings)
    channels = _channels(image, model, settings)
    seen = look(image, grid, channels, roi) if skip else Look()
    warnings += [seen.why] if seen.why else []
    steps = list(grid.steps(roi))
    windows = [w for step in steps for w in step.windows]
    regions = sum(w.shape[0] * w.shape[1] for w in windows)
    largest = max((w.shape[0] * w.shape[1] for w in windows), default=0)
    draft = Plan(
        image=image.name,
        model=model.name,
        frame=frame,
        grid=grid,
        stride=config.local.stride,
        level=level,
        resampled=shape_run != image.level_shapes[level],
        plane=dict(image.plane),
        channels=channels,
        roi_run=roi,
        context=settings.context,
        outputs=_outputs(model, settings),
        threshold=config.threshold if settings.threshold is None else settings.threshold,
        machine=machine,
        precision="float32",
        batch=settings.batch or (1 if machine.device in ("cpu", "auto") else 16),
        workers=settings.workers or (machine.cores if machine.device in ("cpu", "auto") else 1),
        regions=regions,
        windows=len(windows),
        tokens=config.sequence_length(largest),
        memory_bytes=0,
        disk_bytes=0,
        warnings=tuple(warnings),
        skip_background=skip,
        empty=seen.empty,
    )
    return replace(draft, memory_bytes=_memory(draft, config, largest), disk_bytes=_disk(draft, config))


def card(plan: Plan) -> list[tuple[str, str]]:
    """The pre-flight card, line by line: what it is about, and what is said."""
    height, width = plan.frame.shape_px
    sy = plan.frame.scale_run[0]
    scale = f", {sy:g} {plan.frame.unit} a pixel" if plan.frame.unit != "pixel" else ""
    how = " resampled" if plan.resampled else ""
    rows, cols = plan.grid.shape
    span = "the whole image" if plan.grid.window == 0 else f"{plan.grid.window} x {plan.grid.window} regions"
    halo = f", halo {plan.grid.halo_px}" if plan.grid.halo_px else ""
    skipped = f", {plan.skipped} of them empty and skipped" if plan.skip_background else ""
    lines = [
        ("image", f"{plan.image}, {height} x {width} px, level {plan.level}{how}{scale}"),
        ("model", f"{plan.model}: {', '.join(plan.outputs)}"),
        ("regions", f"{plan.regions} of {rows * cols} ({plan.grid.region_px} px{halo}){skipped}"),
        (
            "windows",
            f"{plan.windows} of {span}, {f'up to {plan.tokens} tokens each' if plan.context else 'context off'}",
        ),
        ("device", f"{plan.machine.device} ({plan.machine.reason}), {plan.precision}, {plan.workers} workers"),
        ("memory", f"about {plan.memory_bytes / GIB:.1f} GiB"),
        ("disk", f"up to {plan.disk_bytes / 1e6:.0f} MB"),
    ]
    if "label" in plan.outputs:
        lines.append(("label", f"of each window, given to its regions; the image's is their mean ({span} a window)"))
    return lines + [("warning", text) for text in plan.warnings]


def _scale(image: Image, config: XTConfig, settings: RunSettings) -> tuple[int, tuple[int, int], list[str]]:
    """Level, the run's shape and what to say about it."""
    if settings.level is not None:
        if settings.level >= len(image.level_shapes):
            last = len(image.level_shapes) - 1
            raise SettingsError(f"level = {settings.level}", f"{image.name} has the levels 0 to {last}")
        return settings.level, image.level_shapes[settings.level], []
    if config.scale_um is None or image.scale_um is None:
        return 0, image.level_shapes[0], []
    finest = image.scale_um[0]
    if not 1 / ABSURD <= config.scale_um / finest <= ABSURD:
        told = f"the image says {finest:g} um a pixel, the model wants {config.scale_um:g}"
        return 0, image.level_shapes[0], [f"{told}; run as it is: give pixel_size if the image is wrong"]
    level = _coarsest(image, config.scale_um)
    height, width = image.level_shapes[level]
    there = finest * image.shape[0] / height
    ratio = there / config.scale_um
    if RESAMPLE_BELOW <= ratio <= RESAMPLE_ABOVE:
        return level, (height, width), []
    return level, (max(1, round(height * ratio)), max(1, round(width * ratio))), []


def _coarsest(image: Image, wanted_um: float) -> int:
    assert image.scale_um is not None
    sizes = [image.scale_um[0] * image.shape[0] / height for height, _ in image.level_shapes]
    return max((i for i, size in enumerate(sizes) if size <= wanted_um * NEAR), default=0)


def _window(config: XTConfig, settings: RunSettings) -> int:
    if settings.window is None:
        return config.window
    return 0 if settings.window == "global" else settings.window


def _roi(image: Image, frame: Frame, settings: RunSettings) -> Box:
    if settings.roi is None:
        return Box(0, 0, *frame.shape_run)
    if not settings.roi.touches(Box(0, 0, *frame.shape_px)):
        y0, x0, y1, x1 = settings.roi.y0, settings.roi.x0, settings.roi.y1, settings.roi.x1
        height, width = frame.shape_px
        why = f"lies outside the image {image.name} of {height} x {width} px"
        raise SettingsError(f"roi = {y0},{x0},{y1},{x1}", why, "give y0,x0,y1,x1 in level-0 pixels")
    return frame.to_run(settings.roi.clip(Box(0, 0, *frame.shape_px)))


def _channels(image: Image, model: Model, settings: RunSettings) -> tuple[int, ...]:
    wanted, names = model.config.in_channels, ", ".join(model.config.channel_names)
    chosen = settings.channels
    if chosen is None:
        there = (
            image.channels - 1 if image.rgb and image.channels == wanted + 1 else image.channels
        )  # alpha is not looked at
        if there != wanted:
            why = f"wants {wanted} channels ({names}), {image.name} has {image.channels}"
            raise ModelError(f"model {model.name}", why, "choose another model or name the channels: channels=...")
        return tuple(range(wanted))
    if len(chosen) != wanted:
        raise SettingsError(f"channels = {chosen}", f"the model wants {wanted} ({names})")
    if max(chosen) >= image.channels:
        raise SettingsError(f"channels = {chosen}", f"{image.name} has the channels 0 to {image.channels - 1}")
    return chosen


def _outputs(model: Model, settings: RunSettings) -> tuple[Output, ...]:
    there = model.config.outputs
    for output in settings.outputs or ():
        if output not in there:
            raise ModelError(f"model {model.name}", f"has no {output}", f"it has {', '.join(there)}")
    return tuple(name for name in OUTPUTS if name in (settings.outputs or there))


def shelf_layout(config: XTConfig) -> ShelfLayout:
    """What is kept of an encoded region of a large window."""
    side = config.region_px // config.local.stride
    local = (config.local.channels if config.dense else 0, side, side)
    return ShelfLayout((config.tokens_per_region, config.context.dim), local, config.stored)


def _memory(plan: Plan, config: XTConfig, largest: int) -> int:
    """The high-water mark: of encoding (regions in flight, pixels that are kept) or decoding (rows of the window)."""
    cells, side = (config.region_px // config.local.stride) ** 2, config.region_px
    width = plan.grid.width * config.in_channels
    height = (1 if plan.large else round(largest**0.5)) * side + 2 * config.halo_px + 1024
    kept = height * width if height * width <= KEPT_BYTES else 0
    flying = min(largest, 64) if plan.large else largest
    features = 4 * cells * config.local.channels if config.dense else 0
    encoding = 2 * flying * (3 * side**2 * config.in_channels + features) + kept
    at_once = min(largest, (plan.grid.block_regions + 4) * plan.grid.shape[1])
    rows = at_once * (2 * features + 48 * cells + 4 * side**2) if config.dense else 0
    decoding = rows + 24 * plan.tokens * config.context.dim
    backbone = 4 * config.encoder_px**2 * 100 * plan.batch
    both = max(encoding, decoding) if plan.large else encoding + decoding
    return PROCESS_BYTES + both + plan.workers * backbone


def _disk(plan: Plan, config: XTConfig) -> int:
    """Uncompressed mask and probability, scores and the overview, and what waits: real stores are smaller."""
    pixels = plan.regions * config.region_px**2
    classes = len(config.mask or ()) if "mask" in plan.outputs else 0
    mask = pixels * 4 // 3 + classes * pixels // config.local.stride**2 if classes else 0
    shelf = shelf_layout(config)
    waiting = plan.regions * (prod(shelf.tokens) + prod(shelf.local)) * int(config.stored[-2:]) // 8
    return mask + plan.regions * 64 + min(pixels, 2048**2) * config.in_channels + 500_000 + waiting * plan.large
