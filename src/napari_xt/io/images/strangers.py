"""Formats that are not read here: told by their first bytes, with who reads them.

Knows signatures of files and names of packages; opens nothing.
"""

from __future__ import annotations

from napari_xt.errors import ImageFormatError

UNDERSTOOD = "OME-Zarr, TIFF (also SVS, NDPI, SCN, GeoTIFF), PNG, JPEG and .npy are understood"
_CONVERT = "save it as TIFF or OME-Zarr, or open it in napari with a reader of its own and run on the layer"
_BIOIO = "install napari-bioio-reader with bioio-{0}, open it in napari and run on the layer"
_NO_REAL_PIXELS = "export it as TIFF, PNG or OME-Zarr"

# what a file is, what to do, where its signature lies and how it reads
_SIGNATURES: tuple[tuple[str, str, int, bytes], ...] = (
    ("a Zeiss CZI", _BIOIO.format("czi"), 0, b"ZISRAWFILE"),
    ("a Nikon ND2", _BIOIO.format("nd2"), 0, b"\xda\xce\xbe\x0a"),
    ("a Leica LIF", _BIOIO.format("lif"), 0, b"\x70\0\0\0"),
    (
        "DICOM",
        "install napari-wsi (slides) or napari-medical-image-formats, open it in napari and run on the layer",
        128,
        b"DICM",
    ),
    ("an HDF5 file (Imaris, BigDataViewer, ...)", _CONVERT, 0, b"\x89HDF\r\n\x1a\n"),
    ("a JPEG 2000 picture", _CONVERT, 4, b"jP  \r\n\x87\n"),
    ("a JPEG 2000 picture", _CONVERT, 0, b"\xff\x4f\xff\x51"),
    ("a JPEG XL picture", _CONVERT, 4, b"JXL \r\n\x87\n"),
    ("a HEIC or AVIF picture", _NO_REAL_PIXELS, 4, b"ftyp"),
    ("a WebP picture", _NO_REAL_PIXELS, 8, b"WEBP"),
    ("a GIF", _NO_REAL_PIXELS, 0, b"GIF8"),
    ("a Photoshop file", _NO_REAL_PIXELS, 0, b"8BPS"),
    ("a PDF", _NO_REAL_PIXELS, 0, b"%PDF"),
    ("a NITF map", _CONVERT, 0, b"NITF"),
    ("a MrSID map", _CONVERT, 0, b"msid"),
    ("a NRRD volume", "install napari-medical-image-formats, open it in napari and run on the layer", 0, b"NRRD"),
    ("an SQLite database", _CONVERT, 0, b"SQLite format 3\0"),
    ("a zip archive", "it must be unpacked first", 0, b"PK\x03\x04"),
    ("packed by gzip", "unpack it first", 0, b"\x1f\x8b"),
)


def not_read_here(path: str, start: bytes) -> ImageFormatError:
    """Return the error that says what the file at ``path`` is and what opens it, by its first bytes."""
    if not start:
        return ImageFormatError(path, "the file is empty (0 bytes)", UNDERSTOOD)
    for what, do, place, signature in _SIGNATURES:
        if start[place : place + len(signature)] == signature:
            return ImageFormatError(path, f"is {what}, which is not read here", do)
    text = start.isascii() and not set(start) & set(range(9))
    why = "is a text file, no image" if text else "is no image of a kind that is understood"
    return ImageFormatError(path, why, UNDERSTOOD)
