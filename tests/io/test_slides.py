"""Slides that openslide reads, on files made here: pixels, levels, scale, damage, and life without openslide."""

from __future__ import annotations

import shutil
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from napari_xt.errors import ImageFormatError, ImageReadError, MissingDependencyError
from napari_xt.geometry import Box
from napari_xt.io.image import Image, open_image
from napari_xt.io.images.slides import open_slide

openslide = pytest.importorskip("openslide")

PIXELS = np.random.default_rng(0).integers(0, 256, (1300, 1088, 3)).astype("u1")


def ngr(path: Path, pixels: np.ndarray, column: int = 64) -> None:
    """Write columns of 12-bit colours, as Hamamatsu's uncompressed slides hold them."""
    height, width, _ = pixels.shape
    with path.open("wb") as file:
        file.write(b"GN\0\0" + struct.pack("<5i", width, height, column, 0, 0) + struct.pack("<i", 512))
        file.write(bytes(512 - file.tell()))
        for x in range(0, width, column):
            file.write((pixels[:, x : x + column].astype("<u2") * 16).tobytes())


@pytest.fixture
def vmu(tmp_path: Path) -> Path:
    ngr(tmp_path / "image.ngr", PIXELS)
    ngr(tmp_path / "map.ngr", PIXELS[::4, :1024:4])
    Pillow.fromarray(PIXELS[:50, :50]).save(tmp_path / "macro.jpg")
    lines = ["[Uncompressed Virtual Microscope Specimen]", "NoLayers=1", "ImageFile=image.ngr", "MapFile=map.ngr"]
    lines += ["MacroImage=macro.jpg", "BitsPerPixel=36", "PixelOrder=RGB", "PhysicalWidth=544000"]
    lines += ["PhysicalHeight=325000", "SourceLens=20", "PhysicalMacroWidth=1", "PhysicalMacroHeight=1"]
    (tmp_path / "scene.vmu").write_text("\n".join(lines))
    return tmp_path / "scene.vmu"


def svs(path: Path, pixels: np.ndarray = PIXELS) -> Path:
    text = "Aperio Image Library v12\n1088x1300 [0,0 1088x1300] (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, tile=(256, 256), description=text, **options)
        writer.write(pixels[::4, ::4], rowsperstrip=16, description=text, **options)
        writer.write(pixels[::4, ::4], tile=(256, 256), description=text, **options)
    return path


def upright(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, -1, 0)


def test_a_slide_of_several_files(vmu: Path) -> None:
    with open_image(vmu) as image:
        assert (image.name, image.axes, image.rgb) == ("scene", "yxc", True)
        assert image.scale_um == pytest.approx((0.25, 0.5))
        assert (image.scale_source, image.bounds_offset) == ("openslide.mpp", None)
        for box in (Box(0, 0, 1300, 1088), Box(500, 509, 515, 1030), Box(1299, 1087, 1300, 1088)):
            np.testing.assert_array_equal(image.read(box), upright(PIXELS[box.slices]))


def test_levels_are_lazy_and_say_the_same_as_tifffile(tmp_path: Path) -> None:
    source = open_slide(str(svs(tmp_path / "a.svs")), "a")
    slide, tiff = Image(source), open_image(tmp_path / "a.svs")
    assert slide.level_shapes == tiff.level_shapes == ((1300, 1088), (325, 272))
    assert slide.scale_um == tiff.scale_um == (0.499, 0.499)
    for level, (height, width) in enumerate(slide.level_shapes):
        box = Box(3, 5, height, width - 2)
        difference = slide.read(box, level).astype(int) - tiff.read(box, level)
        assert abs(difference).max() <= 2
    assert slide.identity()
    slide.close()
    tiff.close()


def test_parts_of_a_level(vmu: Path) -> None:
    with open_image(vmu) as image:
        level = image.levels[0]
        for key in [
            (slice(7, 900, 3), slice(500, 800), 1),
            (5, slice(None), slice(None)),
            (slice(-20, None), 9, slice(1)),
            ...,
        ]:
            np.testing.assert_array_equal(level[key], PIXELS[key])
        np.testing.assert_array_equal(np.asarray(level), PIXELS)
        assert level[5:5].shape == (0, 1088, 3)


def test_a_pixel_is_the_same_from_many_threads(vmu: Path) -> None:
    boxes = [Box(y, x, y + 200, x + 300) for y in range(0, 1000, 90) for x in range(0, 700, 110)]
    with open_image(vmu) as image, ThreadPoolExecutor(4) as pool:
        for box, read in zip(boxes, pool.map(image.read, boxes), strict=True):
            np.testing.assert_array_equal(read, upright(PIXELS[box.slices]))


def test_a_damaged_tile_does_not_spoil_the_others(tmp_path: Path) -> None:
    path = svs(tmp_path / "a.svs")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 500)
    image = Image(open_slide(str(path), "a"))
    for _ in range(2):
        with pytest.raises(ImageReadError, match=r"a\.svs: chunk at y=0, x=0 of level 0"):
            image.read(Box(0, 0, 100, 100))
        assert image.read(Box(600, 600, 700, 700)).any()
    image.close()
    with pytest.raises(ImageReadError, match="closed"):
        image.read(Box(0, 0, 5, 5))


@pytest.mark.parametrize("lost", ["image.ngr", "map.ngr"])
def test_a_lost_part_of_a_slide(vmu: Path, lost: str) -> None:
    (vmu.parent / lost).unlink()
    with pytest.raises(ImageFormatError, match=r"scene\.vmu: openslide can't open it"):
        open_image(vmu)


def mirax(folder: Path) -> Path:
    """A MIRAX slide that is none: the picture of the glass, and a folder with a description of nothing."""
    Pillow.fromarray(PIXELS[:50, :60]).save(folder / "a.jpg")
    shutil.move(folder / "a.jpg", folder / "a.mrxs")
    (folder / "a").mkdir()
    (folder / "a" / "Slidedat.ini").write_text("[GENERAL]\n")
    return folder / "a.mrxs"


def test_the_small_picture_of_a_mirax_slide_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="openslide"):
        open_image(mirax(tmp_path))


def ventana(path: Path) -> Path:
    xmp = b'<?xml version="1.0"?><EncodeInfo><iScan Magnification="20" ScanRes="0.465000"></iScan></EncodeInfo>'
    extra: list[Any] = [(700, "B", len(xmp), xmp, True)]
    tifffile.imwrite(
        path, PIXELS, tile=(256, 256), software="Ventana", description="level=0 mag=20", extratags=extra, metadata=None
    )
    return path


def test_tiles_that_overlap_are_never_shown_side_by_side(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="whose tiles overlap; convert"):
        open_image(ventana(tmp_path / "a.bif"))


def test_an_ndpi_without_tiles_is_for_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra: list[Any] = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True)]
    path = tmp_path / "a.tif"  # without its suffix tifffile takes it for one with short offsets
    tifffile.imwrite(path, PIXELS, rowsperstrip=1300, compression="zlib", extratags=extra, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages.first.tags[name].overwrite(60_000)
    with pytest.raises(ImageFormatError, match="an NDPI slide without tiles; convert"):
        open_image(path)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(MissingDependencyError, match="napari-xt"):
        open_image(path)


def joint(first: int, second: int, direction: str, across: int, down: int) -> str:
    return (
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" Tile1="{first}" Tile2="{second}" '
        f'OverlapX="{across}" OverlapY="{down}"/>'
    )


def test_tiles_that_overlap_are_laid_over_each_other(tmp_path: Path) -> None:
    tile, overlap = 256, 16
    side, step = 2 * tile - overlap, tile - overlap
    ramp = np.indices((side, side)).sum(axis=0) / 4
    truth = np.dstack([ramp, 250 - ramp, ramp / 2]).astype("u1")
    starts = (0, step)
    rows = [np.hstack([truth[y : y + tile, x : x + tile] for x in starts]) for y in starts]
    joints = joint(1, 2, "RIGHT", overlap, 0) + joint(2, 3, "UP", 0, overlap)  # from the bottom, to and fro
    joints += joint(4, 3, "RIGHT", overlap, 0) + joint(1, 4, "UP", 0, overlap)
    scan = '<iScan Magnification="20" ScanRes="0.465" UnitNumber="1"/>'
    area = f'AOIScanned="1" AOIIndex="0" NumRows="2" NumCols="2" Width="{tile}" Height="{tile}" Pos-X="0" Pos-Y="0"'
    stitch = f"<SlideInfo>{scan}</SlideInfo><SlideStitchInfo><ImageInfo {area}>{joints}</ImageInfo></SlideStitchInfo>"
    info = f'<EncodeInfo Ver="2">{stitch}<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'

    def xmp(text: str) -> list[Any]:
        return [(700, "B", len(text), text.encode(), True)]

    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    tiles = options | {"tile": (tile, tile), "compression": "jpeg", "compressionargs": {"level": 95}}
    with tifffile.TiffWriter(tmp_path / "a.bif") as writer:
        writer.write(truth[:64, :64], description="Label Image", software="Ventana", extratags=xmp(scan), **options)
        writer.write(np.vstack(rows), description="level=0 mag=20 quality=95", extratags=xmp(info), **tiles)
        writer.write(np.vstack(rows)[::2, ::2], description="level=1 mag=10 quality=95", **tiles)
    with open_image(tmp_path / "a.bif") as image:
        assert image.level_shapes == ((side, side), (side // 2, side // 2))
        assert image.scale_um == pytest.approx((0.465, 0.465))
        assert abs(image.read(Box(0, 0, side, side)).astype(int) - upright(truth)).max() <= 8


def test_bounds_and_what_was_not_scanned(tmp_path: Path) -> None:
    height, width, top, left, nm = 256, 512, 60, 100, 500
    area = np.full((height, width, 3), 90, "u1")

    def part(size: tuple[int, int], ifd: int, view: tuple[int, int, int, int], objective: str) -> str:
        x, y, w, h = (n * nm for n in view)
        return (
            f'<image name="i"><device model="Leica SCN400"/><pixels sizeX="{size[0]}" sizeY="{size[1]}">'
            f'<dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" ifd="{ifd}"/></pixels>'
            f'<view sizeX="{w}" sizeY="{h}" offsetX="{x}" offsetY="{y}"/><scanSettings><objectiveSettings><objective>'
            f"{objective}</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4"
            "</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
            "</scanSettings></image>"
        )

    glass = part((128, 64), 0, (0, 0, 2 * width, 2 * height), "0.6")
    tissue = part((width, height), 1, (left, top, width, height), "20")
    collection = f'<collection name="c" sizeX="{2 * width * nm}" sizeY="{2 * height * nm}">{glass}{tissue}</collection>'
    xml = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">{collection}</scn>'
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.scn", bigtiff=True) as writer:
        writer.write(area[:64, :128], tile=(64, 64), description=xml, **options)
        writer.write(area, tile=(256, 256), **options)
    slide = Image(open_slide(str(tmp_path / "a.scn"), "a"))
    assert slide.bounds_offset == (top, left)
    pixels = slide.read(Box(0, 0, *slide.shape))
    assert (pixels[:, : top - 1] == 255).all()
    np.testing.assert_allclose(pixels[:, top + 1 : top + height - 1, left + 1 : left + width - 1], 90, atol=1)
    slide.close()
    with open_image(tmp_path / "a.scn") as image:
        assert (image.shape, image.scale_um, image.bounds_offset) == ((height, width), (0.5, 0.5), None)


@pytest.mark.parametrize("kind", ["vmu", "mirax", "bif"])
def test_without_openslide_the_extra_is_named(
    tmp_path: Path, vmu: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = vmu if kind == "vmu" else mirax(tmp_path) if kind == "mirax" else ventana(tmp_path / "a.bif")
    with pytest.raises(MissingDependencyError, match=r'pip install "napari-xt\[openslide\]"'):
        open_image(path)
