"""What the user wants of a run: the one list of parameters that API, command line and widget share.

Knows values only: no image, no model, no machine.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, cast, get_args

from napari_xt.errors import SettingsError
from napari_xt.geometry import Box

Affects = Literal["result", "reading", "speed"]
Output = Literal["mask", "boxes", "scores", "label"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
Channel = int | str
Channels = tuple[Channel, ...] | Mapping[str, Channel]
Intensity = Literal["range", "percentile"] | tuple[tuple[float, float], ...]
AREAS = (".geojson", ".geojson.gz", ".json", ".json.gz")  # what files of areas end with


def _setting(help: str, affects: Affects, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help, "affects": affects})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Settings of a run; None stands for what the model, the image or the machine suggests.

    Every field's metadata carries ``help``, one sentence, and ``affects``: ``result`` (another prediction), ``reading``
    (only what is shown of it) or ``speed``.
    """

    level: int | None = _setting("Pyramid level to run on; default: by the model's pixel size.", "result")
    plane: Mapping[str, int] | None = _setting("Index along further axes, for instance {'t': 3}; default 0.", "result")
    channels: Channels | None = _setting(
        "Image channels by index or name, in the model's order or as nucleus=DAPI,membrane=2; default: by their names.",
        "result",
    )
    intensity: Intensity | None = _setting(
        "What becomes 0 and 1: range, percentile, or LOW:HIGH,... of each model channel; default: as the model says.",
        "result",
    )
    pixel_size: str | float | None = _setting("Pixel size where the image does not say it, e.g. '0.5 um'.", "result")
    roi: Box | str | None = _setting(
        "Part of the image: y0,x0,y1,x1 in level-0 pixels, or a GeoJSON file of areas; default: all.", "result"
    )
    window: int | Literal["global"] | None = _setting("Regions along a window's side, or 'global'.", "result")
    context: bool = _setting("Whether the regions of a window see each other.", "result", True)
    outputs: tuple[Output, ...] | None = _setting(
        "Which of mask, boxes, scores, label; default: all the model has.", "result"
    )
    threshold: float | None = _setting("Boxes below this score are not shown; default: the model's.", "reading")
    device: str = _setting("auto, cpu, cuda, cuda:N or mps.", "speed", "auto")
    precision: Literal["auto", "float32", "bfloat16"] = _setting("auto, float32 or bfloat16.", "result", "auto")
    batch: int | None = _setting("Regions handed to the encoder at a time.", "speed")
    workers: int | None = _setting("Regions encoded side by side.", "speed")
    memory_limit_bytes: int | None = _setting(
        "Bytes of memory that a run may take; default: nine tenths of what is free.", "speed"
    )
    preview: bool | None = _setting(
        "Whether a large window shows what it sees of each region while it is encoded; default: in napari.", "speed"
    )
    keep: Literal["features", "tokens", "nothing"] | None = _setting(
        "What stays of encoded regions, to run again without encoding; default: tokens, in napari features.", "speed"
    )
    reuse: str = _setting(
        "A store whose encoded regions are taken; 'auto': one beside the image where none is named, or 'no'.",
        "speed",
        "auto",
    )
    skip_background: bool | None = _setting(
        "Whether regions that a coarse level shows to be empty are left out; default: as the model says.", "result"
    )
    on_error: Literal["skip", "raise"] = _setting(
        "A region that fails: skip it and list it, or raise.", "speed", "skip"
    )
    restart: bool = _setting("Throw away the run that is at the output path and begin anew.", "speed", False)

    def __post_init__(self) -> None:
        _whole("level", self.level, 0)
        _whole("batch", self.batch, 1)
        _whole("workers", self.workers, 1)
        _whole("memory_limit_bytes", self.memory_limit_bytes, 1)
        if self.window != "global":
            _whole("window", self.window, 1)
        _choice("preview", self.preview, (None, True, False))
        _choice("keep", self.keep, (None, "features", "tokens", "nothing"))
        _choice("skip_background", self.skip_background, (None, True, False))
        _choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        _choice("on_error", self.on_error, ("skip", "raise"))
        if isinstance(self.intensity, str):
            _choice("intensity", self.intensity, ("range", "percentile"))
        for output in self.outputs or ():
            _choice("outputs", output, OUTPUTS)
        if self.outputs == ():
            raise SettingsError("outputs = ()", "asks for nothing", f"name some of {', '.join(OUTPUTS)}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise SettingsError(f"threshold = {self.threshold}", "must lie in 0..1")

    @classmethod
    def of(cls, **options: object) -> Self:
        """Build settings from loosely typed options: lists for tuples, text for a region of interest.

        Raises
        ------
        SettingsError
            An option is unknown or its value makes no sense.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise SettingsError(unknown[0], "is no setting", f"known: {', '.join(sorted(known))}")
        given = {name: value for name, value in options.items() if value is not None}
        values: dict[str, Any] = {n: _READ[n](n, value) if n in _READ else value for n, value in given.items()}
        return cls(**values)

    @classmethod
    def merged(cls, settings: Self | None, options: Mapping[str, object]) -> Self:
        """``settings`` with ``options`` on top; either may be missing."""
        if settings is None:
            return cls.of(**options)
        return cls.of(**{**settings.to_json(), **options}) if options else settings

    def to_json(self) -> dict[str, object]:
        """The settings as values of JSON, field by field."""
        return asdict(self)


def parse_roi(roi: object) -> Box | str | None:
    """Read a region of interest: None, a Box, four numbers or ``"y0,x0,y1,x1"``, in level-0 px, or a file of areas.

    Raises
    ------
    SettingsError
        It is something else, or empty.
    """
    if roi is None or isinstance(roi, Box):
        return roi
    if isinstance(roi, (str, os.PathLike)) and os.fspath(roi).lower().endswith(AREAS):
        return os.fspath(roi)
    if isinstance(roi, Mapping):
        roi = [roi.get(name) for name in ("y0", "x0", "y1", "x1")]
    try:
        numbers = [float(part) for part in (roi.split(",") if isinstance(roi, str) else roi)]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(n) for n in numbers):
        do = "give y0,x0,y1,x1 in level-0 pixels, or a GeoJSON file"
        raise SettingsError(f"roi = {roi!r}", "is not four numbers", do)
    y0, x0, y1, x1 = numbers
    box = Box(math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1))
    if box.empty:
        raise SettingsError(f"roi = {roi!r}", "is empty", "give y0,x0,y1,x1 with y0 < y1 and x0 < x1")
    return box


def _roi(_name: str, value: object) -> Box | str | None:
    return parse_roi(value)


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise SettingsError(f"{name} = {value!r}", "is no list")


def _channels(name: str, value: object) -> Channels:
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.split(",")]
        by_model = {model.strip(): image for model, equals, image in pairs if model.strip() and equals}
        if len(by_model) != len(pairs):
            raise SettingsError(f"{name} = {value!r}", "is not understood", "for instance nucleus=DAPI,membrane=2")
        value = by_model
    if isinstance(value, Mapping):
        return {str(model): _channel(name, image) for model, image in value.items()}
    chosen = tuple(_channel(name, part) for part in _sequence(name, value))
    if not chosen:
        raise SettingsError(f"{name} = {value!r}", "names none", "for instance 0,1,2")
    return chosen


def _channel(name: str, value: object) -> Channel:
    if isinstance(value, str) and value.strip() and not re.fullmatch(r"\s*[-+]?\d+\s*", value):
        return value.strip()
    number = _integer(name, value)
    if number < 0:
        raise SettingsError(f"{name} = {value!r}", "channels are counted from 0", "for instance 0,1,2")
    return number


def _intensity(name: str, value: object) -> Intensity:
    if value in ("range", "percentile"):
        return cast("Intensity", value)
    parts = [part.split(":") if isinstance(part, str) else part for part in _sequence(name, value)]
    try:
        limits = tuple((float(low), float(high)) for low, high in parts)
    except (TypeError, ValueError):
        limits = ()
    if not limits or not all(math.isfinite(high - low) and low <= high for low, high in limits):
        do = "give range, percentile, or LOW:HIGH for each of the model's channels, as 120:3400,0:255"
        raise SettingsError(f"{name} = {value!r}", "is not understood", do)
    return limits


def _plane(name: str, value: object) -> Mapping[str, int]:
    if isinstance(value, Mapping):
        return {str(axis): _integer(name, index) for axis, index in value.items()}
    pairs = [str(part).partition("=") for part in _sequence(name, value)]
    if not all(axis and equals for axis, equals, _ in pairs):
        raise SettingsError(f"{name} = {value!r}", "is not understood", "for instance t=3,z=0")
    return {axis: _integer(name, index) for axis, _, index in pairs}


def _integer(name: str, value: object) -> int:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (not isinstance(value, str) and number != value):
        raise SettingsError(f"{name} = {value!r}", "is no whole number")
    return int(number)


def _window(name: str, value: object) -> int | Literal["global"]:
    return "global" if value == "global" else _integer(name, value)


def _path(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingsError(f"{name} = {value!r}", "is no path")
    return os.fspath(value)


def _float(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name} = {value!r}", "is no number") from error


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "level": _integer,
    "plane": _plane,
    "channels": _channels,
    "intensity": _intensity,
    "roi": _roi,
    "window": _window,
    "outputs": _sequence,
    "threshold": _float,
    "batch": _integer,
    "workers": _integer,
    "memory_limit_bytes": _integer,
    "reuse": _path,
}


def _whole(name: str, value: object, least: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise SettingsError(f"{name} = {value!r}", f"must be a whole number of at least {least}")


def _choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} = {value!r}", "is not known", f"choose of {', '.join(map(str, choices))}")
