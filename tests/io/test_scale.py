"""Where a pixel's size and place come from: tags, world files, scanners' metadata, the user."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from napari_xt.io.image import open_image
from napari_xt.io.images.geo import Georeference

PIXELS = np.zeros((200, 300, 3), "u1")
METRES = [1024, 0, 1, 1, 3072, 0, 1, 32633]
DEGREES = [1024, 0, 1, 2, 2048, 0, 1, 4326]
POINT = [1025, 0, 1, 2]
UTM = (500_000.0, 5_400_000.0)


def geotiff(
    path: Path,
    keys: Sequence[int],
    scale: tuple[float, float] | None = None,
    corner: tuple[float, float] = UTM,
    matrix: Sequence[float] | None = None,
) -> None:
    directory = [1, 1, 0, len(keys) // 4, *keys]
    extra: list[Any] = [(34735, "H", len(directory), directory, True)]
    if scale:
        extra += [(33550, "d", 3, (*scale, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, *corner, 0.0), True)]
    if matrix:
        extra.append((34264, "d", 16, tuple(matrix), True))
    tifffile.imwrite(path, PIXELS, extratags=extra, tile=(64, 64), metadata=None)


def turned(degrees: float, size: float, east: float, north: float) -> list[float]:
    """A ModelTransformation of square pixels, turned clockwise."""
    cos, sin = (f(math.radians(degrees)) * size for f in (math.cos, math.sin))
    return [cos, -sin, 0, east, -sin, -cos, 0, north, 0, 0, 0, 0, 0, 0, 0, 1]


GEOTIFFS = {
    "corner": (
        {"keys": METRES, "scale": (0.2, 0.1)},
        Georeference((0.2, 0, UTM[0], 0, -0.1, UTM[1]), 32633),
        (0.1, 0.2),
    ),
    "point": (
        {"keys": METRES + POINT, "scale": (0.2, 0.1)},
        Georeference((0.2, 0, UTM[0] - 0.1, 0, -0.1, UTM[1] + 0.05), 32633),
        (0.1, 0.2),
    ),
    "turned": (
        {"keys": METRES, "matrix": turned(30, 0.5, *UTM)},
        Georeference(
            (0.5 * math.sqrt(0.75), -0.25, UTM[0], -0.25, -0.5 * math.sqrt(0.75), UTM[1]),
            32633,
        ),
        (0.5, 0.5),
    ),
    "sheared": (
        {"keys": METRES, "matrix": [1, 0.75, 0, 7, 0, -1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1]},
        Georeference((1, 0.75, 7, 0, -1, 9), 32633),
        (1.25, 1),
    ),
    "no-code": (
        {"keys": [1024, 0, 1, 1, 3072, 0, 1, 32767], "scale": (2, 2)},
        Georeference((2, 0, UTM[0], 0, -2, UTM[1])),
        (2, 2),
    ),
}


@pytest.mark.parametrize(("written", "wanted", "size"), GEOTIFFS.values(), ids=GEOTIFFS)
def test_geotiff(tmp_path: Path, written: dict[str, Any], wanted: Georeference, size: tuple[float, float]) -> None:
    geotiff(tmp_path / "a.tif", **written)
    with open_image(tmp_path / "a.tif") as image:
        assert image.georeference is not None
        assert image.georeference.transform == pytest.approx(wanted.transform)
        assert image.georeference.epsg == wanted.epsg
        assert (image.unit, image.scale_source) == ("meter", "geotiff")
        assert image.scale == pytest.approx(size)


def test_degrees_are_metres_at_the_latitude_of_the_image(tmp_path: Path) -> None:
    # one degree of longitude and latitude at 60 degrees north on WGS 84: 55,800.04 m and 111,412.24 m
    geotiff(tmp_path / "a.tif", DEGREES, scale=(0.001, 0.001), corner=(10.0, 60.1))
    with open_image(tmp_path / "a.tif") as image:
        assert image.unit == "meter"
        assert image.scale == pytest.approx((111.41224, 55.80004), rel=1e-6)
        assert image.georeference == Georeference((0.001, 0.0, 10.0, 0.0, -0.001, 60.1), 4326)


def test_web_mercator_is_not_taken_at_its_word(tmp_path: Path) -> None:
    north = 6_378_137.0 * math.asinh(math.tan(math.radians(60)))
    geotiff(tmp_path / "a.tif", [1024, 0, 1, 1, 3072, 0, 1, 3857], scale=(1, 1), corner=(0, north + 100))
    with open_image(tmp_path / "a.tif") as image:
        assert image.scale == pytest.approx((0.50042, 0.50126), abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "scale", "corner"),
    [
        (DEGREES, (0.001, 0.001), (10, 200)),
        (METRES, (0.0, 1.0), UTM),
        (METRES, (math.nan, 1.0), UTM),
        (METRES, (1.0, 1.0), (math.inf, 0)),
        ([*METRES, 3076, 0, 1, 9014], (1.0, 1.0), UTM),
    ],
    ids=["no-latitude", "zero", "nan", "infinite", "unit-unknown"],
)
def test_what_makes_no_sense_is_unknown(tmp_path: Path, keys: Any, scale: Any, corner: Any) -> None:
    geotiff(tmp_path / "a.tif", keys, scale=scale, corner=corner)
    with open_image(tmp_path / "a.tif") as image:
        assert (image.unit, image.scale_source) in (("pixel", "unknown"), ("meter", "geotiff"))
        assert image.georeference is None or all(map(math.isfinite, image.georeference.transform))


@pytest.mark.parametrize("values", [[1, 0, 0], ["a"] * 6, [0] * 6, [math.nan] * 6, None, "abcdef"])
def test_georeference_of_json(values: Any) -> None:
    whole = Georeference((1.0, 0.0, 3.0, 0.0, -1.0, 5.0), 4326)
    assert Georeference.from_json(whole.to_json()) == whole
    assert Georeference.from_json({"transform": values, "epsg": 4326}) is None
    assert Georeference.from_json(values) is None


UTM_WKT = (
    'PROJCS["WGS 84 / UTM zone 33N",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],'
    'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AUTHORITY["EPSG","32633"]]'
)
ESRI_WKT = 'PROJCS["NAD83_Feet",GEOGCS["GCS",UNIT["Degree",0.0174532925199433]],UNIT["Foot_US",0.3048006096012192]]'


def saved(path: Path, format: str) -> Path:
    if format == "TIFF":
        tifffile.imwrite(path, PIXELS)
    else:
        Pillow.fromarray(PIXELS).save(path, format)
    return path


@pytest.mark.parametrize(
    ("name", "format", "beside"),
    [
        ("a.tif", "TIFF", "a.tfw"),
        ("a.tif", "TIFF", "a.TFW"),
        ("a.tif", "TIFF", "a.tifw"),
        ("a.png", "PNG", "a.pgw"),
        ("a.jpg", "JPEG", "a.jgw"),
        ("a.jpeg", "JPEG", "a.wld"),
    ],
)
def test_world_files(tmp_path: Path, name: str, format: str, beside: str) -> None:
    path = saved(tmp_path / name, format)
    (tmp_path / beside).write_text("0.4\n0.3\n0.3\n-0.4\n1000.0\n2000.0\n")
    with open_image(path) as image:
        assert image.georeference == Georeference((0.4, 0.3, 999.65, 0.3, -0.4, 2000.05))
        assert (image.unit, image.scale_source) == ("pixel", "unknown")
    (tmp_path / "a.prj").write_text(UTM_WKT)
    with open_image(path) as image:
        assert image.georeference is not None
        assert image.georeference.epsg == 32633
        assert image.scale == pytest.approx((0.5, 0.5))
        assert (image.unit, image.scale_source) == ("meter", "world file")


@pytest.mark.parametrize(
    ("wkt", "unit", "epsg"),
    [
        (UTM_WKT, "meter", 32633),
        (ESRI_WKT, "us_survey_foot", None),
        ('GEOGCS["WGS 84",UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]', "meter", 4326),
        ('GEOGCRS["WGS 84",ANGLEUNIT["degree",0.0174532925199433],ID["EPSG",4326]]', "meter", 4326),
        ("LOCAL_CS[]", "pixel", None),
        ("", "pixel", None),
    ],
    ids=["utm", "esri", "degrees", "wkt2", "local", "none"],
)
def test_reference_systems_beside_a_world_file(tmp_path: Path, wkt: str, unit: str, epsg: int | None) -> None:
    saved(tmp_path / "a.png", "PNG")
    (tmp_path / "a.pgw").write_text("1e-5 0 0 -1e-5 10 50")
    (tmp_path / "a.prj").write_text(wkt)
    image = open_image(tmp_path / "a.png")
    assert image.georeference is not None
    assert (image.unit, image.georeference.epsg) == (unit, epsg)


@pytest.mark.parametrize("text", ["", "1 2 3", "a b c d e f", "0 0 0 0 0 0", "1 0 0 nan 3 4", "\0" * 70_000])
def test_world_files_that_are_none(tmp_path: Path, text: str) -> None:
    saved(tmp_path / "a.png", "PNG")
    (tmp_path / "a.pgw").write_text(text)
    assert open_image(tmp_path / "a.png").georeference is None


def test_tags_win_over_a_world_file(tmp_path: Path) -> None:
    geotiff(tmp_path / "a.tif", METRES, scale=(1, 1))
    (tmp_path / "a.tfw").write_text("9 0 0 -9 0 0")
    with open_image(tmp_path / "a.tif") as image:
        assert image.georeference is not None
        assert image.georeference.transform[0] == 1


def plain(path: Path, resolution: tuple[float, float], unit: Any) -> None:
    tifffile.imwrite(path, PIXELS, resolution=resolution, resolutionunit=unit, metadata=None)


def aperio(path: Path) -> None:
    text = "Aperio Image Library v12\n46000x32914 [0,0 300x200] (240x240) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990"
    tifffile.imwrite(path, PIXELS, tile=(64, 64), description=text, metadata=None)


def hamamatsu(path: Path) -> None:
    extra: list[Any] = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True)]
    tifffile.imwrite(
        path, PIXELS, extratags=extra, resolution=(22_000, 22_000), resolutionunit="CENTIMETER", metadata=None
    )


def leica(path: Path) -> None:
    glass, tissue = (100, 60), (300, 200)
    images = "".join(
        f'<image name="{name}"><pixels sizeX="{w}" sizeY="{h}"><dimension sizeX="{w}" sizeY="{h}" r="0" ifd="{ifd}"/>'
        f'</pixels><view sizeX="{w * nm}" sizeY="{h * nm}" offsetX="0" offsetY="0"/></image>'
        for ifd, (name, (w, h), nm) in enumerate([("glass", glass, 16_000), ("tissue", tissue, 500)])
    )
    xml = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>{images}'
    with tifffile.TiffWriter(path) as writer:
        first = np.full((glass[1], glass[0], 3), 7, "u1")
        writer.write(first, tile=(32, 32), description=f"{xml}</collection></scn>", metadata=None)
        writer.write(PIXELS, tile=(64, 64), metadata=None)


def philips(path: Path) -> None:
    spacing = "&quot;0.00025&quot; &quot;0.0005&quot;"
    xml = f'<DataObject><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">{spacing}</Attribute></DataObject>'
    tifffile.imwrite(path, PIXELS, tile=(64, 64), description=xml, software="Philips DP v1.0", metadata=None)


def ome(path: Path) -> None:
    tifffile.imwrite(path, PIXELS, ome=True, metadata={"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5})


@pytest.mark.parametrize(
    ("write", "um", "by"),
    [
        (lambda path: plain(path, (40_000, 20_000), "CENTIMETER"), (0.5, 0.25), "resolution tags"),
        (lambda path: plain(path, (2540, 2540), "INCH"), (10, 10), "resolution tags"),
        (aperio, (0.499, 0.499), "svs"),
        (hamamatsu, (0.454545, 0.454545), "resolution tags"),
        (leica, (0.5, 0.5), "scn"),
        (philips, (0.25, 0.5), "philips"),
        (ome, (0.5, 0.25), "ome-xml"),
    ],
    ids=["centimetres", "inches", "svs", "ndpi", "scn", "philips", "ome"],
)
def test_pixel_sizes(tmp_path: Path, write: Callable[[Path], None], um: tuple[float, float], by: str) -> None:
    write(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert image.shape == (200, 300)
        assert image.scale_um == pytest.approx(um, rel=1e-5)
        assert image.scale_source == by


@pytest.mark.parametrize("dots", [1, 72, 96, 100, 150, 200, 300, 400, 600, 1200])
def test_dots_an_inch_of_print_are_not_believed(tmp_path: Path, dots: int) -> None:
    plain(tmp_path / "a.tif", (dots, dots), "INCH")
    with open_image(tmp_path / "a.tif") as image:
        assert (image.scale_um, image.scale_source) == (None, "unknown")


@pytest.mark.parametrize(("resolution", "unit"), [((40_000, 40_000), "NONE"), ((40_000, 10_000), "CENTIMETER")])
def test_resolution_without_a_unit_or_shape_is_not_believed(tmp_path: Path, resolution: Any, unit: str) -> None:
    plain(tmp_path / "a.tif", resolution, unit)
    with open_image(tmp_path / "a.tif") as image:
        assert image.unit == "pixel"


def test_the_user_is_asked_first(tmp_path: Path) -> None:
    aperio(tmp_path / "a.svs")
    with open_image(tmp_path / "a.svs", pixel_size="2 um") as image:
        assert (image.scale_um, image.scale_source) == ((2, 2), "set by user")
        assert open_image(image, plane={}).scale_source == "set by user"
    assert open_image(PIXELS, pixel_size=0.5).scale_source == "set by user"
    assert open_image(PIXELS).scale_source == "unknown"
