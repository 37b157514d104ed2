"""A run as text that runs it elsewhere: a line of Python, of a shell, a job for a cluster, a file of settings.

Knows settings and names; must not know images, models or machines: what only this machine is asked for is left out.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from napari_xt.engine.settings import RunSettings
from napari_xt.errors import SettingsError
from napari_xt.geometry import Box
from napari_xt.io.stores.durable import write_file, writing

FORMAT = 1  # of files of settings
MAX_BYTES = 1 << 20  # of such a file
SBATCH = """#!/bin/bash
#SBATCH --job-name=napari-xt
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
# submitted again, it goes on where it was stopped
srun {line}
"""


@dataclass(frozen=True, slots=True)
class Script:
    """What is run, as names: the path of an image, the name or path of a model, the store or None for the default."""

    image: str
    model: str
    settings: RunSettings
    out: str | None = None

    def python(self) -> str:
        """A script of three lines."""
        call = ", ".join([f"{self.image!r}, {self.model!r}", *self._arguments()])
        return f"import napari_xt as xt\n\nprediction = xt.predict({call}, progress=True)\n"

    def console(self, layer: str) -> str:
        """The line for napari's console; ``layer`` is the name of what is run there."""
        return f"handle = xt.run({', '.join([f'viewer, {layer!r}, {self.model!r}', *self._arguments()])})"

    def shell(self) -> str:
        """The command."""
        options = [word for name, value in changed(self.settings).items() for word in _flag(name, value)]
        out = ["--out", self.out] if self.out else []
        return shlex.join(["napari-xt", "run", self.image, "--model", self.model, *out, *options])

    def sbatch(self) -> str:
        """A job for Slurm; what it asks the cluster for is to be looked at."""
        return SBATCH.format(line=self.shell())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model and settings to a file that ``napari-xt run --settings`` takes, drawn areas beside it.

        Raises
        ------
        StoreError
            It can't be written.
        """
        place, settings = Path(path), changed(self.settings)
        with writing(place):
            if isinstance(settings.get("roi"), str):
                areas = place.with_name(f"{place.stem}.areas.geojson")
                write_file(areas, Path(str(settings["roi"])).read_bytes())
                settings["roi"] = areas.name
            told = {"napari_xt": FORMAT, "model": self.model, "settings": settings}
            write_file(place, json.dumps(told, indent=1, default=_plain).encode())

    def _arguments(self) -> list[str]:
        out = [f"out={self.out!r}"] if self.out else []
        return [*out, *(f"{name}={_python(value)}" for name, value in changed(self.settings).items())]


def changed(settings: RunSettings) -> dict[str, Any]:
    """The fields that are not left to model and image; nothing that changes only how fast a machine is."""
    usual = RunSettings()
    own = [field.name for field in fields(settings) if field.metadata["affects"] != "speed"]
    return {name: getattr(settings, name) for name in own if getattr(settings, name) != getattr(usual, name)}


def read_settings(path: str | os.PathLike[str]) -> tuple[str, RunSettings]:
    """The model and the settings in a file that `Script.save` has written.

    Raises
    ------
    SettingsError
        There is no such file, or it holds something else.
    """
    place = Path(path).expanduser()
    do = "give a file that the widget's Save settings has written"
    try:
        if place.stat().st_size > MAX_BYTES:
            raise SettingsError(place, "is too large for a file of settings", do)
        told = json.loads(place.read_bytes())
    except OSError as error:
        raise SettingsError(place, f"can't be read: {error.strerror}", do) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(place, "is no JSON", do) from error
    if not isinstance(told, dict) or told.get("napari_xt") != FORMAT or not isinstance(told.get("settings"), dict):
        raise SettingsError(place, "holds no settings of a run", do)
    model = told.get("model")
    settings = RunSettings.of(**{str(name): value for name, value in told["settings"].items()})
    if isinstance(settings.roi, str):
        settings = replace(settings, roi=str(place.absolute().parent / settings.roi))
    return model if isinstance(model, str) else "canopy", settings


def _plain(value: object) -> object:
    """What JSON has no own way for."""
    if isinstance(value, Box):
        return _text(value)
    return dict(value) if isinstance(value, Mapping) else str(value)


def _python(value: object) -> str:
    if isinstance(value, Box):
        return repr(_text(value))
    return repr(dict(value) if isinstance(value, Mapping) else value)


def _flag(name: str, value: object) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{name.replace('_', '-')}"]
    text = _text(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _text(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Box):
        return f"{value.y0},{value.x0},{value.y1},{value.x1}"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={one}" for key, one in value.items())
    if isinstance(value, (tuple, list)):
        return ",".join(":".join(map(repr, one)) if isinstance(one, (tuple, list)) else str(one) for one in value)
    return str(value)
