"""Files that were made by hand to be odd or hostile: `CRAFTED`, from a name to what writes it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from hostile_files import CANARY, FORMATS, GREY, Write, picture, prediction, pyramid, tiff
from PIL import Image as Pillow


def shortened(write: Write, part: float) -> Write:
    """What ``write`` writes, its largest file cut."""

    def cut_short(path: Path) -> None:
        write(path)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        largest = max(files, key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: int(largest.stat().st_size * part)])

    return cut_short


def edited(write: Write, file: str, **changes: Any) -> Write:
    """What ``write`` writes, with entries of one of its JSON files replaced; None removes one."""

    def edit(path: Path) -> None:
        write(path)
        data = json.loads((path / file).read_text()) | changes
        (path / file).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return edit


def tagged(write: Write, page: int = 0, **values: Any) -> Write:
    """What ``write`` writes, with other values in tags of a page."""

    def tag(path: Path) -> None:
        write(path)
        with tifffile.TiffFile(path, mode="r+b") as tif:
            for name, value in values.items():
                tif.pages[page].tags[name].overwrite(value)

    return tag


def looped(path: Path) -> None:
    """A TIFF whose only directory says that it is followed by itself."""
    tiff(path)
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    path.write_bytes(data)


def linked(target: str, what: str) -> Write:
    """An image a part of which is a symbolic link."""

    def link(path: Path) -> None:
        pyramid(path)
        part = path / what
        (shutil.rmtree if part.is_dir() else os.unlink)(part)
        part.symlink_to(target)

    return link


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> Write:
    text = header.encode() + b"\n"
    head = b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text
    return lambda path: path.write_bytes(head + body)


def png(
    width: int, height: int, depth: int = 8, kind: int = 2, body: bytes = b"\0" * 100, *more: tuple[bytes, bytes]
) -> Write:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), *more]
    chunks += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    packed = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + packed)


def jpeg_says(width: int, height: int) -> Write:
    def write(path: Path) -> None:
        picture(path, "JPEG")
        data = bytearray(path.read_bytes())
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
        path.write_bytes(data)

    return write


def described(xml: str) -> Write:
    return partial(tiff, description=xml)


def codecs(*found: Any) -> Write:
    return edited(FORMATS["plain.zarr"], "zarr.json", codecs=list(found))


def level_of(shape: tuple[int, int], dtype: str = "u1") -> Write:
    def write(path: Path) -> None:
        pyramid(path, levels=1, datasets=[{"path": "s0"}, {"path": "s1"}])
        zarr.open_group(str(path), mode="a").create_array("s1", shape=shape, dtype=dtype, chunks=(64, 64))

    return write


OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'
LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {b} '{f'&{a};' * 20}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)
BYTES, V2 = {"name": "bytes"}, FORMATS["v2.ome.zarr"]
PLAIN = FORMATS["plain.zarr"]


def grid(shape: list[int]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


CRAFTED: dict[str, Write] = {
    # odd, yet images
    "one-pixel.npy": lambda path: np.save(path, np.ones((1, 1), "u1")),
    "one-pixel.zarr": lambda path: zarr.create_array(str(path), data=np.ones((1, 1), "u1")),
    "one-pixel.tif": lambda path: tifffile.imwrite(path, np.ones((1, 1), "u1")),
    "one-pixel.png": lambda path: Pillow.new("L", (1, 1)).save(path),
    "long.npy": lambda path: np.save(path, np.ones((3, 1_000_000), "u1")),
    "long.zarr": lambda path: zarr.create_array(str(path), data=np.ones((1_000_000, 3), "u1"), chunks=(4096, 3)),
    "long.tif": lambda path: tifffile.imwrite(path, np.ones((3, 1_000_000), "u1")),
    "nan.npy": lambda path: np.save(path, np.full((50, 60), np.nan)),
    "\x1b[31mred\u202egnp.npy": lambda path: np.save(path, GREY),
    "line\nbreak.png": partial(picture, kind="PNG"),
    "wrong-suffix.png": tiff,
    "wrong-suffix.tif": partial(picture, kind="PNG"),
    # not images at all
    "empty.tif": Path.touch,
    "empty.png": Path.touch,
    "empty.npy": Path.touch,
    "empty-folder.zarr": Path.mkdir,
    "folder.tif": Path.mkdir,
    "pipe.tif": os.mkfifo,
    "pipe.zarr": os.mkfifo,
    "device.tif": lambda path: path.symlink_to("/dev/zero"),
    "random.png": lambda path: path.symlink_to("/dev/urandom"),
    "dangling.tif": lambda path: path.symlink_to("nowhere"),
    "loop.tif": lambda path: path.symlink_to(path.name),
    "itself.zarr": lambda path: path.symlink_to(path.name),
    "text.svs": lambda path: path.write_text("no slide\n" * 100),
    "zeros.tif": lambda path: path.write_bytes(bytes(10_000)),
    "head.tif": lambda path: path.write_bytes(b"II*\0"),
    "head.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "head.jpg": lambda path: path.write_bytes(b"\xff\xd8\xff"),
    "head.npy": lambda path: path.write_bytes(b"\x93NUMPY"),
    "prediction.zarr": lambda path: prediction(path.with_suffix(".xt.zarr")),
    # links and paths
    "chunk-link.ome.zarr": linked("/dev/zero", "s0/c/0/0"),
    "level-link.ome.zarr": linked("/", "s0"),
    "meta-link.ome.zarr": linked("/dev/zero", "zarr.json"),
    "meta-pipe.ome.zarr": lambda path: (pyramid(path), (path / "zarr.json").unlink(), os.mkfifo(path / "zarr.json")),
    "level-meta-pipe.ome.zarr": lambda path: (
        pyramid(path),
        (path / "s0" / "zarr.json").unlink(),
        os.mkfifo(path / "s0" / "zarr.json"),
    ),
    "chunk-pipe.ome.zarr": lambda path: (pyramid(path), (path / "s0/c/0/0").unlink(), os.mkfifo(path / "s0/c/0/0")),
    "chunk-folder.ome.zarr": lambda path: (pyramid(path), (path / "s0/c/0/0").unlink(), (path / "s0/c/0/0").mkdir()),
    "outside.ome.zarr": partial(pyramid, datasets=[{"path": f"../{CANARY}"}]),
    "absolute.ome.zarr": partial(pyramid, datasets=[{"path": "/etc"}]),
    "url.ome.zarr": partial(pyramid, datasets=[{"path": "http://127.0.0.1:9/a"}]),
    "odd-path.ome.zarr": partial(pyramid, datasets=[{"path": ["s0"]}]),
    "empty-path.ome.zarr": partial(pyramid, datasets=[{"path": ""}]),
    "long-path.ome.zarr": partial(pyramid, datasets=[{"path": "a" * 100_000}]),
    "null-path.ome.zarr": partial(pyramid, datasets=[{"path": "s0\0"}]),
    "esc-path.ome.zarr": partial(pyramid, datasets=[{"path": "\x1b[2J\u202e"}]),
    "ome-names.ome.tif": described(OME.format(f'<TiffData><UUID FileName="../{CANARY}"/></TiffData>')),
    "ome-two.ome.tif": described(OME.format('<UUID FileName="a.tif"/><UUID FileName="/etc/passwd"/>')),
    "laughs.ome.tif": described(LAUGHS + OME.format("&i;")),
    "external.ome.tif": described(f'<!DOCTYPE a [<!ENTITY e SYSTEM "file:{CANARY}">]>' + OME.format("&e;")),
    "deep.ome.tif": described("<OME>" + "<a>" * 100_000),
    "broken-xml.ome.tif": described(OME.format('<Image ID="a"><Pixels SizeX="-1" SizeY="1e99" Type="?"/>')),
    "huge-size.ome.tif": described(
        OME.format(
            '<Image ID="a"><Pixels ID="p" DimensionOrder="XYZCT" Type="uint8" SizeX="420" SizeY="300" '
            'SizeZ="2147483647" SizeC="2147483647" SizeT="2147483647"><TiffData/></Pixels></Image>'
        )
    ),
    "shaped.tif": described('{"shape": [1000000000000, 1000000, 3]}'),
    "imagej.tif": described("ImageJ=1.11a\nimages=99999999999\nslices=99999999999\n"),
    "slidedat.vms": lambda path: path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=../" + CANARY + "\n"
    ),
    # zarr
    "objects.zarr": edited(PLAIN, "zarr.json", data_type="object"),
    "strings.zarr": edited(PLAIN, "zarr.json", data_type="string"),
    "unknown-type.zarr": edited(PLAIN, "zarr.json", data_type="\x1b[31mno"),
    "complex.zarr": edited(PLAIN, "zarr.json", data_type="complex64"),
    "huge-shape.zarr": edited(PLAIN, "zarr.json", shape=[2**40, 2**40]),
    "overflow.zarr": edited(PLAIN, "zarr.json", shape=[2**63, 2**64]),
    "negative.zarr": edited(PLAIN, "zarr.json", shape=[-5, 400]),
    "no-axes.zarr": edited(PLAIN, "zarr.json", shape=[], chunk_grid=grid([])),
    "zero.zarr": edited(PLAIN, "zarr.json", shape=[0, 0]),
    "many-axes.zarr": edited(PLAIN, "zarr.json", shape=[1] * 33, chunk_grid=grid([1] * 33)),
    "float-shape.zarr": edited(PLAIN, "zarr.json", shape=[1.5, "a"]),
    "zero-chunks.zarr": edited(PLAIN, "zarr.json", chunk_grid=grid([0, 0])),
    "negative-chunks.zarr": edited(PLAIN, "zarr.json", chunk_grid=grid([-1, 64])),
    "huge-chunks.zarr": edited(PLAIN, "zarr.json", chunk_grid=grid([2**31, 2**31])),
    "no-fill.zarr": edited(PLAIN, "zarr.json", fill_value=None),
    "odd-fill.zarr": edited(PLAIN, "zarr.json", fill_value="AAAA"),
    "version-9.zarr": edited(PLAIN, "zarr.json", zarr_format=9),
    "no-type.zarr": edited(PLAIN, "zarr.json", data_type=None),
    "no-codecs.zarr": codecs(),
    "unknown-codec.zarr": codecs(BYTES, {"name": "\x1b]0;x\x07"}),
    "pickle-codec.zarr": codecs({"name": "numcodecs.pickle", "configuration": {}}),
    "json-codec.zarr": codecs({"name": "numcodecs.json2"}),
    "vlen.zarr": codecs({"name": "vlen-utf8"}),
    "codec-list.zarr": codecs(1, None, []),
    "codec-twice.zarr": codecs(BYTES, *[{"name": "gzip", "configuration": {"level": 1}}] * 50),
    "shard-in-shard.zarr": codecs(
        {
            "name": "sharding_indexed",
            "configuration": {"chunk_shape": [64, 64], "codecs": [BYTES], "index_codecs": [BYTES]},
        }
    ),
    "odd-shard.zarr": codecs(
        {"name": "sharding_indexed", "configuration": {"chunk_shape": [7, 0], "codecs": [BYTES], "index_codecs": []}}
    ),
    "transpose.zarr": codecs({"name": "transpose", "configuration": {"order": [5, 9]}}, BYTES),
    "pickle-filter.zarr": edited(partial(pyramid, version=2), "s0/.zarray", filters=[{"id": "pickle"}]),
    "object-filter.zarr": edited(partial(pyramid, version=2), "s0/.zarray", dtype="|O", filters=[{"id": "msgpack2"}]),
    "struct.zarr": edited(V2, "s0/.zarray", dtype=[["a", "<i4"], ["b", "|O"]]),
    "order.zarr": edited(V2, "s0/.zarray", order="Q"),
    "separator.zarr": edited(V2, "s0/.zarray", dimension_separator="../"),
    "v2-huge.zarr": edited(V2, "s0/.zarray", shape=[2**50, 2**50]),
    "v2-chunks.zarr": edited(V2, "s0/.zarray", chunks=[2**20, 2**20]),
    "v2-no-chunks.zarr": edited(V2, "s0/.zarray", chunks=[]),
    "deep-json.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("[" * 200_000)),
    "long-number.zarr": lambda path: (
        path.mkdir(),
        (path / "zarr.json").write_text('{"zarr_format": ' + "9" * 100_000),
    ),
    "huge-json.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text('{"a": "' + "a" * 50_000_000 + '"}')),
    "list-json.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("[1, 2]")),
    "bytes-json.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_bytes(b"\xff\xfe\0\0")),
    "attributes.zarr": edited(pyramid, "zarr.json", attributes={"ome": 7}),
    "attributes-list.zarr": edited(pyramid, "zarr.json", attributes=[1]),
    "many-levels.zarr": partial(pyramid, datasets=[{"path": "s0"}] * 20_000),
    "larger-level.zarr": level_of((600, 840)),
    "other-level.zarr": level_of((99, 31)),
    "typed-level.zarr": level_of((150, 210), "f4"),
    "empty-level.zarr": level_of((0, 210)),
    "huge-level.zarr": level_of((2**40, 2**40)),
    # TIFF
    "cycle.tif": looped,
    "wide.tif": tagged(tiff, ImageWidth=2**31, ImageLength=2**31),
    "no-width.tif": tagged(tiff, ImageWidth=0),
    "no-tile.tif": tagged(tiff, TileWidth=0),
    "huge-tile.tif": tagged(tiff, TileWidth=65_520, TileLength=65_520),
    "bits.tif": tagged(tiff, BitsPerSample=(64, 3, 1)),
    "samples.tif": tagged(tiff, SamplesPerPixel=60_000),
    "no-samples.tif": tagged(tiff, SamplesPerPixel=0),
    "compression.tif": tagged(tiff, Compression=34_712),
    "unknown.tif": tagged(tiff, Compression=60_001),
    "photometric.tif": tagged(tiff, PhotometricInterpretation=60_001),
    "planar.tif": tagged(tiff, PlanarConfiguration=2),
    "strip-rows.tif": tagged(FORMATS["strips.tif"], RowsPerStrip=0),
    "strip-tall.tif": tagged(FORMATS["strips.tif"], RowsPerStrip=2**31, ImageLength=2**31),
    "raw-long.tif": tagged(FORMATS["raw.tif"], ImageLength=10**7),
    "raw-wide.tif": tagged(FORMATS["raw.tif"], ImageWidth=10**7),
    "level-wide.tif": tagged(FORMATS["geo.tif"], ModelPixelScaleTag=(0.0, -1.0, float("nan"))),
    "geo-nan.tif": tagged(FORMATS["geo.tif"], ModelTiepointTag=(float("inf"),) * 6),
    # pictures
    "wide.png": png(2**31 - 1, 2**31 - 1),
    "zero.png": png(0, 0),
    "short.png": png(420, 300),
    "bomb.png": png(16_000, 16_000, body=bytes(50_000_000)),
    "depth.png": png(10, 10, 99, 99),
    "palette.png": png(10, 10, 8, 3),
    "text-bomb.png": png(10, 10, 8, 2, bytes(310), (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "profile-bomb.png": png(10, 10, 8, 2, bytes(310), (b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "wide.jpg": jpeg_says(65_535, 65_535),
    "zero.jpg": jpeg_says(0, 0),
    "tall.jpg": jpeg_says(420, 65_535),
    # npy
    "huge.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000000000)}"),
    "overflow.npy": npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**63}, {2**63})}}"),
    "negative.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-3, -4)}", bytes(99)),
    "zero.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4)}"),
    "objects.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}", bytes(99)),
    "record.npy": npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2, 2)}", bytes(99)),
    "text.npy": npy("{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2)}", bytes(99)),
    "code.npy": npy("__import__('os').system('touch /tmp/napari-xt-executed')"),
    "nested.npy": npy("(" * 5000),
    "version.npy": npy("{}", version=b"\x09\x09"),
    "keys.npy": npy("{'descr': '|u1', 'shape': (2, 2)}"),
    "bool-shape.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2.5)}", bytes(99)),
    # predictions
    "no-json.xt.zarr": Path.mkdir,
    "no-ledger.xt.zarr": lambda path: (prediction(path), [p.unlink() for p in path.rglob("*.sqlite*")]),
    "text-ledger.xt.zarr": lambda path: (prediction(path), [p.write_text("no") for p in path.rglob("*.sqlite*")]),
    "attributes.xt.zarr": edited(prediction, "zarr.json", attributes={}),
    "list.xt.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("[]")),
    "deep.xt.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("[" * 200_000)),
    "text.xt.zarr": lambda path: path.write_text("no store"),
    "huge.xt.zarr": edited(prediction, "labels/mask/0/zarr.json", shape=[2**40, 2**40]),
} | {
    f"cut-{part:g}-{name}": shortened(write, part)
    for name, write in FORMATS.items()
    for part in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
}

ODD = 12
"""The first of `CRAFTED` that are images, and open."""
