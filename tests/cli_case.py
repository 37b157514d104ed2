"""Files that tests of the command line run on: a scene in several formats, a small model, and much that is no use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

import napari_xt as xt
from napari_xt.model.config import ModelCard
from small_model import small_model

SHAPE = (330, 290)  # 6 x 5 regions of the small model, 2 x 2 of its windows
ODD = "two\nlines \x1b[31m.tif"
COMMAND = (sys.executable, "-c", "import sys; from napari_xt.cli import main; sys.exit(main())")


def scene(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """``(Y, X, 3)`` uint8, squares of 8 px."""
    coarse = np.random.default_rng(0).integers(0, 256, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].copy()


def write_good(folder: Path) -> None:
    """Write what can be used: the scene, and ``small.safetensors``."""
    pixels = scene()
    zarr.create_array(str(folder / "scene.zarr"), data=pixels, chunks=(64, 64, 3))
    tifffile.imwrite(folder / "scene.tif", pixels, tile=(64, 64), photometric="rgb", compression="zlib")
    Image.fromarray(pixels).save(folder / "scene.png")
    xt.save_model(small_model(), folder / "small.safetensors", ModelCard(name="small", title="A small one"))


def write_bad(folder: Path) -> None:
    """Write beside the good files what can't be used."""
    cut(folder / "scene.tif", folder / "cut.tif")
    cut(folder / "scene.png", folder / "cut.png")
    cut(folder / "small.safetensors", folder / "cut.safetensors")
    (folder / "text.tif").write_text("no image\n")
    (folder / "text.safetensors").write_text("this is a text and no model at all\n")
    (folder / "zero.png").touch()
    (folder / "empty").mkdir()
    (folder / "others").mkdir()
    (folder / "others" / "letter.txt").write_text("keep me")
    Image.fromarray(scene()[..., 0]).save(folder / "grey.png")
    (folder / ODD).write_text("no image\n")


def cut(whole: Path, short: Path) -> None:
    """Write the first half of a file."""
    data = whole.read_bytes()
    short.write_bytes(data[: len(data) // 2])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below ``folder``."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def child(*arguments: object, warnings: bool = True, **options: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own; ``warnings`` end it as errors."""
    python, *rest = COMMAND
    call = [python, *(["-W", "error"] if warnings else []), *rest, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(call, **(pipes | {"env": os.environ.copy()} | options))  # type: ignore[call-overload]
