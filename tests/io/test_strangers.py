"""Formats that are not read here are named by their first bytes, with who reads them, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_xt.errors import ImageFormatError
from napari_xt.io.image import open_image

STRANGERS = {
    "a.czi": (b"ZISRAWFILE\0\0\0\0\0\0", "Zeiss CZI.*napari-bioio-reader with bioio-czi.*run on the layer"),
    "a.nd2": (b"\xda\xce\xbe\x0a\x20\0\0\0", "Nikon ND2.*bioio-nd2"),
    "old.nd2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "a.lif": (b"\x70\0\0\0\x10\0\0\0\x2a", "Leica LIF.*bioio-lif"),
    "a.dcm": (b"\0" * 128 + b"DICM", "DICOM.*napari-wsi"),
    "a.ims": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "a.j2k": (b"\xff\x4f\xff\x51", "JPEG 2000"),
    "a.heic": (b"\0\0\0\x18ftypheic", "HEIC or AVIF"),
    "a.webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
    "a.gif": (b"GIF89a\x01\0\x01\0", "GIF"),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "a.nii.gz": (b"\x1f\x8b\x08\0", "gzip.*unpack it first"),
    "a.npz": (b"PK\x03\x04\x14\0", "zip archive"),
    "a.svslide": (b"PK\x03\x04\x14\0", "zip archive"),
    "a.db": (b"SQLite format 3\0", "SQLite"),
    "a.csv": (b"x,y\n1,2\n", "a text file, no image"),
    "a.tif": (b"", "empty"),
    "junk.tif": (b"\x01\x02\x03\xff" * 9, "no image of a kind that is understood; OME-Zarr, TIFF"),
}


@pytest.mark.parametrize(("name", "start", "says"), [(n, *v) for n, v in STRANGERS.items()], ids=STRANGERS)
def test_strangers(tmp_path: Path, name: str, start: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(start + b"\0\xff" * (50 if start and name != "a.csv" else 0))
    with pytest.raises(ImageFormatError, match=says) as caught:
        open_image(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert len(message) <= 280
    assert "\n" not in message
