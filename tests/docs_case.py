"""The examples of a page of the documentation, found and executed: Python in order, the command line in between."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_xt.cli import main

BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELLS = ("sh", "console")


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block: its language, its text, the line that it begins at, and why it can't be run, where it can't."""

    kind: str
    text: str
    line: int
    why: str | None


def examples(page: Path) -> list[Example]:
    text = page.read_text()
    return [
        Example(found["kind"], found["text"], text.count("\n", 0, found.start("text")) + 1, found["why"])
        for found in BLOCK.finditer(text)
        if found["kind"] in ("python", *SHELLS)
    ]


def execute(page: Path, found: list[Example], names: dict[str, Any]) -> None:
    """Run the blocks of a page in the current folder; Python shares ``names`` from block to block."""
    for one in found:
        if one.why is None and one.kind == "python":
            code = "\n" * (one.line - 1) + one.text
            exec(compile(code, str(page), "exec"), names)
        elif one.why is None:
            _shell(one, f"{page.name}:{one.line}")


def _shell(one: Example, where: str) -> None:
    lines = [shlex.split(line, comments=True) for line in one.text.replace("\\\n", "").splitlines()]
    words = [line for line in lines if line]
    if all(line[0] == "napari-xt" for line in words):
        for line in words:
            assert main(line[1:]) == 0, f"{where}: {shlex.join(line)}"
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", one.text], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{where}: {done.stderr}"
