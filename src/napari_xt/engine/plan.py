"""Settings, image, model and machine resolved into a frozen plan: the pre-flight card. Pure; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Protocol

from napari_xt.engine.area import drawn_area, wanted_count, wanted_steps, within, without
from napari_xt.engine.background import Look, Runs, look
from napari_xt.engine.card import card
from napari_xt.engine.estimate import Subject, needs
from napari_xt.engine.fed import Fed, fed
from napari_xt.engine.limits import check_memory, memory_limit
from napari_xt.engine.machine import Machine, this_machine
from napari_xt.engine.measured import recall
from napari_xt.engine.reuse import facts, reusing
from napari_xt.engine.settings import OUTPUTS, Output, RunSettings
from napari_xt.errors import ModelError, SettingsError
from napari_xt.geometry import Box, Frame, Grid, Region, Step
from napari_xt.io.html import html_table
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.intensity import Limits
from napari_xt.io.stores.layout import Keep, ShelfLayout
from napari_xt.model.config import CUSTOM, ModelCard, XTConfig
from napari_xt.model.zoo import describe, find_model

NUMERICS = 4  # raised when the same job would give other numbers
IN_MEMORY_REGIONS = 256  # a window of more of them waits on disk where it is the whole image
CPU_BATCH = 4  # regions that a worker is handed at a time on a CPU: it encodes them one by one
GPU_BATCH = 16  # regions at a time on a GPU, where no probe has told
NEAR = 1.1  # a level may be this much coarser than the model's scale
RESAMPLE_BELOW, RESAMPLE_ABOVE = 0.8, 1.25  # pixels this much finer or coarser than the model's are resampled
FAR = 4.0  # pixels this much finer or coarser on the best level are worth a warning
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

    @property
    def encoder_digest(self) -> str:
        """sha256 of those that tokens and local features depend on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run will do, resolved.

    ``roi_run`` is in run pixels, inside the image; ``stride`` run pixels are a cell of the probability; ``regions`` are
    those that the run settles; ``empty`` are runs ``(first, last + 1)`` of indices of those of them that are skipped,
    ``left_out`` of those between them that are not asked for.
    ``keep`` says what stays of encoded regions; ``reused`` of them are taken from the store at ``reuse``. ``alpha`` is
    the channel that says where there is a picture, ``nodata`` the whole number that says where there is none.
    ``sizes`` are lengths of the axes of ``plane``; ``channel_names``, ``limits`` and ``percentiles`` are of `Fed`.

    ``memory_bytes`` is the high-water mark of a process that does nothing else, ``disk_bytes`` the size of the complete
    store, ``disk_peak_bytes`` that while it is made; ``seconds`` is the time of the run, None where the model was not
    measured on this machine yet.
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
    preview: bool = False
    keep: Keep = "tokens"
    reuse: str = ""
    reused: int = 0
    left_out: Runs = ()
    disk_peak_bytes: int = 0
    seconds: float | None = None
    alpha: int | None = None
    nodata: int | None = None
    sizes: dict[str, int] = field(default_factory=dict, hash=False)
    channel_names: tuple[tuple[str, str], ...] = ()
    limits: Limits = ()
    percentiles: tuple[float, float] | None = None

    @property
    def skipped(self) -> int:
        """How many of the regions are not run, because they are empty."""
        return sum(stop - start for start, stop in self.empty)

    def skips(self, index: int) -> bool:
        """Whether the region of this index is not run."""
        return within(self.empty, index) or within(self.left_out, index)

    def wanted(self, regions: Iterable[Region]) -> list[Region]:
        """Those of ``regions`` that are asked for."""
        return [region for region in regions if not (self.left_out and within(self.left_out, region.index))]

    def steps(self) -> Iterator[Step]:
        """The steps of the run."""
        return wanted_steps(self.grid, self.roi_run, self.left_out)

    @property
    def large(self) -> bool:
        """Whether the window is the whole image and too large for memory: its regions wait on disk."""
        between = sum(stop - start for start, stop in self.left_out)
        return self.grid.window == 0 and self.regions + between > IN_MEMORY_REGIONS

    def to_json(self) -> dict[str, object]:
        """The plan as values of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<10}{text}" for name, text in card(self))

    def _repr_html_(self) -> str:
        return html_table(card(self))


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
    found = machine or informed(this_machine(), known, wanted)
    if isinstance(image, Image):
        return _resolved(open_image(image, pixel_size=wanted.pixel_size, plane=wanted.plane), known, wanted, found)
    with open_image(image, pixel_size=wanted.pixel_size, plane=wanted.plane) as opened:
        return _resolved(opened, known, wanted, found)


def informed(machine: Machine, model: Model, settings: RunSettings) -> Machine:
    """The machine with what was measured of the model on it, if anything was."""
    precision = precision_of(settings.precision, machine, model.config)
    return replace(machine, measured=recall(model.config, machine, precision))


def precision_of(wanted: str, machine: Machine, config: XTConfig) -> str:
    """The precision that ``"auto"`` stands for: a rule, never a timing, since results depend on it.

    A region encoder of the user's own may not know bfloat16: it computes in it only where that is asked for.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if machine.bfloat16 and config.region_encoder != CUSTOM else "float32"


def _resolved(image: Image, model: Model, settings: RunSettings, machine: Machine) -> Plan:
    given = fed(image, model.name, model.config, settings)

    def other(**changed: Any) -> Plan:
        return _draft(image, model, replace(settings, **changed), machine, given)

    made = other()
    check_memory(made, settings, other)
    return made


def _draft(image: Image, model: Model, settings: RunSettings, machine: Machine, given: Fed) -> Plan:
    """The plan, whether it fits or not."""
    config = model.config
    level, shape_run, warnings = run_level(image, config, settings)
    frame = Frame(image.shape, shape_run, image.scale, image.unit)
    skip = config.skip_background if settings.skip_background is None else settings.skip_background
    grid = Grid(*shape_run, config.region_px, config.halo_px, _window(config, settings))
    roi, left_out = _roi(image, frame, grid, settings)
    seen = look(image, grid, given.channels, roi) if skip else Look()
    steps = list(wanted_steps(grid, roi, left_out))
    sizes = [prod(window.shape) for step in steps for window in step.windows]
    draft = Plan(
        image=image.name,
        model=model.name,
        frame=frame,
        grid=grid,
        stride=config.local.stride,
        level=level,
        resampled=shape_run != image.level_shapes[level],
        plane=dict(image.plane),
        sizes={axis: image.sizes[axis] for axis in image.plane},
        channels=given.channels,
        channel_names=given.names,
        limits=given.limits,
        percentiles=given.percentiles,
        roi_run=roi,
        context=settings.context,
        outputs=_outputs(model, settings),
        threshold=config.threshold if settings.threshold is None else settings.threshold,
        machine=machine,
        precision=precision_of(settings.precision, machine, config),
        batch=settings.batch or _batch(machine),
        workers=settings.workers or (machine.cores if machine.on_cpu else 1),
        regions=wanted_count(grid, steps, left_out),
        windows=len(sizes),
        tokens=config.sequence_length(max(sizes, default=0)),
        memory_bytes=0,
        disk_bytes=0,
        warnings=(*warnings, *_warnings(model, settings, machine), *given.warnings, *filter(None, [seen.why])),
        skip_background=skip,
        empty=without(seen.empty, left_out),
        left_out=left_out,
        keep=_keep(config, settings),
        alpha=None if image.alpha in given.channels else image.alpha,
        nodata=image.nodata,
    )
    preview = draft.large and bool(settings.preview) and "mask" in draft.outputs
    draft = _reusing(replace(draft, preview=preview), image, model, settings)
    return _estimated(draft, image, model, settings, steps)


def _estimated(draft: Plan, image: Image, model: Model, settings: RunSettings, steps: Sequence[Step]) -> Plan:
    """The plan with what it takes; of the workers that nobody asked for, no more than fit into memory."""
    limit, weights = memory_limit(settings, draft.machine), getattr(model, "weight_bytes", 0)
    subject = Subject(draft, image, model.config, shelf_layout(model.config, draft), steps, weights)
    found = needs(subject)
    while settings.workers is None and draft.workers > 1 and limit is not None and found.memory_bytes > limit:
        draft = replace(draft, workers=draft.workers - 1)
        found = needs(replace(subject, plan=draft))
    return replace(
        draft,
        memory_bytes=found.memory_bytes,
        disk_bytes=found.disk_bytes,
        disk_peak_bytes=found.disk_peak_bytes,
        seconds=found.seconds,
    )


def _batch(machine: Machine) -> int:
    if machine.on_cpu:
        return CPU_BATCH
    return machine.measured.batch if machine.measured else GPU_BATCH


def _warnings(model: Model, settings: RunSettings, machine: Machine) -> list[str]:
    found: ModelCard | None = getattr(model, "card", None)
    told = []
    if found is not None and found.synthetic:
        told.append(f"{model.name} is synthetic: only for the synthetic slide, never for real images")
    if settings.precision == "bfloat16" and not machine.bfloat16:
        told.append("bfloat16 is asked for, in which this machine is slower than in float32")
    return told


def _keep(config: XTConfig, settings: RunSettings) -> Keep:
    """What stays of encoded regions: a model without local features has nothing but tokens."""
    return "tokens" if settings.keep is None or (settings.keep == "features" and not config.dense) else settings.keep


def _reusing(plan: Plan, image: Image, model: Model, settings: RunSettings) -> Plan:
    """The plan with what the store has that was named to be reused, if one was."""
    if settings.reuse in ("auto", "no"):
        return plan
    job = plan.to_json() | {"image": image.identity(), "numerics": NUMERICS}
    return reusing(plan, settings.reuse, facts(job, model.encoder_digest))


def run_level(image: Image, config: XTConfig, settings: RunSettings) -> tuple[int, tuple[int, int], list[str]]:
    """The level that is run, the shape ``(y, x)`` that it is resampled to, and warnings."""
    if settings.level is not None:
        if settings.level >= len(image.level_shapes):
            last = len(image.level_shapes) - 1
            raise SettingsError(f"level = {settings.level}", f"{image.name} has the levels 0 to {last}")
        return settings.level, image.level_shapes[settings.level], []
    if config.scale_um is None:
        return 0, image.level_shapes[0], []
    if image.scale_um is None:
        told = f"nothing states the pixel size: run as if it were the model's {config.scale_um:g} um"
        return 0, image.level_shapes[0], [f"{told}; give pixel_size if it is not"]
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
    resampled = max(1, round(height * ratio)), max(1, round(width * ratio))
    if 1 / FAR <= ratio <= FAR:
        return level, resampled, []
    told = f"level {level} has {there:g} um a pixel, more than {FAR:g} times off the model's {config.scale_um:g}"
    return level, resampled, [f"{told}: give pixel_size if the image is wrong"]


def _coarsest(image: Image, wanted_um: float) -> int:
    assert image.scale_um is not None
    sizes = [image.scale_um[0] * image.shape[0] / height for height, _ in image.level_shapes]
    return max((i for i, size in enumerate(sizes) if size <= wanted_um * NEAR), default=0)


def _window(config: XTConfig, settings: RunSettings) -> int:
    if settings.window is None:
        return config.window
    return 0 if settings.window == "global" else settings.window


def _roi(image: Image, frame: Frame, grid: Grid, settings: RunSettings) -> tuple[Box, Runs]:
    """What is run, and which regions in it are not."""
    if settings.roi is None:
        return Box(0, 0, *frame.shape_run), ()
    if isinstance(settings.roi, str):
        return drawn_area(settings.roi, image, frame, grid)
    if not settings.roi.touches(Box(0, 0, *frame.shape_px)):
        y0, x0, y1, x1 = settings.roi.y0, settings.roi.x0, settings.roi.y1, settings.roi.x1
        height, width = frame.shape_px
        why = f"lies outside the image {image.name} of {height} x {width} px"
        raise SettingsError(f"roi = {y0},{x0},{y1},{x1}", why, "give y0,x0,y1,x1 in level-0 pixels")
    return frame.to_run(settings.roi.clip(Box(0, 0, *frame.shape_px))), ()


def _outputs(model: Model, settings: RunSettings) -> tuple[Output, ...]:
    there = model.config.outputs
    for output in settings.outputs or ():
        if output not in there:
            raise ModelError(f"model {model.name}", f"has no {output}", f"it has {', '.join(there)}")
    return tuple(name for name in OUTPUTS if name in (settings.outputs or there))


def shelf_layout(config: XTConfig, plan: Plan) -> ShelfLayout:
    """What is stored of an encoded region."""
    side = config.region_px // config.local.stride
    local = (config.local.channels if config.dense else 0, side, side)
    tokens = config.tokens_per_region, config.context.dim
    return ShelfLayout(tokens, local, config.stored, plan.large, plan.keep)
