"""The pre-flight card: a plan in words, for people. Knows plans; must not know where they are shown."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from napari_xt.engine.limits import gib, size

if TYPE_CHECKING:
    from napari_xt.engine.plan import Plan

MINUTE, HOUR = 60, 3600


def card(plan: Plan) -> list[tuple[str, str]]:
    """The pre-flight card, line by line: what it is about, and what is said."""
    lines = [
        ("image", _image(plan)),
        *_channels(plan),
        *_intensity(plan),
        ("model", f"{plan.model}: {', '.join(plan.outputs)}"),
        ("regions", _regions(plan)),
        ("windows", _windows(plan)),
        ("device", f"{plan.machine.device} ({plan.machine.reason}), {plan.workers} workers"),
        ("precision", _precision(plan)),
        ("memory", f"about {gib(plan.memory_bytes)} at most"),
        ("disk", _disk(plan)),
        ("time", _time(plan)),
    ]
    if plan.reused:
        lines.append(("reuse", f"{plan.reused} of {plan.regions} regions, as {Path(plan.reuse).name} has them encoded"))
    if "label" in plan.outputs:
        told = f"of each window, given to its regions; the image's is their mean ({_span(plan)} a window)"
        lines.append(("label", told))
    return lines + [("warning", text) for text in plan.warnings]


def duration(seconds: float) -> str:
    """Seconds in words, as exactly as a prediction is: ``"45 s"``, ``"3 min 20 s"``, ``"2 h 10 min"``."""
    if seconds < MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < HOUR:
        minutes, rest = divmod(10 * round(seconds / 10), MINUTE)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{round(seconds / MINUTE)} min"
    hours, rest = divmod(10 * round(seconds / 600), MINUTE)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def _image(plan: Plan) -> str:
    height, width = plan.frame.shape_px
    scale = f", {plan.frame.scale_run[0]:g} {plan.frame.unit} a pixel" if plan.frame.unit != "pixel" else ""
    how = " resampled" if plan.resampled else ""
    return f"{plan.image}, {height} x {width} px, level {plan.level}{how}{scale}{_plane(plan)}"


def _plane(plan: Plan) -> str:
    """Where on the axes beyond y and x, counted from 0."""
    places = [(axis, index, plan.sizes.get(axis, 1)) for axis, index in plan.plane.items()]
    return "".join(f", {axis} = {index}" + (f" of {size}" if size > 1 else "") for axis, index, size in places)


def _channels(plan: Plan) -> list[tuple[str, str]]:
    """A line where it is not plain which channel is which."""
    pairs = ", ".join(f"{model}: {image}" for model, image in plan.channel_names)
    return [("channels", pairs)] if pairs else []


def _intensity(plan: Plan) -> list[tuple[str, str]]:
    """A line where limits stand for the dtype's range."""
    pairs = ", ".join(f"{low:.5g} to {high:.5g}" for low, high in plan.limits)
    rule = f"{plan.percentiles[0]:g} to {plan.percentiles[1]:g} %" if plan.percentiles else "as set"
    return [("intensity", f"{rule}: {pairs}")] if pairs else []


def _regions(plan: Plan) -> str:
    rows, cols = plan.grid.shape
    halo = f", halo {plan.grid.halo_px}" if plan.grid.halo_px else ""
    skipped = f", {plan.skipped} of them empty and skipped" if plan.skip_background else ""
    drawn = ", those that the drawn areas touch" if plan.left_out else ""
    return f"{plan.regions} of {rows * cols} ({plan.grid.region_px} px{halo}){drawn}{skipped}"


def _windows(plan: Plan) -> str:
    part = ", context: the regions that are run" if plan.regions < prod(plan.grid.shape) else ""
    seen = f"up to {plan.tokens} tokens each{part}" if plan.context else "context off"
    return f"{plan.windows} of {_span(plan)}, {seen}"


def _span(plan: Plan) -> str:
    return "the whole image" if plan.grid.window == 0 else f"{plan.grid.window} x {plan.grid.window} regions"


def _precision(plan: Plan) -> str:
    if plan.precision == "bfloat16":
        return "bfloat16, in which this machine is faster" if plan.machine.bfloat16 else "bfloat16, as asked"
    return "float32, as asked" if plan.machine.bfloat16 else "float32: no bfloat16 on this machine"


def _disk(plan: Plan) -> str:
    waiting = plan.disk_peak_bytes - plan.disk_bytes
    running = f", {size(plan.disk_peak_bytes)} while running" if waiting > 0.1 * plan.disk_bytes else ""
    kept = "" if plan.keep == "nothing" else f" ({plan.keep} of all regions kept)"
    return f"about {size(plan.disk_bytes)}{kept}{running}"


def _time(plan: Plan) -> str:
    if plan.seconds is None:
        return "not measured on this machine yet"
    return f"about {duration(plan.seconds)} on an idle machine"
