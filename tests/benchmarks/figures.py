"""What all benchmarks share: their options, what the machine is, and how figures are printed and written.

Each script runs alone, ``python tests/benchmarks/NAME.py [--json FILE] [--quick]``, and writes
``{"machine": {...}, "figures": {name: {"value": v, "unit": u, "detail": {...}}}}``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import torch


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    return parser


def machine() -> dict[str, Any]:
    """Say in plain values what the figures were measured on, and how busy that was."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu() -> str:
    told = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", told.read_text()) if told.exists() else []
    return names[0] if names else platform.processor()


class Figures:
    """The figures of one run, by name."""

    def __init__(self) -> None:
        self.machine = machine()
        self.figures: dict[str, dict[str, Any]] = {}
        tell(", ".join(f"{name} {value}" for name, value in self.machine.items()) + "\n")

    def add(self, name: str, value: float, unit: str, **detail: Any) -> None:
        """Keep a figure and print its line."""
        self.figures[name] = {"value": value, "unit": unit, "detail": detail}
        told = ", ".join(f"{key} {_short(part)}" for key, part in detail.items())
        tell(f"{name:<46} {_short(value):>10} {unit:<16} {told}")

    def write(self, path: Path | None) -> None:
        """Write all as JSON, where a file is given."""
        if path is not None:
            path.write_text(json.dumps({"machine": self.machine, "figures": self.figures}, indent=1) + "\n")


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
