"""Each benchmark runs and writes what it should; how long anything took is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
NO_SCRIPTS = {"figures", "viewer_pauses", Path(__file__).stem}  # what these share
PAUSES = ["--only", "pauses"]
MISSING = 3  # exit code where what a benchmark compares with is not installed; it says how to install it

# script: figures that must be there, and arguments that leave out what takes long; others are run as slow tests
SCRIPTS: dict[str, tuple[set[str], list[str]]] = {
    "selective_scan": ({"selective_scan.forward.L64.E512.threads1", "selective_scan.difference.L64.E512.threads1"}, []),
    "boxes": ({"boxes.end_to_end.N5000.time", "boxes.end_to_end.N5000.memory", "boxes.pile.N5000.time"}, []),
    "boxes_view": ({"boxes_view.picture", "boxes_view.far.p50", "boxes_view.near.p95", "boxes_view.longest"}, []),
    "viewer": ({f"viewer.large.{kind}.{what}" for kind in ("sync", "async") for what in ("p99", "longest")}, PAUSES),
    "paint": ({"paint.brush.near", "paint.eraser.far", "paint.polygon.half", "paint.commit"}, []),
    "review": ({"review.open", "review.next", "review.accept"}, []),
    "refine": ({"refine.crowns.strip.seed0.box_f1_after", "refine.scribbles.nuclei.seed0.f1"}, []),
    "export": ({"export.boxes.csv.time", "export.all.geojson.time", "export.all.coco.json.memory"}, []),
    "reading": ({f"reading.{kind}.chunk" for kind in ("ome_zarr", "jpeg_tiff", "svs")}, []),
    "seams": ({"seams.recall.scene", "seams.recall_same.scene", "seams.change.mask"}, []),
    "preflight": ({f"preflight.{what}.canopy.600x500.window_2" for what in ("memory", "disk", "seconds")}, []),
    "swin_v2": ({"swin_v2.matmul.float32", "swin_v2.swinv2_tiny_window8_256.side64.batch1.float32"}, []),
    "whole_image": ({"whole_image.whole.256x512", "whole_image.hyper.256x512", "whole_image.mamba.256x512"}, []),
    "context_encoders": ({"context_encoders.mamba.N1024", "context_encoders.mamba.memory"}, ["--only", "mamba"]),
}


def quick(script: str, arguments: list[str], file: Path) -> dict[str, Any]:
    call = [sys.executable, str(HERE / f"{script}.py"), "--quick", "--json", str(file), *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode == MISSING:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    written: dict[str, Any] = json.loads(file.read_text())
    assert all(name in done.stdout for name in written["figures"])
    return written


def check(written: dict[str, Any], names: set[str]) -> None:
    assert set(written) == {"machine", "figures"}
    assert {"cpu", "cores", "torch", "threads"} <= set(written["machine"])
    assert names <= set(written["figures"])
    for figure in written["figures"].values():
        assert set(figure) == {"value", "unit", "detail"}
        assert math.isfinite(figure["value"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_writes_its_figures(script: str, tmp_path: Path) -> None:
    names, arguments = SCRIPTS[script]
    check(quick(script, arguments, tmp_path / "figures.json"), names)


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted({path.stem for path in HERE.glob("*.py")} - NO_SCRIPTS))
def test_every_benchmark_runs_with_all_that_it_measures(script: str, tmp_path: Path) -> None:
    check(quick(script, [], tmp_path / "figures.json"), set())
