"""Makes odd, damaged and hostile files of every format that is read, and opens them in a process that may die of them.

``python hostile_files.py`` reads paths from stdin and prints what became of each, a line of JSON.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import tifffile
import zarr
from PIL import Image as Pillow

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 250, (300, 420, 3)).astype("u1").cumsum(0).astype("u1")
GREY = RGB[..., 0].copy()
CANARY = "canary.tif"
"""A file outside the folder of an image, which must never be opened."""

LONGEST_S = 10  # after which the process ends itself

Write = Callable[[Path], object]


def pyramid(path: Path, version: Any = 3, levels: int = 2, datasets: Any = None, **options: Any) -> None:
    node, found = zarr.open_group(str(path), mode="w", zarr_format=version), []
    for level in range(levels):
        pixels = GREY[:: 2**level, :: 2**level]
        array = node.create_array(
            f"s{level}", shape=pixels.shape, dtype=pixels.dtype, **({"chunks": (64, 64)} | options)
        )
        array[...] = pixels
        found.append({"path": f"s{level}"})
    content = {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": datasets or found}]}
    node.attrs.update(content if version == 2 else {"ome": {"version": "0.5", **content}})


def tiff(path: Path, subifds: int = 0, **options: Any) -> None:
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", "metadata": None}
    big, ome = options.pop("bigtiff", False), options.pop("ome", None)
    with tifffile.TiffWriter(path, bigtiff=big, ome=ome) as writer:
        writer.write(RGB, **({"subifds": subifds} if subifds else {}), **(settings | options))
        options = {key: value for key, value in options.items() if key not in ("description", "extratags", "metadata")}
        for level in range(1, subifds + 1):
            writer.write(RGB[:: 2**level, :: 2**level].copy(), subfiletype=1, **(settings | options))


def picture(path: Path, kind: str) -> None:
    Pillow.fromarray(RGB).save(path, kind)


def prediction(path: Path) -> None:
    from store_case import write

    write(path, limit=4)


SVS = "Aperio Image Library v1\n420x300 [0,0 420x300] (128x128)|AppMag = 20|MPP = 0.5"
SCN = '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection/></scn>'
NDPI = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True)]
GEO = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0, 0, 0, 5e5, 5e6, 0), True)]

FORMATS: dict[str, Write] = {
    "v3.ome.zarr": pyramid,
    "v2.ome.zarr": partial(pyramid, version=2, compressors=numcodecs.Blosc()),
    "sharded.ome.zarr": partial(pyramid, chunks=(32, 32), shards=(64, 64)),
    "gzip.ome.zarr": partial(pyramid, compressors=zarr.codecs.GzipCodec()),
    "plain.zarr": lambda path: zarr.create_array(str(path), data=GREY, chunks=(64, 64)),
    "image.ome.tif": partial(tiff, ome=True, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}),
    "big.tif": partial(tiff, bigtiff=True),
    "subifds.tif": partial(tiff, subifds=2),
    "slide.svs": partial(tiff, description=SVS, compression="jpeg"),
    "hamamatsu.tif": partial(
        tiff,
        extratags=NDPI,
        tile=None,
        compression=None,
        resolution=(22_000, 22_000),
        resolutionunit="CENTIMETER",
    ),
    "slide.scn": partial(tiff, description=SCN, bigtiff=True),
    "geo.tif": partial(tiff, extratags=GEO, compression="lzw"),
    "strips.tif": partial(tiff, tile=None, rowsperstrip=16),
    "raw.tif": partial(tiff, tile=None, compression=None),
    "picture.png": partial(picture, kind="PNG"),
    "picture.jpg": partial(picture, kind="JPEG"),
    "array.npy": lambda path: np.save(path, RGB),
    "store.xt.zarr": prediction,
}


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, max(1, len(data))))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for place in rng.integers(0, len(out), int(rng.integers(1, 9))):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def forged(data: bytes, rng: np.random.Generator) -> bytes:
    """With a number of four bytes that is 0, 1, huge, or negative, most often near the head."""
    out, value = bytearray(data), (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 65_535, 2**28)[int(rng.integers(6))]
    place = int(rng.integers(0, max(1, min(len(out), 600 if rng.random() < 0.6 else len(out)) - 4)))
    out[place : place + 4] = struct.pack("<I" if rng.random() < 0.5 else ">I", value)
    return bytes(out)


def digits(data: bytes, rng: np.random.Generator) -> bytes:
    """With another number or word in a text; other bytes are flipped."""
    places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if not data.startswith(b"{") or not places:
        return flipped(data, rng)
    at = places[int(rng.integers(len(places)))]
    word = (b"-1", b"0", b"1e999", b"99999999999999999999", b"null", b'"a"', b"[]", b"{}", b"2.5")[int(rng.integers(9))]
    return data[:at] + word + data[at + 1 :]


def swapped(data: bytes, rng: np.random.Generator) -> bytes:
    """With one half of it in the place of the other."""
    at = int(rng.integers(1, max(2, len(data))))
    return data[at:] + data[:at]


def doubled(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    return data[:last] + data[first:]


CHANGES = (cut, flipped, forged, forged, digits, digits, swapped, doubled)


def mutate(path: Path, seed: int) -> None:
    """Change one file of an image."""
    rng = np.random.default_rng(seed)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    texts = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
    chosen = texts if texts and rng.random() < 0.7 else files
    file = chosen[int(rng.integers(len(chosen)))]
    if file.stat().st_size:
        file.write_bytes(CHANGES[int(rng.integers(len(CHANGES)))](file.read_bytes(), rng))


def mutants(folder: Path, count: int, first: int = 0) -> Iterator[Path]:
    """Write ``count`` mutants of each format below ``folder``."""
    for name, write in FORMATS.items():
        whole = folder / "whole" / name
        if not whole.exists():
            whole.parent.mkdir(parents=True, exist_ok=True)
            write(whole)
        for seed in range(first, first + count):
            path = folder / str(seed) / name
            path.parent.mkdir(exist_ok=True)
            (shutil.copytree if whole.is_dir() else shutil.copy)(whole, path)
            mutate(path, seed)
            yield path


OWN_PICKLES = ("dask", "_operator", "operator", "numpy", "napari_xt", "functools", "cloudpickle", "builtins")
"""What dask packs and unpacks itself, for its graphs."""


def look(path: Path) -> str:
    """Open an image or a prediction and read a little of everything."""
    from napari_xt.geometry import Box
    from napari_xt.io.image import open_image
    from napari_xt.io.prediction import open_prediction

    if path.name.endswith(".xt.zarr"):
        found = open_prediction(path)
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # zarr's own arrays: rot is told in zarr's words
            _ = [level[:64, :64] for level in found.mask], found.overview[...]
        _ = found.coverage, len(found.boxes)
        return repr(found)
    with open_image(path) as image:
        for level, (height, width) in enumerate(image.level_shapes):
            for y, x in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
                image.read(Box(y, x, min(height, y + 128), min(width, x + 128)), level)
        return repr(image)


def main() -> None:
    """Look at the paths on stdin, one after another."""
    from napari_xt.errors import XTError

    alarms: list[str] = []

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and str(args[0]).startswith(OWN_PICKLES):
            return
        if event in ("os.system", "subprocess.Popen", "socket.connect", "pickle.find_class", "os.exec"):
            alarms.append(f"{event} {args}"[:200])
        elif event == "open" and str(args[0]).endswith(CANARY):
            alarms.append(f"opened {args[0]}"[:200])

    sys.addaudithook(listen)
    for line in sys.stdin:
        path = Path(json.loads(line))
        alarms.clear()
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            outcome, message = "opened", look(path)
        except XTError as error:
            outcome, message = "refused", str(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is to be reported
            outcome, message = "raised", f"{type(error).__name__}: {error}"[:500]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        told = {"path": str(path), "outcome": outcome, "message": message, "alarms": alarms}
        sys.stdout.write(json.dumps(told | {"seconds": time.monotonic() - start, "mib": grown}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
