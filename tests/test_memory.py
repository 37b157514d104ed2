"""Memory does not grow with the image: the kernel's high-water mark of a whole run in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_xt.geometry import Box
from napari_xt.io.image import open_image

RUN = """
import json, resource, sys
import napari_xt as xt
prediction = xt.predict(sys.argv[1], "canopy", out=sys.argv[2], workers=2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "complete": prediction.complete, "boxes": len(prediction.boxes)}))
"""


def mirrored(path: Path, height: int, width: int) -> None:
    """Write an OME-Zarr 0.4 of the bundled scene and its mirror images, side by side."""
    with open_image(str(files("napari_xt") / "samples/yellowstone.ome.tif")) as image:
        scene = image.read(Box(0, 0, *image.shape))
    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array("0", shape=(3, height, width), chunks=(1, 512, 512), dtype="u1")
    rows, cols = (_folded(np.arange(n), size) for n, size in zip((height, width), scene.shape[1:], strict=True))
    for y in range(0, height, 512):
        array[:, y : y + 512] = scene[:, rows[y : y + 512, None], cols]
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "meter"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 0.1, 0.1]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]


def _folded(places: np.ndarray, size: int) -> np.ndarray:
    turned = places % (2 * size)
    return np.where(turned < size, turned, 2 * size - 1 - turned)


@pytest.mark.slow
def test_a_large_image_takes_no_more_memory_than_one_and_a_half_gib(tmp_path: Path) -> None:
    mirrored(tmp_path / "large.zarr", 12_000, 10_000)
    call = [sys.executable, "-c", RUN, str(tmp_path / "large.zarr"), str(tmp_path / "large.xt.zarr")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["complete"]
    assert told["boxes"] > 1000
    assert told["peak"] <= 1.5 * 2**30, f"{told['peak'] / 2**30:.2f} GiB"
