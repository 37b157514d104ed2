from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import store_case as case

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")


def kill(folder: Path, kills: int, seed: int) -> str:
    command = [sys.executable, "-W", "error", case.__file__, str(folder), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    assert kill(tmp_path, 10, seed=1) == "10 kills, 0 wrong"


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    assert kill(tmp_path, 200, seed=2) == "200 kills, 0 wrong"
