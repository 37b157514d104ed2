"""What a run will take: memory at its highest, disk, time. Sums of named parts, of which the constants were measured.

Knows plans and images' sizes; imports no torch and reads no pixel. ``python tests/benchmarks/preflight.py`` compares it
with runs, part by part: that is how to measure the constants again where the engine has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_xt.engine.machine import LOADED_BYTES
from napari_xt.engine.reading import kept_bytes
from napari_xt.geometry import Step
from napari_xt.io.stores.layout import FEATURES, TOKENS, Layout, ShelfLayout, kept_arrays
from napari_xt.model.config import ContextKind, XTConfig

if TYPE_CHECKING:
    from napari_xt.engine.plan import Plan
    from napari_xt.io.image import Image

MIB = 1 << 20
THREAD_BYTES = 12 * MIB  # of a worker: what its allocator holds besides tensors
ENCODER_BYTES = 250  # a pixel that the region encoder sees, where no probe has told
HELD, ROWS_HELD = 1.3, 1.5  # memory that is held over memory that is used: allocators give back late and in pieces
GROUP, BATCHES = 64, 2  # regions that are handed over together, batches begun ahead (as in writer and windows)
ROWS_BEGUN = 6  # of a large window are between its heads and its boxes
WRITTEN_GROUPS, LARGE_GROUPS = 3, 4  # are on their way into the store; into that of a large window, from the reader on
HEAD_CELLS, HEAD_BYTES = 64 * 512, 4 * 64 * 3  # of local features that a head works on at a time, bytes a cell
# bytes of the context encoder for each channel of each token, and at most for each channel whatever the tokens
CONTEXT_BYTES: Mapping[ContextKind, tuple[int, int]] = {
    "mamba": (15, 65_000),
    "transformer_xl": (20, 190_000),
    "hyper": (66, 0),
    "longformer": (48, 0),
    "none": (4, 0),
    "custom": (48, 0),
}
START_SECONDS = 0.5  # to make the store, and to finish it
READ_WRITE_SECONDS = 4e-8  # a pixel: read, cut, written, of which a probe of the network knows nothing

# compressed over plain, for aerial, street and microscope images with a network that knows its classes
MASK_RATIO, PROBABILITY_RATIO, OVERVIEW_RATIO = 0.02, 0.36, 0.86
REGION_BYTES, REGION_BOXES_BYTES = 250, 900  # of the journal
STORE_BYTES = 60_000  # descriptions, an empty journal


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of memory and disk, part by part; seconds, None where nothing was measured of the model."""

    memory: Mapping[str, int]
    disk: Mapping[str, int]
    waiting_bytes: int
    seconds: float | None

    @property
    def memory_bytes(self) -> int:
        """The high-water mark of a process that does nothing else."""
        return sum(self.memory.values())

    @property
    def disk_bytes(self) -> int:
        """Of the store when it is complete."""
        return sum(self.disk.values())

    @property
    def disk_peak_bytes(self) -> int:
        """Of the store while it is made."""
        return self.disk_bytes + self.waiting_bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """What is estimated: ``steps`` are those of the run, ``weight_bytes`` the model's."""

    plan: Plan
    image: Image
    config: XTConfig
    shelf: ShelfLayout
    steps: Sequence[Step]
    weight_bytes: int


def needs(subject: Subject) -> Needs:
    """What the run will take."""
    memory = _shared(subject) | (_large(subject) if subject.plan.large else _windows(subject))
    disk = _disk(subject)
    waiting = _stored(subject, (TOKENS, FEATURES)) - disk["kept"] if subject.plan.large else 0
    return Needs(memory, disk, waiting, _seconds(subject))


def _shared(subject: Subject) -> dict[str, int]:
    """What every run takes."""
    plan, found = subject.plan, subject.plan.machine.measured
    one = found.activations if found and found.activations else ENCODER_BYTES * subject.config.encoder_px**2
    working = max(one, HEAD_CELLS * HEAD_BYTES) if plan.machine.on_cpu else 0  # one region after the other
    copied = 1.5 if plan.precision == "bfloat16" else 1.25  # laid out anew, or converted
    return {
        "process": LOADED_BYTES,
        "weights": int(copied * subject.weight_bytes),
        "workers": int(plan.workers * (HELD * working + THREAD_BYTES)),
    }


def _windows(subject: Subject) -> dict[str, int]:
    """Of windows that are in memory: steps that are read ahead, encoded and decoded, groups that are written."""
    plan = subject.plan
    step = max((sum(prod(window.shape) for window in step.windows) for step in subject.steps), default=0)
    ahead = max(GROUP, BATCHES * plan.workers * plan.batch)
    read, encoded = ((steps * step) for steps in (2 + ceil(ahead / max(1, step)), 2))
    written = max(WRITTEN_GROUPS * GROUP, int(1.5 * step))
    return {
        "pixels": kept_bytes(subject.image, plan),
        "read": int(HELD * min(read, plan.regions) * _read(subject)),
        "encoded": int(HELD * min(encoded, plan.regions) * _encoded(subject)),
        "context": int(HELD * _context(subject)) * min(2, plan.workers),
        "written": int(HELD * min(written, plan.regions) * _written(subject)),
    }


def _large(subject: Subject) -> dict[str, int]:
    """Of a window that waits on disk: groups are read, encoded and written, then its rows decoded from there.

    What the groups took is not given back; the pixels are.
    """
    plan = subject.plan
    (window,) = (window for step in subject.steps for window in step.windows)
    k, cells = plan.grid.block_regions, (subject.config.region_px // plan.stride) ** 2
    boxes = ROWS_BEGUN * 4 * cells * (len(subject.config.boxes or ()) + 4)
    region = boxes + 2 * plan.workers * _encoded(subject) + 2 * k * _decoded(subject)
    rows = int(ROWS_HELD * window.shape[1] * region) * subject.config.dense + _context(subject)
    pixels = kept_bytes(subject.image, plan)
    return {
        "groups": int(HELD * LARGE_GROUPS * GROUP * (_read(subject) + 1.5 * _encoded(subject))),
        "pixels": max(0, pixels - rows),
        "rows": rows,
    }


def _read(subject: Subject) -> int:
    """Bytes of the pixels that are read for a region."""
    plan, config = subject.plan, subject.config
    side = config.region_px + (2 * config.halo_px if plan.grid.window == 1 else 0)
    return side**2 * subject.image.channels * subject.image.dtype.itemsize


def _encoded(subject: Subject) -> int:
    """Bytes of an encoded region."""
    return 4 * (prod(subject.shelf.tokens) + prod(subject.shelf.local))


def _written(subject: Subject) -> int:
    """Bytes of a region that is on its way into the store, with its pixels."""
    pixels = subject.config.region_px**2 * len(subject.plan.channels) * subject.image.dtype.itemsize
    return _decoded(subject) + pixels


def _decoded(subject: Subject) -> int:
    """Bytes of a region's mask and probability."""
    plan, pixels = subject.plan, subject.config.region_px**2
    return pixels + len(subject.config.mask or ()) * pixels // plan.stride**2 if "mask" in plan.outputs else 0


def _context(subject: Subject) -> int:
    """Bytes that the context encoder takes for the largest window."""
    each, most = CONTEXT_BYTES[subject.config.context.kind if subject.plan.context else "none"]
    tokens = subject.plan.tokens
    return subject.config.context.dim * (each * tokens + min(most, 330 * tokens))


def _disk(subject: Subject) -> dict[str, int]:
    """Of the complete store."""
    plan = subject.plan
    layout = _layout(subject)
    share = (plan.regions - plan.skipped) / max(1, prod(plan.grid.shape))
    mask = sum(map(prod, layout.mask_shapes)) if layout.mask else 0
    probability = len(layout.mask) * prod(layout.probability_shape) if layout.mask else 0
    overview = prod(layout.overview_shape) * subject.image.dtype.itemsize
    row = REGION_BYTES + 4 * layout.values + (REGION_BOXES_BYTES if layout.boxes else 0)
    return {
        "mask": int(share * MASK_RATIO * mask),
        "probability": int(share * PROBABILITY_RATIO * probability),
        "overview": int(OVERVIEW_RATIO * overview * plan.regions / max(1, prod(plan.grid.shape))),
        "journal": plan.regions * row,
        "description": STORE_BYTES,
        "kept": _stored(subject, kept_arrays(subject.plan.keep)),
    }


def _layout(subject: Subject) -> Layout:
    plan, config = subject.plan, subject.config
    return Layout(
        frame=plan.frame,
        grid=plan.grid,
        stride=plan.stride,
        mask=config.mask if "mask" in plan.outputs else None,
        boxes=config.boxes if "boxes" in plan.outputs else None,
        scores=config.scores or config.label,
        overview_channels=len(plan.channels),
        overview_dtype=str(subject.image.dtype),
    )


def _stored(subject: Subject, arrays: Sequence[str]) -> int:
    """Bytes of the encoded regions on disk, which are not compressed."""
    sizes = {TOKENS: prod(subject.shelf.tokens), FEATURES: prod(subject.shelf.local)}
    return subject.plan.regions * sum(sizes[name] for name in arrays) * (4 if subject.config.stored == "float32" else 2)


def _seconds(subject: Subject) -> float | None:
    plan, found = subject.plan, subject.plan.machine.measured
    if found is None:
        return None
    each = found.seconds if found.whole else found.seconds + READ_WRITE_SECONDS * subject.config.region_px**2
    return START_SECONDS + (plan.regions - plan.skipped - plan.reused) * each / plan.workers
