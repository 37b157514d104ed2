"""What all benchmarks share: their options, and how figures are printed, kept and measured in a process of their own.

Each script runs alone, ``python tests/benchmarks/NAME.py [--json FILE] [--quick]``, and writes
``{"machine": {...}, "figures": {name: {"value": v, "unit": u, "detail": {...}}}}``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from napari_xt.engine import figures


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    return parser


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


Figures = partial(figures.Figures, tell)


def resident(name: str) -> int:
    """Return VmRSS or VmHWM (the kernel's high-water mark) of this process, bytes; Linux only.

    ``getrusage`` would count what the parent of a process held when it was started.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def apart(script: str, *arguments: object) -> dict[str, Any]:
    """Run ``script`` in a fresh process and return the JSON on the last line that it prints."""
    call = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
