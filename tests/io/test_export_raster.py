"""Masks and score maps as rasters: every pixel, by tifffile, rasterio, ome-zarr and the checks of their formats."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import export_case as case
import numpy as np
import pytest
import rasterio
import tifffile
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from rio_cogeo.cogeo import cog_validate

import napari_xt as xt
from napari_xt.errors import MissingDependencyError, SettingsError
from napari_xt.geometry import Frame, Grid
from napari_xt.io.exports import raster
from napari_xt.io.exports.grid import NOT_COMPUTED
from napari_xt.io.prediction import Prediction

NORTH_UP = {"transform": [0.5, 0.0, 500_000.0, 0.0, -0.5, 4_900_000.0], "epsg": 32612}
DEGREES = {"transform": [1e-5, 0.0, 11.0, 0.0, -1e-5, 47.0], "epsg": 4326}
LARGE_RUN, LARGE_PX = (1100, 2090), (2200, 4180)


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return case.prediction(tmp_path_factory.mktemp("raster") / "run.xt.zarr", notes={"georeference": NORTH_UP})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    """A run on half the resolution of an image that needs a pyramid."""
    frame, grid = Frame(LARGE_PX, LARGE_RUN, (0.25, 0.25), "meter"), Grid(*LARGE_RUN, region_px=64)
    found = replace(case.layout(), frame=frame, grid=grid)
    notes = {"georeference": NORTH_UP}
    return case.prediction(tmp_path_factory.mktemp("raster") / "large.xt.zarr", found=found, notes=notes)


def on_the_run(prediction: Prediction) -> np.ndarray:
    """The mask on the run's grid."""
    grid = prediction.layout.grid
    mask = case.mask(prediction.layout.shape)
    row, col = divmod(case.FAILED, grid.shape[1])
    mask[grid.region(row, col).inner.slices] = NOT_COMPUTED
    return mask


def expected(prediction: Prediction) -> np.ndarray:
    """The mask on the image's grid, by another arithmetic, where a run pixel is whole pixels."""
    mask, frame = on_the_run(prediction), prediction.layout.frame
    factors = [px // run for px, run in zip(frame.shape_px, frame.shape_run, strict=True)]
    return mask.repeat(factors[0], 0).repeat(factors[1], 1)


def test_ome_tiff(prediction: Prediction, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = xt.export(prediction, tmp_path / "mask.ome.tif", progress=lambda *at: told.append(at))
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert not tif.is_bigtiff
        assert tif.pages.first.is_tiled
        np.testing.assert_array_equal(tif.asarray(), expected(prediction))
        xml = tif.ome_metadata
    said = {e.get("K"): e.text for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}M")}
    assert json.loads(said["classes"]) == {"0": "background", "1": "crown", "2": "rock", "255": "not computed"}
    assert (said["source"], said["corrections"], said["failed_regions"]) == ("final", "0", "1")
    assert float(said["coverage"]) == prediction.coverage < 1
    with xt.open_image(path) as image:
        assert (image.scale, image.unit, image.axes) == ((0.5, 0.25), "micrometer", "yx")
    assert told[-1] == (6, 6)


def test_ome_tiff_has_a_pyramid(large: Prediction, tmp_path: Path) -> None:
    path = xt.export(large, tmp_path / "mask.ome.tiff")
    with tifffile.TiffFile(path) as tif:
        (series,) = tif.series
        assert [level.shape for level in series.levels] == [(2200, 4180), (1100, 2090), (550, 1045)]
        for k, level in enumerate(series.levels):
            np.testing.assert_array_equal(level.asarray(), expected(large)[:: 2**k, :: 2**k])
    with xt.open_image(path) as image:
        assert (len(image.levels), image.scale_um) == (3, (250_000.0, 250_000.0))


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_geotiff_is_a_cog(large: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, big: bool) -> None:
    if big:
        monkeypatch.setattr(raster, "CLASSIC_BYTES", 0)
    path = xt.export(large, tmp_path / "mask.tif")
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"]
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as map_:
        assert map_.crs.to_epsg() == 32612
        assert list(map_.transform)[:6] == NORTH_UP["transform"]
        assert (map_.nodata, map_.overviews(1), map_.descriptions) == (255, [2, 4], ("mask",))
        np.testing.assert_array_equal(map_.read(1), expected(large))
        np.testing.assert_array_equal(map_.read(1, out_shape=(550, 1045)), expected(large)[::4, ::4])
        assert map_.colormap(1)[1] == (230, 159, 0, 255)
        assert json.loads(map_.tags()["classes"])["2"] == "rock"
        assert map_.tags()["source"] == "final"
        assert map_.read_masks(1).min() == 0
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff == big
    with xt.open_image(path) as image:
        assert image.georeference.to_json() == NORTH_UP
        assert len(image.levels) == 3


@pytest.mark.parametrize("place", [case.UTM, DEGREES, {**NORTH_UP, "epsg": 2056}, {**NORTH_UP, "epsg": None}], ids=str)
def test_geotiff_lies_where_the_image_does(tmp_path: Path, place: dict[str, object]) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": place})
    path = xt.export(prediction, tmp_path / "mask.tif")
    with rasterio.open(path) as map_:
        assert (map_.crs.to_epsg() if map_.crs else None) == place["epsg"]
        assert list(map_.transform)[:6] == place["transform"]
        np.testing.assert_array_equal(map_.read(1), expected(prediction))


@pytest.mark.parametrize("what", ["probability", "regions"])
def test_score_maps(large: Prediction, tmp_path: Path, what: str) -> None:
    path = xt.export(large, tmp_path / "scores.tif", what=what)
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as map_:
        found = map_.read()
        assert map_.descriptions == (("open", "dense") if what == "regions" else ("background", "crown", "rock"))
        assert np.isnan(map_.nodata)
    row, col = divmod(case.FAILED, large.layout.grid.shape[1])
    failed = large.layout.grid.region(row, col).inner.scale(2, 2)
    assert np.isnan(found[:, *failed.slices]).all()
    assert np.isnan(found[0]).sum() == failed.height * failed.width
    if what == "regions":
        table = large.scores.set_index(["region_row", "region_col"])
        for y, x in ((0, 0), (2199, 4179), (700, 900)):
            wanted = table.loc[(y // 128, x // 128)]
            assert found[:, y, x].tolist() == [np.float32(wanted["p:open"]), np.float32(wanted["p:dense"])]
    else:
        cells = large.probability[...].repeat(8, 1).repeat(8, 2)[:, :2200, :4180]
        np.testing.assert_array_equal(found[~np.isnan(found)], (cells / np.float32(255))[~np.isnan(found)])


def test_without_a_place_on_the_earth_there_is_no_geotiff(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr")
    with pytest.raises(SettingsError, match=r"where it lies on the Earth.*\.ome\.tif"):
        xt.export(prediction, tmp_path / "mask.tif")
    assert [file.name for file in tmp_path.iterdir()] == ["run.xt.zarr"]


@pytest.mark.parametrize(
    ("epsg", "why"), [(99_999_999, "no place in a GeoTIFF"), (64_999, "no known reference system")]
)
def test_odd_reference_systems(tmp_path: Path, epsg: int, why: str) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": {**NORTH_UP, "epsg": epsg}})
    with pytest.raises(SettingsError, match=why):
        xt.export(prediction, tmp_path / "mask.tif")


def test_pyproj_is_asked_only_where_it_is_needed(
    tmp_path: Path, prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyproj", None)
    xt.export(prediction, tmp_path / "mask.tif")
    other = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": {**NORTH_UP, "epsg": 2056}})
    with pytest.raises(MissingDependencyError, match=r"napari-xt\[geo\]"):
        xt.export(other, tmp_path / "other.tif")


def test_no_scores_no_score_map(tmp_path: Path) -> None:
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": NORTH_UP}, scores=None)
    with pytest.raises(SettingsError, match="has no scores"):
        xt.export(prediction, tmp_path / "a.tif", what="regions")


def test_ome_zarr_labels(large: Prediction, tmp_path: Path) -> None:
    path = xt.export(large, tmp_path / "labels.ome.zarr")
    yaozarrs.validate_zarr_store(str(path))
    yaozarrs.validate_zarr_store(str(path / "labels" / "mask"))
    nodes = list(Reader(parse_url(str(path)))())
    labels = nodes[-1]
    for k, level in enumerate(labels.data):
        np.testing.assert_array_equal(np.asarray(level), expected(large)[:: 2**k, :: 2**k])
    group = zarr.open_group(path, mode="r")
    assert group.attrs["napari_xt_export"]["classes"]["255"] == "not computed"
    ome = group["labels/mask"].attrs["ome"]
    assert ome["image-label"]["properties"][1] == {"label-value": 1, "class": "crown"}
    scales = [d["coordinateTransformations"][0]["scale"] for d in ome["multiscales"][0]["datasets"]]
    assert scales == [[0.25, 0.25], [0.5, 0.5], [1.0, 1.0]]
    np.testing.assert_array_equal(group["0"][...], large.overview[...])


@pytest.mark.parametrize("px", [(300, 550), (900, 1650), (613, 1111), (4000, 7000)], ids=str)
def test_a_run_on_another_grid(tmp_path: Path, px: tuple[int, int]) -> None:
    frame = Frame(px, case.SHAPE, (0.25, 0.25), "meter")
    notes = {"georeference": NORTH_UP}
    prediction = case.prediction(tmp_path / "run.xt.zarr", found=replace(case.layout(), frame=frame), notes=notes)
    mask = on_the_run(prediction)
    rows, cols = (np.floor((np.arange(n) + 0.5) * run / n).astype(int) for n, run in zip(px, case.SHAPE, strict=True))
    for name in ("mask.tif", "mask.ome.tif"):
        with tifffile.TiffFile(xt.export(prediction, tmp_path / name)) as tif:
            np.testing.assert_array_equal(tif.pages.first.asarray(), mask[np.ix_(rows, cols)])
    labels = zarr.open_array(xt.export(prediction, tmp_path / "mask.ome.zarr") / "labels/mask/0", mode="r")
    np.testing.assert_array_equal(labels[...], mask[np.ix_(rows, cols)])


def test_names_of_classes_are_data(tmp_path: Path) -> None:
    names = ("nothing", "a<b>&\"c'", "\x00\n\u202e \N{DECIDUOUS TREE}")
    prediction = case.prediction(tmp_path / "run.xt.zarr", notes={"georeference": NORTH_UP}, mask=names)
    with rasterio.open(xt.export(prediction, tmp_path / "mask.tif")) as map_:
        assert tuple(json.loads(map_.tags()["classes"]).values())[:3] == names
    with tifffile.TiffFile(xt.export(prediction, tmp_path / "mask.ome.tif")) as tif:
        xml = ElementTree.fromstring(tif.ome_metadata)
    said = {e.get("K"): e.text for e in xml.iter() if e.tag.endswith("}M")}
    assert tuple(json.loads(said["classes"]).values())[:3] == names


def test_what_is_there_is_replaced_only_by_a_whole_file(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "mask.ome.tif"
    path.write_bytes(b"old")

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        xt.export(prediction, path, progress=stop)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["mask.ome.tif"]
    xt.export(prediction, path)
    np.testing.assert_array_equal(tifffile.imread(path), expected(prediction))
