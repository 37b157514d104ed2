"""Figures by name, with the machine that they were measured on.

Knows how they are told and written; must not know how anything is measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

Figure = dict[str, Any]  # value, unit, detail


def machine() -> dict[str, Any]:
    """What figures are measured on, in plain values, and how busy it was."""
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    told = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", told.read_text()) if told.exists() else []
    return names[0] if names else platform.processor()


class Figures:
    """The figures of one run, each by its name with value, unit and details.

    Parameters
    ----------
    say
        Takes a line of text for each thing that becomes known.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.machine = machine()
        self.figures: dict[str, Figure] = {}
        self._say = say
        say(", ".join(f"{name} {value}" for name, value in self.machine.items()) + "\n")

    def add(self, name: str, value: float, unit: str, **detail: Any) -> None:
        """Keep a figure and tell its line."""
        self.figures[name] = {"value": value, "unit": unit, "detail": detail}
        told = ", ".join(f"{key} {_short(part)}" for key, part in detail.items())
        self._say(f"{name:<46} {_short(value):>10} {unit:<16} {told}")

    def write(self, path: str | os.PathLike[str] | None) -> None:
        """Write ``{"machine": {...}, "figures": {name: {"value", "unit", "detail"}}}``, where a file is given."""
        if path is not None:
            told = {"machine": self.machine, "figures": self.figures}
            Path(path).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
