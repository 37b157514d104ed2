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


def run(code: str, *arguments: object) -> dict[str, int]:
    """Run ``code`` in a process of its own; what it says."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, int] = json.loads(done.stdout)
    assert told["complete"]
    return told


@pytest.mark.slow
def test_a_large_image_takes_no_more_memory_than_one_and_a_half_gib(tmp_path: Path) -> None:
    mirrored(tmp_path / "large.zarr", 12_000, 10_000)
    told = run(RUN, tmp_path / "large.zarr", tmp_path / "large.xt.zarr")
    assert told["boxes"] > 1000
    assert told["peak"] <= 1.5 * 2**30, f"{told['peak'] / 2**30:.2f} GiB"


RUN_VIRTUAL = """
import json, resource, sys
import numpy as np
import napari_xt as xt
from napari_xt.geometry import Box

class Mirrored:
    dtype, ndim, chunks = np.dtype("u1"), 3, (512, 512, 3)

    def __init__(self, scene, shape):
        self.scene, self.shape = scene, (*shape, 3)

    def __getitem__(self, key):
        rows, cols = (np.arange(*k.indices(n)) % (2 * m) for k, n, m in zip(key, self.shape, self.scene.shape))
        rows, cols = (np.where(p < n, p, 2 * n - 1 - p) for p, n in zip((rows, cols), self.scene.shape))
        return self.scene[rows[:, None], cols]

with xt.open_image(sys.argv[1]) as image:
    scene = np.ascontiguousarray(image.read(Box(0, 0, *image.shape)).transpose(1, 2, 0))
image = xt.open_image([Mirrored(scene, (25_000, 29_000))])
prediction = xt.predict(image, "canopy", out=sys.argv[2], window="global", workers=2)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "complete": prediction.complete, "boxes": len(prediction.boxes)}))
"""


@pytest.mark.slow
def test_a_gigapixel_with_global_context_takes_no_more_than_two_gib(tmp_path: Path) -> None:
    told = run(RUN_VIRTUAL, files("napari_xt") / "samples/yellowstone.ome.tif", tmp_path / "large.xt.zarr")
    assert told["boxes"] > 50_000
    assert told["peak"] <= 2 * 2**30, f"{told['peak'] / 2**30:.2f} GiB"
