"""Odd, damaged and hostile files: they open, or one sentence says why not, soon, in little memory, and nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hostile_files
import pytest
from hostile_crafted import CRAFTED, ODD
from hostile_files import CANARY, FORMATS, mutants

SECONDS, MIB = 5, 1024


def opened(paths: Iterable[Path], seconds: float) -> list[dict[str, Any]]:
    """Look at files in another process, and in a next one where it dies; return what became of each."""
    left, told = list(paths), []
    while left:
        done = one_process(left, seconds)
        told += done
        left = left[len(done) :]
    return told


def one_process(paths: list[Path], seconds: float) -> list[dict[str, Any]]:
    asked = "".join(json.dumps(str(path)) + "\n" for path in paths)
    command = [sys.executable, "-W", "ignore", hostile_files.__file__]
    try:
        child = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=seconds, check=False)
        text, why = child.stdout, f"exit status {child.returncode}: {child.stderr[-600:]}"
    except subprocess.TimeoutExpired as error:
        text, why = (error.stdout or b"").decode(), f"not over after {seconds} s"
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    told = [line for line in lines if "outcome" in line]
    if len(told) < len(paths):
        blank = {"message": why, "alarms": [], "seconds": 0, "mib": 0}
        told.append({"path": str(paths[len(told)]), "outcome": "died", **blank})
    return told


def faults(told: dict[str, Any]) -> list[str]:
    """What is wrong with how a file was met."""
    path, message = Path(told["path"]), told["message"]
    found = [f"{told['outcome']}: {message}"] if told["outcome"] not in ("opened", "refused") else []
    if told["outcome"] == "refused":
        named = path.name.encode("unicode_escape").decode() in message or path.stem[:20] in message
        found += [] if named else [f"does not name the file: {message}"]
        found += [] if len(message) <= 300 and message.isprintable() else [f"is no line: {message!r}"]
    found += [f"{told['seconds']:.1f} s"] if told["seconds"] > SECONDS else []
    found += [f"{told['mib']} MiB"] if told["mib"] > MIB else []
    return found + told["alarms"]


def check(paths: Iterable[Path], seconds: float = 60) -> list[dict[str, Any]]:
    told = opened(paths, seconds)
    bad = [
        f"{Path(one['path']).parent.name}/{Path(one['path']).name!r}: {fault}" for one in told for fault in faults(one)
    ]
    assert not bad, f"{len(bad)} of {len(told)}:\n" + "\n".join(bad)
    return told


def crafted(folder: Path, names: Iterable[str]) -> list[Path]:
    (folder / CANARY).write_bytes(b"II*\0")
    (folder / "in").mkdir()
    paths = [folder / "in" / name for name in names]
    for path in paths:
        CRAFTED[path.name](path)
    return paths


def test_whole_ones_open(tmp_path: Path) -> None:
    for name, write in FORMATS.items():
        write(tmp_path / name)
    told = check([tmp_path / name for name in FORMATS] + crafted(tmp_path, list(CRAFTED)[:ODD]))
    assert {Path(one["path"]).name: one["message"] for one in told if one["outcome"] != "opened"} == {}


def test_crafted_ones(tmp_path: Path) -> None:
    names = [name for name in CRAFTED if not name.startswith("cut-")][ODD:]
    told = check(crafted(tmp_path, names))
    assert sum(one["outcome"] == "refused" for one in told) > 0.6 * len(names)


def test_some_mutants(tmp_path: Path) -> None:
    check(mutants(tmp_path, 4))


@pytest.mark.slow
def test_all_that_are_cut_short(tmp_path: Path) -> None:
    names = [name for name in CRAFTED if name.startswith("cut-")]
    assert len(CRAFTED) >= 280
    check(crafted(tmp_path, names), 120)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1060, 6))
def test_many_mutants(tmp_path: Path, first: int) -> None:
    check(mutants(tmp_path, 6, first), 120)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user who may not read everything")
def test_permissions(tmp_path: Path) -> None:
    for name, write in FORMATS.items():
        write(tmp_path / name)
        (tmp_path / name).chmod(0)
    try:
        told = check([tmp_path / name for name in FORMATS])
        assert {one["outcome"] for one in told} == {"refused"}
    finally:
        for path in tmp_path.iterdir():
            path.chmod(0o755)
